"""What the tests of the server share: small models, pictures, and how to ask."""

import dataclasses
import io
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from mlis.data.dataset import GZSLDataset
from mlis.evaluation.tradeoff import TradeOff
from mlis.features.backbones.base import BackboneSpec
from mlis.model.recognizer import Recognizer, replace
from mlis.serving.app import create_app
from mlis.serving.descriptions import Describer
from mlis.serving.engine import Engine
from mlis.serving.settings import Access, Limits
from pairs import Pair, trained_pair
from simulated import small, tiny

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 180, 40),
    "blue": (20, 40, 210),
    "yellow": (220, 210, 40),
    "grey": (90, 100, 115),
    "pink": (240, 130, 170),
}
UNSEEN = ("grey", "pink")


class MeanColours:
    """An image model that is quick: mean and spread of red, green and blue in each quarter."""

    identity = BackboneSpec("mean-colours", "0", "{}", "mean", 24)
    precision, batch, enough, on_cpu = "float32", 4, 16, True

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((16, 16)))

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        x = np.stack(inputs).astype(np.float32) / 255
        quarters = x.reshape(len(x), 2, 8, 2, 8, 3)
        parts = [quarters.mean(axis=(2, 4)), quarters.std(axis=(2, 4))]
        return np.concatenate([part.reshape(len(x), -1) for part in parts], axis=1)


def picture(colour: str, seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    rng = np.random.default_rng([seed, *COLOURS[colour]])
    noise = rng.normal(COLOURS[colour], 20, (*size[::-1], 3)).clip(0, 255)
    return Image.fromarray(noise.astype(np.uint8))


def png(colour: str, seed: int = 0, size: tuple[int, int] = (50, 40)) -> bytes:
    file = io.BytesIO()
    picture(colour, seed, size).save(file, "PNG")
    return file.getvalue()


@cache
def colour_pair() -> Pair:
    """Six colours, two of them described by their red, green and blue and never seen."""
    backbone = MeanColours()
    images = [picture(name, seed) for name in COLOURS for seed in range(20)]
    data = GZSLDataset.from_arrays(
        backbone([backbone.prepare(image) for image in images]),
        np.repeat(np.arange(len(COLOURS)), 20),
        np.array(list(COLOURS.values())) / 255,
        class_names=tuple(COLOURS),
        unseen_classes=UNSEEN,
    )
    config = small(
        generation={"generator": "ridge"},
        refinement={"steps": 60, "classes_per_batch": 4},
        classification={"synthetic_per_unseen": 30, "tolerance": 1e-5},
    )
    found = trained_pair(data.for_training(), config, seed=0, device="cpu")
    return found._replace(recognizer=replace(found.recognizer, calibration=1.0))


@cache
def feature_pair() -> Pair:
    """Nine classes of simulated features, three unseen."""
    config = small(generation={"generator": "ridge"})
    return trained_pair(tiny().for_training(), config, seed=0, device="cpu")


def feature_recognizer() -> Recognizer:
    return feature_pair().recognizer


def colour_recognizer() -> Recognizer:
    return colour_pair().recognizer


def colour_engine() -> Engine:
    return Engine(colour_recognizer(), MeanColours(), descriptions={"grey": "like an elephant"})


def growing_engine() -> Engine:
    """Of a model whose classes may be described by a vector, with a trade-off to choose from."""
    recognizer, exemplars = colour_pair()
    curve = TradeOff(constants=(0.0, 1.0), U=(40.0, 60.0), S=(90.0, 80.0), best=1.0, splits=1)
    metadata = dataclasses.replace(recognizer.metadata, tradeoff=curve)
    recognizer = replace(recognizer, metadata=metadata)
    describer = Describer.of(recognizer)
    return Engine(recognizer, MeanColours(), describer, exemplars=exemplars)


def client(engine: Engine, limits: dict[str, Any] | None = None, **access: Any) -> TestClient:
    """A client of an application without a page; use it in a `with` block."""
    values = {"rate": 0.0, "max_wait": 1.0, **(limits or {})}
    host = access.pop("host", "127.0.0.1")
    app = create_app(engine, Limits(**values), Access.of(host, **{"page": False, **access}))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def upload(*files: bytes | tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """Files as httpx sends them."""
    named = [each if isinstance(each, tuple) else ("a.png", each) for each in files]
    return [("files", each) for each in named]


def refusal(response: Any, status: int) -> str:
    """What a refused request is told; checks that the answer has the shape of a `Problem`."""
    assert response.status_code == status, response.text
    body = json.loads(response.text, parse_constant=lambda name: 1 / 0)
    assert set(body) == {"detail", "problems"}
    assert body["detail"]
    return body["detail"]
