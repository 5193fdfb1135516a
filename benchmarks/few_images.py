"""Accuracy of unseen classes by the number of their images that a trained model is given.

    python benchmarks/few_images.py DIR/FLO DIR/AWA2WEB [-o rows.json]

Models of the methods gaussian and ridge are trained without any image of an unseen class, as is the
average of both, weighted on validation classes; their calibration constants come from there too.
Then every unseen class is given 1, 2, 5 and 10 of its test images, drawn by a seed and nested. All
images that are ever given are left out of the test, for 0 images too, so that columns differ by
what was given alone. Beside them stand the Gaussian model whose unseen classes have no descriptor,
and the nearest class mean by cosine of scaled features, which are images alone.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import Rows, markdown, write

from mlis.config import Config, resolve
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.evaluation import average_constant, seen_unseen_curve
from mlis.incremental import ExemplarBuffer, add_images, remove_classes
from mlis.methods.auto import together
from mlis.methods.base import Method
from mlis.methods.gaussian import Gaussian
from mlis.methods.portfolio import Trial, choose_members
from mlis.methods.raw import RidgeSoftmax
from mlis.model.recognizer import Recognizer, replace
from mlis.pipeline import Trained
from mlis.presets import load, own_preset
from mlis.protocol import folds, validate

COUNTS = (0, 1, 2, 5, 10)
MEASURES = ("U", "S", "H")
NEAREST = "nearest class mean"
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
Models = dict[str, tuple[Recognizer, ExemplarBuffer | None, dict[str, float]]]


def models(dataset: GZSLDataset, config: Config, seed: int) -> Models:
    """Trained and calibrated, by name, with exemplars and the weights of members."""
    methods: dict[str, Method] = {"gaussian": Gaussian(config), "ridge": RidgeSoftmax(config)}
    found: dict[str, Trained] = {}
    trials: list[Trial] = []
    for name, method in methods.items():
        chosen = method.choose(dataset, seed=seed)
        found[name], method = chosen, chosen.method
        held_out = {}
        for number, fold in enumerate(folds(dataset, 3)):
            for one, scores in validate(method, fold, seed=seed):
                if one == method:
                    held_out[number] = scores
        trials.append(Trial(name, name, method, held_out, 0.0))
    choice = choose_members(trials)
    both = together([found[name].recognizer for name in choice.weights], [*choice.weights.values()])
    both.calibration = average_constant(choice.curves)
    return {
        **{name: (one.recognizer, one.exemplars, {}) for name, one in found.items()},
        "gaussian + ridge": (both, found["ridge"].exemplars, dict(choice.weights)),
    }


def drawn(dataset: GZSLDataset, draw: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The given rows of each unseen class, in order, and the mask (N,) of the other test rows."""
    test, rng = dataset.for_testing(), np.random.default_rng(draw)
    given = {
        test.class_names[c]: rng.permutation(np.flatnonzero(test.labels == c))[: max(COUNTS)]
        for c in dataset.unseen_classes
    }
    kept = np.ones(len(test.labels), dtype=bool)
    kept[np.concatenate(list(given.values()))] = False
    return given, kept


def measured(
    scores: np.ndarray,
    names: Sequence[str],
    dataset: GZSLDataset,
    kept: np.ndarray,
    constant: float,
) -> dict[str, Any]:
    """U, S and H of uncalibrated scores (N, C) of the kept test rows, classes in any order.

    At shares of the constant: all of it, as given images do not change it, down to none, as if
    classes with images were seen; and at the best constant on these test rows, which is optimistic.
    """
    test = dataset.for_testing()
    place = {name: i for i, name in enumerate(names)}
    scores = scores[:, [place[name] for name in test.class_names]]
    curve = seen_unseen_curve(scores, test.labels[kept], test.seen_mask)
    at = {f"{share:g}": share * constant for share in SHARES} | {"best": curve.best_constant()}
    points = {name: int(np.searchsorted(curve.knots, value)) for name, value in at.items()}
    return {
        "constant": constant,
        "best_constant": at["best"],
        "at": {
            name: {m: float(getattr(curve, m)[point]) for m in MEASURES}
            for name, point in points.items()
        },
    }


