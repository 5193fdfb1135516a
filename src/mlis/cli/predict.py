"""Recognise images, or rows of features.

INPUT is any number of image files, folders (all files in them), quoted patterns, or `-` for a list
of files on standard input, one per line. Features are computed with the image model of the
training, whose name is stored with the model; a model from other features needs --backbone.

Or INPUT is features like those of the training: a .npy file (N, Dx), a .npz file with `features`, a
.csv or .parquet table with one column per feature, a .mat file with `features` (Dx, N), a folder of
features or a dataset folder (all rows). Several of the same rows are joined by columns. Features of
another image model than the training's are refused. In CSV, a name that a spreadsheet would read as
a formula gets a leading '.

CSV: path (or row, if paths are unknown), then class_1, score_1, seen_1, class_2, … best first (and
display_1, … after each class, if the model has display names); last `reason`, why an image could
not be read, or `label`, the true class if the features have one. JSON lines: {"path": …,
"predictions": [{"class": …, "score": …, "seen": …}, …]}, with "reason" if it could not be read,
"label" if it is known, or {"row": 0, …}. A score is the softmax probability among all classes, seen
and unseen, after calibration; `seen` says whether the class had images in training. Rows count from
0.

With --reject, the first class of what looks like none of the classes is `unknown`, without a score;
the likeliest classes follow.

With --explain, why the likeliest class and not the second: the columns `runner_up`; `because`,
named attributes and sentences of the two classes with their evidence (a log-likelihood ratio;
negative: it speaks against), or how similar the described classes are to what the image shows; and
`resembles`, the nearest training images: of --training, else the classes of those kept beside the
model. JSON lines have all of it as "explanation". docs/trust.md defines it.

With --format label-studio or fiftyone, correct the classes there and read them with `mlis data
import`. Boxes: `mlis data import` cuts them to crops first.

Images that cannot be read are listed at the end. Exit code: 0 if any image was recognised, 1 if
none could be read, 2 for wrong input or usage.
"""

import argparse
import contextlib
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mlis.cli.arguments import Commands, add_command, add_common, at_least, load_recognizer, refuse
from mlis.cli.datasets import find_pictures
from mlis.cli.exchange import add_url_flag, url_option
from mlis.cli.output import check_file, report_unread, say
from mlis.errors import DataError, SettingsError
from mlis.escape import csv_cell, json_line, terminal

if TYPE_CHECKING:
    from mlis.data.io.feature_rows import Rows
    from mlis.explanation import Explainer
    from mlis.model.recognizer import Recognizer

ROWS_AT_A_TIME = 8192
_TOOLS = ("label-studio", "fiftyone")
_EXPLANATION = ("runner_up", "because", "resembles")
FAILED = 1  # the exit code if no image at all could be read


def add_to(commands: Commands) -> None:
    """Add the command."""
    text = "recognise images, or rows of features"
    parser = add_command(commands, "predict", run, text, __doc__, json=False)
    add_common(parser, "model")
    parser.add_argument("inputs", metavar="INPUT", type=Path, nargs="+", help="images, or features")
    text = ".csv or .jsonl (default: stdout); .json with another --format"
    add_common(parser, "--output", metavar="FILE", required=False, help=text)
    parser.add_argument(
        "--format",
        choices=("csv", "jsonl", *_TOOLS),
        help="default: by FILE's name, csv on stdout. label-studio: tasks with predictions, and "
        "FILE.xml, the labeling interface; fiftyone: labels with confidence. Both name images by "
        "their path below the folder that holds all inputs",
    )
    add_url_flag(parser)
    parser.add_argument(
        "--top-k", type=at_least(1), default=5, metavar="K", help="classes per row (default: 5)"
    )
    parser.add_argument(
        "--label-column",
        default="label",
        metavar="NAME",
        help="column of .csv and .parquet that is not a feature, if present (default: label)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="why the likeliest class and not the second"
    )
    parser.add_argument(
        "--training",
        type=Path,
        metavar="PATH",
        help="labelled features of the training or a dataset folder, for --explain: its training "
        "images are compared (default: those kept beside the model)",
    )
    add_common(parser, "--reject", "--calibration", "--backbone", "--workers", "--device")


