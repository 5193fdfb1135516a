"""Every registered method gives a recognizer that is saved, served and exported like any other."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

import mlis.cli
from cli_cases import last_json, printed, refused
from method_cases import choose_and_test
from mlis.config import Config, Generation
from mlis.data import load_dataset
from mlis.data.io.folder import save_dataset
from mlis.encoder.metric_losses import LOSSES
from mlis.errors import ModelFileError, SettingsError
from mlis.experiments.budget import QUICK_OPTIONS
from mlis.generators.registry import GENERATORS
from mlis.generators.ridge import class_means
from mlis.incremental import add_classes
from mlis.io.checkpoint import load_exemplars, load_model, save_model
from mlis.io.model_card import model_card
from mlis.io.onnx import export_onnx
from mlis.io.run_plan import RunPlan, write_sealed
from mlis.methods.base import Job, Method
from mlis.methods.registry import METHODS, build_method
from mlis.model.heads import CosineHead
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit
from mlis.protocol import Chosen, choose
from mlis.serving.engine import Engine
from serve_cases import client
from simulated import linear_world, small

DATA = linear_world(classes=9, unseen=3, signal=6, nuisance=2)  # features as long as descriptors
ROWS = DATA.for_testing().features
CALIBRATED = {"classification": {"calibration": "validation"}}
OPTIONS = {
    name: {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    for name, values in QUICK_OPTIONS.items()
}


@cache
def chosen(name: str) -> Chosen:
    method = build_method(name, small(**CALIBRATED), **OPTIONS.get(name, {}))
    return method.choose(DATA, seed=1, device="cpu")


# --- every method ---------------------------------------------------------------------------------


def test_unknown_names_and_options_are_refused():
    with pytest.raises(SettingsError, match=r"expected one of cosine, .*, mlis, auto, got 'svm'"):
        build_method("svm")
    with pytest.raises(SettingsError, match=r"options of method 'eszsl': .*'gama'"):
        build_method("eszsl", gama=1.0)


def test_a_reconstruction_is_named_as_one():
    """Both in the registry and in tables; none has the name of a published row."""
    for key, method in METHODS.items():
        name, after = method().name, re.compile(r"after .+ \(reconstruction\)")
        assert (after.fullmatch(name) is not None) == method.reconstruction, key
        assert key.endswith("-reconstruction") == method.reconstruction


@pytest.mark.parametrize("name", METHODS)
def test_a_fit_is_a_recognizer_that_can_be_saved_and_loaded(name, tmp_path):
    recognizer = chosen(name).recognizer
    assert type(recognizer) is Recognizer
    save_model(recognizer, tmp_path / "model")
    again = load_model(tmp_path / "model")
    np.testing.assert_allclose(again.scores(ROWS), recognizer.scores(ROWS), atol=1e-6)
    assert again.calibration == recognizer.calibration
    assert again.class_names == DATA.class_names


@pytest.mark.parametrize("name", METHODS)
def test_it_is_served(name):
    recognizer = chosen(name).recognizer
    with client(Engine(recognizer)) as asker:
        asked = {"rows": ROWS[:5].tolist(), "top_k": 1}
        found = asker.post("/predict/features", json=asked).json()["results"]
    scores = recognizer.scores(ROWS[:5]).astype(float) / recognizer.temperature
    probabilities = scipy.special.softmax(scores, axis=1)
    for one, row in zip(found, probabilities, strict=True):
        assert one["predictions"][0]["class"] == DATA.class_names[row.argmax()]
        assert one["predictions"][0]["score"] == pytest.approx(row.max(), abs=1e-5)


# one of each kind of refiner and head that no other test exports
GRAPHS = {"prototype", "cegzsl", "zicldm", "tcn", "cada-vae", "tf-vaegan", "gcm-cf"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in GRAPHS else [pytest.mark.slow]) for n in METHODS]
)
def test_it_is_exported(name, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    recognizer, path = chosen(name).recognizer, tmp_path / "model.onnx"
    export_onnx(recognizer, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["scores"], {"features": ROWS})
    np.testing.assert_allclose(found, recognizer.scores(ROWS), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_gives_the_same_recognizer_again(name):
    found = [chosen(name).method.fit(DATA.for_training(), seed=1, device="cpu") for _ in range(2)]
    first, second = (list(one.recognizer.state_dict().values()) for one in found)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", METHODS)
def test_classes_are_added_where_there_is_a_generator(name, tmp_path):
    """The exemplar buffer is kept, saved with the model, and suffices."""
    found = chosen(name)
    trained = found.report["kept"] if name == "auto" else (name,)
    generating = {"ridge", "raw", "cegzsl", "icce-reconstruction", "mlis"}
    assert (found.exemplars is not None) == bool(generating.intersection(trained))
    save_model(found.recognizer, tmp_path, found.exemplars)
    exemplars = load_exemplars(tmp_path)
    assert (exemplars is None) == (found.exemplars is None)
    if exemplars is None:
        return
    grown, _ = add_classes(
        load_model(tmp_path), exemplars, ["new"], DATA.descriptors[:2].mean(0, keepdims=True)
    )
    assert grown.class_names == (*DATA.class_names, "new")
    assert np.isfinite(grown.scores(ROWS)).all()


def test_no_exemplars_where_none_are_asked_for():
    method = build_method("ridge", small())
    assert method.choose(DATA, device="cpu", exemplars=False).exemplars is None
    assert method.fit(DATA.for_training(), device="cpu", exemplars=False).exemplars is None


# --- equal to what they were ----------------------------------------------------------------------


@pytest.mark.slow
def test_closed_forms_on_real_features(xlsa17):
    """Scores of FLO's test rows, against the formulas in float64."""
    data = load_dataset("FLO", data_root=xlsa17, features_file="efficientnet_lite2.mat")
    training, rows = data.for_training(), data.for_testing().features[:500]
    x, y = np.asarray(training.features, dtype=np.float64), training.labels
    low, span = x.min(0), x.max(0) - x.min(0)
    factor = np.where(span > 0, 1 / np.where(span > 0, span, 1), 0)
    x, test = (x - low) * factor, (rows - low) * factor
    a = training.descriptors.astype(np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    seen = np.flatnonzero(training.seen_mask)
    config = Config(precision="float64").replace(
        {
            "preprocessing": {"feature_transform": "none"},
            "generation": {"ridge_kernel": "linear", "ridge_lambda": 0.001},
        }
    )

    found = build_method("prototype", config).fit(training, device="cpu").recognizer.scores(rows)
    means = np.stack([x[y == c].mean(0) for c in seen])
    dual = np.linalg.solve(a[seen] @ a[seen].T + 0.001 * np.eye(len(seen)), means - means.mean(0))
    prototypes = means.mean(0) + a @ a[seen].T @ dual
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (test, prototypes)]
    np.testing.assert_allclose(found, units[0] @ units[1].T, atol=1e-5)

    found = build_method("eszsl", config, gamma=100.0, lambda_=1.0).fit(training, device="cpu")
    signs = np.where(y[:, None] == seen, 1.0, -1.0)
    left = np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ signs @ a[seen])
    V = np.linalg.solve(a[seen].T @ a[seen] + np.eye(a.shape[1]), left.T).T
    np.testing.assert_allclose(found.recognizer.scores(rows), test @ V @ a.T, atol=1e-5)


