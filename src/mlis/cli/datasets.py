"""DATASET and its options: from flags to keyword arguments of `load_dataset`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.flag_types import at_least
from mlis.errors import DataError, ModelFileError

if TYPE_CHECKING:
    from mlis.data.dataset import GZSLDataset

# argument of load_dataset → its flag
FLAGS = {
    "data_root": "--data-root",
    "features_file": "--features",
    "split_file": "--split",
    "classes_file": "--classes",
    "labels_file": "--labels",
    "label_column": "--label-column",
    "descriptors": "--descriptors",
    "missing": "--missing",
    "seed": "--split-seed",
    "test_fraction": "--test-fraction",
    "cache": "--no-cache",
}
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


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add DATASET and the options that say where it is and how it is read."""
    group = parser.add_argument_group(
        "data",
        "DATASET is a benchmark (CUB, AWA1, AWA2, SUN, FLO, aPY) under --data-root, `letters`\n"
        "(embedded), or a folder that `mlis data convert` wrote. Without DATASET: --features and\n"
        "--split name a pair of the benchmarks' format, --features and --classes tables.",
    )
    group.add_argument("dataset", metavar="DATASET", nargs="?", help="name or folder")
    given_only: dict[str, Any] = {"default": argparse.SUPPRESS}
    group.add_argument(
        "--data-root", metavar="DIR", help="folder that holds FLO/, CUB/, …", **given_only
    )
    group.add_argument(
        *("--features", "--features-file"),
        dest="features_file",
        metavar="FILE",
        help="features: .mat (a name in the benchmark's folder, or a path), or a table: "
        ".csv, .parquet, .npz, .npy; a column `split` may mark its rows train, val or test; or "
        "what `mlis features images` wrote",
        **given_only,
    )
    group.add_argument(
        *("--split", "--split-file"),
        dest="split_file",
        metavar="FILE",
        help="split and descriptors: .mat (a name in the benchmark's folder, or a path)",
        **given_only,
    )
    _add_table_flags(group, given_only)
    _add_reading_flags(group, given_only)


def _add_table_flags(group: argparse._ArgumentGroup, given_only: dict[str, Any]) -> None:
    group.add_argument(
        "--classes",
        dest="classes_file",
        metavar="FILE.csv",
        help="tables: name, split (seen or unseen; optional), then one column an attribute",
        **given_only,
    )
    group.add_argument(
        "--labels",
        dest="labels_file",
        metavar="FILE",
        help="tables: labels of .npy features, .npy or text with one a line",
        **given_only,
    )


def _add_reading_flags(group: argparse._ArgumentGroup, given_only: dict[str, Any]) -> None:
    group.add_argument(
        "--label-column",
        metavar="NAME",
        help="tables: the column of labels (default: label)",
        **given_only,
    )
    group.add_argument(
        "--descriptors",
        metavar="FIELD",
        help="field of the split file: att (default) or original_att",
        **given_only,
    )
    group.add_argument(
        "--missing",
        type=float,
        metavar="X",
        help="number that stands for a missing value in the descriptors, such as -1: the mean of "
        "the other classes takes its place",
        **given_only,
    )
    group.add_argument(
        "--split-seed",
        dest="seed",
        type=at_least(0),
        metavar="N",
        help="seed of every split that the data do not bring (default: 0)",
        **given_only,
    )
    group.add_argument(
        "--test-fraction",
        type=float,
        metavar="X",
        help="tables: share of a seen class's rows held out for testing (default: 0.2)",
        **given_only,
    )
    group.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="do not keep a copy of the features in the user's cache folder",
        **given_only,
    )


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The dataset options that were given, by argument of `load_dataset`."""
    return {name: value for name, value in vars(args).items() if name in FLAGS}


def dataset_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `load_dataset`, with absolute paths, so that a run can be resumed
    from any folder.

    Raises:
        DataError: no dataset is named, or an option has no meaning for it.
    """
    return _checked(args.dataset, given_options(args))


def relocated(recorded: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of a run's own dataset, or where the flags say that it is now."""
    if args.dataset is not None or not given_options(args):
        return dataset_arguments(args) if args.dataset is not None else dict(recorded)
    options = {name: value for name, value in recorded.items() if name != "name_or_path"}
    return _checked(recorded.get("name_or_path"), options | given_options(args))


def load(arguments: Mapping[str, Any]) -> "GZSLDataset":
    """Load a dataset of arguments that came from flags or from a run's record.

    Raises:
        ModelFileError: a record names arguments that no dataset takes.
        DataError: what is wrong with the dataset.
    """
    from mlis.data import load_dataset

    if unknown := arguments.keys() - {"name_or_path", *FLAGS}:
        raise ModelFileError(f"run.json: unknown dataset options {', '.join(sorted(unknown))}")
    return load_dataset(**arguments)


def _checked(name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    kind = kind_of(name, options)
    for option in options:
        if option not in _TAKES[kind]:
            takes = ", ".join(FLAGS[known] for known in _TAKES[kind]) or "none of these options"
            raise DataError(
                f"{FLAGS[option]} has no meaning for {f'{name}, ' if name else ''}{kind}: that "
                f"takes {takes}"
            )
    in_benchmark = kind == BENCHMARK
    arguments = {
        option: _absolute(value, or_bare=in_benchmark and option in ("features_file", "split_file"))
        if option in _PATHS
        else value
        for option, value in options.items()
    }
    if name is not None:
        is_folder = kind == FOLDER and Path(name).exists()
        arguments["name_or_path"] = _absolute(name, or_bare=not is_folder)
    return arguments


def _absolute(path: str, *, or_bare: bool) -> str:
    """The absolute path; a bare name, where one is meant to be looked up, stays as it is."""
    return path if or_bare and Path(path).name == path else str(Path(path).absolute())


def kind_of(name: str | None, options: Mapping[str, Any]) -> str:
    """What `load_dataset` would take the name and options for: BENCHMARK, LETTERS, FOLDER, …"""
    from mlis.data.io.benchmarks import benchmark_name
    from mlis.data.io.folder import is_dataset_folder

    if name is None:
        if "features_file" not in options or not {"split_file", "classes_file"} & options.keys():
            raise DataError(
                "no dataset: name a benchmark or a dataset folder, or give --features with "
                "--split or --classes"
            )
        return TABLES if "classes_file" in options else PAIR
    if benchmark_name(name) and ("data_root" in options or not is_dataset_folder(Path(name))):
        return BENCHMARK
    is_letters = name.casefold() == "letters" and not is_dataset_folder(Path(name))
    return LETTERS if is_letters else FOLDER
