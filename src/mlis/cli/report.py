"""`mlis report`: one page of a results store; `mlis map`: features in two dimensions."""

import argparse
import functools
import sys
import time
from pathlib import Path

from mlis.cli.common import add_common_flags
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments
from mlis.cli.printing import print_json, say
from mlis.errors import DataError, SettingsError

_REPORT = """\
Write one self-contained page of what RESULTS holds, the folder that `mlis reproduce -o` filled:
tables beside published figures, curves, training curves, classes, confusions, what was trained and
what refinement does, and where every number is from. RESULTS is only read.

  mlis report results -o report.html
  mlis report results -o report.html --images photographs --data-root DIR

Where a dataset's files are still where its rows say, they give the map and the thumbnails; what is
missing is said on the page. Tables and figures as files: `mlis reproduce` and `mlis map`."""

_MAP = """\
Place test images of seen and unseen classes in two dimensions, by their raw features and by the
features that a saved model refines, side by side; Recall@1 and MAP@R stand beside them."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands."""
    parser = commands.add_parser(
        "report", help="one page of what `mlis reproduce` measured", description=_REPORT
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, help="folder with results.jsonl")
    parser.add_argument(
        *("-o", "--output"),
        metavar="FILE.html",
        type=Path,
        default=Path("report.html"),
        help="default: report.html",
    )
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data-root", metavar="DIR", type=Path, help="folder that holds FLO/, …, if it has moved"
    )
    group.add_argument(
        "--images", metavar="DIR", type=Path, help="folder that holds the photographs"
    )
    group.add_argument(
        "--no-data", action="store_true", help="read nothing but RESULTS: no map, no thumbnails"
    )
    group.add_argument("--no-map", action="store_true", help="no map: it takes the longest")
    add_common_flags(parser, with_json=True)
    parser.set_defaults(run=run)
    _add_map(commands)


def _add_map(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "map", help="raw and refined features in two dimensions", description=_MAP
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a model or a run")
    add_dataset_arguments(parser)
    parser.add_argument(
        *("-o", "--output"), metavar="FILE.svg", type=Path, required=True, help="what to write"
    )
    add_common_flags(parser, with_json=True)
    parser.set_defaults(run=run_map)


def _check_output(path: Path, suffix: str) -> None:
    if path.suffix.lower() != suffix:
        raise SettingsError(f"-o {path}: expected the name of a {suffix} file")
    if path.is_dir():
        raise SettingsError(f"-o {path}: is a folder; name a file")


def run(args: argparse.Namespace) -> None:
    """`mlis report`."""
    _check_output(args.output, ".html")
    for flag, folder in (("--images", args.images), ("--data-root", args.data_root)):
        if folder is not None and not folder.is_dir():
            raise DataError(f"{flag} {folder}: no such folder")
    from mlis.experiments.report.material import load_data, no_data
    from mlis.experiments.report.write import write_report

    started = time.perf_counter()
    load = functools.partial(load_data, data_root=args.data_root, images=args.images)
    written = write_report(
        args.results,
        args.output,
        no_data if args.no_data else load,
        with_maps=not (args.no_map or args.no_data),
        say=_say if args.verbose else lambda _: None,
    )
    for problem in written.missing:
        say(f"not on the page: {problem}")
    say(f"{written.runs} runs, {written.bytes / 1e6:.1f} MB: {written.page}")
    if args.json:
        print_json(
            {
                "page": str(written.page),
                "bytes": written.bytes,
                "runs": written.runs,
                "missing": list(written.missing),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )


def _say(what: str) -> None:
    print(f"mlis: {what}", file=sys.stderr)


def run_map(args: argparse.Namespace) -> None:
    """`mlis map`."""
    _check_output(args.output, ".svg")
    from mlis.cli.datasets import load
    from mlis.experiments.report.charts import Map, map_sheet, retrieval, save
    from mlis.experiments.retrieval import UnseenImages
    from mlis.io.checkpoint import load_model
    from mlis.io.saved_models import one_model

    recognizer = load_model(one_model(args.model))
    dataset = load(dataset_arguments(args))
    if tuple(recognizer.class_names) != tuple(dataset.class_names):
        raise DataError(f"{args.model} was trained on other classes than {dataset.provenance.name}")
    found = Map.of(dataset, recognizer)
    if found is None:
        raise DataError(f"{dataset.provenance.name}: fewer than 5 test images, nothing to place")
    test = UnseenImages(dataset).retrieved(recognizer)
    name = dataset.provenance.name
    title = f"{name}, test images"
    save(map_sheet(found, title, test), title, args.output)
    for which in ("raw", "refined"):
        say(f"{which}: {retrieval(test, which) or 'no unseen class has two test images'}")
    say("written:", args.output)
    if args.json:
        print_json({"dataset": name, "images": len(found.labels), **test, "file": str(args.output)})
