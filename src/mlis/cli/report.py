"""`mlis report`: one page of a results store; `mlis map`: features in two dimensions."""

import argparse
import functools
import sys
import time
from pathlib import Path

from mlis.cli.arguments import Commands, add_command, add_common, load_recognizer
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.cli.output import check_file, print_json, say
from mlis.errors import DataError


def add_to(commands: Commands) -> None:
    """Add both commands."""
    text = "one page about the results of `mlis reproduce`"
    parser = add_command(commands, "report", run, text)
    parser.add_argument("results", metavar="RESULTS", type=Path, help="folder with results.jsonl")
    page = Path("report.html")
    text = f"default: {page}"
    add_common(parser, "--output", metavar="FILE.html", default=page, required=False, help=text)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data-root", metavar="DIR", type=Path, help="folder that contains FLO/, …, if it moved"
    )
    group.add_argument("--images", metavar="DIR", type=Path, help="folder of the images")
    group.add_argument(
        "--no-data", action="store_true", help="read only RESULTS: no map, no thumbnails"
    )
    group.add_argument("--no-map", action="store_true", help="leave out the map, the slowest part")
    text = "raw and refined features in two dimensions"
    parser = add_command(commands, "map", run_map, text)
    add_common(parser, "model")
    add_dataset_arguments(parser)
    add_common(parser, "--output", metavar="FILE.svg", help="file to write")


def run(args: argparse.Namespace) -> None:
    """Write one self-contained page about RESULTS, the folder that `mlis reproduce -o` filled:
    tables beside published figures, curves, training curves, classes, confusions, what was trained,
    the effect of refinement, and the source of every number. RESULTS is only read.

      mlis report results -o report.html
      mlis report results -o report.html --images photographs --data-root DIR

    Map and thumbnails come from a dataset's files if they are still where the rows say; the page
    says what is missing. For tables and figures as files, use `mlis reproduce` and `mlis map`.
    """
    check_file(args.output, ".html", new_folder=True)
    for flag, folder in (("--images", args.images), ("--data-root", args.data_root)):
        if folder is not None and not folder.is_dir():
            raise DataError(f"{flag} {folder}: no such folder.")
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
        facts = {"page": str(written.page), "bytes": written.bytes, "runs": written.runs}
        seconds = round(time.perf_counter() - started, 3)
        print_json({**facts, "missing": list(written.missing), "seconds": seconds})


def _say(what: str) -> None:
    print(f"mlis: {what}", file=sys.stderr)


def run_map(args: argparse.Namespace) -> None:
    """Place test images of seen and unseen classes in two dimensions, by their raw features and by
    the features that a saved model refines, side by side, with Recall@1 and MAP@R of both.
    """
    check_file(args.output, ".svg", new_folder=True)
    from mlis.experiments.report.charts import Map, map_sheet, retrieval, save
    from mlis.experiments.retrieval import retrieved

    recognizer = load_recognizer(args.model)
    dataset = load(dataset_arguments(args))
    name = dataset.provenance.name
    if tuple(recognizer.class_names) != tuple(dataset.class_names):
        raise DataError(f"{args.model}: was trained on other classes than {name}.")
    found = Map.of(dataset, recognizer)
    if found is None:
        raise DataError(f"{name}: expected at least 5 test images for a map, got fewer.")
    test = retrieved(recognizer, dataset)
    title = f"{name}, test images"
    save(map_sheet(found, title, test), title, args.output)
    for which in ("raw", "refined"):
        say(f"{which}: {retrieval(test, which) or 'no unseen class has two test images'}")
    say("written:", args.output)
    if args.json:
        print_json({"dataset": name, "images": len(found.labels), **test, "file": str(args.output)})
