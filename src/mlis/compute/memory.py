"""Available memory, and what to do if it is not sufficient.

An allocation that fails is reported as one error that names the settings to reduce
(`enough_memory`), or the work is repeated in smaller parts (`in_parts`).
"""

import contextlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path

from mlis.errors import DataError, OutOfMemoryError, SettingsError

logger: logging.Logger = logging.getLogger(__name__)

RESIDENT_FRACTION = 1 / 8
"""Features larger than this fraction of the available memory are streamed from their file.
Training holds up to six copies of features in memory: raw, scaled and refined rows, and a temporary
copy of each."""

_MEBI = 1 << 20
_MESSAGES = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def available_memory() -> int:
    """Bytes that a process could allocate now, within the limit of its container."""
    available = 8 << 30  # if the system does not report it
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) << 10
    except (OSError, ValueError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:  # control groups, version 2: a number, or "max"
        return min(available, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return available


def resident_limit() -> int:
    """Size in bytes above which features are streamed from their file.

    `$MLIS_RESIDENT_MIB` (mebibytes; 0 streams all memory-mapped features) if set, else an eighth of
    the available memory.

    Raises:
        SettingsError: the variable is not a number ≥ 0.
    """
    text = os.environ.get("MLIS_RESIDENT_MIB")
    if not text:
        return int(RESIDENT_FRACTION * available_memory())
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < math.inf:
        raise SettingsError(f"MLIS_RESIDENT_MIB: expected a number of MiB, got {text!r}")
    return int(limit * _MEBI)


def check_room(what: str, size: int) -> None:
    """Raise `DataError`, beginning with `what`, if `size` bytes are more than are available.

    For sizes declared by a file: a header, or compressed zeros, may declare any size.
    """
    available = available_memory()
    if size > available:
        raise DataError(
            f"{what} needs {size / 2**30:,.1f} GiB of memory, but {available / 2**30:,.1f} GiB are "
            "available. Save it as a float32 .npy file, or convert it to a dataset folder on a "
            "larger machine: both are streamed from disk."
        )


def is_shortage(error: BaseException) -> bool:
    """Whether an error reports a failed allocation; PyTorch has no class for that on a CPU."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    on_gpu = type(error).__name__ == "OutOfMemoryError"  # without importing PyTorch
    return on_gpu or any(message in str(error) for message in _MESSAGES)


@contextlib.contextmanager
def enough_memory(what: str, remedy: str) -> Generator[None, None, None]:
    """Convert a failed allocation in the block, on CPU or GPU, into one error with a remedy.

    Args:
        what: the operation, such as "evaluation".
        remedy: which settings to reduce.

    Raises:
        OutOfMemoryError: instead of the exception of NumPy or PyTorch.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        place = "out of GPU memory" if "CUDA" in str(error) else "out of memory"
        raise OutOfMemoryError(
            f"{what}: {place} ({_amount(str(error))}). {remedy}, or use a larger machine; finished "
            "work is kept."
        ) from error


def in_parts(count: int, size: int, work: Callable[[slice], None], what: str, remedy: str) -> None:
    """Process rows 0 to `count` in parts, halving the part size on a memory shortage.

    Args:
        count: number of rows.
        size: initial number of rows in a part.
        work: called with each part, and again with half of a part that was too large; its result
            for a row must not depend on the other rows in the part.
        what: the operation, such as "evaluation".
        remedy: what to use if not even one row fits; begins with "use".

    Raises:
        OutOfMemoryError: not even one row fits.
    """
    start = 0
    while start < count:
        part = slice(start, min(start + size, count))
        try:
            work(part)
        except (MemoryError, RuntimeError) as error:
            size = smaller(part.stop - part.start, error, what, remedy)
        else:
            start = part.stop


def smaller(size: int, error: Exception, what: str, remedy: str) -> int:
    """Half of `size`, the number of rows that did not fit; other errors are raised again.

    Raises:
        OutOfMemoryError: `size` is one row.
    """
    if isinstance(error, OutOfMemoryError) or not is_shortage(error):
        raise error
    if size <= 1:
        raise OutOfMemoryError(
            f"{what}: out of memory even for one row at a time: {remedy}, or a larger machine"
        ) from error
    logger.warning("%s: out of memory for %d rows at a time: trying half", what, size)
    torch = sys.modules.get("torch")  # measures do not need it
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2


def _amount(text: str) -> str:
    """The requested amount in an allocator's message."""
    found = re.search(
        r"(?:allocate|Tried to allocate) ([\d.]+ (?:bytes|[KMGT]i?B))", text, re.IGNORECASE
    )
    return f"{found[1]} requested" if found else "amount unknown"
