"""Images added to classes through the API: what is learnt, what is refused, clients at once."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from mlis.incremental import add_images
from mlis.methods.gaussian import Gaussian
from mlis.methods.prototype import RidgePrototype
from mlis.model.recognizer import replace
from mlis.serving import engine as engine_module
from mlis.serving.descriptions import Describer, Description
from mlis.serving.engine import Engine
from mlis.serving.exchange import Change
from serve_cases import (
    COLOURS,
    MeanColours,
    client,
    colour_pair,
    colour_recognizer,
    feature_recognizer,
    growing_engine,
    picture,
    png,
    refusal,
    upload,
)
from simulated import linear_world, small, tiny

CYAN = (25, 205, 205)


@pytest.fixture(autouse=True)
def cyan(monkeypatch):
    """A seventh colour, which no model knows."""
    colour_pair()  # is trained before
    monkeypatch.setitem(COLOURS, "cyan", CYAN)


def add(asker, name, *files, description=None, **more):
    said = None if description is None else {"description": json.dumps(description)}
    return asker.post(f"/classes/{name}/images", files=upload(*files), data=said, **more)


def photos(colour, count=3, seed=50):
    return [png(colour, i) for i in range(seed, seed + count)]


def answers(asker, colour, k=8):
    """Scores by class of new pictures of a colour."""
    files = upload(*photos(colour, 6, seed=90))
    results = asker.post("/predict/images", files=files, params={"top_k": k}).json()["results"]
    return [{each["class"]: each["score"] for each in one["predictions"]} for one in results]


def world():
    return linear_world(classes=10, unseen=3, per_class=10, noise=0.3)


def gaussian_engine():
    recognizer = Gaussian(small()).fit(world().for_training(), device="cpu").recognizer
    return Engine(recognizer, describer=Describer.of(recognizer))


# --- what is learnt -------------------------------------------------------------------------------


@pytest.mark.parametrize("described", [False, True])
def test_a_new_class_is_recognised_with_and_without_a_description(described):
    said = {"vector": [0.1, 0.8, 0.8]} if described else None
    with client(growing_engine()) as asker:
        assert asker.get("/health").json()["can_learn"] is True
        answer = add(asker, "cyan", *photos("cyan"), description=said)
        expected = {"name": "cyan", "seen": False, "added": True, "description": None}
        expected["display_name"] = None
        assert (answer.status_code, answer.json()) == (
            201,
            {**expected, "new": True, "warnings": []},
        )
        assert asker.get("/classes").json()["classes"][-1] == expected
        assert {max(each, key=each.__getitem__) for each in answers(asker, "cyan")} == {"cyan"}
        assert {max(each, key=each.__getitem__) for each in answers(asker, "red")} == {"red"}
        vector = asker.app.state.service.engine._served[0].descriptors[-1].tolist()
        assert vector == pytest.approx(said["vector"] if said else [0, 0, 0])
        explained = asker.post("/predict/images?explain=true", files=upload(png("cyan")))
        assert explained.status_code == 200
        assert 'mlis_class_changes_total{action="images"} 1.0' in asker.get("/metrics").text
        assert asker.delete("/classes/cyan").status_code == 204


def test_images_of_a_class_give_what_they_give_in_python():
    backbone, engine = MeanColours(), growing_engine()
    inputs = [backbone.prepare(picture("pink", seed)) for seed in range(50, 53)]
    expected, _ = add_images(*colour_pair(), {"pink": backbone(inputs)})
    with client(engine) as asker:
        answer = add(asker, "pink", *photos("pink"))
        assert (answer.json()["new"], answer.json()["added"]) == (False, False)
        assert asker.get("/classes").json()["count"] == 6
        grown = engine._served[0]
    rows = backbone([backbone.prepare(picture(name, 7)) for name in COLOURS])
    np.testing.assert_allclose(grown.scores(rows), expected.scores(rows), rtol=1e-4, atol=1e-3)
    assert grown.metadata.history[-1]["images"] == {"pink": 3}


def test_other_classes_of_a_gaussian_head_are_answered_as_before():
    data = world()
    rows, last = data.features[::3], data.class_names[-1]

    def asked(asker) -> tuple[list[dict[str, float]], list[float]]:
        """Probabilities among the other classes, and that they have together."""
        body = {"rows": rows.tolist(), "top_k": 20}
        results = asker.post("/predict/features", json=body).json()["results"]
        found = [{p["class"]: p["score"] for p in one["predictions"]} for one in results]
        rest = [1 - one.pop(last) for one in found]
        return [{n: s / sum(one.values()) for n, s in one.items()} for one in found], rest

    with client(gaussian_engine()) as asker:
        before, rest = asked(asker)
        body = {"rows": data.features[data.labels == 9][:3].tolist()}
        assert asker.post(f"/classes/{last}/features", json=body).json()["new"] is False
        after, left = asked(asker)
    compared = [i for i in range(len(rows)) if min(rest[i], left[i]) > 0.2]  # scores are rounded
    assert len(compared) > len(rows) / 2
    for i in compared:
        assert after[i] == pytest.approx(before[i], abs=1e-4)
    assert np.abs(np.subtract(rest, left)).max() > 0.01


def test_names_are_composed_and_may_have_slashes():
    with client(growing_engine()) as asker:
        assert add(asker, "cafe%CC%81%2Fimages", *photos("cyan")).json()["name"] == "café/images"
        assert add(asker, "caf%C3%A9/images", *photos("cyan")).json()["new"] is False
        body = {"name": "tea\u0301", "vector": [0.1, 0.8, 0.8]}
        assert asker.post("/classes", json=body).json()["name"] == "teá"


def described_engine():
    """Of a model that keeps its classes' sentences; a new class gets some vector."""
    data, good = world(), "A red bird with a yellow beak and a long tail."
    model = Gaussian(small()).fit(data.for_training(), device="cpu").recognizer
    texts = {name: [good] for name in model.class_names}
    metadata = dataclasses.replace(model.metadata, sources={"descriptors": {"texts": texts}})
    vector = data.descriptors[0] + np.linspace(0, 1, data.descriptors.shape[1], dtype=np.float32)
    describer = SimpleNamespace(vector=lambda name, description: vector)
    return Engine(replace(model, metadata=metadata), describer=describer), texts


