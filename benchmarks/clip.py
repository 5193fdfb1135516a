"""Image-text models and this package on the same photographs: the table that needs weights.

    python benchmarks/clip.py --images DIR/images --labels DIR/images.csv \
        --class-column class_name --classes examples/flowers102.csv \
        --clip openai/clip-vit-base-patch32 --clip google/siglip-base-patch16-224 \
        -o runs/clip [--budget none]

Everything is done by `mlis data build`, which embeds photographs and sentences by each model, and
`mlis compare`. The last line of each model is the automatic choice with the zero-shot classifier as
a member of its ensemble.
"""

import argparse
import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import Rows, markdown, write

from mlis.cli import main as mlis

MEASURES = ("U", "S", "H", "T1")


def run(*arguments: object) -> dict[str, Any]:
    """The JSON object of one command of `mlis`; its error is ours."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = mlis([*(str(argument) for argument in arguments), "--json"])
    if code:
        raise SystemExit(code)
    return json.loads(printed.getvalue().splitlines()[-1])


def build(args: argparse.Namespace, model: str, output: Path) -> None:
    """Photographs and sentences by one model."""
    where = ["--images", args.images, "--classes", args.classes, "-o", output, "--force"]
    if args.labels is not None:
        where += ["--labels", args.labels, "--class-column", args.class_column]
    run("data", "build", *where, "--backbone", model, "--views", "centre")


def rows_of(args: argparse.Namespace, model: str, folder: Path) -> Rows:
    """The lines of `mlis compare`."""
    build(args, model, folder)
    budget = [] if args.budget is None else ["--budget", args.budget]
    words = ["--descriptions", args.classes, *budget, "--seed", args.seed]
    found = run("compare", folder, "--clip", model, *words)
    return [{"model": model, **row} for row in found["rows"]]


def table(rows: Rows) -> str:
    """Markdown."""
    shown = lambda value: "–" if value is None else f"{value:.1f}"  # noqa: E731
    cells = [[row["model"], row["name"], *(shown(row[m]) for m in MEASURES)] for row in rows]
    return markdown(["model", "what", *MEASURES], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison of every model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--labels", type=Path, help="table of `mlis data build --labels`")
    parser.add_argument("--class-column", default="class")
    parser.add_argument("--classes", type=Path, required=True, help="described classes")
    parser.add_argument("--clip", action="append", required=True, help="hub name or folder")
    parser.add_argument("--budget", help="of the automatic choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    args = parser.parse_args(arguments)
    rows = [
        row
        for number, model in enumerate(args.clip)
        for row in rows_of(args, model, args.output / f"model-{number}")
    ]
    write(args.output / "clip.json", arguments, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
