"""Measure baselines under H@val, on the features, split and generators that the method has.

    python benchmarks/baselines.py FLO --data-root DIR --only eszsl,prototype,ridge
    python benchmarks/baselines.py FLO --data-root DIR --seeds 0,1,2,3,4 -o runs/baselines-flo.json

Settings are those of the dataset's own preset. Generators come from the user's cache folder and are
left there, so that `raw`, `cegzsl` and `mlis` share one. What a baseline leaves open, and the
calibration constant, are chosen on validation classes; the test rows are met once a seed.
"""

import argparse
import json
import logging
import statistics
from pathlib import Path

import torch

from mlis import presets
from mlis.config import Config
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError
from mlis.methods.registry import METHODS, build_method
from mlis.protocol import evaluate_on_test
from mlis.provenance import provenance
from mlis.storage.atomic import write_json

MEASURES = ("U", "S", "H", "T1", "AUSUC")


def measure(name: str, config: Config, dataset: GZSLDataset, seed: int, own: dict) -> dict:
    """One row: measures on the test rows, what was chosen, seconds."""
    calibrated = config.replace({"classification": {"calibration": "validation"}})
    chosen = build_method(name, calibrated, **own).choose(dataset, seed=seed, reuse=True)
    return {
        "method": chosen.method.name,
        "settings": chosen.method.settings,
        "calibration": chosen.recognizer.calibration,
        "validation": chosen.validation and chosen.validation.to_dict(),
        "test": evaluate_on_test(chosen.recognizer, dataset).to_dict(),
        "seconds": round(chosen.seconds, 3),
        "reused": chosen.reused,
    }


def line(rows: list[dict]) -> str:
    """Means and deviations over seeds."""
    cells = []
    for measure in MEASURES:
        values = [row["test"][measure] for row in rows]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{measure} {statistics.fmean(values):.1f}{spread}")
    seconds = statistics.fmean(row["seconds"] for row in rows)
    return f"{rows[0]['method']:34s} {'  '.join(cells)}  ({seconds:.1f} s a seed)"


def main() -> None:
    names = tuple(METHODS)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--features-file")
    parser.add_argument("--preset", help="its name; default: the dataset's own")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default=",".join(names), help=f"of {','.join(names)}")
    parser.add_argument("--options", type=json.loads, default={}, help='{"free": {"steps": 800}}')
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"--only: {', '.join(sorted(unknown))}: expected some of {', '.join(names)}")
    dataset = load_dataset(
        options.dataset, data_root=options.data_root, features_file=options.features_file
    )
    config = Config.from_dict(presets.load(options.preset or presets.own_preset(options.dataset)))
    found: dict[str, list[dict]] = {}
    for name in [name for name in names if name in chosen]:
        own = options.options.get(name, {})
        try:
            rows = [
                {"seed": seed, **measure(name, config, dataset, seed, own)}
                for seed in map(int, options.seeds.split(","))
            ]
        except DataError as error:  # the cosine, where there is no shared space
            print(f"{name}: not measured: {error}", flush=True)
            continue
        print(line(rows), flush=True)
        found[name] = rows
    if options.output:
        write_json(options.output, {**provenance(dataset, config, "auto"), "rows": found})


if __name__ == "__main__":
    main()
