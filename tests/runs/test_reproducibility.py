"""Other precisions give nearly the same answers; more decoding workers, the same bytes.

The same bits of the same call, resumed and killed runs, reused generators and streamed rows have
tests of their own (test_pipeline, test_resume, test_generators, test_streaming, torture/kills).
The tolerances are those of docs/reproducibility.md.
"""

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mlis.features.images.extract
from mlis.config import Config
from mlis.features.backbones.base import BackboneSpec
from mlis.features.images.extract import extract_folder
from mlis.features.images.files import find_images
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit
from simulated import linear_world, small

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reproducibility.md"
DATA = linear_world()
TRAINING, TEST = DATA.for_training(), DATA.for_testing()


def trained(precision: str, generator: str, device: str = "cpu", seed: int = 3) -> Recognizer:
    return fit(TRAINING, settings(precision, generator), seed=seed, device=device).recognizer


def settings(precision: str, generator: str) -> Config:
    return small(
        precision,
        generation={"generator": generator, "steps": 60, "hidden": 32},
        refinement={"steps": 60, "hidden": 32},
        classification={"synthetic_per_unseen": 20},
    )


def weights(recognizer: Recognizer) -> list[torch.Tensor]:
    assert recognizer.refiner.kind != "none"

    classifier = recognizer.head
    parts = recognizer.refiner.weight, recognizer.refiner.bias, classifier.weight, classifier.bias
    return [part.cpu() for part in parts]


def difference(one: Recognizer, other: Recognizer) -> tuple[float, float]:
    """Largest difference of two scores, over their spread; share of test rows decided alike."""
    a, b = (np.asarray(r.scores(TEST.features), np.float64) for r in (one, other))
    a, b = (s - s.mean(1, keepdims=True) for s in (a, b))
    return float(np.abs(a - b).max() / a.std()), float((a.argmax(1) == b.argmax(1)).mean())


def tolerances() -> dict[tuple[str, str], tuple[float, float]]:
    """The page's table: (generator, precision) → score difference, share decided alike."""
    rows = re.findall(
        r"^\| (ridge|wgan-gp) \| (\w+) \| [\d.e-]+ \| ([\d.e-]+) \| [\d.]+ % \| ([\d.]+) % \|$",
        PAGE.read_text(encoding="utf-8"),
        re.M,
    )
    return {(g, p): (float(score), float(alike) / 100) for g, p, score, alike in rows}


@pytest.mark.parametrize("generator", ["ridge", "wgan-gp"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precisions_agree_within_the_pages_tolerances(precision, generator):
    score, alike = tolerances()[generator, precision]
    found = difference(trained("float64", generator), trained(precision, generator))
    print(json.dumps({"generator": generator, "precision": precision, "found": found}))
    assert found[0] <= score
    assert found[1] >= alike


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("generator", ["ridge", "wgan-gp"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_repeats_its_bits_and_learns_as_a_cpu_does(precision, generator):
    """Not the CPU's numbers: a GPU draws other random ones."""
    one, other = (trained(precision, generator, device="cuda") for _ in range(2))
    assert all(map(torch.equal, weights(one), weights(other)))
    found = [r.predict(TEST.features) for r in (one, trained(precision, generator))]
    right = [float((np.asarray(p) == TEST.labels).mean()) for p in found]
    assert abs(right[0] - right[1]) < 0.15


class Slow:
    """Features are the pixels; every second image takes longer to prepare."""

    identity = BackboneSpec("slow", "0" * 64, "4 px", "pixels", 48)
    precision, batch, enough, on_cpu = "float32", 4, None, True

    def __init__(self, delay: float):
        self.delay = delay

    def prepare(self, image: Image.Image) -> np.ndarray:
        if image.getpixel((0, 0))[0] % 2:
            time.sleep(self.delay)
        return np.asarray(image.resize((4, 4)))

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(inputs).reshape(len(inputs), -1).astype(np.float32)


def test_the_number_of_decode_workers_changes_no_byte(tmp_path, monkeypatch):
    for i in range(14):
        place = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (i, 5, 90)).save(place)
    (tmp_path / "photos/a/bad.png").write_bytes(b"no image")
    now = time.time_ns() + 60_000_000_000  # the files are old enough to be known by their stamps
    monkeypatch.setattr(mlis.features.images.extract.time, "time_ns", lambda: now)
    contents = []
    for workers, delay in ((1, 0.0), (5, 0.01), (3, 0.0)):
        out = tmp_path / f"{workers}"
        found = find_images(tmp_path / "photos")
        extract_folder(found, Slow(delay), out, shard_images=5, workers=workers)
        files = sorted(
            path for path in out.rglob("*") if path.is_file() and path.name != ".mlis.lock"
        )
        contents.append({str(path.relative_to(out)): path.read_bytes() for path in files})
    assert contents[0] == contents[1] == contents[2]
    assert {"features.safetensors", "images.csv", "features.json", "bad.csv"} <= set(contents[0])
