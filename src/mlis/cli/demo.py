"""`mlis demo`: recognise letters that were never seen, offline, in minutes."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.output import check_folder
from mlis.cli.printing import number, print_json, print_table
from mlis.errors import SettingsError

MEASURES = ("U", "S", "H", "T1")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="train on letters, recognise letters never seen",
        description="Train on accented letters, rendered from fonts that come with matplotlib,\n"
        "and recognise letters that were never seen; write a page with pictures. No download.",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("demo-out"),
        help="folder to write (default: demo-out)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    add_device_flag(parser)
    add_common_flags(parser, with_json=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    if args.seed < 0:
        raise SettingsError(f"--seed must be ≥ 0, but got {args.seed}")
    check_folder(args.output)
    from mlis.cli.progress import Progress
    from mlis.demo import run_demo

    progress = Progress()
    try:
        result = run_demo(args.output, seed=args.seed, device=args.device, progress=progress)
    finally:
        progress.close()
    _print(result)
    if args.json:
        print_json({**result, "page": str(result["page"])})


def _print(result: Mapping[str, Any]) -> None:
    rows = [["", *MEASURES]]
    for name, measures in {**result["baselines"], "mlis": result}.items():
        rows.append([name, *(number(measures.get(measure)) for measure in MEASURES)])
    print_table(rows)
    print(f"{result['protocol']}, {result['seconds']:.0f} s. The page: {result['page']}")