def run(args: argparse.Namespace) -> int:
    """Return the exit code."""
    _check_output(args)
    from mlis.data.io.feature_rows import is_features
    from mlis.data.io.joined import joined_name
    from mlis.io.saved_models import one_model
    from mlis.model.calibrate import constant_of
    from mlis.model.rejection import check_reject

    model = one_model(args.model)
    recognizer = load_recognizer(model, args.device)
    if recognizer.transductive:
        print(f"mlis: {args.model}: transductive, adapted to unlabelled images", file=sys.stderr)
    check_reject(recognizer, args.reject)
    if args.calibration is not None:
        recognizer.calibration = constant_of(recognizer, args.calibration)
    explainer = _explainer(args, model, recognizer)
    args.top_k = min(args.top_k, len(recognizer.class_names))
    if not all(map(is_features, args.inputs)):
        return _predict_images(args, recognizer, explainer)
    refuse(args, ("backbone", "workers"), "with features, which are already computed")
    if args.format in _TOOLS:
        raise SettingsError(f"--format {args.format}: expected images, got features.")
    rows, name = _rows(args, model, recognizer), joined_name([str(path) for path in args.inputs])
    first, last = "path" if rows.paths else "row", ["label"] if rows.labels else []
    lines = _of_rows(recognizer, rows, name, args, explainer)
    _write(args, lines, first, last, displayed=bool(recognizer.display_names))
    return 0


def _check_no_list(path: Path) -> None:
    """Refuse a table of photographs or boxes, which was read as features.

    Raises:
        DataError: says how to make a folder of it.
    """
    from mlis.features.labelled_rows import is_photographs

    if path.is_file() and is_photographs(path):
        raise DataError(
            f"{path}: expected images or features, got a table of images. Make a folder of these, "
            f"or of their boxes: mlis data import {path} --images DIR -o FOLDER, and name that."
        )


def _check_output(args: argparse.Namespace) -> None:
    if args.format in _TOOLS:
        refuse(args, ("explain",), f"with --format {args.format}")
        if args.output is None:
            raise SettingsError(f"--format {args.format}: expected a file. Name one with -o.")
        check_file(args.output, ".json")
    elif args.output is not None:
        check_file(args.output, *(() if args.format else (".csv", ".jsonl")))
    url_option(args)


def _explainer(
    args: argparse.Namespace, model: Path, recognizer: "Recognizer"
) -> "Explainer | None":
    """What --explain asks for."""
    from mlis.explanation import Explainer, sentence_encoder
    from mlis.image_classifier import training_images
    from mlis.io.checkpoint import load_exemplars

    if not args.explain:
        refuse(args, ("training",), "without --explain")
        return None
    if args.training is None:
        compared = load_exemplars(model)
    else:
        compared = training_images(args.training, recognizer, args.label_column)
    return Explainer(recognizer, compared, sentence_encoder(recognizer))


def _predict_images(
    args: argparse.Namespace, recognizer: "Recognizer", explainer: "Explainer | None"
) -> int:
    """Write a line for each image; list those that cannot be read; return the exit code."""
    from mlis.cli.progress import ImageBar
    from mlis.features.images.files import shown
    from mlis.image_classifier import ImageClassifier, recorded_backbone

    if not recorded_backbone(recognizer) and args.backbone is None:
        raise DataError(
            f"{args.model}: the image model of its features is unknown, so it takes no images. "
            "Name that model with --backbone, or give features (expected a .npy, .npz, .csv, "
            ".parquet or .mat file, a folder of features or a dataset folder)."
        )
    paths = find_pictures(args.inputs)
    classifier = ImageClassifier(recognizer, args.backbone, device=args.device)
    unread: list[str] = []

    def lines() -> Iterator[dict[str, Any]]:
        with ImageBar() as bar:
            bar.started(len(paths), 0)
            options = {"workers": args.workers, "reject": args.reject, "explainer": explainer}
            for one in classifier.stream(paths, args.top_k, **options):
                path = shown(one.path)
                if one.reason:
                    unread.append(f"{path}: {one.reason}")
                yield one.to_dict() | {"path": path}
                bar.done(1)

    if args.format in _TOOLS:
        _write_for_tool(args, paths, lines())
    else:
        displayed = bool(recognizer.display_names)
        _write(args, lines(), "path", ["reason"], displayed=displayed)
    report_unread(unread, len(paths))
    return FAILED if len(unread) == len(paths) else 0


def _write_for_tool(
    args: argparse.Namespace, paths: Sequence[str], lines: Iterator[dict[str, Any]]
) -> None:
    """Write predictions that an annotation tool shows, to be corrected and imported again."""
    import mlis
    from mlis.features.exchange.formats import write
    from mlis.features.exchange.records import Annotated

    alone = all(path.is_dir() for path in args.inputs)
    folders = args.inputs if alone else [Path(path).parent for path in paths]
    root = os.path.commonpath([os.path.abspath(folder) for folder in folders])  # noqa: PTH100

    def images() -> Iterator[Annotated]:
        for source, line in zip(paths, lines, strict=True):
            likely = [one for one in line["predictions"] if one["score"] is not None]
            known = likely and likely[0] is line["predictions"][0]  # else "unknown"
            scores = tuple((one["class"], one["score"]) for one in likely) if known else ()
            if not line.get("reason"):
                name = Path(os.path.relpath(source, root)).as_posix()
                yield Annotated(name, Path(source), scores=scores)

    options = url_option(args)
    if args.format == "label-studio":
        options["model"] = f"{args.model.absolute().name} (mlis {mlis.__version__})"
    count, _ = write(images(), args.format, args.output, **options)
    say(f"{args.output}: {count:,} images, by their paths below {root}")


