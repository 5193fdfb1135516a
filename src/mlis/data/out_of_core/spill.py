"""Refined features too many for memory: written once to a temporary file, read back by chunks."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import IO

import numpy as np
import torch
from torch import Tensor

from mlis.data.out_of_core.stored import OpenFile, StoredArray, StoredRows
from mlis.data.out_of_core.streaming import Rows, StreamedRows
from mlis.errors import DataError


def spill(parts: Iterable[tuple[Tensor, Tensor]], like: Rows, columns: int) -> tuple[Rows, Tensor]:
    """Write rows once to a nameless temporary file, to be gone through many times.

    The file has no name from the start (or goes with its handle, where a system has no such
    files), so that nothing is left of it however the process ends. Rows are kept as they are: in
    bfloat16 they would take half the room, but give another result than rows in memory.

    Args:
        parts: (B, D) rows and their labels (B,), by chunks.
        like: gives dtype and device.
        columns: D.

    Returns:
        all rows (n, D), and all labels (n,).

    Raises:
        DataError: the disk is full; names the folder.
    """
    labels = [torch.empty(0, dtype=torch.int64, device=like.device)]
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile(prefix="mlis-", buffering=0) as handle:
        for x, y in parts:
            block = np.ascontiguousarray(x.to("cpu", like.dtype).numpy())
            _write(handle, block, folder)
            labels.append(y)
        file = OpenFile(os.dup(handle.fileno()), f"{folder}/(refined features)")
    every = torch.cat(labels)
    dtype = torch.empty(0, dtype=like.dtype, device="cpu").numpy().dtype
    rows = StoredRows(StoredArray(file, 0, (len(every), columns), dtype), np.arange(len(every)))
    return StreamedRows(rows, lambda x: x, like.dtype, like.device), every


def _write(handle: IO[bytes], block: np.ndarray, folder: str) -> None:
    view = block.data.cast("B") if block.size else memoryview(b"")
    try:
        while len(view):
            view = view[handle.write(view) :]
    except OSError as error:
        raise _no_room(folder, f"{error.strerror} after {handle.tell() / 2**30:.1f} GiB") from error


def check_room(rows: int, columns: int, dtype: torch.dtype) -> None:
    """Raise `DataError` where the temporary folder has no room to spill (rows, columns)."""
    needed, folder = rows * columns * dtype.itemsize, tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _no_room(folder, f"{needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} are free")


def _no_room(folder: str, problem: str) -> DataError:
    return DataError(
        f"{folder}: no room for the refined features of all rows: {problem}. Make room there, or "
        "name a folder on a larger disk in the environment variable TMPDIR."
    )
