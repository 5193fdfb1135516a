"""Batches and chunks of features, read from a file by a background thread.

:class:`StreamedRows` replaces a tensor of all training rows and gives bit-identical numbers,
independent of timing: raw rows are gathered and then scaled by the same element-wise operations.
"""

import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mlis.data.out_of_core.stored import StoredRows
from mlis.data.samplers import uniform_rows

CHUNK_ROWS = 2048  # 16 MiB of 2048 float32 features: small enough to be reused by the allocator
_MAX_PREFETCHED = 8  # batches


class Rows(Protocol):
    """Features (n, D), in memory or not, that can be iterated in chunks."""

    @property
    def shape(self) -> torch.Size:
        """(n, D)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the chunks."""
        ...

    @property
    def device(self) -> torch.device:
        """Of the chunks."""
        ...

    def split(self, size: int, /) -> Iterator[Tensor] | Sequence[Tensor]:
        """All rows in order, in chunks of at most `size`; each is a new tensor."""
        ...


class Background:
    """A daemon thread that runs jobs in order, started with the first one.

    It ends with this object. Unlike the threads of `ThreadPoolExecutor`, it is a daemon, so that a
    hanging read does not block the exit of the interpreter.
    """

    def __init__(self):
        self._jobs: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None]
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> Future[None]:
        """Queue `job`; exceptions are raised by the future's `result()`."""
        if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
            self._jobs = queue.SimpleQueue()
            self._thread = threading.Thread(
                target=_work, args=(self._jobs,), name="mlis-reader", daemon=True
            )
            self._thread.start()
            weakref.finalize(self, self._jobs.put, None)
        future: Future[None] = Future()
        self._jobs.put((future, job))
        return future


def _work(jobs: "queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None]") -> None:
    while (item := jobs.get()) is not None:
        future, job = item
        try:
            job()
        except BaseException as error:  # raised in the thread that waits
            future.set_exception(error)
        else:
            future.set_result(None)
        del item, future, job  # keep no references while waiting


