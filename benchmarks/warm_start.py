"""A cold against a warm start of the WGAN-GP: quality over time, on validation classes.

    python benchmarks/warm_start.py FLO --data-root DIR [--seeds 0,1] -o warm-start.json
    python benchmarks/warm_start.py simulated -o warm-start-simulated.json

Both generators have the same sizes and the same step size. After the numbers of steps asked for, a
softmax on raw features is trained with what the generator makes, and measured on the validation
classes (area under the seen-unseen curve, best H over calibration constants). Seconds are those of
the generator's steps alone. No test row is read.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mlis import presets
from mlis.compute.precision import Precision
from mlis.config import Config, resolve
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset, TestSplit, TrainingSplit
from mlis.evaluation import evaluate
from mlis.generators.base import FeatureGenerator
from mlis.generators.ridge import fit_ridge
from mlis.generators.wgan_gp.trainer import AdversarialTrainer
from mlis.model.preprocessing import prepare
from mlis.pipeline import recognizers_of


def simulated(seed: int = 0) -> GZSLDataset:
    """100 classes whose mean features are a smooth, not linear, function of their descriptors."""
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(100, 24))
    first = rng.normal(size=(24, 48)) / np.sqrt(24)
    second = rng.normal(size=(48, 64)) / np.sqrt(48)
    means = np.tanh(2 * descriptors @ first) @ second
    labels = np.repeat(np.arange(100), 30)
    features = np.maximum(means[labels] + rng.normal(size=(len(labels), 64)), 0)
    return GZSLDataset.from_arrays(features, labels, descriptors, unseen_classes=range(80, 100))


def curve(
    split: tuple[TrainingSplit, TestSplit], config: Config, seed: int, steps: list[int]
) -> Iterator[dict[str, float | int]]:
    """Measures after each number of steps; step 0 of a warm start is the ridge generator."""
    training, held_out = split
    precision = Precision.of(config.precision)
    scaler, data = prepare(training, config.preprocessing, precision)

    def measures(generator: FeatureGenerator, step: int, seconds: float):
        (recognizer,) = recognizers_of(training, scaler, data, generator, None, [config], seed)
        scores = recognizer.scores(held_out.features)
        found = evaluate(scores, held_out.labels, held_out.seen_mask, held_out.class_names)
        values = {"T1": found.T1, "AUSUC": found.AUSUC, "H": found.best_H}
        return {"seed": seed, "steps": step, "seconds": round(seconds, 2), **values}

    if config.generation.generator_init == "ridge":
        yield measures(fit_ridge(data, config.generation), 0, 0.0)
    trainer = AdversarialTrainer(data, config.generation, precision, seed)
    seconds, done = 0.0, 0
    for target in steps:
        started = time.perf_counter()
        while done < target:
            trainer.step()
            done += 1
        seconds += time.perf_counter() - started
        yield measures(trainer.generator, done, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset", help="a benchmark's name, a dataset folder, or `simulated`")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--features-file")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--warm", default="25,50,100,200,400")
    parser.add_argument("--cold", default="100,200,400,800,1200")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.dataset == "simulated":
        dataset, base = simulated(), {"generation": {"hidden": 512, "noise": 64}}
    else:
        place = {"data_root": options.data_root, "features_file": options.features_file}
        dataset, base = load_dataset(options.dataset, **place), presets.load(options.dataset)
    split = dataset.for_validation()
    rows: list[dict[str, float | int | str]] = []
    for init, steps in (("ridge", options.warm), ("cold", options.cold)):
        config = resolve(base, {"generation": {"generator_init": init, "generator": "wgan-gp"}})
        for seed in map(int, options.seeds.split(",")):
            for row in curve(split, config, seed, [int(step) for step in steps.split(",")]):
                rows.append({"init": init, **row})
                print(init, json.dumps(row), flush=True)
    facts = {"dataset": options.dataset, "threads": torch.get_num_threads()}
    options.output.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """Means over seeds as Markdown."""
    lines = ["| start | steps | seconds | T1 | AUSUC | best H |", "|---|---|---|---|---|---|"]
    for init, step in dict.fromkeys((row["init"], row["steps"]) for row in rows):
        group = [row for row in rows if (row["init"], row["steps"]) == (init, step)]
        columns = ("seconds", "T1", "AUSUC", "H")
        means = [statistics.fmean(row[key] for row in group) for key in columns]
        lines.append(f"| {init} | {step} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