def _rows(args: argparse.Namespace, model: Path, recognizer: "Recognizer") -> "Rows":
    """Features that suit the model."""
    from mlis.data.io.feature_rows import backbone_of, read_rows
    from mlis.data.io.joined import file_paths, join_rows, joined_name
    from mlis.image_classifier import check_backbone

    paths = file_paths(args.inputs)
    if len(paths) == 1:  # of several files, each has a part of the features
        check_backbone(recognizer, backbone_of(paths[0]), str(paths[0]))
    try:
        rows = join_rows(paths, [read_rows(path, args.label_column) for path in paths])
    except DataError:
        for path in paths:
            _check_no_list(path)
        raise
    if rows.features.shape[1] != recognizer.num_features:
        name = joined_name([str(path) for path in paths])
        raise DataError(
            f"{name}: {rows.features.shape[1]} features per row, expected "
            f"{recognizer.num_features}, as {model} takes. Use features of its image model."
        )
    return rows


def _of_rows(
    recognizer: "Recognizer",
    rows: "Rows",
    name: str,
    args: argparse.Namespace,
    explainer: "Explainer | None",
) -> Iterator[dict[str, Any]]:
    """A line for each row; features are read in blocks."""
    import numpy as np

    from mlis.image_classifier import top_classes

    for start in range(0, len(rows.features), ROWS_AT_A_TIME):
        part = np.array(rows.features[start : start + ROWS_AT_A_TIME], dtype=np.float32)
        if not (finite := np.isfinite(part).all(axis=1)).all():
            row = start + int(finite.argmin())
            raise DataError(f"{name}: row {row} contains NaN or infinity. Leave that row out.")
        found = top_classes(recognizer, part, args.top_k, args.reject)
        why = None if explainer is None else explainer(part)
        for row, classes in enumerate(found, start):
            line: dict[str, Any] = {"path": rows.paths[row]} if rows.paths else {"row": row}
            line["predictions"] = [one.to_dict() for one in classes]
            if why is not None:
                line["explanation"] = why[row - start].to_dict()
            yield line | ({"label": rows.labels[row]} if rows.labels else {})


def _write(
    args: argparse.Namespace,
    lines: Iterator[dict[str, Any]],
    first: str,
    last: Sequence[str],
    *,
    displayed: bool,
) -> None:
    """Write predictions as they come, to stdout or to a file that is complete or not there.

    Args:
        args: --output, --format and --top-k.
        lines: each has `first`, `predictions` (at most --top-k), and perhaps what `last` names.
        first: "path", or "row" if paths are unknown.
        last: further columns: "reason" for images, "label" if it is known.
        displayed: whether classes have display names, for which CSV has columns.
    """
    from mlis.storage.atomic import atomic_write

    out, kind = sys.stdout, args.format or "csv"
    with contextlib.ExitStack() as stack:
        if args.output is not None:
            kind = args.format or args.output.suffix.casefold().removeprefix(".")
            temporary = stack.enter_context(atomic_write(args.output))
            out = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        if kind == "jsonl":
            out.writelines(json_line(line) + "\n" for line in lines)
        else:
            reasons = _EXPLANATION if args.explain else ()
            _write_csv(out, lines, first, reasons, last, args.top_k, displayed=displayed)


def _write_csv(
    out: TextIO,
    lines: Iterator[dict[str, Any]],
    first: str,
    reasons: Sequence[str],
    last: Sequence[str],
    k: int,
    *,
    displayed: bool,
) -> None:
    writer = csv.writer(out, lineterminator="\n")
    columns = ("class", *(("display",) if displayed else ()), "score", "seen")
    names = [f"{name}_{rank}" for rank in range(1, k + 1) for name in columns]
    writer.writerow([first, *names, *reasons, *last])
    for line in lines:
        row = [line[first]]
        for entry in line["predictions"]:
            known = entry["seen"] is not None  # else "unknown"
            score, seen = (entry["score"], str(entry["seen"]).lower()) if known else ("", "")
            shown = [entry.get("display_name", "")] if displayed else []
            row += [entry["class"], *shown, score, seen]
        row += [""] * (1 + len(names) - len(row))
        row += [line.get("explanation", {}).get(name, "") for name in reasons]
        row += [line.get(name, "") for name in last]
        cells = map(csv_cell, row)
        writer.writerow((terminal(str(cell)) for cell in cells) if out.isatty() else cells)
