"""`mlis predict`: photographs or features in, classes and probabilities out."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.models import add_model_argument, one_model
from mlis.cli.pictures import find_pictures, is_image_input
from mlis.cli.prediction_file import format_of, opened, write
from mlis.cli.printing import printable
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    import numpy as np

    from mlis.model.recognizer import Recognizer

ROWS_AT_A_TIME = 8192
SHOWN = 20  # unreadable images on the screen; the output has all
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
training's are refused. Labels beside the features are left alone.

CSV: path (or row), then class_1, score_1, seen_1, class_2, … best first; of photographs last
`reason`, why one could not be read. JSON lines: {"path": …, "predictions": [{"class": …,
"score": …, "seen": …}, …]}, with "reason" where it could not be read, or {"row": 0, …}. A score is
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
        help="images: the image model, where the model does not know it or it lies elsewhere now",
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
    model = one_model(args.model)
    from mlis.compute.precision import Precision
    from mlis.io.checkpoint import load_model

    device = Precision.of("float32", args.device).device
    recognizer = load_model(model, device, growth=False)
    k = min(args.top_k, len(recognizer.class_names))
    if is_image_input(args.inputs):
        lines, unread = _of_images(args, recognizer), _Unread()
        with opened(args.output) as out:
            write(out, unread.watch(lines), "path", k, kind)
        return unread.report()
    (path,) = args.inputs
    for name in _IMAGE_FLAGS:
        if getattr(args, name) is not None:
            raise SettingsError(f"--{name} has no meaning with features, which are computed")
    features = _features(args, path, model, recognizer)
    lines = _of_features(recognizer, features, path, k)
    with opened(args.output) as out:
        write(out, lines, "row", k, kind)
    return 0


def _of_images(args: argparse.Namespace, recognizer: "Recognizer") -> Iterator[dict[str, Any]]:
    """A line for each image, as they come."""
    from mlis.cli.image_bar import ImageBar
    from mlis.features.images.walk import shown
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
        if sys.stderr.isatty():
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
        if self._bad:
            count = f"{len(self._bad):,} of {self._count:,}"
            print(f"mlis: {count} images could not be read:", file=sys.stderr)
        for line in self._bad[:SHOWN]:
            print(f"  {printable(line['path'])}: {line['reason']}", file=sys.stderr)
        if len(self._bad) > SHOWN:
            print(f"  … and {len(self._bad) - SHOWN:,} more", file=sys.stderr)
        return FAILED if len(self._bad) == self._count else 0


def _features(
    args: argparse.Namespace, path: Path, model: Path, recognizer: "Recognizer"
) -> "np.ndarray":
    """Features that suit the model."""
    from mlis.data.io.unlabelled import backbone_of, read_features
    from mlis.image_classifier import check_backbone

    check_backbone(recognizer, backbone_of(path), str(path))
    features = read_features(path, args.label_column)
    if features.shape[1] != recognizer.num_features:
        raise DataError(
            f"{path} has {features.shape[1]} features a row, but {model} takes "
            f"{recognizer.num_features}: use features of the same kind as in training"
        )
    return features


def _of_features(
    recognizer: "Recognizer", features: "np.ndarray", path: Path, k: int
) -> Iterator[dict[str, Any]]:
    """A line for each row; features are read in pieces."""
    import numpy as np

    from mlis.image_classifier import top_classes

    for start in range(0, len(features), ROWS_AT_A_TIME):
        part = np.array(features[start : start + ROWS_AT_A_TIME], dtype=np.float32)
        if not (finite := np.isfinite(part).all(axis=1)).all():
            row = start + int(finite.argmin())
            raise DataError(f"{path}: row {row} holds NaN or infinity: leave that row out")
        for row, classes in enumerate(top_classes(recognizer, part, k), start):
            yield {"row": row, "predictions": [one.to_dict() for one in classes]}
