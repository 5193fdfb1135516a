"""`mlis rerun`: the run of one stored row again, and whether it agrees."""

import argparse

from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.datasets import relocated
from mlis.cli.fit import check_loss
from mlis.cli.output import add_output_flag
from mlis.cli.printing import number, print_json, print_table, say

_DESCRIPTION = """\
Do the run of one row again, from what the row says alone, and compare all numbers: the same bits
are expected on the same machine with the same versions, else U, S and H within 1 point. The store
stays as it is. Exit code 1 if they do not agree."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "rerun", help="do a result's run again and compare", description=_DESCRIPTION
    )
    parser.add_argument("row", metavar="ROW", help="key of the row, or how it begins")
    add_output_flag(parser, "RESULTS", "folder")
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="where the data are, if they have moved",
    )
    parser.add_argument(
        "--loss", metavar="MODULE:FUNCTION", help="where the row names your own code: its name"
    )
    add_device_flag(parser, default=None)
    add_common_flags(parser, with_json=True)
    parser.set_defaults(run=run, dataset=None)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments ask for; return the exit code."""
    from mlis.cli.progress import Progress
    from mlis.experiments.engine import store_of
    from mlis.experiments.rerun import rerun
    from mlis.experiments.tasks import Task

    row = store_of(args.output).find(args.row)
    settings = Task.from_dict(row.task).config.refinement
    check_loss(settings, {"refinement": {"loss": args.loss}})
    progress = Progress()
    dataset = relocated(row.task["dataset"], args)
    try:
        found = rerun(row, dataset=dataset, device=args.device, listen=progress)
    finally:
        progress.close()
    rows = [["", "U", "S", "H"]]
    for label, one in (("row", row), ("again", found.row)):
        rows.append([label, *(number(one.test[name], 3) for name in ("U", "S", "H"))])
    print_table(rows)
    label = f"{row.task['name']}, {row.protocol}{', stand-in' if row.stand_in else ''}"
    say(f"{label}: {found}")
    if args.json:
        facts = {"row": row.key, "protocol": row.protocol, "stand_in": row.stand_in}
        verdict = {"agrees": found.agrees, "same_bits": found.same_bits}
        again = {name: found.row.test[name] for name in ("U", "S", "H")}
        print_json({**facts, **verdict, "difference": found.difference, "again": again})
    return 0 if found.agrees else 1