def nearest_mean(dataset: GZSLDataset, recognizer: Recognizer, given: dict[str, np.ndarray]):
    """Cosines (N, C) with the mean of each class's images, training rows for seen classes."""
    training, test = dataset.for_training(), dataset.for_testing()

    def scaled(rows: np.ndarray) -> torch.Tensor:
        return recognizer.preprocessing(torch.from_numpy(np.array(rows, dtype=np.float32)))

    x, means = scaled(training.features), []
    for c, name in enumerate(training.class_names):
        own = scaled(test.features[given[name]]) if name in given else x[training.labels == c]
        means.append(own.mean(0))
    unit = torch.nn.functional.normalize
    return (unit(scaled(test.features), dim=1) @ unit(torch.stack(means), dim=1).T).numpy()


def grown_models(
    trained: Models, images: dict[str, np.ndarray]
) -> Iterator[tuple[str, Any, float]]:
    """Name, recognizer and CPU seconds of each model that was given images.

    The average's members are those that are grown already: `add_images` of it gives the same.
    """
    grown: dict[str, Recognizer] = {}
    for name, (recognizer, exemplars, members) in trained.items():
        started = time.process_time()
        if members:
            new = together([grown[one] for one in members], [*members.values()])
            new.calibration = recognizer.calibration
        else:
            new = add_images(recognizer, exemplars, images)[0] if images else recognizer
        grown[name] = new
        yield name, new, time.process_time() - started


def rows_of(dataset: GZSLDataset, trained: Models, draw: int) -> Iterator[dict[str, Any]]:
    """One row a model and number of images."""
    test = dataset.for_testing()
    given, kept = drawn(dataset, draw)
    features = np.array(test.features)
    closed = trained["gaussian"][0]
    bare = remove_classes(closed, None, list(given))[0]
    for count in COUNTS:
        few = {name: rows[:count] for name, rows in given.items()}
        images = {name: features[rows] for name, rows in few.items()} if count else {}
        silent = {"gaussian, no descriptors": (bare, None, {})} if count else {}
        for name, new, seconds in grown_models({**trained, **silent}, images):
            constant, new = new.calibration, replace(new, calibration=0.0)
            found = measured(new.scores(features[kept]), new.class_names, dataset, kept, constant)
            yield {"model": name, "images": count, "cpu_seconds": seconds, **found}
        if count:
            scores = nearest_mean(dataset, closed, few)[kept]
            found = measured(scores, test.class_names, dataset, kept, 0.0)
            yield {"model": NEAREST, "images": count, **found}


def table(rows: Rows) -> str:
    """Means over the draws of U / H, as Markdown.

    Of the nearest class mean, which has no constant of its own, at the best one on the test rows.
    """
    body: list[list[str]] = []
    for dataset, model in dict.fromkeys((row["dataset"], row["model"]) for row in rows):
        at = "best" if model == NEAREST else "1"
        cells: list[str] = []
        for count in COUNTS:
            own = (dataset, model, count)
            found = [r["at"][at] for r in rows if (r["dataset"], r["model"], r["images"]) == own]
            means = [f"{np.mean([one[m] for one in found]):.1f}" for m in ("U", "H") if found]
            cells.append(" / ".join(means) or "–")
        body.append([dataset, model, *cells])
    return markdown(["data", "model", *map(str, COUNTS)], body)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="with features and att_splits.mat")
    parser.add_argument("--features-file", default="efficientnet_lite2.mat", help="in each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=3, help="of the given images (default: 3)")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    rows: Rows = []
    for folder in options.folders:
        name, split = folder.name, folder / "att_splits.mat"
        dataset = load_dataset(features_file=folder / options.features_file, split_file=split)
        config = resolve(load(own_preset(name)))
        trained = models(dataset, config, options.seed)
        for draw in range(options.draws):
            for row in rows_of(dataset, trained, draw):
                rows.append({"dataset": name, "draw": draw, **row})
                print(
                    name,
                    draw,
                    row["model"],
                    row["images"],
                    row["at"]["1"],
                    row["at"]["best"],
                    flush=True,
                )
    print(table(rows))
    write(options.output, arguments, rows)


if __name__ == "__main__":
    main()
