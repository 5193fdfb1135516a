"""`mlis data info` and `convert`: look at a dataset, write one as a folder."""

import argparse

from mlis.cli import build, exchange
from mlis.cli.arguments import Commands, add_command, add_common
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.cli.output import print_json, say


def add_to(commands: Commands) -> None:
    """Add the commands."""
    text = "inspect, convert, build, import or export datasets"
    parser = commands.add_parser("data", help=text, description=text)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    info = add_command(
        *(actions, "info", run_info, "sizes, images per class, checks, hash"),
        usage="mlis data info DATASET [options]",
    )
    add_dataset_arguments(info)
    convert = add_command(
        *(actions, "convert", run_convert, "write any dataset as a dataset folder"),
        usage="mlis data convert DATASET -o FOLDER [options]",
        json=False,
    )
    add_dataset_arguments(convert)
    add_common(convert, "--output")
    add_common(convert, "--force", help="replace the dataset in FOLDER")
    build.add_to(actions)
    exchange.add_to(actions)


def run_info(args: argparse.Namespace) -> None:
    """Print sizes, images per class, descriptor similarity, passed checks and the hash of a
    dataset.
    """
    arguments = dataset_arguments(args)
    from mlis.data import describe, format_info

    info = describe(load(arguments))
    print(format_info(info))
    if args.json:
        print_json(info)


def run_convert(args: argparse.Namespace) -> None:
    """Write a dataset as a folder (features.safetensors and dataset.json), which every command
    takes as DATASET and which loads without parsing.
    """
    arguments = dataset_arguments(args)
    build.check_output(args)
    data = load(arguments)
    from mlis.data import save_dataset

    save_dataset(data, args.output)
    build.warn_of_duplicates(data)
    say(f"{args.output}: {len(data.labels)} images, {data.num_classes} classes, {data.sha256}")