def test_sentences_stay_where_images_are_learnt_without_any():
    engine, texts = described_engine()
    vague = Description(sentences=("a popular animal",))
    rows = world().features
    known = [Change("images", name, features=rows[:2]) for name in engine.catalogue.names[:7]]
    assert engine.change(known) == [None] * 7
    assert engine._served[0].metadata.sources["descriptors"]["texts"] == texts
    both = [Change("images", "new", said, features=rows[:2]) for said in (vague, Description())]
    assert engine.change(both) == [None, None]
    assert any("'a popular animal'" in text for text in both[0].warnings)
    assert engine.catalogue.descriptions["new"] == "a popular animal"
    kept = engine._served[0].metadata.sources["descriptors"]["texts"]
    assert kept == texts | {"new": ["a popular animal"]}


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "files", "description", "status", "said"),
    [
        ("pink", [], None, 415, "expected multipart/form-data"),
        ("pink", [b"x"] * 5, None, 422, "files: expected at most 4 items, got 5"),
        ("pink", [b"x" * 150_000], None, 413, "at most 0.1 MiB"),
        ("pink", ["good", ("b.png", b"x")], None, 422, "files.1 ('b.png'): not an image"),
        ("pink", ["good", "large"], None, 422, "120 × 100"),
        ("pink", ["good"], {"vector": [1, 0, 0]}, 409, "a class 'pink' exists already"),
        ("new", ["good"], {"vector": [1, 0]}, 422, "vector: expected 3 numbers, got 2"),
        ("new", ["good"], {"vektor": [1, 0, 0]}, 422, "description.vektor: Extra inputs"),
        ("new", ["good"], {"vector": ["a", 0, 0]}, 422, "description.vector.0: Input should be"),
        ("new", ["good"], {"sentences": ["a"]}, 422, "got sentences"),
        ("a%07b", ["good"], None, 422, "name: "),
        ("n" * 201, ["good"], None, 422, "name: "),
    ],
)
def test_what_is_refused_leaves_all_as_it_was(name, files, description, status, said):
    made = {"good": png("red"), "large": png("red", size=(120, 100))}
    files = [made.get(each, each) if isinstance(each, str) else each for each in files]
    limits = {"max_files": 4, "max_upload": 0.1, "max_megapixels": 0.01}
    with client(growing_engine(), limits) as asker:
        before = asker.app.state.service.engine._served
        assert said in refusal(add(asker, name, *files, description=description), status)
        assert asker.app.state.service.engine._served is before
        assert asker.app.state.service.room.used == 0


def test_another_field_or_a_long_description_is_refused():
    with client(growing_engine()) as asker:
        ask = {"url": "/classes/new/images", "files": upload(png("red"))}
        assert "descripton: Extra" in refusal(asker.post(**ask, data={"descripton": "{}"}), 422)
        assert "description: not JSON" in refusal(asker.post(**ask, data={"description": "a"}), 422)
        long = {"description": " " * 1_100_000}
        assert "description: expected at most 1 MiB" in refusal(asker.post(**ask, data=long), 413)


