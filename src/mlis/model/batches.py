"""Rows through a device batch by batch, in memory that is used again."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mlis.compute.memory import enough_memory, smaller
from mlis.data.out_of_core.stored import StoredRows
from mlis.errors import DataError


class Workspace:
    """Memory that the batches of one call use one after another.

    Fresh memory for each would cost the system a pass over it, to hand it out zeroed.
    """

    def __init__(self, like: Tensor):
        self._like = like
        self._held: dict[str, Tensor] = {}

    def rows(self, name: str, count: int, width: int, device: str | None = None) -> Tensor:
        """(count, width) in the weights' dtype; the last batch is the only smaller one."""
        if name not in self._held:
            place = device or self._like.device
            self._held[name] = torch.empty((count, width), dtype=self._like.dtype, device=place)
        return self._held[name][:count]


@torch.no_grad()
def in_batches(
    x: Tensor | np.ndarray | StoredRows,
    batch_size: int,
    shape: tuple[int, ...],
    function: Callable[[Tensor, Tensor, Workspace], None],
    like: Tensor,
) -> Tensor | np.ndarray:
    """Fill (B, *shape) batch by batch, and give it in kind.

    Args:
        x: (B, Dx), on any device.
        batch_size: rows at a time; half of it, and so on, where memory does not suffice.
        shape: of what a row gives; () for an index, int64.
        function: `function(rows, out, workspace)` fills `out` for some rows.
        like: the weights, whose device and dtype rows are brought to.

    Raises:
        DataError: a row holds NaN or infinity.
        OutOfMemoryError: memory does not suffice for one row.
    """
    home = x.device if isinstance(x, Tensor) else torch.device("cpu")
    dtype = like.dtype if shape else torch.int64
    with enough_memory("recognition", "Give fewer rows at a time"):
        result = torch.empty((len(x), *shape), dtype=dtype, device=home)
    here = home == like.device
    work = Workspace(like)
    start = 0
    while start < len(x):
        try:
            part = as_tensor(x[start : start + batch_size], like, work)
            check_finite(part, start)
            target = result[start : start + len(part)]
            out = target if here else torch.empty_like(target, device=like.device)
            function(part, out, work)
            if not here:
                target.copy_(out)
            start += len(part)
        except (MemoryError, RuntimeError) as error:
            work = Workspace(like)
            batch_size = smaller(batch_size, error, "recognition", "use device='cpu'")
    return result if isinstance(x, Tensor) else result.numpy()


def check_finite(part: Tensor, start: int) -> None:
    """Raise `DataError` for the first row with NaN or infinity.

    A sum is finite only if all its terms are; finite ones may overflow, so a second look decides.
    """
    if math.isfinite(float(part.sum())):
        return
    finite = torch.isfinite(part).all(1)
    if not bool(finite.all()):
        row = start + int((~finite).nonzero()[0])
        raise DataError(f"features row {row} holds NaN or infinity: leave that row out")


def as_tensor(part: np.ndarray | Tensor, like: Tensor, work: Workspace) -> Tensor:
    """Bring some rows to the device and dtype of `like`, without a copy where they are there."""
    if isinstance(part, np.ndarray):
        wanted = np.float64 if like.dtype == torch.float64 else np.float32
        flags = part.flags
        if part.dtype == wanted and flags.c_contiguous and flags.writeable and flags.aligned:
            part = torch.from_numpy(part)
        else:
            # torch takes no read-only, reversed or big-endian array (a memory map is the first).
            buffer = work.rows("given", len(part), part.shape[1], device="cpu")
            np.copyto(buffer.numpy(), part, casting="unsafe")
            part = buffer
    return part.to(like.device, like.dtype)
