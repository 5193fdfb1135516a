"""`mlis predict`: photographs or features in, classes and probabilities out."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.common import add_common_flags, add_device_flag, add_model_argument
from mlis.cli.pictures import find_pictures, is_image_input
from mlis.cli.prediction_file import format_of, opened, write
from mlis.cli.printing import report_unread
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mlis.data.io.feature_rows import Rows
    from mlis.model.recognizer import Recognizer

ROWS_AT_A_TIME = 8192
FAILED = 1  # the exit code where no image at all could be read
_IMAGE_FLAGS = ("backbone", "workers")

_DESCRIPTION = """\
Recognise photographs, or rows of features.

INPUT is any number of image files, folders (all files in them), patterns in quotes, or `-` for a
list of files on standard input, one a line. Features are computed with the image model of the
training, which the model remembers; a model from other features needs --backbone.

Or INPUT is features of the same kind as in training: a .npy file (N, Dx), a .npz file with
`features`, a .csv or .parquet table with one column a feature, a .mat file with `features`
(Dx, N), a folder of features or a dataset folder (all rows). Those of another image model than the
training's are refused. A name that begins like a formula has a ' in front in CSV, not in JSON.

CSV: path (or row, where paths are not known), then class_1, score_1, seen_1, class_2, … best first;
last `reason`, why a photograph could not be read, or `label`, the true class where the features
have one. JSON lines: {"path": …, "predictions": [{"class": …, "score": …, "seen": …}, …]}, with
"reason" where it could not be read, "label" where it is known, or {"row": 0, …}. A score is
the softmax probability among all classes, seen and unseen, after calibration; `seen` says whether
the class had images in training. Rows count from 0.

Images that cannot be read are listed at the end. Exit code: 0 if any image was recognised, 1 if
none could be read, 2 for wrong input or use."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "predict", help="recognise photographs, or rows of features", description=_DESCRIPTION
    )
    add_model_argument(parser)
    parser.add_argument(
        "inputs", metavar="INPUT", type=Path, nargs="+", help="images, or one file of features"
    )
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
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="images: the image model, where MODEL does not know it or it lies elsewhere now; one "
        "of the hub is downloaded only where it is named here",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="images: threads that decode (default: processors)"
    )
    add_device_flag(parser)
    add_common_flags(parser, with_json=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments ask for; return the exit code."""
    if args.top_k < 1:
        raise SettingsError(f"--top-k must be at least 1, but got {args.top_k}")
    kind = format_of(args.output, args.format)
    from mlis.compute.precision import Arithmetic
    from mlis.io.checkpoint import load_model
    from mlis.io.saved_models import one_model

    model = one_model(args.model)

    device = Arithmetic.of("float32", args.device).device
    recognizer = load_model(model, device, growth=False)
    k = min(args.top_k, len(recognizer.class_names))
    if is_image_input(args.inputs):
        lines, unread = _of_images(args, recognizer), _Unread()
        with opened(args.output) as out:
            write(out, unread.watch(lines), "path", ["reason"], k, kind)
        return unread.report()
    (path,) = args.inputs
    for name in _IMAGE_FLAGS:
        if getattr(args, name) is not None:
            raise SettingsError(f"--{name} has no meaning with features, which are computed")
    rows = _rows(args, path, model, recognizer)
    lines = _of_rows(recognizer, rows, path, k)
    first, last = "path" if rows.paths else "row", ["label"] if rows.labels else []
    with opened(args.output) as out:
        write(out, lines, first, last, k, kind)
    return 0


def _of_images(args: argparse.Namespace, recognizer: "Recognizer") -> Iterator[dict[str, Any]]:
    """A line for each image, as they come."""
    from mlis.cli.progress import ImageBar
    from mlis.features.images.files import shown
    from mlis.image_classifier import predictions

    if not recognizer.backbone and args.backbone is None:
        raise DataError(
            f"{args.model} does not know which image model made its features, so it takes no "
            "images: name that model with --backbone, or give features (expected a .npy, .npz, "
            ".csv, .parquet or .mat file, a folder of features or a dataset folder)"
        )
    paths = find_pictures(args.inputs)
    backbone = recognizer.load_backbone(args.backbone, device=args.device)

    def lines() -> Iterator[dict[str, Any]]:
        bar = ImageBar("images")
        bar.started(len(paths), 0)
        try:
            for one in predictions(recognizer, paths, args.top_k, backbone, args.workers):
                yield one.to_dict() | {"path": shown(one.path)}
                bar.done(1)
        finally:
            bar.close()

    return lines()


class _Unread:
    """Counts images, and remembers those that could not be read."""

    def __init__(self) -> None:
        self._count, self._bad = 0, list[Mapping[str, Any]]()

    def watch(self, lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass the lines on."""
        for line in lines:
            self._count += 1
            if "reason" in line:
                self._bad.append(line)
            yield line

    def report(self) -> int:
        """List them on stderr; return the exit code."""
        report_unread([(line["path"], line["reason"]) for line in self._bad], self._count)
        return FAILED if len(self._bad) == self._count else 0


def _rows(args: argparse.Namespace, path: Path, model: Path, recognizer: "Recognizer") -> "Rows":
    """Features that suit the model."""
    from mlis.data.io.feature_rows import backbone_of, read_rows
    from mlis.image_classifier import check_backbone

    check_backbone(recognizer, backbone_of(path), str(path))
    rows = read_rows(path, args.label_column)
    if rows.features.shape[1] != recognizer.num_features:
        raise DataError(
            f"{path} has {rows.features.shape[1]} features a row, but {model} takes "
            f"{recognizer.num_features}: use features of the same kind as in training"
        )
    return rows


def _of_rows(
    recognizer: "Recognizer", rows: "Rows", path: Path, k: int
) -> Iterator[dict[str, Any]]:
    """A line for each row; features are read in pieces."""
    import numpy as np

    from mlis.image_classifier import top_classes

    for start in range(0, len(rows.features), ROWS_AT_A_TIME):
        part = np.array(rows.features[start : start + ROWS_AT_A_TIME], dtype=np.float32)
        if not (finite := np.isfinite(part).all(axis=1)).all():
            row = start + int(finite.argmin())
            raise DataError(f"{path}: row {row} holds NaN or infinity: leave that row out")
        for row, classes in enumerate(top_classes(recognizer, part, k), start):
            line: dict[str, Any] = {"path": rows.paths[row]} if rows.paths else {"row": row}
            line["predictions"] = [one.to_dict() for one in classes]
            yield line | ({"label": rows.labels[row]} if rows.labels else {})