def test_models_and_servers_that_cannot():
    red = png("red")
    with client(Engine(colour_recognizer(), MeanColours())) as asker:
        assert "no exemplar buffer" in refusal(add(asker, "red", red), 409)
        assert asker.get("/health").json()["can_learn"] is False
    cosine = RidgePrototype(small()).fit(tiny().for_training(), device="cpu").recognizer
    with client(Engine(cosine, MeanColours())) as asker:
        assert "got 'cosine'" in refusal(add(asker, "red", red), 409)
    with client(Engine(feature_recognizer(), exemplars=colour_pair().exemplars)) as asker:
        assert "/classes/NAME/features" in refusal(add(asker, "red", red), 422)
    with client(growing_engine(), host="0.0.0.0") as asker:
        assert "--allow-changes" in refusal(add(asker, "red", red), 403)
    with client(growing_engine(), token="0123456789abcdef") as asker:
        refusal(add(asker, "red", red), 401)
        right = {"authorization": "Bearer 0123456789abcdef"}
        assert add(asker, "red", red, headers=right).status_code == 201
    with client(growing_engine(), {"max_classes": 6}) as asker:
        assert "6 classes, the maximum" in refusal(add(asker, "new", red), 422)
        assert add(asker, "red", red).status_code == 201


def test_features_that_are_refused():
    with client(gaussian_engine(), {"max_rows": 2}) as asker:
        row, ask = world().features[0].tolist(), "/classes/new/features"
        for body, said in (
            ({"rows": [row] * 3}, "at most 2 items"),
            ({"rows": [row[1:]]}, "rows.0: List should have at least"),
            ({"rows": [row, [1e20] * len(row)]}, "rows.1"),
            ({"rows": [row, [1e9] * len(row)]}, "row 1: expected values as in training"),
            ({"rows": [row], "vector": [1.0]}, "vector: expected"),
        ):
            assert said in refusal(asker.post(ask, json=body), 422)
        assert asker.get("/classes").json()["count"] == 10


# --- at once --------------------------------------------------------------------------------------


def test_two_clients_at_once_are_learnt_together_and_fail_alone(monkeypatch):
    fits, held, begun = [], threading.Event(), threading.Event()

    def counted(recognizer, exemplars, images, *more, **named):
        fits.append({name: len(rows) for name, rows in images.items()})
        begun.set()
        assert held.wait(60)
        return add_images(recognizer, exemplars, images, *more, **named)

    monkeypatch.setattr(engine_module, "add_images", counted)
    with client(growing_engine()) as asker, ThreadPoolExecutor() as pool:
        first = pool.submit(add, asker, "pink", png("pink", 50))
        assert begun.wait(60)
        assert asker.post("/predict/images", files=upload(png("red"))).status_code == 200
        names = ("cyan", "pink", "cyan", "pink")
        said = (None, None, None, {"vector": [1, 0, 0]})  # the last is refused alone
        jobs = [
            pool.submit(add, asker, name, png(name, i), description=words)
            for i, (name, words) in enumerate(zip(names, said, strict=True))
        ]
        service = asker.app.state.service
        while service._changer._queue.qsize() < 4:
            assert not any(job.done() for job in jobs)
        held.set()
        assert first.result(60).status_code == 201
        assert [job.result(60).status_code for job in jobs] == [201, 201, 201, 409]
        assert fits == [{"pink": 1}, {"cyan": 2, "pink": 1}]
        assert asker.get("/classes").json()["count"] == 7


def test_what_is_abandoned_or_fails_does_not_take_the_others_with_it(monkeypatch):
    engine, backbone = growing_engine(), MeanColours()
    rows = [backbone([backbone.prepare(picture(name))]) for name in ("cyan", "red", "red")]
    good, gone, far = (
        Change("images", name, features=x)
        for name, x in zip(("cyan", "pink", "new"), (*rows[:2], rows[2] + 1e9), strict=True)
    )

    def late(*given, **named):
        gone.abandoned.set()
        return add_images(*given, **named)

    monkeypatch.setattr(engine_module, "add_images", late)
    assert engine.change([good, gone]) == [None, None]
    assert engine._served[0].metadata.history[-1]["images"] == {"cyan": 1}
    good, failed = engine.change([good, far])  # alone
    assert good is None
    assert "'new': row 0" in str(failed)
    assert engine.catalogue.names[6:] == ("cyan",)
