"""Which description of the classes serves best: the same photographs, described in several ways.

    mlis features images DIR/images --labels DIR/images.csv --class-column class_name -o features
    python benchmarks/descriptions.py --features features --classes examples/flowers102.csv \
        --split FLO/att_splits.mat -o runs/descriptions

Everything is done by the commands `mlis data build` and `fit`, with packaged weights and no
network: the class names alone, the column `text`, the columns of attributes, both, and with --split
the published descriptors of the benchmark's file (as `data convert` reads them). --kinds names
others: "sentences, mean subtracted", "sentences, one by one" (an embedding each), "sentences and
attributes, weight auto" (or a number). The table of images marks which rows train and which test;
what the settings are chosen on (calibration, `--settings`) is a validation split of the training
rows, drawn by each seed. --method trains one of `mlis fit` with the package's defaults, in
place of --components with --settings. Finished trainings are not repeated.
"""

import argparse
import csv
import json
import re
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
    text, numbers = ["--sentences", "text"], ["--attributes", *attributes]
    found = {
        "names": ["--sentences", "name"],
        "sentences": text,
        "attributes": numbers,
        "sentences and attributes": [*text, *numbers],
    }
    for kind in ("sentences", "sentences and attributes"):
        found[f"{kind}, mean subtracted"] = [*found[kind], "--subtract-mean"]
        found[f"{kind}, one by one"] = found[kind]
    return found


def write_one_by_one(table: Path, output: Path) -> None:
    """The table with a row for each sentence of `text`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    with output.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        for row in rows:
            sentences = re.split(r"(?<=[.]) ", row["text"])
            writer.writerows({**row, "text": sentence} for sentence in sentences)


def write_published(split: Path, output: Path) -> None:
    """The published descriptors of the 102 flowers, as a table of classes."""
    att = scipy.io.loadmat(split, variable_names=["att"])["att"].T
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["name", *(f"d{i:04d}" for i in range(att.shape[1]))])
        for name, row in zip(FLOWER_NAMES, att.tolist(), strict=True):
            writer.writerow([name, *map(repr, row)])


def build(options: argparse.Namespace, kind: str, seed: int, words: Path) -> Path:
    """The dataset with this seed's validation split, once."""
    data = words / f"seed-{seed}"
    if (data / "dataset.json").exists():
        return data
    kind, _, weight = kind.partition(", weight ")
    how, table, own = "build", options.classes, words / "classes.csv"
    flags = ["--attribute-weight", weight] if weight else []
    if kind == "published":
        how, table = "convert", own
        write_published(options.split, own)
    else:
        flags += ways(options.classes)[kind]
    if kind.endswith("one by one"):
        table = own
        write_one_by_one(options.classes, own)
    run(*("data", how, "--features", options.features, "--classes", table),
        *("--split-seed", seed, "-o", data, *flags))  # fmt: skip
    return data


def train(options: argparse.Namespace, kind: str, seed: int, trained: str) -> dict[str, Any]:
    """Build, train, test once: what `results.json` holds."""
    words = options.output / kind.replace(",", "").replace(" ", "-")
    data, folder = build(options, kind, seed, words), words / f"run-{seed}-{trained}"
    if not (folder / "results.json").exists():
        how = ["--settings", options.settings, "--components", trained]
        if options.method:
            how = ["--method", trained]
            how += ["--budget", options.budget] if trained == "auto" else []
        run("fit", data, "-o", folder, "--seeds", seed, *how)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def row_of(kind: str, trained: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and deviations over seeds."""
    each = [result["components"][trained] for result in results]
    found = [{name: one[name][0] for name in ("U", "S", "H", "T1")} for one in each]
    facts = {"description": kind, "components": trained, "protocol": results[0]["protocol"]}
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
    parser.add_argument("--method", help="of `mlis fit`, such as gaussian,auto")
    parser.add_argument("--budget", default="none", help="of --method auto")
    parser.add_argument("--kinds", default=";".join(ORDER), help="some, with ; between")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    kinds = [kind for kind in options.kinds.split(";") if kind != "published" or options.split]
    rows = [
        row_of(kind, trained, [train(options, kind, seed, trained) for seed in seeds])
        for trained in (options.method or options.components).split(",")
        for kind in kinds
    ]
    print(f"{rows[0]['protocol']}, per cent\n{table(rows)}")
    write(options.output / "descriptions.json", arguments, rows)


if __name__ == "__main__":
    main()
