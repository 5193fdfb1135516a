"""Which score tells images of unknown classes best: the table of docs/trust.md.

    python benchmarks/reject.py FLO --data-root DIR --features efficientnet_lite2.mat
    python benchmarks/reject.py --features F.mat --split S.mat --methods ridge,gaussian,auto

A random quarter of the seen and of the unseen classes is taken away: no rows, no descriptors. Their
test images are the unknown ones, the other test images the known ones; three quarters (--quarters).
With --validation the same is done within the training classes, whose held-out ones take the place
of the unseen: there a score is chosen, and no test row is read.

- probability, margin, energy: of calibrated scores over the temperature; standing: the best of
  them, less their mean, over their standard deviation, which is used without a Gaussian head.
- distance: to the nearest mean of a seen class, in scaled features (cosine of centred ones);
  neighbour: to the nearest training row.
- density, mahalanobis: log-density under the nearest class and distance to it; relative
  mahalanobis: less that to the background; relative density: what is used where
  there is a Gaussian head, by the predicted class. They need a Gaussian head.

AUROC, all known images and those of seen and of unseen classes alone; area under the risk-coverage
curve; and, for the score that is used, the share of known (mean over classes) and of unknown images
that are turned away at --reject 5% and 10%.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch.nn.functional import normalize

from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.data.dataset import GZSLDataset
from mlis.data.splits import Split
from mlis.evaluation import auroc, evaluate_rejection
from mlis.methods.registry import build_method
from mlis.model.heads import EnsembleHead, GaussianHead
from mlis.model.recognizer import Recognizer
from mlis.model.rejection import known_levels
from mlis.storage.atomic import write_json

RATES = (0.05, 0.1)


def of_validation(data: GZSLDataset) -> GZSLDataset:
    """The training rows alone; validation rows take the place of the test rows."""
    training, held_out = data.for_validation()
    seen, rows = held_out.seen_mask[held_out.labels], np.arange(len(held_out.labels))
    rows += len(training.labels)
    return GZSLDataset.from_arrays(
        np.concatenate([np.asarray(training.features), np.asarray(held_out.features)]),
        np.concatenate([training.labels, held_out.labels]),
        training.descriptors,
        split=Split(np.arange(len(training.labels)), rows[seen], rows[~seen]),
        name=f"{data.provenance.name}, validation",
    )


def without_quarter(data: GZSLDataset, seed: int) -> tuple[GZSLDataset, np.ndarray]:
    """The data without a random quarter of the classes, and the features of its test rows."""
    rng = np.random.default_rng(seed)
    halves = (data.seen_classes, data.unseen_classes)
    taken = np.concatenate([rng.choice(c, round(len(c) / 4), replace=False) for c in halves])
    gone = np.isin(data.labels, taken)
    test = np.concatenate([data.split.test_seen, data.split.test_unseen])
    kept, place = np.setdiff1d(np.arange(data.num_classes), taken), np.cumsum(~gone) - 1

    def rows(part: np.ndarray) -> np.ndarray:
        return place[part[~gone[part]]]

    s = data.split
    known = GZSLDataset.from_arrays(
        data.features[~gone],
        np.searchsorted(kept, data.labels[~gone]),
        data.descriptors[kept],
        split=Split(rows(s.trainval), rows(s.test_seen), rows(s.test_unseen)),
        name=data.provenance.name,
    )
    return known, data.features[test[gone[test]]]


def candidates(
    recognizer: Recognizer, data: GZSLDataset, features: np.ndarray
) -> dict[str, np.ndarray]:
    """Each score of (N, Dx) features, more for known ones."""
    values = recognizer.scores(features).astype(np.float64) / recognizer.temperature
    top = np.sort(values, axis=1)[:, ::-1]
    scaled, training = recognizer.preprocessing, data.for_training()
    rows = scaled(torch.from_numpy(np.array(training.features)))
    centre = rows.mean(0)
    x = normalize(scaled(torch.from_numpy(features)) - centre, dim=1)
    labels = torch.from_numpy(training.labels)
    means = torch.stack([rows[labels == c].mean(0) for c in torch.unique(labels)])
    found = {
        "probability": top[:, 0] - logsumexp(values, axis=1),
        "margin": top[:, 0] - top[:, 1],
        "energy": logsumexp(values, axis=1),
        "standing": (top[:, 0] - values.mean(1)) / values.std(1),
        "distance": (x @ normalize(means - centre, dim=1).T).amax(1).numpy(),
        "neighbour": (x @ normalize(rows - centre, dim=1).T).amax(1).numpy(),
    }
    return found | gaussian(recognizer, features)


def gaussian(recognizer: Recognizer, features: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of the Gaussian head, if there is one."""
    head, refiner = recognizer.head, recognizer.refiner
    if isinstance(head, EnsembleHead):
        pairs = [(one.head, one.refiner) for one in head.members]
        head, refiner = next((p for p in pairs if isinstance(p[0], GaussianHead)), pairs[0])
    if not isinstance(head, GaussianHead):
        return {}
    h = refiner(recognizer.preprocessing(torch.from_numpy(features)))
    z = ((h - head.offset) @ head.projection.T).double()
    square, linear = head.weight.double().chunk(2, dim=1)
    variances = 1 / (1 - 2 * square)
    means, inverse = linear * variances, 1 / variances
    distances = z.square() @ inverse.T - 2 * z @ (means * inverse).T + (means**2 * inverse).sum(1)
    covariance = torch.cov(means.T) + variances.mean(0).diag()
    root = torch.linalg.cholesky(covariance)
    other = torch.linalg.solve_triangular(root, (z - means.mean(0)).T, upper=False).square().sum(0)
    return {
        "density": (head(h).double().amax(1) - 0.5 * z.square().sum(1)).numpy(),
        "mahalanobis": -distances.amin(1).numpy(),
        "relative mahalanobis": (other - distances.amin(1)).numpy(),
        "relative density": recognizer.known_scores(features),
    }