# --- adding one -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeenMeans(Method):
    """A toy method: the mean of the seen classes, and for the others that of all."""

    shrink: float = 0.0

    @property
    def name(self) -> str:
        return "seen means"

    def alternatives(self) -> list["SeenMeans"]:
        return [replace(self, shrink=shrink) for shrink in (0.0, 0.5)]

    def train(self, job: Job) -> Iterator[tuple["SeenMeans", Recognizer]]:
        scaler, data = job.prepare(self.config)
        means = class_means(data.x, data.y, data.num_classes)
        means[data.unseen] = means[data.seen].mean(0)
        for one in self.among(job):
            shrunk = torch.lerp(means, means.mean(0), one.shrink)
            yield one, job.recognizer(scaler, CosineHead(shrunk))


def test_a_method_is_one_class_and_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "means", SeenMeans)
    _, tested = choose_and_test(build_method("means", small()), DATA)
    assert tested.S is not None
    assert tested.S > 22  # twice as good as chance
    save_dataset(DATA, tmp_path / "data")
    arguments = ["fit", str(tmp_path / "data"), "-o", str(tmp_path / "run"), "--method", "means"]
    assert mlis.cli.main([*arguments, "--precision", "float32", "--device", "cpu"]) == 0
    model = load_model(tmp_path / "run" / "seed-0" / "means" / "model")
    assert model.head.kind == "cosine"
    monkeypatch.undo()
    with pytest.raises(SettingsError, match="got 'means'"):
        build_method("means")


class NoisyDescriptors:
    """A toy generator: the descriptor's first number in every feature, and noise."""

    def __init__(self, features: int):
        self.features = features

    def sampler(self, descriptors: Tensor):
        def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
            noise = torch.rand((len(labels), self.features), generator=rng, device=rng.device)
            return descriptors[labels, :1].abs() + 0.1 * noise

        return sample


