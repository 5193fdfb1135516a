"""Choose settings on validation classes: train candidates, never look at a test row.

    python benchmarks/choose_settings.py CANDIDATES.toml FLO --data-root DIR -o runs/choose-flo

The candidates file holds nested settings by name. Each is trained on the validation split's
training rows, for every seed, and measured on the held-out classes. H is at the best calibration
constant, which is legitimate here: these are validation classes, and the constant is one of the
settings being chosen. One split of some 20 validation classes is a noisy guide: with
`--class-splits 5` the mean is over five splits of the training classes, drawn by seeds 1 to 5.
Interrupted searches continue; candidates that share generation settings, and other searches and
runs on the same rows, share the trained generator (`mlis.generators`).
"""

import argparse
import dataclasses
import json
import logging
import statistics
import tomllib
from pathlib import Path

import torch

from mlis.config import Config, hash_of
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset, TestSplit, TrainingSplit
from mlis.data.splits import add_validation
from mlis.evaluation import evaluate
from mlis.files import write_json
from mlis.protocol import fit_reusing
from mlis.provenance import training_key
from mlis.snapshots import FolderMonitor


def validation_splits(dataset: GZSLDataset, count: int) -> list[tuple[TrainingSplit, TestSplit]]:
    """The dataset's own validation split, or `count` others of its training classes."""
    if not count:
        return [dataset.for_validation()]
    drawn = [add_validation(dataset.split, dataset.labels, seed=seed + 1) for seed in range(count)]
    return [dataclasses.replace(dataset, split=split).for_validation() for split, _ in drawn]


def measure(split, config: Config, seed: int, folder: Path) -> dict:
    """Validation measures of one candidate and seed, from its file if it was run before."""
    training, held_out = split
    key = training_key(training, config, seed)
    path = folder / f"{key[:16]}.json"
    if path.exists():
        return json.loads(path.read_text())
    monitor = FolderMonitor(folder / f"training-{key[:16]}", key)
    fitted = fit_reusing(training, config, seed=seed, monitor=monitor)
    scores = fitted.recognizer.scores(held_out.features)
    found = evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
    row = {"T1": found.T1, "AUSUC": found.AUSUC, "H": found.best_H, "seed": seed}
    write_json(path, row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("candidates", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--features-file")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--class-splits", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if options.threads:
        torch.set_num_threads(options.threads)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    candidates = tomllib.loads(options.candidates.read_text())
    base = candidates.pop("base", {})
    dataset = load_dataset(
        options.dataset, data_root=options.data_root, features_file=options.features_file
    )
    splits = validation_splits(dataset, options.class_splits)
    options.output.mkdir(parents=True, exist_ok=True)
    table = []
    for name, settings in candidates.items():
        config = Config().replace(base).replace(settings)
        rows = [measure(split, config, seed, options.output) for split in splits for seed in seeds]
        means = {k: statistics.fmean(row[k] for row in rows) for k in ("T1", "AUSUC", "H")}
        table.append({"name": name, **means, "settings": settings, "rows": rows})
        spread = statistics.stdev(row["H"] for row in rows) if len(rows) > 1 else float("nan")
        print(
            f"{name:32s} T1 {means['T1']:5.1f}  AUSUC {means['AUSUC']:5.1f}  "
            f"H {means['H']:5.1f} ± {spread:.1f}",
            flush=True,
        )
    write_json(
        options.output
        / f"table-{hash_of([base, candidates, seeds, options.class_splits])[:12]}.json",
        sorted(table, key=lambda row: -row["H"]),
    )


if __name__ == "__main__":
    main()
