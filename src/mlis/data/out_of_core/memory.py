"""How much memory there is, and what is too large for it."""

import math
import os
from pathlib import Path

from mlis.errors import DataError, SettingsError

RESIDENT_SHARE = 1 / 8
"""Features larger than this share of the available memory stay in their file. A training holds up
to six copies of features that do not: rows, scaled rows, refined rows, and each once more while it
is made."""

_MEBI = 1 << 20


def resident_limit() -> int:
    """Bytes of features above which they stay in their file.

    `$MLIS_RESIDENT_MIB` (mebibytes; 0 leaves all mapped features in their files) where it is set,
    else an eighth of the memory that is available now.

    Raises `SettingsError` where the variable is no number ≥ 0.
    """
    text = os.environ.get("MLIS_RESIDENT_MIB")
    if not text:
        return int(RESIDENT_SHARE * available_memory())
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < math.inf:
        raise SettingsError(f"MLIS_RESIDENT_MIB must be a number of MiB, but is {text!r}")
    return int(limit * _MEBI)


def check_room(what: str, size: int) -> None:
    """Raise `DataError`, beginning with `what`, where `size` bytes are more than there are.

    A header, or a few kilobytes of compressed zeros, may claim any size.
    """
    available = available_memory()
    if size > available:
        raise DataError(
            f"{what} takes {size / 2**30:,.1f} GiB of memory, but {available / 2**30:,.1f} GiB are "
            "available. Save it as a float32 .npy file, or convert it to a dataset folder on a "
            "larger machine: those stay in their file."
        )


def available_memory() -> int:
    """Bytes that a process could take now; a container's limit counts."""
    available = 8 << 30  # where the system does not say
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
