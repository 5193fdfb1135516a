"""Print what is likely wrong with a dataset or a trained model, and what to do about it.

  mlis check FLO --data-root DIR
  mlis check data/mine
  mlis check --features features/ --classes classes.csv
  mlis check runs/mine

A dataset:
  test-duplicates       test photographs that are nearly a training one
  label-conflicts       nearly equal training photographs of two classes
  mislabelled           training photographs that look like another class
  few-rows              classes with very few training photographs
  alike                 classes that are described almost alike
  says-little           descriptors near the mean of all others
  constant-column       attributes that are the same for all seen classes
  uninformative-column  attributes that cannot be told from photographs
  no-visual-words       classes whose sentences hardly describe anything visible
  likely-to-fail        unseen classes whose features are predicted badly, or near another class's

A model: what its descriptors and sentences say, which classes may attract images of others
(`attracts`), and, if it has an exemplar buffer, the classes likely to fail.

Findings are suggestions, ranked, the worst first. Only near-duplicates look at test rows. Features
stay in their file. Exit code 0; with --strict 1 if anything was found.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.arguments import Commands, add_command
from mlis.cli.datasets import (
    FLAGS,
    add_dataset_arguments,
    dataset_arguments,
    given_options,
    load,
)
from mlis.cli.output import counted, print_json, say
from mlis.errors import DataError

if TYPE_CHECKING:
    from mlis.checks import Report
    from mlis.data.dataset import GZSLDataset

_SHOWN = 10  # findings of one check on the screen


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        *(commands, "check", run, "find what is likely wrong with a dataset or a model"),
        __doc__,
        usage="mlis check MODEL|DATASET [options]",
    )
    add_dataset_arguments(parser, "name or folder; or the folder of a saved model")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if anything was found")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    model = None if args.dataset is None else Path(args.dataset)
    if model is not None and _is_model(model):
        if given := given_options(args):
            raise DataError(
                f"{model}: is a model, which takes no options of datasets, got "
                f"{', '.join(FLAGS[name] for name in given)}. "
                "Leave them out."
            )
        report, row_name = _of_model(model), str
    else:
        arguments = dataset_arguments(args)
        from mlis.checks import check

        data = load(arguments)
        report = check(data)
        row_name = _row_names(arguments, data, report).__getitem__
    _print(report, row_name)
    if args.json:
        print_json(report.to_dict(row_name))
    return int(args.strict and bool(report.findings))


def _is_model(path: Path) -> bool:
    from mlis.io.checkpoint import is_model

    return path.is_dir() and (is_model(path) or (path / "run.json").exists())


def _of_model(path: Path) -> "Report":
    from mlis.checks import check
    from mlis.io.checkpoint import load_exemplars, load_model
    from mlis.io.saved_models import one_model

    folder = one_model(path)
    return check(load_model(folder), load_exemplars(folder), str(path))


def _print(report: "Report", row_name: Callable[[int], str]) -> None:
    from mlis.checks.findings import MOST

    total = sum(report.counts.values())
    say(f"{report.name}: {counted(total, 'finding')}")
    for check, count in report.counts.items():
        findings = report.of_check(check)
        say(f"{check}: {count:,}. {findings[0].remedy}")
        for one in findings[:_SHOWN]:
            where = ", ".join(map(row_name, one.rows))
            say(f"  {where + ': ' if where else ''}{one.message}")
        if count > _SHOWN:
            say(f"  … and {count - _SHOWN:,} more (--json lists at most {MOST})")
    for note in report.notes:
        say(f"note: {note}")


def _row_names(arguments: Mapping[str, Any], data: "GZSLDataset", report: "Report") -> list[str]:
    """Names of rows by number: the photograph where a file of the dataset names it."""
    from mlis.data.io.benchmarks import benchmark_name, features_paths_of
    from mlis.data.io.csv_file import LABEL
    from mlis.data.io.feature_rows import read_rows
    from mlis.data.io.folder import is_dataset_folder
    from mlis.data.io.image_folders import image_files
    from mlis.data.io.joined import file_paths

    count = len(data.labels)
    names = [f"row {row}" for row in range(count)]
    name, features = str(arguments.get("name_or_path", "")), arguments.get("features_file")
    benchmark = benchmark_name(name)
    if benchmark and "data_root" in arguments:
        features = features_paths_of(benchmark, arguments["data_root"], features)
    place = file_paths(features or name)[0]  # files that are joined have the same rows
    if place.suffix == ".mat":
        rows = sorted({row for finding in report.findings for row in finding.rows})
        for row, path in zip(rows, image_files(place, count, rows), strict=False):
            names[row] = path
    elif features is not None or is_dataset_folder(place):
        paths = read_rows(place, arguments.get("label_column", LABEL)).paths
        names = list(paths) if len(paths) == count else names
    return names
