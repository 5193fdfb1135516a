"""How to average unlike methods: rules compared on validation classes that they did not see.

    python benchmarks/shares.py DATASET [DATASET …] [--features FILE --split FILE] [-o rows.json]

Every method of `--method auto` is tried on five splits that hold out training classes. From the
scores on three of them each rule makes an ensemble and its calibration constant, and is measured on
the two others: ten ways to take three of five. No test row is used. Printed: H by rule, and
of each family alone.
"""

import argparse
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import Rows, markdown, write

from mlis.config import Config
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset
from mlis.evaluation import average_constant
from mlis.methods import portfolio
from mlis.methods.auto import Auto
from mlis.methods.portfolio import Trial, choose_members, combine

SPLITS, CHOSEN_ON = 5, 3
Rule = Callable[[np.ndarray, np.ndarray], int]
"""Number of the chosen shares, of (C, F) H of C shares on F splits and their distances to equal."""


def equal(H: np.ndarray, distance: np.ndarray) -> int:
    return int(distance.argmin())


def equal_or_hopeless(H: np.ndarray, distance: np.ndarray) -> int:
    """Equal, but without families 15 points behind the best alone (of two families)."""
    alone = H.mean(1)[distance >= distance.max() - 1e-9]
    return int(H.mean(1).argmax()) if np.ptp(alone) > 15 else equal(H, distance)


def best_alone(H: np.ndarray, distance: np.ndarray) -> int:
    alone = np.flatnonzero(distance >= distance.max() - 1e-9)
    return int(alone[H.mean(1)[alone].argmax()])


def best(H: np.ndarray, distance: np.ndarray) -> int:
    return int(H.mean(1).argmax())


RULES: dict[str, Rule] = {
    "equal shares": equal,
    "equal, hopeless left out": equal_or_hopeless,
    "best family": best_alone,
    "best shares": best,
    "nearest to equal within one standard error": portfolio.nearest_of_equals,
}


def measured(trials: Sequence[Trial], rule: Rule) -> float:
    """Mean H on splits that the rule and the constant were not chosen on."""
    found = []
    before, portfolio.nearest_of_equals = portfolio.nearest_of_equals, rule
    try:
        for splits in itertools.combinations(range(SPLITS), CHOSEN_ON):
            shown = [
                dataclasses.replace(one, folds={i: one.folds[i] for i in splits}) for one in trials
            ]
            choice = choose_members(shown)
            constant = average_constant(choice.curves)
            rest = [i for i in range(SPLITS) if i not in splits]
            for held_out in combine(trials, choice.weights, rest):
                curve = held_out.curve()
                found.append(curve.H[np.searchsorted(curve.knots, constant)])
    finally:
        portfolio.nearest_of_equals = before
    return float(np.mean(found))


def rows_of(data: GZSLDataset, name: str, seed: int) -> dict[str, Any]:
    auto = Auto(Config(precision="float32"), budget=math.inf, splits=SPLITS)
    trials = list(auto.trials(data, {"seed": seed, "device": "cpu"}, time.perf_counter()))
    families = dict.fromkeys(one.family for one in trials)
    alone = {
        family: measured([one for one in trials if one.family == family], equal)
        for family in families
    }
    return {
        "dataset": name,
        "seed": seed,
        **{f"{family} alone": H for family, H in alone.items()},
        **{title: measured(trials, rule) for title, rule in RULES.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("datasets", nargs="*", help="dataset folders, or `letters`")
    parser.add_argument("--features", type=Path, nargs="*", default=[], help="files of features")
    parser.add_argument("--split", type=Path, nargs="*", default=[], help="one for each of them")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    places = [(name, {}) for name in options.datasets]
    for features, split in zip(options.features, options.split, strict=True):
        places.append((features.parent.name, {"features_file": features, "split_file": split}))
    rows: Rows = []
    for name, files in places:
        data = load_dataset(**files) if files else load_dataset(name)
        rows += [rows_of(data, Path(name).name, seed) for seed in options.seeds]
    columns = [name for name in rows[0] if name not in ("dataset", "seed")]
    body = [
        [f"{one['dataset']}, seed {one['seed']}", *(f"{one.get(c, math.nan):.1f}" for c in columns)]
        for one in rows
    ]
    means = [np.mean([one[c] for one in rows]) for c in columns]
    print(markdown(["data", *columns], [*body, ["mean", *(f"{mean:.1f}" for mean in means)]]))
    write(options.output, arguments, rows)


if __name__ == "__main__":
    main()
