"""Which description of the classes serves best: the same photographs, described in several ways.

    mlis features images DIR/images --labels DIR/images.csv --class-column class_name -o features
    python benchmarks/descriptions.py --features features --classes examples/flowers102.csv \
        --split FLO/att_splits.mat -o runs/descriptions

Everything is done by the commands `mlis features text`, `data build` and `fit`, with packaged
weights and no network: the class names alone, the column `text`, the columns of attributes, both,
and with --split the published descriptors of the benchmark's file (as `data convert` reads them).
The table of images marks which rows train and which test; what the settings are chosen on
(calibration, `--settings`) is a validation split of the training rows, drawn anew by each seed.
Finished trainings are not repeated.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scipy.io
from report import Rows, markdown, write

from mlis.cli import main as mlis
from mlis.data.io.benchmarks import FLOWER_NAMES
from mlis.evaluation import summarise

HERE = Path(__file__).resolve().parent
ORDER = ("published", "sentences and attributes", "attributes", "sentences", "names")


def run(*arguments: object) -> None:
    """One command of `mlis`; its error is ours."""
    if code := mlis([str(argument) for argument in arguments]):
        raise SystemExit(code)


def ways(table: Path) -> Mapping[str, list[str]]:
    """Kind of description → what `mlis features text` is told."""
    with table.open(newline="", encoding="utf-8") as handle:
        header = next(csv.reader(handle))
    attributes = [name for name in header if name not in ("name", "split", "text")]
    return {
        "names": ["--sentences", "name"],
        "sentences": ["--sentences", "text"],
        "attributes": ["--attributes", *attributes],
        "sentences and attributes": ["--sentences", "text", "--attributes", *attributes],
    }


def write_published(split: Path, folder: Path) -> None:
    """The published descriptors of the 102 flowers, as a table of classes."""
    att = scipy.io.loadmat(split, variable_names=["att"])["att"].T
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "classes.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["name", *(f"d{i:04d}" for i in range(att.shape[1]))])
        for name, row in zip(FLOWER_NAMES, att.tolist(), strict=True):
            writer.writerow([name, *map(repr, row)])


def describe(options: argparse.Namespace, kind: str, folder: Path) -> None:
    """Descriptors of all classes, once."""
    if (folder / "classes.csv").exists():
        return
    if kind == "published":
        write_published(options.split, folder)
    else:
        run("features", "text", options.classes, "-o", folder, *ways(options.classes)[kind])


def train(options: argparse.Namespace, kind: str, seed: int, components: str) -> dict[str, Any]:
    """Build with this seed's validation split, train, test once: what `results.json` holds."""
    words = options.output / kind.replace(" ", "-")
    describe(options, kind, words)
    data, folder = words / f"seed-{seed}", words / f"run-{seed}-{components}"
    if not (data / "dataset.json").exists():
        how, table = ("convert", "classes.csv") if kind == "published" else ("build", ".")
        run(*("data", how, "--features", options.features, "--classes", words / table),
            *("--split-seed", seed, "-o", data))  # fmt: skip
    if not (folder / "results.json").exists():
        run("fit", data, "-o", folder, "--seeds", seed, "--settings", options.settings,
            "--components", components)  # fmt: skip
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def row_of(kind: str, components: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and deviations over seeds."""
    each = [result["components"][components] for result in results]
    found = [{name: one[name][0] for name in ("U", "S", "H", "T1")} for one in each]
    facts = {"description": kind, "components": components, "protocol": results[0]["protocol"]}
    return {**facts, "seeds": [result["seeds"][0] for result in results], **summarise(found)}


def table(rows: Rows) -> str:
    """All rows as Markdown."""
    body = []
    for row in rows:
        cells = []
        for name in ("U", "S", "H", "T1"):
            deviation = row[f"{name}_std"]
            spread = "" if deviation is None else f" ± {deviation:.1f}"
            cells.append(f"{row[f'{name}_mean']:.1f}{spread}")
        body.append([row["description"], row["components"], len(row["seeds"]), *cells])
    return markdown(["description", "trained", "seeds", "U", "S", "H", "T1"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--features", type=Path, required=True, help="of `mlis features images`")
    parser.add_argument("--classes", type=Path, required=True, help="name, text, attributes")
    parser.add_argument("--split", type=Path, help="the 102 flowers' att_splits.mat")
    parser.add_argument("--settings", type=Path, default=HERE / "descriptions.toml")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--components", default="none,ml+is+sfr")
    parser.add_argument("--kinds", default=",".join(ORDER), help="some of them")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    kinds = [kind for kind in options.kinds.split(",") if kind != "published" or options.split]
    rows = [
        row_of(kind, components, [train(options, kind, seed, components) for seed in seeds])
        for components in options.components.split(",")
        for kind in kinds
    ]
    print(f"{rows[0]['protocol']}, per cent\n{table(rows)}")
    write(options.output / "descriptions.json", arguments, rows)


if __name__ == "__main__":
    main()
