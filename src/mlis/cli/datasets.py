"""Dataset arguments of the command line: DATASET and its options, images of `mlis predict`."""

import argparse
import glob
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.arguments import at_least, filled
from mlis.errors import DataError, ModelFileError

if TYPE_CHECKING:
    import numpy as np

    from mlis.data.dataset import GZSLDataset
    from mlis.model.recognizer import Recognizer

logger: logging.Logger = logging.getLogger(__name__)

# argument of load_dataset → its flag, metavar (None: no value) and help
_OPTIONS: dict[str, tuple[str, str | None, str]] = {
    "data_root": ("--data-root", "DIR", "folder that contains FLO/, CUB/, …"),
    "features_file": (
        *("--features", "FILE"),
        "features: .mat (a path, or a name in the benchmark's folder); a .csv, .parquet, .npz or "
        ".npy table, whose column `split` may mark rows train, val or test; or a folder that `mlis "
        "features images` wrote. Repeat it to join the columns of several files of the same rows",
    ),
    "split_file": (
        *("--split", "FILE"),
        "split and descriptors: .mat (a path, or a name in the benchmark's folder)",
    ),
    "classes_file": (
        *("--classes", "FILE.csv"),
        "tables: name, split (seen or unseen; optional), then one column per attribute",
    ),
    "labels_file": (
        *("--labels", "FILE"),
        "tables: labels of .npy features: .npy, or text, one per line",
    ),
    "label_column": ("--label-column", "NAME", "tables: the column of labels (default: label)"),
    "descriptors": (
        *("--descriptors", "FIELD"),
        "field of the split file: att (default) or original_att",
    ),
    "missing": (
        *("--missing", "X"),
        "number that marks a missing value in the descriptors, such as -1: replaced by the mean of "
        "the other classes",
    ),
    "seed": (
        *("--split-seed", "N"),
        "seed of every split that is not part of the data (default: 0)",
    ),
    "test_fraction": (
        *("--test-fraction", "X"),
        "fraction of a seen class's rows held out for testing, if they are not marked "
        "(default: 0.2)",
    ),
    "cache": (
        *("--no-cache", None),
        "do not keep a copy of the features in the user's cache folder",
    ),
}
_TYPES = {"missing": float, "seed": at_least(0), "test_fraction": float}
_REPEATED = ("features_file",)
FLAGS = {name: flag for name, (flag, _, _) in _OPTIONS.items()}
BENCHMARK, LETTERS, FOLDER = "a benchmark", "the letters", "a dataset folder"
PAIR, TABLES = "a pair of files", "tables"
_PAIR = ("features_file", "split_file", "descriptors", "missing", "seed", "cache")
_TAKES: dict[str, tuple[str, ...]] = {  # a flag that would be ignored is an error
    BENCHMARK: ("data_root", *_PAIR),
    LETTERS: ("seed",),
    FOLDER: (),
    PAIR: _PAIR,
    TABLES: (
        *("features_file", "classes_file", "labels_file", "label_column"),
        *("missing", "seed", "test_fraction"),
    ),
}
_PATHS = ("data_root", "features_file", "split_file", "classes_file", "labels_file")


def add_dataset_arguments(parser: argparse.ArgumentParser, text: str = "name or folder") -> None:
    """Add DATASET and the options that say where it is and how it is read."""
    group = parser.add_argument_group(
        "data",
        "DATASET is a benchmark (CUB, AWA1, AWA2, SUN, FLO, aPY) or another folder of such files\n"
        "under --data-root, `letters` (built in), or a folder that `mlis data convert` wrote.\n"
        "Without DATASET: --features and --split name a pair of files in the benchmarks' format,\n"
        "--features and --classes tables.",
    )
    group.add_argument("dataset", metavar="DATASET", nargs="?", type=filled, help=text)
    add_dataset_options(group, *_OPTIONS)


def add_dataset_options(parser: argparse._ActionsContainer, *names: str) -> None:
    """Add options by their argument of `load_dataset`; absent if not given."""
    for name in names:
        flag, metavar, text = _OPTIONS[name]
        kind: dict[str, Any] = {"metavar": metavar, "type": _TYPES.get(name, str)}
        if metavar is None:
            kind = {"action": "store_false"}
        elif name in _REPEATED:
            kind["action"] = "append"
        parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, help=text, **kind)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The dataset options that were given, by argument of `load_dataset`."""
    given = {name: value for name, value in vars(args).items() if name in FLAGS}
    alone = {name: given[name][0] for name in _REPEATED if len(given.get(name, ())) == 1}
    return given | alone


def dataset_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `load_dataset`, with absolute paths, so that a run can be resumed
    from any folder.

    Raises:
        DataError: no dataset is named, or an option has no effect on it.
    """
    return _checked(args.dataset, given_options(args))


