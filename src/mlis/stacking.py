"""Several seeds at once: their weights, batches and losses stacked in a leading dimension.

One batched product then does the work of several small ones, which fills a GPU better. Everything
that is random is still drawn for each seed from its own streams, in the same order, so that a seed
sees what it would see alone; its result differs in the last bits only, as sums are ordered
otherwise. Whoever takes a seed or a stream takes several in its place: a tuple.

Memory: S seeds hold S times the networks, each with its gradient and Adam's two moments.
"""

import copy
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from mlis.compute import stream

Seeds = int | tuple[int, ...]
"""One seed, or several that are trained together."""

Rng = torch.Generator | tuple[torch.Generator, ...]
"""One random stream, or that of each of several seeds."""

Module = TypeVar("Module", bound=nn.Module)


def streams(seed: Seeds, *names: object, device: torch.device | str = "cpu") -> Rng:
    """Make the random stream for one purpose (:func:`mlis.compute.stream`), or one a seed."""
    if isinstance(seed, int):
        return stream(seed, *names, device=device)
    return tuple(stream(one, *names, device=device) for one in seed)


def drawn(rng: Rng, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Return `draw(rng)`; of several streams (S, …), what each of them gives.

    >>> drawn(streams((3, 4), "noise"), lambda rng: torch.rand(2, generator=rng)).shape
    torch.Size([2, 2])
    """
    if isinstance(rng, torch.Generator):
        return draw(rng)
    return torch.stack([draw(one) for one in rng])


def fill(out: Tensor, rng: Rng, draw: Callable[..., object]) -> None:
    """Draw into memory that is there: `Tensor.normal_`, say, into `out`, or each `out[i]`."""
    parts = [(out, rng)] if isinstance(rng, torch.Generator) else zip(out, rng, strict=True)
    for own, one in parts:
        draw(own, generator=one)


def place_of(rng: Rng) -> torch.device:
    """Return the device that a stream draws on."""
    return (rng if isinstance(rng, torch.Generator) else rng[0]).device


def taken_out(module: Module, index: int) -> Module:
    """Copy a module whose parameters are stacked (S, …), with those of one seed alone."""
    own = {id(p): nn.Parameter(p.detach()[index].clone()) for p in module.parameters()}
    return copy.deepcopy(module, own)


def by_name(losses: Mapping[str, Tensor], seed: Seeds) -> dict[str, float]:
    """Bring losses to the host: 0-d ones by their name, (S,) ones by name and seed."""
    if isinstance(seed, int):
        return {name: float(value) for name, value in losses.items()}
    return {
        f"{name} of seed {one}": own
        for name, value in losses.items()
        for one, own in zip(seed, value.tolist(), strict=True)
    }
