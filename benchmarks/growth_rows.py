"""Peak memory and seconds of a complete fit against the number of rows.

    python benchmarks/growth_rows.py -o growth_rows.json
    python benchmarks/growth_rows.py --rows 2000000 --steps 20 --iterations 2

For each number of rows a dataset folder of made-up features is written below --folder (default: the
system's temporary folder; 2 million rows of 2048 take 16 GB there, and the refined features as much
again in $TMPDIR), fitted and tested by a process of its own, and deleted. Features stay in their
file whatever their size (--resident-mib changes that), so that all sizes take the same path. Few
steps and iterations are enough: what they hold in memory does not depend on how many there are, but
the seconds of a real training do.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlis.config import Config
from mlis.data.dataset import GZSLDataset, Provenance
from mlis.data.io.folder import TENSORS, load_folder, write_metadata
from mlis.data.out_of_core.safetensors_file import map_arrays, write_arrays
from mlis.data.splits import Split
from mlis.pipeline import fit
from mlis.protocol import evaluate_on_test
from mlis.storage.atomic import write_json

BLOCK = 1024
FITS = {
    "ridge": {"generator": "ridge"},
    "wgan-gp": {"generator": "wgan-gp", "generator_init": "cold"},
    "wgan-gp, warm": {"generator": "wgan-gp", "generator_init": "ridge"},
}


class MadeUp:
    """(N, D) float32 features, made block by block when they are sliced: never in memory whole."""

    dtype = np.dtype(np.float32)
    itemsize = 4

    def __init__(self, labels: np.ndarray, means: np.ndarray):
        self.labels, self.means = labels, means
        self.shape = (len(labels), means.shape[1])
        self.nbytes = self.itemsize * len(labels) * means.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice) -> np.ndarray:
        start, stop, _ = index.indices(len(self))
        first = start // BLOCK
        blocks = [self._block(i) for i in range(first, -(-stop // BLOCK))]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]

    def _block(self, number: int) -> np.ndarray:
        labels = self.labels[number * BLOCK : (number + 1) * BLOCK]
        rng = np.random.default_rng([number, len(self)])
        noise = rng.random((len(labels), self.shape[1]), dtype=np.float32)
        return np.maximum(self.means[labels] + noise - np.float32(0.5), 0)


def write_dataset(folder: Path, rows: int, columns: int, classes: int) -> None:
    """A dataset folder: a quarter of the classes unseen, 90% of the rows for training."""
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(classes, 64)).astype(np.float32)
    means = 0.1 * descriptors @ rng.normal(size=(64, columns)).astype(np.float32)
    seen = classes - classes // 4
    trained, tested = round(0.9 * rows), round(0.05 * rows)
    labels = rng.integers(0, seen, rows)
    labels[:seen] = np.arange(seen)  # every seen class has a row to train on
    labels[trained + tested :] = rng.integers(seen, classes, rows - trained - tested)
    split = Split(
        np.arange(trained),
        np.arange(trained, trained + tested),
        np.arange(trained + tested, rows),
    )
    arrays: dict[str, Any] = {
        "features": MadeUp(labels, means),
        "labels": labels,
        "descriptors": descriptors,
    }
    arrays |= {f"split.{part}": getattr(split, part) for part in Split.__dataclass_fields__}
    folder.mkdir(parents=True)
    write_arrays(folder / TENSORS, arrays)
    mapped, _ = map_arrays(folder / TENSORS, ["features"])
    names = tuple(f"class_{i:05d}" for i in range(classes))
    origin = Provenance("made up", notes=(f"{rows} rows",))
    data = GZSLDataset(mapped["features"], labels, descriptors, names, split, origin)
    write_metadata(data, folder)


def settings(generator: str, steps: int, iterations: int, hidden: int) -> Config:
    """The defaults, but for what the options of this benchmark say."""
    small = {"hidden": hidden} if hidden else {}
    return Config().replace(
        {
            "generation": {**FITS[generator], "steps": steps, **small},
            "refinement": {"steps": steps, **small},
            "classification": {"max_iterations": iterations},
        }
    )


def measure(folder: Path, config: Config) -> dict[str, float]:
    """Load, fit and test in this process: seconds, and the highest memory so far, in MiB."""
    row: dict[str, float] = {"MiB_start": peak()}

    def timed(name: str, function):
        started = time.perf_counter()
        result = function()
        row[f"s_{name}"], row[f"MiB_{name}"] = time.perf_counter() - started, peak()
        return result

    data = timed("load", lambda: load_folder(folder))
    recognizer = timed(
        "fit", lambda: fit(data.for_training(), config, seed=0, device="cpu").recognizer
    )
    row["H"] = timed("test", lambda: evaluate_on_test(recognizer, data)).H
    return row


def peak() -> float:
    """Highest resident memory of this process, touched pages of memory maps included, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def measured(options: argparse.Namespace, rows: int, folder: Path) -> list[dict[str, Any]]:
    """All fits on one dataset, each in a process of its own."""
    results = []
    for generator in options.generators.split(";"):
        command = [sys.executable, __file__, "--child", str(folder), "--generators", generator]
        for name in ("steps", "iterations", "hidden"):
            command += [f"--{name}", str(getattr(options, name))]
        environment = {**os.environ, "MLIS_CACHE": str(folder.parent / "cache")}
        environment["MLIS_RESIDENT_MIB"] = options.resident_mib
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        row = {"rows": rows, "fit": generator, **json.loads(done.stdout)}
        print(format_row(row), flush=True)
        results.append(row)
    return results


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    return (
        f"| {row['rows']:>9,} | {row['fit']:<13} | {row['MiB_start']:,.0f} | {row['MiB_load']:,.0f}"
        f" | {row['MiB_fit']:,.0f} | {row['MiB_test']:,.0f} | {row['s_load']:.1f} "
        f"| {row['s_fit']:.1f} | {row['s_test']:.1f} |"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,1000000,2000000")
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--generators", default=";".join(FITS), help="separated by ;")
    parser.add_argument("--steps", type=int, default=20, help="of generator and encoder")
    parser.add_argument("--iterations", type=int, default=5, help="of L-BFGS")
    parser.add_argument("--hidden", type=int, default=0, help="0: the defaults, 4096 and 2048")
    parser.add_argument("--resident-mib", default="0", help='"": an eighth of available memory')
    parser.add_argument("--folder", type=Path, help="where the made-up data are written")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.child is not None:
        config = settings(options.generators, options.steps, options.iterations, options.hidden)
        print(json.dumps(measure(options.child, config)))
        return
    print(
        "|      rows | generator     | MiB: start | load | fit | test | s: load | fit | test |\n"
        "|----------:|---------------|-----------:|-----:|----:|-----:|--------:|----:|-----:|"
    )
    results = []
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="growth-rows-") as place:
            write_dataset(Path(place) / "data", rows, options.features, options.classes)
            results += measured(options, rows, Path(place) / "data")
    if options.output:
        facts = {
            "command": sys.argv[1:],
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rows": results,
        }
        write_json(options.output, facts)


if __name__ == "__main__":
    main()
