"""Batched inference with reusable buffers; checks what goes in and what comes out."""

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from mlis.compute.memory import enough_memory, smaller
from mlis.compute.precision import own_modes
from mlis.data.out_of_core.stored import StoredRows
from mlis.errors import DataError
from mlis.model.feature_range import RangeWatch

LARGEST: float = torch.finfo(torch.float32).max


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


@own_modes()
@torch.no_grad()
def in_batches(
    x: Tensor | np.ndarray | StoredRows,
    batch_size: int,
    shape: tuple[int, ...],
    function: Callable[[Tensor, Tensor, Workspace], Tensor],
    like: Tensor,
    watch: RangeWatch | None = None,
) -> Tensor | np.ndarray:
    """Fill (B, *shape) batch by batch; returns the array type it was given.

    Args:
        x: (B, Dx), on any device.
        batch_size: rows at a time; half of it, and so on, where memory does not suffice.
        shape: of what a row gives; () for an index, int64.
        function: `function(rows, out, workspace)` fills `out` for some rows, and returns the
            (rows, n) numbers that this result depends on, which must be finite.
        like: the weights, whose device and dtype rows are brought to.
        watch: is shown every batch.

    Raises:
        DataError: a row holds NaN, infinity or a number beyond float32, or gives a result that is
            not finite.
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
            low, high = part.amin(0), part.amax(0)
            if not bool(((low >= -LARGEST) & (high <= LARGEST)).all()):  # NaN is neither
                _refuse(part, x, start)
            target = result[start : start + len(part)]
            out = target if here else torch.empty_like(target, device=like.device)
            _check_results(function(part, out, work), part, start)
            if not here:
                target.copy_(out)
            start += len(part)
            if watch is not None:
                watch.look(part, low, high)
        except (MemoryError, RuntimeError) as error:
            work = Workspace(like)
            batch_size = smaller(batch_size, error, "recognition", "use device='cpu'")
    return result if isinstance(x, Tensor) else result.numpy()


def _refuse(part: Tensor, x: Tensor | np.ndarray | StoredRows, start: int) -> NoReturn:
    """Raise `DataError` for the first value that is not a finite float32 number.

    Training is in float32, so that a larger number cannot be meant, whatever the weights' dtype.
    """
    row, column = _first(~(part.abs() <= LARGEST))
    given = float(x[start + row : start + row + 1][0, column])  # before it was cast
    what, remedy = "NaN or infinity", "leave that row out"
    if np.isfinite(given):
        what, remedy = (
            f"{given:.4g} (beyond float32)",
            "rescale the features, or leave that row out",
        )
    raise DataError(f"features row {start + row} holds {what} in column {column}: {remedy}")


def _check_results(values: Tensor, part: Tensor, start: int) -> None:
    """Raise `DataError` for the first row whose result is not finite.

    A sum is finite only if all its terms are; finite ones may overflow, so a second look decides.
    """
    if bool(torch.isfinite(values.sum())):
        return
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    row, _ = _first(~finite)
    column = int(part[row].abs().argmax())
    raise DataError(
        f"features row {start + row} gives scores that are not finite: its largest value is "
        f"{float(part[row, column]):.4g}, in column {column}. Rescale the features, or leave that "
        "row out; if the value is usual, the model's weights are damaged"
    )


def _first(mask: Tensor) -> tuple[int, int]:
    """Row and column of the first true entry."""
    row, column = mask.nonzero()[0].tolist()
    return row, column


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
            with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused later
                np.copyto(buffer.numpy(), part, casting="unsafe")
            part = buffer
    return part.to(like.device, like.dtype)