def relocated(recorded: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of a run's own dataset, or of where the flags say that it is now."""
    if args.dataset is not None:
        return dataset_arguments(args)
    options = {name: value for name, value in recorded.items() if name != "name_or_path"}
    given = given_options(args)
    return _checked(recorded.get("name_or_path"), options | given) if given else dict(recorded)


def load(arguments: Mapping[str, Any]) -> "GZSLDataset":
    """Load a dataset by arguments from flags or from a run's record.

    Raises:
        ModelFileError: a record names arguments that no dataset takes.
        DataError: what is wrong with the dataset.
    """
    from mlis.data import load_dataset

    if unknown := arguments.keys() - {"name_or_path", *FLAGS}:
        raise ModelFileError(f"run.json: unknown dataset options {', '.join(sorted(unknown))}")
    return load_dataset(**arguments)


def _checked(name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    from mlis.data.load import check_dataset_folder

    kind = kind_of(name, options)
    if kind == FOLDER and name is not None and Path(name).is_dir():
        check_dataset_folder(Path(name))
    if wrong := [FLAGS[option] for option in options if option not in _TAKES[kind]]:
        takes = ", ".join(FLAGS[known] for known in _TAKES[kind]) or "none of these options"
        raise DataError(
            f"{', '.join(wrong)}: not allowed with {f'{name}, ' if name else ''}{kind}, which "
            f"takes {takes}."
        )
    arguments = dict(options)
    for option in options.keys() & set(_PATHS):
        in_benchmark = kind == BENCHMARK and option in ("features_file", "split_file")
        value = options[option]
        arguments[option] = (
            _absolute(value, or_bare=in_benchmark)
            if isinstance(value, str)
            else [_absolute(path, or_bare=in_benchmark) for path in value]
        )
    if name is not None:
        is_folder = kind == FOLDER and Path(name).exists()
        arguments["name_or_path"] = _absolute(name, or_bare=not is_folder)
    return arguments


def _absolute(path: str, *, or_bare: bool) -> str:
    """The absolute path; a bare name that is looked up elsewhere stays as it is."""
    return path if or_bare and Path(path).name == path else str(Path(path).absolute())


def kind_of(name: str | None, options: Mapping[str, Any]) -> str:
    """What `load_dataset` would take the name and options for: BENCHMARK, LETTERS, FOLDER, …"""
    from mlis.data.io.benchmarks import benchmark_name, is_benchmark
    from mlis.data.io.folder import is_dataset_folder

    if name is None:
        if "features_file" not in options or not {"split_file", "classes_file"} & options.keys():
            raise DataError(
                "no dataset: name a benchmark or a dataset folder, or give --features with "
                "--split or --classes."
            )
        return TABLES if "classes_file" in options else PAIR
    if "data_root" in options and is_benchmark(name, options["data_root"]):
        return BENCHMARK
    if benchmark_name(name) and not is_dataset_folder(Path(name)):
        return BENCHMARK
    is_letters = name.casefold() == "letters" and not is_dataset_folder(Path(name))
    return LETTERS if is_letters else FOLDER


def find_pictures(inputs: Sequence[Path]) -> list[str]:
    """Paths of all images that the arguments name, without duplicates, in their order.

    A folder stands for its files, without hidden ones, sorted, and those of its subfolders; a
    pattern (`*`, `?`, `[…]`, `**`) for the files that it matches; `-` for the lines of standard
    input. A missing file is kept: it is reported with the others that cannot be read.

    Raises:
        DataError: a folder without files, a pattern that matches none, or an empty list.
    """
    found: dict[str, None] = {}
    for path in inputs:
        found |= dict.fromkeys(_named(path))
    if not found:
        raise DataError("no image is named: the list on standard input is empty.")
    return list(found)


def read_unlabelled(
    flag: str, place: Path, recognizer: "Recognizer", args: argparse.Namespace
) -> "np.ndarray":
    """(N, Dx) features of a folder of images, or of features, that `flag` names; N at least 1."""
    import numpy as np

    from mlis.data.io.feature_rows import backbone_of, is_features, read_rows
    from mlis.features.images.embed import embed
    from mlis.image_classifier import ImageClassifier, check_backbone

    if is_features(place):
        check_backbone(recognizer, backbone_of(place), str(place))
        rows = np.asarray(read_rows(place).features, dtype=np.float32)
    else:
        backbone = ImageClassifier(recognizer, args.backbone, device=args.device).backbone
        batches = embed(find_pictures([place]), backbone, workers=args.workers)
        found = [one.features for batch in batches for one in batch if one.features is not None]
        rows = np.stack(found) if found else np.empty((0, recognizer.num_features), np.float32)
    if not len(rows):
        raise DataError(f"{flag} {place}: expected images or features, got none that is readable.")
    return rows


def _named(path: Path) -> Iterable[str]:
    if str(path) == "-":
        return [line for line in _standard_input() if line.strip()]
    if path.is_dir():
        return _in_folder(path)
    if not glob.has_magic(str(path)) or path.exists():
        return [str(path)]
    matching = sorted(p for p in glob.glob(str(path), recursive=True) if not Path(p).is_dir())  # noqa: PTH207
    if not matching:
        raise DataError(f"{path}: matches no file.")
    return matching


def _standard_input() -> list[str]:
    """Lines of standard input; file names may be any bytes."""
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is None:
        return sys.stdin.read().splitlines()
    return [os.fsdecode(line) for line in buffer.read().splitlines()]


def _in_folder(folder: Path) -> Iterable[str]:
    from mlis.features.images.files import find_images

    found = find_images(folder)
    for each in found.bad:
        logger.warning("%s/%s: %s", folder, each.path, each.reason)
    return [str(image.source) for image in found.images]
