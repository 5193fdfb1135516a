"""What every figure must carry: the machine, the command, the date. JSON and Markdown out."""

import datetime
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import mlis
from mlis.storage.atomic import write_json

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")  # that decide a product's speed

Rows = list[dict[str, Any]]


def facts() -> dict[str, Any]:
    """The machine and the libraries."""
    cpu = _cpu_info()
    known = re.search(r"^model name\s*: (.+)$", cpu, re.M)
    flags = set(re.findall(r"\w+", cpu))
    cuda = torch.cuda.is_available()
    return {
        "machine": known[1] if known else platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mlis": mlis.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_info() -> str:
    """What Linux says of the first core; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text().split("\n\n")[0] if path.exists() else ""


def write(path: Path | None, arguments: Sequence[str] | None, rows: Rows, **more: Any) -> None:
    """Write the rows of a benchmark with what they were measured on; without a path, nothing."""
    if path is not None:
        command = list(sys.argv[1:] if arguments is None else arguments)
        write_json(path, {**facts(), "command": command, **more, "rows": rows})


def measured_on(facts: Mapping[str, Any]) -> str:
    """The line that stands beside a table."""
    flags = ", ".join(facts["cpu_flags"]) or "no wide vectors known"
    gpu = f", {facts['gpu']}" if facts["gpu"] else ""
    threads = f"{facts['threads']} threads on {facts['cores']} cores"
    versions = f"torch {facts['torch']}, mlis {facts['mlis']}"
    day = facts["date"][:10]
    return f"Measured on {facts['machine']} ({flags}){gpu}, {threads}, {versions}, {day}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Make a Markdown table, the first column to the left and the others to the right.

    >>> print(markdown(["shape", "ms"], [["CUB", 12]]))
    | shape | ms |
    |:---|---:|
    | CUB | 12 |
    """
    rule = "|".join([":---"] + ["---:"] * (len(header) - 1))
    lines = [" | ".join(map(str, line)) for line in (header, *rows)]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def spread(row: Mapping[str, float], name: str = "ratio") -> str:
    """Show a ratio: median (least–greatest)."""
    return f"{row[name]:.2f} ({row[f'{name}_min']:.2f}–{row[f'{name}_max']:.2f})"
