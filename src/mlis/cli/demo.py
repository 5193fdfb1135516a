"""`mlis demo`: recognise letters that were never seen, offline, in minutes."""

import argparse
from pathlib import Path

from mlis.cli.arguments import Commands, add_command, add_common, at_least
from mlis.cli.output import check_folder, number, print_json, print_table

MEASURES = ("U", "S", "H", "T1")


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        *(commands, "demo", run, "train on letters, recognise letters never seen"),
    )
    folder = Path("demo-out")
    add_common(parser, "--output", default=folder, required=False, help=f"default: {folder}")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="default: 0")
    add_common(parser, "--device")


def run(args: argparse.Namespace) -> None:
    """Train on accented letters, rendered from fonts that come with matplotlib, and recognise
    letters that were never seen; write a page with pictures. No download.
    """
    check_folder(args.output)
    from mlis.cli.progress import Progress
    from mlis.demo import run_demo

    with Progress() as progress:
        result = run_demo(args.output, seed=args.seed, device=args.device, progress=progress)
    rows = [["", *MEASURES]]
    for name, measures in {**result["baselines"], "mlis": result}.items():
        rows.append([name, *(number(measures.get(measure)) for measure in MEASURES)])
    print_table(rows)
    print(f"{result['protocol']}, {result['seconds']:.0f} s. Page: {result['page']}")
    if args.json:
        print_json({**result, "page": str(result["page"])})
