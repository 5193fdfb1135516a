"""Timing two ways of doing the same thing so that a noisy machine cannot favour one of them."""

import functools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call, the device's queue emptied before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def paired(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> dict[str, float]:
    """Time both in alternation after one warm-up each; the ratio is taken pair by pair."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return {
        "ours_ms": 1000 * statistics.median(a for a, _ in pairs),
        "textbook_ms": 1000 * statistics.median(b for _, b in pairs),
        **ratios(pairs),
    }


def ratios(pairs: Iterable[tuple[float, float]]) -> dict[str, float]:
    """How many times as long theirs took, of (ours, theirs): median, least and greatest."""
    found = sorted(theirs / ours for ours, theirs in pairs)
    return {"ratio": statistics.median(found), "ratio_min": found[0], "ratio_max": found[-1]}


@dataclass(frozen=True)
class Product:
    """A matrix product, (m, k) by (k, n), of factors in `dtype`."""

    m: int
    k: int
    n: int
    dtype: torch.dtype

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n


@functools.cache
def _fastest(product: Product, device: torch.device, repeats: int) -> float:
    a = torch.randn(product.m, product.k, device=device).to(product.dtype)
    b = torch.randn(product.k, product.n, device=device).to(product.dtype)
    out = a @ b
    return min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(repeats))


def at_measured_rate(
    products: Iterable[Product], device: torch.device, repeats: int = 5
) -> tuple[float, float]:
    """Milliseconds that these products take by themselves, and what that is in GFLOP/s.

    Each shape is timed once a run, the fastest of several: the machine's own limit.
    """
    counts = Counter(products)
    total = sum(count * _fastest(p, device, repeats) for p, count in counts.items())
    return 1e3 * total, sum(n * p.operations for p, n in counts.items()) / total / 1e9
