"""Repeat the run of one row, from what the row says alone, and compare all numbers. Expected are
the same bits on the same machine with the same versions, else U, S and H within 1 point. The store
is not changed. Exit code 1 if the results do not agree.
"""

import argparse

from mlis.cli.arguments import Commands, add_command, add_common
from mlis.cli.datasets import add_dataset_options, relocated
from mlis.cli.fit import check_loss
from mlis.cli.output import number, print_json, print_table, say


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "rerun", run, "repeat a result's run and compare", __doc__)
    parser.add_argument("row", metavar="ROW", help="key of the row, or its first characters")
    add_common(parser, "--output", metavar="RESULTS", help="folder of the results")
    add_dataset_options(parser, "data_root")
    parser.add_argument(
        "--loss", metavar="MODULE:FUNCTION", help="name of your own loss, if the row used one"
    )
    add_common(parser, "--device", default=None)
    parser.set_defaults(dataset=None)  # for `relocated`


def run(args: argparse.Namespace) -> int:
    """Return the exit code."""
    from mlis.cli.progress import Progress
    from mlis.experiments.engine import store_of
    from mlis.experiments.rerun import rerun
    from mlis.experiments.tasks import Task

    row = store_of(args.output).find(args.row)
    settings = Task.from_dict(row.task).config.refinement
    check_loss(settings, {"refinement": {"loss": args.loss}})
    dataset = relocated(row.task["dataset"], args)
    with Progress() as progress:
        found = rerun(row, dataset=dataset, device=args.device, listen=progress)
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
