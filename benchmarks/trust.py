"""How far checks and probabilities can be trusted: the figures of docs/trust.md.

    python benchmarks/trust.py FLO --data-root DIR --features efficientnet_lite2.mat
    python benchmarks/trust.py --features F.mat --split S.mat -o trust.json

- mislabelled: 2 % of the training labels are replaced by another seen class at random (seeds 0-2);
  how many of the rows that `mlis check` calls mislabelled were, and how many of them it finds.
- likely-to-fail: rank correlation (Spearman) of the risk of unseen classes with their test accuracy
  under `mlis fit --method ridge`.
- temperature: chosen on the validation split's scores of the same method, trained without the
  validation classes; expected calibration error on test images with temperature 1 and with it.

Test labels decide nothing. With OMP_NUM_THREADS=1 it takes about two minutes on FLO.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mlis.checks.classes import class_risk
from mlis.checks.rows import RowStatistics, mislabelled
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.data.dataset import GZSLDataset
from mlis.evaluation import best_temperature, evaluate, evaluate_confidence
from mlis.methods.registry import build_method
from mlis.storage.atomic import write_json

FLIPPED = 0.02


def flips(data: GZSLDataset, seed: int) -> dict[str, float]:
    """Precision and recall of mislabelled rows, of which `FLIPPED` were made at random."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(data.split.trainval, round(FLIPPED * len(data.split.trainval)), replace=False)
    labels = data.labels.copy()
    for row in rows:
        labels[row] = rng.choice(data.seen_classes[data.seen_classes != labels[row]])
    # the same rows are training rows, validation included, so the split stays valid
    wrong = dataclasses.replace(data, labels=labels, split=without_validation(data))
    found = mislabelled(wrong, RowStatistics.of(wrong))
    ranked = [one.rows[0] for one in sorted(found, key=lambda one: -one.value)]
    hits = np.isin(ranked, rows)
    return {
        "seed": seed,
        "flipped": len(rows),
        "reported": len(ranked),
        "precision": float(hits.mean()) if len(ranked) else 0.0,
        "recall": float(hits.sum() / len(rows)),
        "precision_of_as_many_as_flipped": float(hits[: len(rows)].mean()) if len(ranked) else 0.0,
    }


def without_validation(data: GZSLDataset) -> Any:
    """Its split: flipped labels may be of classes that a validation split holds out."""
    none = np.empty(0, dtype=np.int64)
    return dataclasses.replace(data.split, train=none, val_seen=none, val_unseen=none)


def confidence(scores: np.ndarray, split: Any, temperature: float) -> dict[str, float | None]:
    """Expected calibration errors."""
    found = evaluate_confidence(scores, split.labels, split.seen_mask, temperature=temperature)
    return found.to_dict()


def trained(data: GZSLDataset) -> dict[str, Any]:
    """Risk against accuracy, and calibration errors, of `--method ridge`, seed 0."""
    chosen = build_method("ridge").choose(data, seed=0)
    constant, test = chosen.recognizer.calibration, data.for_testing()
    scores = chosen.recognizer.scores(test.features)
    result = evaluate(scores, test.labels, test.seen_mask, test.class_names)
    statistics = RowStatistics.of(data)
    risk = class_risk(data.descriptors, statistics.class_means, data.seen_mask)
    accuracy = [result.per_class[c].accuracy for c in risk.classes]
    known = np.array([value is not None for value in accuracy])
    rank, p = spearmanr(risk.risk[known], np.array(accuracy)[known].astype(float))
    training, held_out = data.for_validation()
    model = chosen.method.fit(training, seed=0).recognizer
    model.calibration = constant
    temperature = best_temperature(model.scores(held_out.features), held_out.labels)
    return {
        "U": result.U,
        "S": result.S,
        "H": result.H,
        "calibration": constant,
        "risk": {"spearman": float(rank), "p": float(p), "classes": int(known.sum())},
        "classes": [
            {"class": data.class_names[c], "risk": float(r), "accuracy": value}
            for c, r, value in zip(risk.classes, risk.risk, accuracy, strict=True)
        ],
        "temperature": temperature,
        "before": confidence(scores, test, 1.0),
        "after": confidence(scores, test, temperature),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_dataset_arguments(parser)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args(argv)
    data = load(dataset_arguments(args))
    rows = [flips(data, seed) for seed in range(3)]
    for row in rows:
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    found = trained(data)
    print("U {U:.1f}  S {S:.1f}  H {H:.1f}  calibration {calibration:.3g}".format(**found))
    for one in sorted(found["classes"], key=lambda one: -one["risk"]):
        print(f"  risk {one['risk']:.2f}  accuracy {one['accuracy']}  {one['class']}")
    print(
        "risk and accuracy: Spearman {spearman:.2f} (p {p:.2f}, {classes})".format(**found["risk"])
    )
    print(f"temperature {found['temperature']:.3f}")
    for name in ("before", "after"):
        print(name, "  ".join(f"{k} {v:.1f}" for k, v in found[name].items() if v is not None))
    if args.output is not None:
        write_json(args.output, {"dataset": data.provenance.name, "flips": rows, **found})


if __name__ == "__main__":
    main()