class StreamedRows:
    """Training features in a file, used like a tensor (n, Dx).

    A row may be wider in the file, where `scale` averages over regions.

    `x[rows]` (int64 tensor or slice) returns scaled rows as a new tensor; `x.split(n)` iterates
    over all rows, reading ahead; `x.prefetch(rows)` starts reading a batch for a later `x[rows]`.
    A prefetched batch needs its memory twice, a chunk three times.

    Args:
        rows: in their file.
        scale: function from raw to scaled features, row by row.
        dtype, device: of the returned tensors.
        width: Dx, of scaled features; that of the file where None.

    Raises:
        DataError: on any read, if the file cannot be read or was truncated; names file and row.
    """

    def __init__(
        self,
        rows: StoredRows,
        scale: Callable[[Tensor], Tensor],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        width: int | None = None,
    ):
        self.shape: torch.Size = torch.Size((len(rows), width or rows.shape[1]))
        self.dtype: torch.dtype = dtype
        self.device: torch.device = torch.device(device)
        self._rows, self._scale = rows, scale
        self._reader = Background()
        self._ahead: list[tuple[np.ndarray, Tensor, Future[None]]] = []
        self._spare: list[Tensor] = []

    def __len__(self) -> int:
        return self.shape[0]

    def prefetch(self, rows: Tensor) -> None:
        """Start reading rows (B,) for a later `x[rows]`; other rows may still be read first."""
        wanted = rows.cpu().numpy().copy()
        self._ahead.append((wanted, *self._begin(self._rows.rows[wanted])))
        if len(self._ahead) > _MAX_PREFETCHED:
            del self._ahead[0]

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        if isinstance(index, slice):
            wanted = np.arange(len(self))[index]
        elif index.ndim == 1 and index.dtype == torch.int64:
            wanted = index.cpu().numpy()
        else:
            raise TypeError(f"rows: expected a slice or (B,) int64, got {index.dtype}")
        for i, (rows, buffer, future) in enumerate(self._ahead):
            if np.array_equal(rows, wanted):
                del self._ahead[i]
                return self._finish(buffer, len(wanted), future)
        buffer = self._buffer(len(wanted))
        self._rows.array.gather(self._rows.rows[wanted], buffer.numpy()[: len(wanted)])
        return self._finish(buffer, len(wanted))

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows in chunks of `size`, reading ahead."""
        at_once = max(1, size * self.shape[1] // self._rows.shape[1])  # as many bytes of the file
        if at_once == size:
            yield from self._pieces(size)
            return
        rest = torch.empty((0, self.shape[1]), dtype=self.dtype, device=self.device)
        for piece in self._pieces(at_once):
            rest = torch.cat((rest, piece))
            if len(rest) >= size:
                yield rest[:size].clone()
                rest = rest[size:]
        if len(rest):
            yield rest

    def _pieces(self, size: int) -> Iterator[Tensor]:
        """All rows in pieces of `size`, reading one ahead."""
        starts = range(0, len(self), size)
        chosen = self._rows.rows
        following = self._begin(chosen[:size])
        for start in starts:
            buffer, future = following
            count = min(size, len(self) - start)
            if start + size < len(self):
                following = self._begin(chosen[start + size : start + 2 * size])
            yield self._finish(buffer, count, future)
        self._spare.clear()  # chunks are large buffers

    def _begin(self, numbers: np.ndarray) -> tuple[Tensor, Future[None]]:
        """Start reading rows of the file into a buffer."""
        buffer, array = self._buffer(len(numbers)), self._rows.array
        out = buffer.numpy()[: len(numbers)]
        return buffer, self._reader.submit(lambda: array.gather(numbers, out))

    def _finish(self, buffer: Tensor, count: int, future: Future[None] | None = None) -> Tensor:
        """Wait for a buffer, move it to the device, scale it, and make the buffer reusable."""
        if future is not None:
            future.result()
        x = self._scale(buffer[:count].to(self.device, self.dtype))
        if x.data_ptr() == buffer.data_ptr() and count:
            x = x.clone()  # nothing was scaled
        self._spare = [*self._spare[-2:], buffer]
        return x

    def _buffer(self, count: int) -> Tensor:
        """A buffer of at least `count` rows."""
        for i, buffer in enumerate(self._spare):
            if count <= len(buffer) <= 2 * count:
                return self._spare.pop(i)
        dtype = torch.from_numpy(np.empty(0, self._rows.dtype)).dtype
        return torch.empty(
            (count, self._rows.shape[1]),
            dtype=dtype,
            device="cpu",
            pin_memory=self.device.type == "cuda",
        )


def prefetch(x: Tensor | StreamedRows, rows: Tensor) -> None:
    """Start reading rows for a later `x[rows]`; does nothing if `x` is in memory."""
    if isinstance(x, StreamedRows):
        x.prefetch(rows)


def rows_ahead(x: Tensor | StreamedRows, count: int, rng: torch.Generator) -> Tensor:
    """(count,) row indices of a later `x[rows]`, drawn uniformly; they are read meanwhile."""
    rows = uniform_rows(len(x), count, rng)
    prefetch(x, rows)
    return rows


class ConcatenatedRows:
    """Concatenation of several sets of rows."""

    def __init__(self, *parts: Rows):
        self._parts = parts
        self.shape: torch.Size = torch.Size(
            (sum(part.shape[0] for part in parts), parts[0].shape[1])
        )
        self.dtype: torch.dtype = parts[0].dtype
        self.device: torch.device = parts[0].device

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows, in chunks of at most `size`."""
        for part in self._parts:
            yield from part.split(size)


class RefinedRows:
    """Rows (n, Dh) that a function makes of others each time they are read.

    Args:
        rows: (n, Dx).
        refine: (B, Dx) → (B, Dh), row by row, of the same dtype and device.
        width: Dh.
    """

    def __init__(self, rows: Rows, refine: Callable[[Tensor], Tensor], width: int):
        self.shape: torch.Size = torch.Size((rows.shape[0], width))
        self.dtype: torch.dtype = rows.dtype
        self.device: torch.device = rows.device
        self._rows, self._refine = rows, refine

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows, in chunks of at most `size`."""
        for part in self._rows.split(size):
            refined = self._refine(part)
            yield refined.clone() if refined.data_ptr() == part.data_ptr() else refined
