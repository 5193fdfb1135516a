"""`mlis predict`: features in, classes and probabilities out, as CSV or JSON lines."""

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.models import one_model
from mlis.errors import DataError, SettingsError
from mlis.files import atomic_write

if TYPE_CHECKING:
    import numpy as np

    from mlis.inference import Recognizer

ROWS_AT_A_TIME = 8192

_DESCRIPTION = """\
Recognise images by their features, which must be of the same kind as in training.

FEATURES is a .npy file (N, Dx), a .npz file with `features`, a .csv or .parquet table with one
column a feature, a .mat file with `features` (Dx, N), or a dataset folder (all its rows). Labels
beside the features are left alone.

CSV: row, then class_1, score_1, seen_1, class_2, … best first. JSON lines: {"row": 0,
"predictions": [{"class": …, "score": …, "seen": …}, …]}. A score is the softmax probability
among all classes, seen and unseen, after calibration; `seen` says whether the class had images in
training. Rows count from 0."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "predict",
        help="recognise new images by their features",
        description=_DESCRIPTION,
    )
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="saved model, or a run that has one"
    )
    parser.add_argument("features", metavar="FEATURES", type=Path, help="features of images")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help=".csv or .jsonl (default: stdout)"
    )
    parser.add_argument(
        "--format", choices=("csv", "jsonl"), help="default: by FILE's name, csv on stdout"
    )
    parser.add_argument(
        "--top-k", type=int, default=5, metavar="K", help="classes a row (default: 5)"
    )
    parser.add_argument(
        "--label-column",
        default="label",
        metavar="NAME",
        help="column of .csv and .parquet that is no feature, where present (default: label)",
    )
    add_device_flag(parser)
    add_common_flags(parser, with_json=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    if args.top_k < 1:
        raise SettingsError(f"--top-k must be at least 1, but got {args.top_k}")
    kind = _format(args)
    model = one_model(args.model)
    from mlis.checkpoint import load_model
    from mlis.compute import Arithmetic
    from mlis.data.unlabelled import read_features

    recognizer = load_model(model, Arithmetic.of("float32", args.device).device)
    features = read_features(args.features, args.label_column)
    if features.shape[1] != recognizer.num_features:
        raise DataError(
            f"{args.features} has {features.shape[1]} features a row, but {model} takes "
            f"{recognizer.num_features}: use features of the same kind as in training"
        )
    rows = _predict(recognizer, features, args.features, args.top_k)
    with _output(args.output) as out:
        if kind == "csv":
            _write_csv(out, rows, min(args.top_k, len(recognizer.class_names)))
        else:
            for row, best in enumerate(rows):
                line = {"row": row, "predictions": best}
                out.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _format(args: argparse.Namespace) -> str:
    if args.format is not None or args.output is None:
        return args.format or "csv"
    kind = args.output.suffix.casefold().removeprefix(".")
    if kind not in ("csv", "jsonl"):
        raise SettingsError(
            f"-o {args.output}: name a .csv or .jsonl file, or choose with --format csv|jsonl"
        )
    return kind


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Stdout, or a file that appears whole or not at all."""
    if path is None:
        yield sys.stdout
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SettingsError(f"-o {path}: name a file in a folder that exists")
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as handle,
    ):
        yield handle


def _predict(
    recognizer: "Recognizer", features: "np.ndarray", path: Path, k: int
) -> Iterator[list[dict[str, Any]]]:
    """The best classes of each row; features are read in pieces."""
    import numpy as np
    import scipy.special

    for start in range(0, len(features), ROWS_AT_A_TIME):
        part = np.array(features[start : start + ROWS_AT_A_TIME], dtype=np.float32)
        if not (finite := np.isfinite(part).all(axis=1)).all():
            row = start + int(finite.argmin())
            raise DataError(f"{path}: row {row} holds NaN or infinity: leave that row out")
        scores = recognizer.scores(part).astype(np.float64)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        chances = np.take_along_axis(scipy.special.softmax(scores, axis=1), best, axis=1)
        for classes, values in zip(best, chances, strict=True):
            yield [
                {
                    "class": recognizer.class_names[c],
                    "score": round(float(value), 6),
                    "seen": bool(recognizer.seen_mask[c]),
                }
                for c, value in zip(classes, values, strict=True)
            ]


def _write_csv(out: TextIO, rows: Iterator[list[dict[str, Any]]], k: int) -> None:
    writer = csv.writer(out, lineterminator="\n")
    names = [f"{name}_{rank}" for rank in range(1, k + 1) for name in ("class", "score", "seen")]
    writer.writerow(["row", *names])
    for row, best in enumerate(rows):
        cells = [
            cell
            for entry in best
            for cell in (entry["class"], entry["score"], str(entry["seen"]).lower())
        ]
        writer.writerow([row, *cells])