@torch.no_grad()
def measured(name: str, data: GZSLDataset, unknown: np.ndarray, budget: float) -> dict[str, Any]:
    """All scores of one method, trained on `data`."""
    options = {"budget": budget} if name == "auto" else {}
    recognizer = build_method(name, **options).choose(data, seed=0).recognizer
    test = data.for_testing()
    rows, seen = np.asarray(test.features), test.seen_mask[test.labels]
    right = recognizer.scores(rows).argmax(1) == test.labels
    of_known, of_unknown = (candidates(recognizer, data, x) for x in (rows, unknown))
    result: dict[str, Any] = {"scores": {}, "head": type(recognizer.head).__name__}
    for score, values in of_known.items():
        others = of_unknown[score]
        result["scores"][score] = {
            "AUROC": auroc(values, others),
            "seen": auroc(values[seen], others),
            "unseen": auroc(values[~seen], others),
            "AURC": evaluate_rejection(values, right, others).area,
        }
    quantiles = recognizer.metadata.rejection
    known_level, unknown_level = (
        known_levels(recognizer.known_scores(x), quantiles) for x in (rows, unknown)
    )
    for rate in RATES:
        away = [float((known_level[test.labels == c] < rate).mean()) for c in set(test.labels)]
        result[f"{rate:.0%}"] = [100 * np.mean(away), 100 * float((unknown_level < rate).mean())]
    return result


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Means over the quarters."""
    for score in rows[0]["scores"]:
        parts = [row["scores"][score] for row in rows if score in row["scores"]]
        text = "  ".join(f"{key} {np.mean([p[key] for p in parts]):5.1f}" for key in parts[0])
        spread = np.ptp([p["AUROC"] for p in parts])
        print(f"  {score:21} {text}  (AUROC differs by {spread:.1f})")
    for rate in RATES:
        known, unknown = np.mean([row[f"{rate:.0%}"] for row in rows], axis=0)
        print(
            f"  --reject {rate:.0%}: turned away {known:.1f}% of known, {unknown:.1f}% of unknown"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_dataset_arguments(parser)
    parser.add_argument("--methods", default="gaussian,ridge,auto")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of auto")
    parser.add_argument("--quarters", type=int, default=3)
    parser.add_argument(
        "--validation", action="store_true", help="choose here; no test row is read"
    )
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args(argv)
    data = load(dataset_arguments(args))
    if args.validation:
        data = of_validation(data)
    found: dict[str, Any] = {}
    for name in args.methods.split(","):
        rows = []
        for seed in range(args.quarters):
            started = time.perf_counter()
            rows.append(measured(name, *without_quarter(data, seed), args.budget))
            rows[-1]["seconds"] = time.perf_counter() - started
        print(f"{data.provenance.name}, {name} ({', '.join(row['head'] for row in rows)})")
        show(rows)
        found[name] = rows
        if args.output is not None:
            write_json(args.output, {"dataset": data.provenance.name, **found})


if __name__ == "__main__":
    main()
