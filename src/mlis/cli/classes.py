"""`mlis classes`, `add-classes`, `remove-classes`, `rename-classes`: the classes of a model."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.arguments import Commands, add_command, add_common, at_least, load_recognizer, refuse
from mlis.cli.output import check_folder, check_replaceable, print_json, print_table, say
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    import numpy as np

    from mlis.incremental import ExemplarBuffer
    from mlis.model.recognizer import Recognizer


def add_to(commands: Commands) -> None:
    """Add the commands."""
    add = add_command(commands, "add-classes", run_add, "add classes to a trained model")
    add_common(add, "model")
    add.add_argument("classes", metavar="CLASSES", type=Path, help="described classes")
    add.add_argument("--vectors", action="store_true", help="CLASSES contains numeric descriptors")
    add.add_argument("--names", metavar="FILE", type=Path, help="names of .npy rows, one per line")
    add.add_argument(
        "--synthetic",
        metavar="N",
        type=at_least(1),
        help="synthetic samples per unseen class (default: as in training)",
    )
    add_common(add, "--text-model", "--device")
    remove = add_command(
        commands, "remove-classes", run_remove, "remove classes from a trained model"
    )
    add_common(remove, "model")
    remove.add_argument("names", metavar="NAME", nargs="+", help="of a class")
    text = "rename classes of a trained model"
    rename = add_command(commands, "rename-classes", run_rename, text)
    add_common(rename, "model")
    rename.add_argument("names", metavar="OLD NEW", nargs="+", help="present and new name")
    rename.add_argument(
        "--display",
        action="store_true",
        help="pairs CLASS DISPLAY: what people read; the class name stays (empty: show it again)",
    )
    for parser in (add, remove, rename):
        add_common(parser, "--output")
        add_common(parser, "--force", help="replace the model in FOLDER")
    text = "list the classes of a trained model, and its changes since training"
    add_common(add_command(commands, "classes", run_show, text), "model")


def run_add(args: argparse.Namespace) -> None:
    """Add classes without images to a trained model, without its training data.

    CLASSES is a .csv, .tsv or .parquet table like the training's (`name`, then sentences or
    attributes): descriptors are computed as in training, with the same text model and scaling of
    attributes. For a model trained on numbers, or with --vectors: a .csv table with `name` and the
    training's columns, or a .npy array (n, Da) with --names.

    The trained generator makes synthetic features of the new classes; the encoder is unchanged, and
    only the classifier is fitted again. The state that this needs is exemplars.safetensors beside
    the model. Calibration is unchanged. Warnings name classes whose description says little or that
    may attract images of other classes. Results that are stored with the model describe the model
    before the change. A model of the method gaussian predicts new classes from their descriptors
    alone: it needs no such file, and the scores of other classes do not change.
    """
    started = time.perf_counter()
    from mlis.incremental import add_classes, set_display_names

    recognizer, exemplars = opened(args, args.device)
    names, vectors, sentences = described(args, recognizer)
    grown = add_classes(
        *(recognizer, exemplars, names, vectors),
        sentences=sentences,
        synthetic_per_class=args.synthetic,
        note=args.classes.name,
    )
    if shown := {name: t for name, t in _display_names(args.classes).items() if name in names}:
        grown = set_display_names(grown[0], shown), grown[1]
    save(args, *grown, f"added {listed(names)}", seconds=time.perf_counter() - started)


def _display_names(table: Path) -> dict[str, str]:
    """Display names in a table of classes, by class name."""
    from mlis.data.io.csv_file import DISPLAY, NAME
    from mlis.data.io.text_table import read_table
    from mlis.data.labels import normal

    columns = {} if table.suffix.casefold() == ".npy" else read_table(table)
    pairs = zip(columns.get(NAME, ()), columns.get(DISPLAY, ()), strict=False)
    return {normal(name): text for name, text in pairs if text}


def run_remove(args: argparse.Namespace) -> None:
    """Remove classes from a trained model; the scores of the others do not change."""
    from mlis.incremental import remove_classes

    save(args, *remove_classes(*opened(args), args.names), f"removed {listed(args.names)}")


def run_rename(args: argparse.Namespace) -> None:
    """Rename classes of a trained model."""
    if len(args.names) % 2:
        raise SettingsError(f"expected pairs OLD NEW, got {len(args.names)} names")
    old, new = args.names[::2], args.names[1::2]
    if len(set(old)) < len(old):
        raise SettingsError(f"{listed(old)}: a class is renamed twice. Give each pair once.")
    pairs = dict(zip(old, new, strict=True))
    changes = listed(pairs)
    from mlis.incremental import rename_classes, set_display_names

    recognizer, exemplars = opened(args)
    change = set_display_names if args.display else rename_classes
    save(args, change(recognizer, pairs), exemplars, f"renamed {changes}")


def run_show(args: argparse.Namespace) -> None:
    """List the classes of a trained model, and its changes since training."""
    recognizer = load_recognizer(args.model)
    pairs = list(zip(recognizer.class_names, recognizer.seen_mask.tolist(), strict=True))
    shown = recognizer.display_names
    rows = [[name, "seen" if s else "unseen", shown.get(name, "")] for name, s in pairs]
    print_table([row if shown else row[:2] for row in [["class", "", "display name"], *rows]])
    for entry in recognizer.metadata.history:
        changed = listed(entry["classes"]) if entry["classes"] else entry.get("to", "")
        say(f"{entry['when']}: {entry['action']} {changed}")
    if args.json:
        classes = [{"name": name, "seen": seen} for name, seen in pairs]
        for one in classes:
            one |= {"display_name": shown[one["name"]]} if one["name"] in shown else {}
        print_json(
            {"classes": classes, "history": [dict(entry) for entry in recognizer.metadata.history]}
        )


def listed(classes: dict[str, str] | Sequence[str]) -> str:
    """Names, shortened, or all pairs of old and new names."""
    from mlis.data.labels import shorten

    if isinstance(classes, dict):
        return ", ".join(f"{old} to {new}" for old, new in classes.items())
    return shorten(list(classes))


def opened(
    args: argparse.Namespace, device: str = "cpu"
) -> "tuple[Recognizer, ExemplarBuffer | None]":
    """The model and its exemplar buffer, if the output can be written."""
    from mlis.io.checkpoint import WEIGHTS, is_model, load_exemplars
    from mlis.io.saved_models import one_model

    check_folder(args.output)
    there = is_model(args.output) or (args.output / WEIGHTS).exists()
    check_replaceable(args.output, "a model", there=there, force=args.force)
    return load_recognizer(args.model, device), load_exemplars(one_model(args.model))


def described(
    args: argparse.Namespace, recognizer: "Recognizer"
) -> "tuple[tuple[str, ...], np.ndarray, dict[str, tuple[str, ...]]]":
    """Names, descriptors and sentences of the classes to add."""
    import numpy as np

    from mlis.data.io.classes_file import read_class_vectors
    from mlis.data.io.tables import COLUMNS
    from mlis.features.descriptors.new_classes import descriptions_like

    if args.classes.is_dir():
        raise DataError(
            f"{args.classes}: expected a table, got a folder, whose attributes are scaled by its "
            "own classes. Give the table of sentences and attributes."
        )
    made = recognizer.metadata.sources.get("descriptors") or {}
    columns = made.get("columns", ()) if made.get("format") == COLUMNS else ()
    if args.vectors or args.classes.suffix.casefold() == ".npy" or not made or columns:
        refuse(args, ["text_model"], "with numeric descriptors")
        names, vectors = read_class_vectors(args.classes, names_file=args.names, columns=columns)
        gaps = vectors == made.get("missing")  # filled as in training, by the mean of its classes
        known = recognizer.descriptors.numpy(force=True)
        return names, np.where(gaps, known[known.any(axis=1)].mean(axis=0), vectors), {}
    refuse(args, ["names"], "with a table, which contains the names")
    model = None
    if args.text_model is not None:
        from mlis.features.descriptors.text_model import TextModel

        model = TextModel(args.text_model, device=args.device)
    said, vectors = descriptions_like(made, args.classes, model=model)
    return said.names, vectors, dict(zip(said.names, said.sentences, strict=True))


def save(
    args: argparse.Namespace,
    changed: "Recognizer",
    exemplars: "ExemplarBuffer | None",
    done: str,
    seconds: float | None = None,
    **facts: Any,
) -> None:
    """Write the new model, and print what it is; `facts` join the JSON object."""
    from mlis.io.checkpoint import EXEMPLARS, save_model

    save_model(changed, args.output, exemplars)
    seen, total = int(changed.seen_mask.sum()), len(changed.class_names)
    took = "" if seconds is None else f" in {seconds:.1f} s"
    say(f"{args.output}: {done}{took}; {total} classes, {seen} seen and {total - seen} unseen")
    path = args.output / EXEMPLARS
    if size := path.stat().st_size if path.exists() else 0:
        say(f"  {path.name}, for adding further classes: {size / 2**20:.1f} MiB")
    if args.json:
        result: dict[str, Any] = {"classes": total, "seen": seen, "growth_bytes": size, **facts}
        print_json(result if seconds is None else {**result, "seconds": round(seconds, 3)})
