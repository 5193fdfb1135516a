"""Named, independent streams of random numbers."""

import hashlib

import torch


def stream(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the random number generator for one purpose.

    Streams of different names are independent: what one stage draws never shifts what another one
    draws, so an ablation without synthetic features sees the same batches as one with them.

    >>> a, b = stream(0, "noise"), stream(0, "noise")
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    generator = torch.Generator(device=device)
    return generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def normal(rng: torch.Generator, *shape: int) -> torch.Tensor:
    """Draw from N(0, 1), float32 on the stream's device: the same numbers in every precision."""
    return torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float32)


def uniform(rng: torch.Generator, *shape: int) -> torch.Tensor:
    """Draw from [0, 1), as `normal`."""
    return torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float32)