def test_a_generator_is_one_class_one_line_and_its_name(monkeypatch, caplog):
    choices = Generation.__dataclass_fields__["generator"]
    monkeypatch.setitem(GENERATORS, "toy", lambda data, *_: NoisyDescriptors(data.x.shape[1]))
    monkeypatch.setattr(choices, "type", Literal["wgan-gp", "ridge", "f-vaegan", "toy"])
    config = small(generation={"generator": "toy"})
    trained = fit(DATA.for_training(), config, device="cpu")
    assert np.isfinite(trained.recognizer.scores(ROWS)).all()
    assert trained.exemplars is None  # nothing is known of how to keep it
    assert "no exemplar buffer: expected a generator of mlis, got NoisyDescriptors" in caplog.text
    chosen = build_method("raw", config).choose(DATA, device="cpu")
    assert chosen.method.name.endswith("toy generator")
    with pytest.raises(SettingsError, match="schedule='joint' alternates"):
        small(generation={"generator": "toy"}, refinement={"schedule": "joint"})
    monkeypatch.undo()
    with pytest.raises(SettingsError, match=r"generation.generator must be"):
        small(generation={"generator": "toy"})


def test_a_loss_is_one_function_and_one_line(monkeypatch):
    def spread(similarity: Tensor, labels: Tensor) -> Tensor:
        different = labels[:, None] != labels[None, :]
        return similarity[different].mean() - similarity[~different].mean()

    monkeypatch.setitem(LOSSES, "spread", lambda settings: spread)
    config = small(generation={"generator": "ridge"}, refinement={"loss": "spread"})
    found = fit(DATA.for_training(), config, device="cpu").recognizer.scores(ROWS)
    usual = fit(DATA.for_training(), small(generation={"generator": "ridge"}), device="cpu")
    assert np.abs(found - usual.recognizer.scores(ROWS)).max() > 1e-6
    monkeypatch.undo()
    with pytest.raises(SettingsError, match=r"refinement.loss='spread': expected circle, "):
        fit(DATA.for_training(), config, device="cpu")


# --- mlis fit --method ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine", "prototype", "eszsl", "ridge"])
def test_fit_trains_and_saves_it(name, tmp_path, capsys):
    save_dataset(DATA, tmp_path / "data")
    run = tmp_path / "run"
    flags = ["-o", str(run), "--method", name, "--precision", "float32", "--device", "cpu"]
    found = last_json(printed(capsys, "fit", str(tmp_path / "data"), *flags, "--json"))
    config = Config(precision="float32")
    measured, tested = choose_and_test(build_method(name, config), DATA)
    assert found["H"] == pytest.approx(tested.H)
    model = load_model(run / "seed-0" / name / "model")
    np.testing.assert_allclose(model.scores(ROWS), measured.recognizer.scores(ROWS), atol=1e-5)
    row = json.loads((run / "seed-0" / name / "result.json").read_text())
    assert row["method"] == name
    assert row["options"] == measured.method.options
    assert f"recognition, method {name}." in model_card(model)


def test_a_finished_run_is_resumed_without_training(tmp_path, capsys, monkeypatch):
    save_dataset(DATA, tmp_path / "data")
    run, flags = tmp_path / "run", ["--precision", "float32", "--device", "cpu", "--seeds", "0,1"]
    flags = [*flags, "--method", "prototype", "--json"]
    first = last_json(printed(capsys, "fit", str(tmp_path / "data"), "-o", str(run), *flags))
    (run / "seed-1" / "prototype" / "result.json").unlink()
    seeds: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Chosen:
        seeds.append(options["seed"])
        return choose(*arguments, **options)

    monkeypatch.setattr(Method, "choose", counted)
    again = last_json(printed(capsys, "fit", "--resume", str(run), "--json"))
    assert seeds == [1]
    assert again["H"] == first["H"]
    assert "--method" in refused(capsys, "fit", "--resume", str(run), "--method", "eszsl")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "svm"], "expected one of cosine, .*got 'svm'"),
        (["--method", "eszsl", "--components", "ml"], "--components: only mlis has them"),
    ],
)
def test_what_does_not_fit_is_refused(flags, said, small_folder, tmp_path: Path, capsys):
    line = refused(capsys, "fit", str(small_folder), "-o", str(tmp_path / "run"), *flags)
    assert re.search(said, line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["../../other", "", 5])
def test_a_run_record_names_no_other_folder(method, tmp_path):
    plan = RunPlan({"name_or_path": "x"}, "0" * 64, Config(), method="eszsl")
    write_sealed(tmp_path / "run.json", {**plan.to_dict(), "method": method})
    with pytest.raises(ModelFileError, match=r"run\.json is not a run's record"):
        RunPlan.read(tmp_path)
