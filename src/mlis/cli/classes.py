"""`mlis add-classes`, `remove-classes`, `rename-classes`, `classes`: what a trained model knows."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.common import add_common_flags, add_device_flag, add_model_argument
from mlis.cli.output import add_force_flag, add_output_flag, check_folder
from mlis.cli.printing import print_json, print_table, say
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    import numpy as np

    from mlis.model.recognizer import Recognizer

_ADD = """\
Add classes of which there is no image to a trained model, without its training data.

CLASSES is a .csv, .tsv or .parquet table as the training's was (`name`, then sentences or
attributes): descriptors are computed in the same way, by the same text model and with the
training's scaling of attributes. For a model trained on numbers, or with --vectors: a .csv table
with `name` and the training's columns, or a .npy array (n, Da) with --names.

Synthetic features of the new classes come from the trained generator; the encoder stays, and the
classifier alone is solved again. What that needs lies in growth.safetensors beside the model.
Calibration stays as it was chosen. The results that are kept with the model are of before."""

_REMOVE = """\
Take classes out of a trained model; the scores of the others stay as they are."""

_RENAME = """\
Give classes of a trained model other names: OLD NEW, and perhaps further pairs."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    _add_adding(commands)
    _add_removing(commands)
    _add_renaming(commands)
    show = commands.add_parser(
        "classes",
        help="list the classes of a trained model",
        description="List the classes of a trained model, and what was changed since training.",
    )
    add_model_argument(show)
    add_common_flags(show, with_json=True)
    show.set_defaults(run=run_show)


