"""Features larger than memory, written to a temporary file and streamed from it."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import IO

import numpy as np
import torch
from torch import Tensor

from mlis.data.out_of_core.stored import OpenFile, StoredArray, StoredRows, attach
from mlis.data.out_of_core.streaming import Rows, StreamedRows
from mlis.errors import DataError


def spill(
    parts: Iterable[tuple[Tensor, Tensor]], like: Rows, columns: int
) -> tuple[StreamedRows, Tensor]:
    """Write rows to an unnamed temporary file, from which they can be streamed many times.

    The file disappears with the process, however it ends. Rows keep their dtype: bfloat16 would
    halve the size, but change results compared with rows in memory.

    Args:
        parts: chunks of rows (B, D) and their labels (B,).
        like: provides dtype and device.
        columns: D.

    Returns:
        All rows (n, D) and all labels (n,).

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


def spill_array(blocks: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Write rows to an unnamed temporary file, and map it: (n, D) float32, read-only.

    Args:
        blocks: consecutive rows (B, D) float32.
        shape: (n, D).

    Raises:
        DataError: the disk is full; names the folder.
    """
    check_room(*shape, torch.float32)
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile(prefix="mlis-", buffering=0) as handle:
        for block in blocks:
            _write(handle, np.ascontiguousarray(block), folder)
        mapped = np.memmap(handle, np.float32, "r", shape=shape)
        attach(mapped, OpenFile(os.dup(handle.fileno()), f"{folder}/(joined features)"))
    return mapped


def _write(handle: IO[bytes], block: np.ndarray, folder: str) -> None:
    view = block.data.cast("B") if block.size else memoryview(b"")
    try:
        while len(view):
            view = view[handle.write(view) :]
    except OSError as error:
        raise _no_room(folder, f"{error.strerror} after {handle.tell() / 2**30:.1f} GiB") from error


def check_room(rows: int, columns: int, dtype: torch.dtype) -> None:
    """Raise `DataError` if the temporary folder has no space for (rows, columns)."""
    needed, folder = rows * columns * dtype.itemsize, tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _no_room(folder, f"{needed / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free")


def _no_room(folder: str, problem: str) -> DataError:
    return DataError(
        f"{folder}: not enough disk space for the features: {problem}. Free some space, or "
        "set the environment variable TMPDIR to a folder on a larger disk."
    )
