"""Photographs a second through `mlis features images`, beside the bare model on ready tensors.

    python benchmarks/extraction.py --photos DIR [--images 128] [--repeats 5] [-o extraction.json]

Extraction is all that the command does once the model is loaded: find, read, hash, decode, resize,
compute, write shards and the finished folder. The bare model gets normalised tensors of the same
batch size, no file is read: once one batch after the other by all threads, as torch does by itself,
and once several batches side by side, as extraction does. The three take turns within one run; the
ratio is to the faster of the two. Without --photos, pictures of 500 × 375 pixels are drawn.
"""

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import seconds
from PIL import Image
from report import Rows, markdown, spread, write

from mlis.compute.precision import Precision
from mlis.features.backbones.efficientnet import EfficientNetLite
from mlis.features.images.embed import MOST_AT_ONCE, model_threads
from mlis.features.images.extract import extract_folder
from mlis.features.images.files import Found, find_images


def draw(folder: Path, count: int) -> None:
    """JPEGs about as large as photographs of that size: smooth colours and some grain."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        grain = rng.normal(0, 6, smooth.shape)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"{i:05d}.jpg"
        )


def chosen(photos: Path, count: int) -> Found:
    """So many images, spread over the folder."""
    found = find_images(photos)
    step = max(1, len(found.images) // count)
    return dataclasses.replace(found, images=found.images[::step][:count])


class Turns:
    """The three ways, each for the same number of images."""

    def __init__(self, found: Found, backbone: EfficientNetLite):
        self.found, self.backbone = found, backbone
        rng = np.random.default_rng(0)
        shape = (backbone.batch, backbone.pixels, backbone.pixels, 3)
        pixels = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
        with torch.inference_mode():
            self.ready = backbone.normalised(pixels)
        self.batches = -(-len(found.images) // backbone.batch)

    def extraction(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            result = extract_folder(self.found, self.backbone, Path(folder) / "features")
        if result.bad:
            raise SystemExit(f"{result.bad[0].path}: {result.bad[0].reason}; take it out")

    def batch(self, _: int = 0) -> None:
        with torch.inference_mode():
            self.backbone.pooled(self.ready).cpu()

    def one_by_one(self) -> None:
        for number in range(self.batches):
            self.batch(number)

    def side_by_side(self) -> None:
        with model_threads(min(torch.get_num_threads(), MOST_AT_ONCE)) as pool:
            list(pool.map(self.batch, range(self.batches)))


def measure(found: Found, name: str, precision: str, repeats: int) -> dict[str, Any]:
    """Median rates, and the ratio turn by turn."""
    backbone = EfficientNetLite(name, Precision.of(precision, "auto"))
    turns = Turns(found, backbone)
    ways = (turns.extraction, turns.one_by_one, turns.side_by_side)
    for way in ways:
        way()  # to warm up
    took = [[seconds(way) for way in ways] for _ in range(repeats)]
    images, computed = len(found.images), turns.batches * backbone.batch
    rates = [(images / a, computed / b, computed / c) for a, b, c in took]
    ratios = sorted(ours / max(bare) for ours, *bare in rates)
    middle = [statistics.median(column) for column in zip(*rates, strict=True)]
    return {
        "backbone": name,
        "precision": backbone.precision,
        "batch": backbone.batch,
        "images": images,
        "MiB": sum(image.source.stat().st_size for image in found.images) / 2**20,
        **dict(zip(("extraction", "one_by_one", "side_by_side"), middle, strict=True)),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }


def table(rows: Rows) -> str:
    """All rows as Markdown."""
    header = ["backbone", "precision", "batch", "extraction, images/s"]
    header += ["bare, all threads on a batch", "bare, batches side by side"]
    header += ["extraction / faster bare"]
    body = []
    for row in rows:
        rates = [f"{row[way]:.1f}" for way in ("extraction", "one_by_one", "side_by_side")]
        body.append([row["backbone"], row["precision"], row["batch"], *rates, spread(row)])
    return markdown(header, body)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photographs")
    parser.add_argument("--backbone", default="efficientnet-lite2")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.photos is None:
            draw(Path(folder), options.images)
        found = chosen(options.photos or Path(folder), options.images)
        rows = [measure(found, options.backbone, options.precision, options.repeats)]
    print(table(rows))
    write(options.output, arguments, rows)


if __name__ == "__main__":
    main()