def _add_adding(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    add = commands.add_parser(
        "add-classes", help="add classes to a trained model, without its data", description=_ADD
    )
    add_model_argument(add)
    add.add_argument("classes", metavar="CLASSES", type=Path, help="described classes")
    add.add_argument("--vectors", action="store_true", help="CLASSES holds descriptors as numbers")
    add.add_argument(
        "--names", metavar="FILE", type=Path, help="names of a .npy's rows, one a line"
    )
    add.add_argument(
        "--text-model",
        metavar="NAME",
        help="the training's text model, where it lies elsewhere now; one of the hub is downloaded "
        "only where it is named here",
    )
    add.add_argument(
        "--synthetic",
        metavar="N",
        type=int,
        help="synthetic samples an unseen class (default: as in training)",
    )
    add_output_flag(add)
    add_force_flag(add, "the model that is")
    add_device_flag(add)
    add_common_flags(add, with_json=True)
    add.set_defaults(run=run_add)


def _add_removing(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    remove = commands.add_parser(
        "remove-classes", help="take classes out of a trained model", description=_REMOVE
    )
    add_model_argument(remove)
    remove.add_argument("names", metavar="NAME", nargs="+", help="of a class")
    add_output_flag(remove)
    add_force_flag(remove, "the model that is")
    add_common_flags(remove, with_json=True)
    remove.set_defaults(run=run_remove)


def _add_renaming(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    rename = commands.add_parser(
        "rename-classes", help="rename classes of a trained model", description=_RENAME
    )
    add_model_argument(rename)
    rename.add_argument("names", metavar="OLD NEW", nargs="+", help="present and new name")
    add_output_flag(rename)
    add_force_flag(rename, "the model that is")
    add_common_flags(rename, with_json=True)
    rename.set_defaults(run=run_rename)


def run_add(args: argparse.Namespace) -> None:
    """`mlis add-classes`."""
    started = time.perf_counter()
    recognizer = _opened(args, args.device)
    names, vectors = _described(args, recognizer)
    grown = recognizer.add_classes(
        names, vectors, synthetic_per_class=args.synthetic, note=args.classes.name
    )
    _save(args, grown, f"added {_listed(names)}", seconds=time.perf_counter() - started)


def run_remove(args: argparse.Namespace) -> None:
    """`mlis remove-classes`."""
    _save(args, _opened(args).remove_classes(args.names), f"removed {_listed(args.names)}")


def run_rename(args: argparse.Namespace) -> None:
    """`mlis rename-classes`."""
    if len(args.names) % 2:
        raise SettingsError(f"name pairs OLD NEW, but got {len(args.names)} names")
    old, new = args.names[::2], args.names[1::2]
    if len(set(old)) < len(old):
        raise SettingsError(f"{_listed(old)}: a class is renamed twice; give each pair once")
    pairs = dict(zip(old, new, strict=True))
    told = ", ".join(f"{before} to {after}" for before, after in pairs.items())
    _save(args, _opened(args).rename_classes(pairs), f"renamed {told}")


def run_show(args: argparse.Namespace) -> None:
    """`mlis classes`."""
    from mlis.io.checkpoint import load_model
    from mlis.io.saved_models import one_model

    recognizer = load_model(one_model(args.model), growth=False)
    kinds = ["seen" if seen else "unseen" for seen in recognizer.seen_mask]
    print_table([["class", ""], *map(list, zip(recognizer.class_names, kinds, strict=True))])
    for entry in recognizer.history:
        say(f"{entry['when']}: {entry['action']} {_changed(entry['classes'])}")
    if args.json:
        print_json(
            {
                "classes": [
                    {"name": name, "seen": bool(seen)}
                    for name, seen in zip(recognizer.class_names, recognizer.seen_mask, strict=True)
                ],
                "history": [dict(entry) for entry in recognizer.history],
            }
        )


def _changed(classes: Any) -> str:
    if isinstance(classes, dict):
        return ", ".join(f"{old} to {new}" for old, new in classes.items())
    return _listed(classes)


def _listed(names: Sequence[str]) -> str:
    from mlis.data.labels import shorten

    return shorten(list(names))


def _opened(args: argparse.Namespace, device: str = "cpu") -> "Recognizer":
    """The model, where the output may be written."""
    from mlis.compute.precision import Arithmetic
    from mlis.io.checkpoint import WEIGHTS, is_model, load_model
    from mlis.io.saved_models import one_model

    check_folder(args.output)
    holds_one = is_model(args.output) or (args.output / WEIGHTS).exists()
    if holds_one and not args.force:
        raise SettingsError(
            f"{args.output} holds a model: choose another folder, or replace it with --force"
        )
    return load_model(one_model(args.model), Arithmetic.of("float32", device).device)


def _described(
    args: argparse.Namespace, recognizer: "Recognizer"
) -> "tuple[tuple[str, ...], np.ndarray]":
    """Names and descriptors of the classes to add."""
    import numpy as np

    from mlis.data.io.classes_file import read_class_vectors
    from mlis.data.io.tables import COLUMNS

    if args.classes.is_dir():
        raise DataError(
            f"{args.classes} is a folder, whose attributes are scaled by its own classes: give the "
            "table of sentences and attributes itself"
        )
    made = recognizer.sources.get("descriptors") or {}
    columns = made.get("columns", ()) if made.get("format") == COLUMNS else ()
    as_numbers = args.vectors or args.classes.suffix.casefold() == ".npy"
    if as_numbers or not made or columns:
        if args.text_model is not None:
            raise SettingsError("--text-model has no meaning with descriptors as numbers")
        names, vectors = read_class_vectors(args.classes, names_file=args.names, columns=columns)
        gaps = vectors == made.get("missing")  # filled as in training, by the mean of its classes
        return names, np.where(gaps, recognizer.descriptors.mean(axis=0), vectors)
    if args.names is not None:
        raise SettingsError("--names has no meaning with a table, which holds the names")
    model = None
    if args.text_model is not None:
        from mlis.features.descriptors.text_model import TextModel

        model = TextModel(args.text_model, device=args.device)
    return recognizer.describe_classes(args.classes, model=model)


def _save(
    args: argparse.Namespace, changed: "Recognizer", done: str, seconds: float | None = None
) -> None:
    """Write the new model, and say what it is."""
    from mlis.io.checkpoint import GROWTH, save_model

    save_model(changed, args.output)
    seen = int(changed.seen_mask.sum())
    total = len(changed.class_names)
    took = "" if seconds is None else f" in {seconds:.1f} s"
    say(f"{args.output}: {done}{took}; {total} classes, {seen} seen and {total - seen} unseen")
    path = args.output / GROWTH
    size = path.stat().st_size if path.exists() else 0
    if size:
        say(f"  {path.name}, for adding further classes: {size / 2**20:.1f} MiB")
    if args.json:
        result: dict[str, Any] = {"classes": total, "seen": seen, "growth_bytes": size}
        print_json(result if seconds is None else {**result, "seconds": round(seconds, 3)})
