"""Features larger than memory: batches and chunks read from a file by a background thread.

:class:`StreamedRows` stands where a tensor of all training rows would stand, and gives the same
numbers, bit for bit, whatever the reader's timing: rows are read as they are and scaled after they
were gathered, by the same element-wise operations.
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

CHUNK_ROWS = 2048  # 16 MiB of 2048 float32 features: small enough for the allocator to use again
_MOST_AHEAD = 8  # batches that may wait to be fetched


class Rows(Protocol):
    """What all (n, D) features have, in memory or not, that are gone through in chunks."""

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
        """All rows in their order, in chunks of at most `size`; each a tensor of its own."""
        ...


class Background:
    """One daemon thread that does jobs in the order they come, from the first one on.

    It ends when this object does, and a hanging read never keeps the interpreter from ending.
    """

    def __init__(self):
        self._jobs: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None]
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> Future[None]:
        """Do `job` soon; what it raises is raised by the future's `result()`."""
        if self._thread is None or not self._thread.is_alive():  # a fork leaves the thread behind
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
        except BaseException as error:  # the thread that waits for it is the one to hear of it
            future.set_exception(error)
        else:
            future.set_result(None)
        del item, future, job  # while waiting, keep nothing alive


class StreamedRows:
    """Training features in a file, in the place of a tensor (n, Dx) of them.

    `x[rows]` (int64 tensor, or a slice) gives the scaled rows as a new tensor; `x.split(n)` goes
    through all of them, reading ahead; `x.prefetch(rows)` begins to read a batch that `x[rows]`
    will ask for. Memory: a batch is held once more while it is prefetched, a chunk twice.

    Args:
        rows: the rows, in their file.
        scale: from raw to scaled features, element by element.
        dtype, device: of what is given out.

    Raises:
        DataError: on any read, where the file cannot be read or was cut short; names file and row.
    """

    def __init__(
        self,
        rows: StoredRows,
        scale: Callable[[Tensor], Tensor],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self.shape: torch.Size = torch.Size(rows.shape)
        self.dtype: torch.dtype = dtype
        self.device: torch.device = torch.device(device)
        self._rows, self._scale = rows, scale
        self._reader = Background()
        self._ahead: list[tuple[np.ndarray, Tensor, Future[None]]] = []
        self._spare: list[Tensor] = []

    def __len__(self) -> int:
        return self.shape[0]

    def prefetch(self, rows: Tensor) -> None:
        """Begin to read these rows (B,) for a following `x[rows]`; any other still works."""
        wanted = rows.cpu().numpy().copy()
        self._ahead.append((wanted, *self._begin(self._rows.rows[wanted])))
        if len(self._ahead) > _MOST_AHEAD:
            del self._ahead[0]

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        if isinstance(index, slice):
            wanted = np.arange(len(self))[index]
        elif index.ndim == 1 and index.dtype == torch.int64:
            wanted = index.cpu().numpy()
        else:
            raise TypeError(f"row numbers must be a slice or (B,) int64, but are {index.dtype}")
        for i, (rows, buffer, future) in enumerate(self._ahead):
            if np.array_equal(rows, wanted):
                del self._ahead[i]
                return self._finish(buffer, len(wanted), future)
        buffer = self._buffer(len(wanted))
        self._rows.array.gather(self._rows.rows[wanted], buffer.numpy()[: len(wanted)])
        return self._finish(buffer, len(wanted))

    def split(self, size: int) -> Iterator[Tensor]:
        """Go through all rows in chunks of `size`, reading one chunk ahead."""
        starts = range(0, len(self), size)
        chosen = self._rows.rows
        following = self._begin(chosen[:size])
        for start in starts:
            buffer, future = following
            count = min(size, len(self) - start)
            if start + size < len(self):
                following = self._begin(chosen[start + size : start + 2 * size])
            yield self._finish(buffer, count, future)
        self._spare.clear()  # chunks are large

    def _begin(self, numbers: np.ndarray) -> tuple[Tensor, Future[None]]:
        """Have the background read rows of the file into a buffer."""
        buffer, array = self._buffer(len(numbers)), self._rows.array
        out = buffer.numpy()[: len(numbers)]
        return buffer, self._reader.submit(lambda: array.gather(numbers, out))

    def _finish(self, buffer: Tensor, count: int, future: Future[None] | None = None) -> Tensor:
        """Wait for a buffer to be filled, bring it to the device, scale it and set it free."""
        if future is not None:
            future.result()
        x = self._scale(buffer[:count].to(self.device, self.dtype))
        if x.data_ptr() == buffer.data_ptr() and count:
            x = x.clone()  # nothing was scaled
        self._spare = [*self._spare[-2:], buffer]
        return x

    def _buffer(self, count: int) -> Tensor:
        """At least `count` rows to read into."""
        for i, buffer in enumerate(self._spare):
            if count <= len(buffer) <= 2 * count:
                return self._spare.pop(i)
        dtype = torch.from_numpy(np.empty(0, self._rows.dtype)).dtype
        return torch.empty(
            (count, self.shape[1]),
            dtype=dtype,
            device="cpu",
            pin_memory=self.device.type == "cuda",
        )


def prefetch(x: Tensor | StreamedRows, rows: Tensor) -> None:
    """Begin to read rows that `x[rows]` will ask for; nothing to do where `x` is in memory."""
    if isinstance(x, StreamedRows):
        x.prefetch(rows)


class ConcatenatedRows:
    """Several sets of rows, one after the other."""

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
