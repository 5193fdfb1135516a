"""Opening a benchmark's file of AWA2's size: the first time, from the cache, and as scripts do it.

    python benchmarks/loading.py [--folder DIR] [-o loading.json]

A stand-in in the published format is written (37,322 × 2048 float64, 611 MB), and opened by
processes of their own, in turn: ours on an empty cache, then on a full one, and the textbook's way,
`scipy.io.loadmat` and a copy in float32. Peak memory is the whole process's, Python and its
libraries included; the file is in the system's page cache, as it was just written.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from growth_rows import peak
from report import Rows, markdown, spread, write

SETTLED = 2.1  # seconds after which the hash of a file just written is remembered
PARTS = {"trainval_loc": 23527, "test_seen_loc": 5882, "test_unseen_loc": 7913}  # AWA2's rows
SEEN, UNSEEN, DESCRIPTOR = 40, 10, 85


def write_standin(folder: Path, rows: int, columns: int) -> None:
    """`res101.mat` and `att_splits.mat` with AWA2's classes, and its parts in proportion."""
    rng = np.random.default_rng(0)
    ends = [round(rows * end / sum(PARTS.values())) for end in np.cumsum(list(PARTS.values()))]
    labels = np.arange(rows) % SEEN
    labels[ends[1] :] = SEEN + np.arange(rows - ends[1]) % UNSEEN
    features = rng.random((columns, rows))
    names = np.array([f"class_{i}" for i in range(SEEN + UNSEEN)], dtype=object)[:, None]
    parts = zip(PARTS, np.split(np.arange(rows), ends[:-1]), strict=True)
    att = rng.random((DESCRIPTOR, SEEN + UNSEEN))
    split = {name: 1.0 + numbers[:, None] for name, numbers in parts}
    scipy.io.savemat(folder / "res101.mat", {"features": features, "labels": 1.0 + labels[:, None]})
    scipy.io.savemat(folder / "att_splits.mat", {"att": att, "allclasses_names": names, **split})


def ours(folder: Path) -> str:
    """Open with validation, hash and cache; says whether the features are mapped."""
    from mlis.data import load_pair

    data = load_pair(folder / "res101.mat", folder / "att_splits.mat")
    return type(data.features).__name__


def textbook(folder: Path) -> str:
    """What the field's scripts do."""
    features = scipy.io.loadmat(folder / "res101.mat")["features"].T
    return type(np.ascontiguousarray(features, dtype=np.float32)).__name__


WAYS = {"ours": ours, "textbook": textbook}


def child(way: str, folder: Path) -> None:
    """Open in this process; print seconds and peak memory."""
    if way == "ours":
        import mlis.data  # noqa: F401  the time of imports is not the file's

    before, started = peak(), time.perf_counter()
    kind = WAYS[way](folder)
    took = time.perf_counter() - started
    print(json.dumps({"seconds": took, "MiB_before": before, "MiB_peak": peak(), "kind": kind}))


def opened(way: str, folder: Path, cache: Path) -> dict[str, Any]:
    """What one process measured."""
    command = [sys.executable, __file__, "--child", way, "--folder", str(folder)]
    environment = {**os.environ, "MLIS_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def measure(folder: Path, repeats: int) -> Rows:
    """One row for each case: the median of its seconds, the greatest of its memory."""
    runs: dict[str, list[dict[str, Any]]] = {"first": [], "cached": [], "textbook": []}
    for repeat in range(repeats):
        cache = folder / f"cache-{repeat}"
        for case, found in runs.items():
            found.append(opened("textbook" if case == "textbook" else "ours", folder, cache))
        shutil.rmtree(cache)
    return [
        {
            "case": case,
            "seconds": statistics.median(run["seconds"] for run in found),
            "seconds_min": min(run["seconds"] for run in found),
            "seconds_max": max(run["seconds"] for run in found),
            "MiB_before": max(run["MiB_before"] for run in found),
            "MiB_peak": max(run["MiB_peak"] for run in found),
            "kind": found[-1]["kind"],
        }
        for case, found in runs.items()
    ]


def table(rows: Rows) -> str:
    """All rows as Markdown."""
    body = []
    for row in rows:
        memory = (f"{row['MiB_before']:,.0f}", f"{row['MiB_peak']:,.0f}")
        body.append([row["case"], spread(row, "seconds"), *memory, row["kind"]])
    return markdown(["open", "s", "MiB before", "MiB at the peak", "features are"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=sum(PARTS.values()))
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the stand-in is written")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child, options.folder)
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="loading-") as place:
        folder = Path(place)
        write_standin(folder, options.rows, options.features)
        size = (folder / "res101.mat").stat().st_size / 2**20
        time.sleep(SETTLED)
        rows = measure(folder, options.repeats)
    print(table(rows))
    write(options.output, arguments, rows, file_MiB=size)


if __name__ == "__main__":
    main()
