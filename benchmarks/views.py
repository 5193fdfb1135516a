"""Two views of each picture: features joined, scores averaged, or joined features projected.

    python benchmarks/views.py DIR/FLO DIR/AWA2WEB [-o rows.json]

Each folder has a file of features per view. Every way is measured with the methods gaussian and
ridge, default settings, constants from validation classes: H on three validation splits, U, S, H
and T1 of the test, and the CPU seconds of a training. Averaged scores are divided by their spread,
as in an ensemble. The projection is on the principal directions of the training rows.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import Rows, markdown, write

from mlis.config import Config, resolve
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.evaluation import evaluate
from mlis.methods.base import Method
from mlis.methods.gaussian import Gaussian
from mlis.methods.portfolio import Trial, choose_members, tradeoff
from mlis.methods.raw import RidgeSoftmax
from mlis.model.recognizer import Recognizer
from mlis.protocol import folds, validate

VIEWS = ("efficientnet_lite2.mat", "efficientnet_lite2_whole.mat")
METHODS: dict[str, type[Method]] = {"gaussian": Gaussian, "ridge": RidgeSoftmax}


def loaded(folder: Path, *files: str) -> GZSLDataset:
    """The dataset with these files' features."""
    paths = [folder / name for name in files]
    return load_dataset(features_file=paths, split_file=folder / "att_splits.mat")


def projected(dataset: GZSLDataset, components: int) -> GZSLDataset:
    """Features on the principal directions of the training rows, with their signs."""
    rows = torch.from_numpy(np.array(dataset.for_training().features, dtype=np.float32))
    _, _, directions = torch.pca_lowrank(rows, components, niter=4)
    features = torch.from_numpy(np.array(dataset.features)) - rows.mean(0)
    return dataclasses.replace(dataset, features=(features @ directions).numpy())


def trained(
    method: Method, dataset: GZSLDataset, name: str, seed: int
) -> tuple[Trial, Recognizer, float]:
    """Scores on validation splits, and a training on all rows with its CPU seconds."""
    chosen = method.choose(dataset, seed=seed).method
    held_out = {
        number: scores
        for number, fold in enumerate(folds(dataset, 3))
        for one, scores in validate(chosen, fold, seed=seed)
        if one == chosen
    }
    started = time.process_time()
    recognizer = chosen.fit(dataset.for_training(), seed=seed).recognizer
    seconds = time.process_time() - started
    recognizer.calibration = 0.0
    return Trial(name, name, chosen, held_out, seconds), recognizer, seconds


def row(parts: Sequence[tuple[Trial, Recognizer, float]], data: Sequence[GZSLDataset]) -> Any:
    """One recognizer, or several whose scores are averaged, each on its own dataset's rows."""
    choice = choose_members([trial for trial, _, _ in parts])
    kept, test = tradeoff(choice.curves), data[0].for_testing()
    total = sum(
        choice.weights[trial.name] * recognizer.scores(one.for_testing().features)
        for (trial, recognizer, _), one in zip(parts, data, strict=True)
    )
    scores = total - np.float32(kept.best) * test.seen_mask
    found = evaluate(scores, test.labels, test.seen_mask, test.class_names)
    on_validation = [curve.H[np.searchsorted(curve.knots, kept.best)] for curve in choice.curves]
    measures = {name: getattr(found, name) for name in ("U", "S", "H", "T1")}
    seconds = sum(seconds for _, _, seconds in parts)
    return {"validation_H": float(np.mean(on_validation)), **measures, "cpu_seconds": seconds}


def rows_of(folder: Path, config: Config, seed: int) -> Rows:
    """All ways with all methods."""
    joined = loaded(folder, *VIEWS)
    data = {"centre": loaded(folder, VIEWS[0]), "whole": loaded(folder, VIEWS[1])}
    data |= {"joined": joined}
    data |= {f"joined, projected to {k}": projected(joined, k) for k in (1280, 640)}
    rows: Rows = []
    for method, kind in METHODS.items():
        found = {way: trained(kind(config), one, way, seed) for way, one in data.items()}
        pairs = {way: [way] for way in data} | {"scores averaged": ["centre", "whole"]}
        for way, names in pairs.items():
            measured = row([found[name] for name in names], [data[name] for name in names])
            about = {"dataset": folder.name, "method": method, "views": way, "seed": seed}
            rows.append({**about, **measured})
            print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="with features and att_splits.mat")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    rows: Rows = []
    for folder in options.folders:
        rows += rows_of(folder, resolve(), options.seed)
    columns = ("validation_H", "U", "S", "H", "T1", "cpu_seconds")
    body = [
        [one["dataset"], one["method"], one["views"], *(f"{one[name]:.1f}" for name in columns)]
        for one in rows
    ]
    print(markdown(["data", "method", "views", *columns], body))
    write(options.output, arguments, rows)


if __name__ == "__main__":
    main()
