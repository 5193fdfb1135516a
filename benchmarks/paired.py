"""Timing two ways of doing the same thing so that a noisy machine cannot favour one of them."""

import statistics
import time
from collections.abc import Callable

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
    ratios = sorted(b / a for a, b in pairs)
    return {
        "ours_ms": 1000 * statistics.median(a for a, _ in pairs),
        "textbook_ms": 1000 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }


def product_rate(
    shapes: list[tuple[int, int, int]], dtype: torch.dtype, device: torch.device, repeats: int = 5
) -> float:
    """Seconds that these matrix products (m, k, n) take at their measured rate, best of several."""
    total = 0.0
    for m, k, n in shapes:
        a = torch.randn(m, k, device=device).to(dtype)
        b = torch.randn(k, n, device=device).to(dtype)
        a @ b
        total += min(seconds(lambda a=a, b=b: a @ b) for _ in range(repeats))
    return total
