"""From the feature file to the tested result: `mlis fit` of ML+IS+SFR with one seed.

    python benchmarks/end_to_end.py --data-root DIR [-o end_to_end.json]

The whole process is timed, imports included, on an empty cache: reading the file, both trainings
(the preset chooses its calibration by a training on validation classes), stage 2, and the test.
More flags of `mlis fit` are given as one string: `--flags="--generator ridge"`.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from report import Rows, markdown, write

MEASURES = ("U", "S", "H", "T1", "AUSUC")


def absent(dataset: str, root: Path | None) -> str | None:
    """Why there is nothing to measure, or None."""
    if Path(dataset).is_dir():
        return None
    if root is None:
        return f"{dataset}: no --data-root was given"
    folder = root / dataset.upper()
    if len(list(folder.glob("*.mat"))) < 2:
        return f"{folder} does not hold a features file and a split file"
    return None


def measure(dataset: str, root: Path | None, seed: int, flags: Sequence[str]) -> dict[str, object]:
    """One row."""
    with tempfile.TemporaryDirectory(prefix="end-to-end-") as place:
        command = [sys.executable, "-m", "mlis", "fit", dataset, "-o", f"{place}/run"]
        command += ["--data-root", str(root)] if root else []
        command += ["--seeds", str(seed), "--components", "ml+is+sfr", "--json", *flags]
        environment = {**os.environ, "MLIS_CACHE": f"{place}/cache"}
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        took = time.perf_counter() - started
    result = json.loads(done.stdout.splitlines()[-1])
    row = {"dataset": dataset, "seed": seed, "seconds": took, "fit_seconds": result["seconds"]}
    return {**row, **{name: result[name] for name in MEASURES}, "flags": list(flags)}


def table(rows: Rows) -> str:
    """All rows as Markdown."""
    body = []
    for row in rows:
        times = (f"{row['seconds']:.1f}", f"{row['fit_seconds']:.1f}")
        body.append([row["dataset"], row["seed"], *times, *(f"{row[m]:.1f}" for m in MEASURES)])
    return markdown(["dataset", "seed", "process, s", "trainings and test, s", *MEASURES], body)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", nargs="?", default="FLO", help="a name, or a dataset folder")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", type=shlex.split, default=[], help="more, for `mlis fit`")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    if reason := absent(options.dataset, options.data_root):
        print(f"skipped: {reason}")
        write(options.output, arguments, [], skipped=reason)
        return
    rows = [measure(options.dataset, options.data_root, options.seed, options.flags)]
    print(table(rows))
    write(options.output, arguments, rows)


if __name__ == "__main__":
    main()
