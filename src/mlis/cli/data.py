"""`mlis data info` and `convert`: look at a dataset, write one as a folder."""

import argparse

from mlis.cli import build
from mlis.cli.common import add_common_flags
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.cli.output import add_force_flag, add_output_flag, check_no_dataset
from mlis.cli.printing import print_json, say


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "data", help="look at a dataset, convert it", description="Look at or convert datasets."
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    info = actions.add_parser(
        "info",
        help="sizes, images per class, checks, hash",
        description="Print sizes, images per class, descriptor similarity, checks passed and the\n"
        "hash of a dataset.",
        usage="mlis data info DATASET [options]",
    )
    add_dataset_arguments(info)
    add_common_flags(info, with_json=True)
    info.set_defaults(run=run_info)
    convert = actions.add_parser(
        "convert",
        help="write any dataset as a dataset folder",
        description="Write a dataset as a folder (features.safetensors and dataset.json), which\n"
        "every command takes as DATASET and which opens at once.",
        usage="mlis data convert DATASET -o FOLDER [options]",
    )
    add_dataset_arguments(convert)
    add_output_flag(convert)
    add_force_flag(convert, "the dataset that is")
    add_common_flags(convert, with_json=False)
    convert.set_defaults(run=run_convert)
    build.add_to(actions)


def run_info(args: argparse.Namespace) -> None:
    """`mlis data info`."""
    arguments = dataset_arguments(args)
    from mlis.data import describe, format_info

    info = describe(load(arguments))
    print(format_info(info))
    if args.json:
        print_json(info)


def run_convert(args: argparse.Namespace) -> None:
    """`mlis data convert`."""
    arguments = dataset_arguments(args)
    check_no_dataset(args.output, force=args.force)
    data = load(arguments)
    from mlis.data import save_dataset

    save_dataset(data, args.output)
    build.warn_of_twins(data)
    say(f"{args.output}: {len(data.labels)} images, {data.num_classes} classes, {data.sha256}")
