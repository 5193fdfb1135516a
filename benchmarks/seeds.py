"""Several seeds stacked against one after the other: milliseconds of a stage-1 step of them all.

    python benchmarks/seeds.py [--shapes CUB] [--seeds 5] [--precision auto] [-o seeds.json]

A step is that of the preset, 5 critic steps, 1 generator step and 1 encoder step, of every seed.
Stacked and separate steps are timed in alternation. `one_ms` is the step of a single seed, so that
`stacked_over_one` says what the others cost beside it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from paired import paired
from report import Rows, markdown, spread, write
from shapes import SHAPES, settings, tensors

from mlis.compute import Arithmetic
from mlis.config import Config
from mlis.generation.train import AdversarialTrainer
from mlis.preprocessing import TrainingTensors
from mlis.refinement.train import RefinementTrainer
from mlis.stacking import Seeds


class StageOne:
    """Both trainers of stage 1, of one seed or of several stacked."""

    def __init__(self, data: TrainingTensors, config: Config, arithmetic: Arithmetic, seed: Seeds):
        self.adversarial = AdversarialTrainer(data, config.generation, arithmetic, seed)
        self.refinement = RefinementTrainer(
            *(data, config.refinement, arithmetic, seed),
            lambda: self.adversarial.generator.sampler(data.descriptors),
        )

    def step(self) -> None:
        self.adversarial.step()
        self.refinement.step()


def measure(name: str, seeds: int, precision: str, device: str, repeats: int) -> dict[str, Any]:
    """A step of all seeds together, of each in turn, and of one alone."""
    config, arithmetic = settings(name), Arithmetic.of(precision, device)
    data = tensors(SHAPES[name], arithmetic)
    separate = [StageOne(data, config, arithmetic, seed) for seed in range(seeds)]
    stacked = StageOne(data, config, arithmetic, tuple(range(seeds)))

    def in_turn() -> None:
        for one in separate:
            one.step()

    of_all = paired(stacked.step, in_turn, repeats)
    of_one = paired(stacked.step, separate[0].step, repeats)
    on_gpu = arithmetic.device.type == "cuda"
    return {
        "shape": name,
        "seeds": seeds,
        "product": str(arithmetic.product).removeprefix("torch."),
        "one_ms": of_one["textbook_ms"],
        "separate_ms": of_all["textbook_ms"],
        "stacked_ms": of_all["ours_ms"],
        **{key: of_all[key] for key in ("ratio", "ratio_min", "ratio_max")},
        "stacked_over_one": 1 / of_one["ratio"],
        "peak_MiB": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
    }


def table(rows: Rows) -> str:
    """All rows as Markdown."""
    header = ["shape", "seeds", "products", "one, ms", "one after the other, ms", "stacked, ms"]
    header += ["times as fast", "stacked / one"]
    body = []
    for row in rows:
        times = [f"{row[f'{which}_ms']:.1f}" for which in ("one", "separate", "stacked")]
        ends = [spread(row), f"{row['stacked_over_one']:.2f}"]
        body.append([row["shape"], row["seeds"], row["product"], *times, *ends])
    return markdown(header, body)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", default="CUB")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    rest = (options.seeds, options.precision, options.device, options.repeats)
    rows = [measure(name, *rest) for name in options.shapes.split(",")]
    print(table(rows))
    write(options.output, arguments, rows)


if __name__ == "__main__":
    main()
