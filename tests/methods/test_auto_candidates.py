"""Methods of the registry and of one's own as further candidates of the automatic choice."""

import copy
import itertools
import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from cli_cases import last_json, printed, refused, save_small
from mlis import GZSLClassifier, add_classes
from mlis.errors import DataError, SettingsError
from mlis.io.checkpoint import load_model, save_model
from mlis.io.onnx import export_onnx
from mlis.methods.auto import Auto, together
from mlis.methods.base import Job, Method
from mlis.methods.gaussian import Gaussian
from mlis.methods.registry import build_method
from mlis.model.heads import CosineHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Recognizer
from mlis.model.refiners import Rescaling
from mlis.serving.engine import Engine
from serve_cases import client
from simulated import linear_world, regions_world, small, tiny

SETTINGS = small(generation={"generator": "ridge"}, classification={"calibration": "validation"})
SHORT = {"steps": 20, "choices": (10, 20), "batch_size": 32, "hidden": 16}
DATA = linear_world(classes=12, unseen=4, per_class=10)
ROWS = np.asarray(DATA.for_testing().features)


@dataclass(frozen=True)
class Prototypes(Method):
    """Class means less a share of what the descriptor says: one alternative is a coin toss."""

    lost: float = 0.0

    @property
    def name(self) -> str:
        return "prototypes"

    def alternatives(self) -> list["Prototypes"]:
        return [replace(self, lost=lost) for lost in (1.0, self.lost)]

    def train(self, job: Job):
        scaler, data = job.prepare(self.config)
        a, own = data.descriptors, data.descriptors[data.y]
        x = data.x[torch.arange(len(data.y))]
        told = torch.linalg.lstsq(own, x - x.mean(0)).solution
        noise = torch.randn(len(a), x.shape[1], generator=torch.Generator().manual_seed(0))
        for one in self.among(job):
            prototypes = torch.lerp(a @ told, noise.to(told), one.lost)
            yield one, job.recognizer(scaler, CosineHead(x.mean(0) + prototypes))


@pytest.fixture(scope="module")
def unlike() -> dict[str, Recognizer]:
    """One of each scale of features: minmax, none and standard."""
    training = DATA.for_training()
    methods = {
        "gaussian": Gaussian(SETTINGS),
        "cngzsl": build_method("cngzsl", SETTINGS, **SHORT),
        "zicldm": build_method("zicldm-reconstruction", SETTINGS, **SHORT, common=8, relation=8),
    }
    return {k: one.fit(training, device="cpu").recognizer for k, one in methods.items()}


# --- one scale of features ------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["none", "sqrt"])
def test_scaled_features_are_rescaled(transform):
    rows = np.random.default_rng(0).random((50, 6)).astype(np.float32) * [1, 2, 3, 40, 500, 1]
    rows[:, 5] = 0.7  # constant in training
    rows = rows.astype(np.float32)
    settings = SETTINGS.replace({"preprocessing": {"feature_transform": transform}})
    scalers = [
        FeatureScaler.fit(
            rows, settings.replace({"preprocessing": {"feature_scaling": one}}).preprocessing
        )
        for one in ("minmax", "standard", "none")
    ]
    x = torch.from_numpy(rows)
    for given, wanted in itertools.permutations(scalers, 2):
        found = Rescaling.between(given, wanted, x.dtype)(given(x))
        torch.testing.assert_close(found, wanted(x), rtol=1e-5, atol=1e-5)


def test_unlike_preprocessing_is_refused():
    given, wanted = FeatureScaler.identity(3), FeatureScaler.identity(4)
    with pytest.raises(ValueError, match="one transform and size"):
        Rescaling.between(given, wanted, torch.float32)


def test_members_of_unlike_scale_are_averaged_saved_exported_and_served(unlike, tmp_path):
    for order in (list(unlike), list(unlike)[::-1]):
        ensemble = together([unlike[one] for one in order], [0.5, 2.0, 1.5])
        wanted = sum(
            weight * unlike[one].scores(ROWS)
            for one, weight in zip(order, [0.5, 2.0, 1.5], strict=True)
        )
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(ensemble.scores(ROWS), wanted, rtol=0, atol=1e-4 * scale)
        exact = copy.deepcopy(ensemble).double()  # as estimators have it
        np.testing.assert_allclose(exact.scores(ROWS), wanted, rtol=0, atol=1e-4 * scale)
    save_model(ensemble, tmp_path / "model")
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.scores(ROWS), ensemble.scores(ROWS))
    export_onnx(ensemble, tmp_path / "model.onnx")  # compares with PyTorch
    with client(Engine(again)) as asker:
        asked = {"rows": ROWS[:5].tolist(), "top_k": 1}
        found = asker.post("/predict/features", json=asked).json()["results"]
    best = ensemble.predict(ROWS[:5])
    assert [one["predictions"][0]["class"] for one in found] == [DATA.class_names[i] for i in best]


def test_classes_are_added_where_every_member_can_take_them(unlike):
    training = DATA.for_training()
    ridge = build_method("ridge", SETTINGS).fit(training, device="cpu")
    standard = SETTINGS.replace({"preprocessing": {"feature_scaling": "standard"}})
    other = build_method("ridge", standard).fit(training, device="cpu").recognizer
    new = (["okapi"], DATA.descriptors[:2].mean(0, keepdims=True))
    ensemble = together([ridge.recognizer, other], [1.0, 1.0])
    grown, _ = add_classes(ensemble, ridge.exemplars, *new)
    assert grown.scores(ROWS).shape == (len(ROWS), len(DATA.class_names) + 1)
    old = grown.scores(ROWS)[:, :-1].argmax(1) == ensemble.scores(ROWS).argmax(1)
    assert old.mean() > 0.8  # the exemplars are rescaled as the images are
    ensemble = together([ridge.recognizer, unlike["cngzsl"]], [1.0, 1.0])
    with pytest.raises(DataError, match="'cosine'"):
        add_classes(ensemble, ridge.exemplars, *new)


# --- choosing -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen():
    further = {
        "cngzsl": build_method("cngzsl", SETTINGS, **SHORT),
        "good": Prototypes(SETTINGS),
        "bad": Prototypes(SETTINGS, lost=1.0),
    }
    return Auto(SETTINGS, budget=math.inf, further=further).choose(DATA, device="cpu")


def test_candidates_are_tried_on_the_same_splits_with_all_alternatives(chosen):
    tried = chosen.report["tried"]
    assert list(tried) == ["gaussian", "ridge", "mlis", "cngzsl", "good", "bad"]
    assert all(len(one["H"]) == 3 for one in tried.values())
    assert {tried[name]["family"] for name in ("cngzsl", "good", "bad")} == {
        *("cngzsl", "good", "bad")
    }
    assert tried["cngzsl"]["options"]["steps"] in SHORT["choices"]
    assert tried["good"]["options"]["lost"] == 0.0


def test_a_hopeless_candidate_is_not_kept_and_the_model_has_the_kept_ones(chosen):
    kept = chosen.report["kept"]
    assert "bad" not in kept
    members = getattr(chosen.recognizer.head, "members", [chosen.recognizer])
    assert len(members) == len(kept)
    assert chosen.method.options["candidates"] == ["cngzsl", "good", "bad"]


def test_a_candidate_can_be_kept_alone():
    """Where descriptors say nothing, but one knows; such a world is for this test alone."""
    noisy = linear_world(classes=12, unseen=4, per_class=30, noise=0.5)
    a = np.random.default_rng(0).normal(size=noisy.descriptors.shape).astype(np.float32)
    world = replace(noisy, descriptors=a)

    @dataclass(frozen=True)
    class Knowing(Prototypes):
        def train(self, job: Job):
            scaler, _ = job.prepare(self.config)
            rows = [noisy.class_names.index(name) for name in job.training.class_names]
            means = np.stack([noisy.features[noisy.labels == c].mean(0) for c in rows])
            for one in self.among(job):
                yield one, job.recognizer(scaler, CosineHead(scaler(torch.from_numpy(means))))

    method = Auto(SETTINGS, budget=math.inf, further={"knowing": Knowing(SETTINGS)})
    found = method.choose(world, device="cpu")
    assert found.report["kept"] == {"knowing": 1.0}
    assert isinstance(found.recognizer.head, CosineHead)


def test_without_candidates_nothing_is_different():
    method = build_method("auto", SETTINGS)
    assert method == build_method("auto", SETTINGS, candidates=())
    assert method.options == {"budget": 60.0, "splits": 3}


def test_the_transform_is_the_portfolios():
    """Square roots are tried for all; a member must see what the others see."""
    config = SETTINGS.replace({"preprocessing": {"feature_transform": "auto"}})
    method = build_method("auto", config, budget=math.inf, candidates=["prototype"])
    report = method.choose(DATA, device="cpu").report
    seen = report["tried"]["prototype"]
    one = replace(
        config,
        preprocessing=replace(config.preprocessing, feature_transform=report["feature_transform"]),
    )
    again = build_method("auto", one, budget=math.inf, candidates=["prototype"])
    assert again.choose(DATA, device="cpu").report["tried"]["prototype"]["H"] == seen["H"]


def test_a_candidate_that_the_budget_leaves_out_is_named(caplog):
    method = build_method("auto", SETTINGS, budget=1e-9, candidates=["eszsl", "prototype"])
    assert list(method.choose(tiny(), device="cpu").report["tried"]) == ["gaussian"]
    for name in ("eszsl", "prototype"):
        assert f"{name} is left out" in caplog.text
    assert "mlis is left out" not in caplog.text  # not asked for: a matter of the log file


def test_the_budget_binds_a_candidate_and_cheaper_ones_are_tried_after_it(caplog):
    """The training would take days; what is tried is a matter of the machine's speed."""
    further = {
        "endless": build_method("zlap", SETTINGS, steps=10_000_000),
        "prototype": build_method("prototype", SETTINGS),
    }
    found = Auto(SETTINGS, budget=4.0, further=further).choose(tiny(), device="cpu")
    assert "endless is left out" in caplog.text
    assert "endless" not in found.report["tried"]
    assert "prototype" in found.report["tried"] or "prototype is left out" in caplog.text


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaussian", "ridge", "mlis", "cosine", "auto"])
def test_what_is_tried_anyway_is_no_candidate(name):
    with pytest.raises(SettingsError, match=f"candidates.*'{name}'"):
        build_method("auto", candidates=(name,))


def test_unknown_candidates_are_refused():
    with pytest.raises(SettingsError, match="got 'svm'"):
        build_method("auto", candidates=("svm",))
    with pytest.raises(SettingsError, match=r"'gaussian'.*candidates"):
        build_method("gaussian", candidates=("zlap",))


def test_readers_of_regions_are_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(Gaussian, "train", lambda *_: pytest.fail("training has begun"))
    method = build_method("auto", SETTINGS, candidates=("eszsl", "dvbe"))
    with pytest.raises(SettingsError, match="'dvbe' reads each of the 4 regions"):
        method.choose(regions_world(), device="cpu")


# --- command line and estimator -------------------------------------------------------------------


def test_fit_records_candidates_and_resumes_with_them(tmp_path, capsys):
    data, run = save_small(tmp_path / "data"), tmp_path / "run"
    flags = ("--candidates", "prototype,eszsl", "--budget", "none", "--generator", "ridge")
    flags = (*flags, "--refinement-steps", "5", "--refinement-hidden", "8", "--device", "cpu")
    arguments = ("fit", data, "-o", run, *flags, "--precision", "float32", "--json")
    result = last_json(printed(capsys, *arguments))
    plan = json.loads((run / "run.json").read_text())
    assert plan["method"] == "auto"
    assert plan["options"]["candidates"] == ["prototype", "eszsl"]
    row = json.loads((run / "seed-0" / "auto" / "result.json").read_text())
    assert set(row["choice"]["tried"]) == {"gaussian", "ridge", "mlis", "prototype", "eszsl"}
    assert row["options"]["candidates"] == ["prototype", "eszsl"]
    (run / "results.json").unlink()
    (run / "seed-0" / "auto" / "result.json").unlink()  # as if it was killed before
    again = last_json(printed(capsys, "fit", "--resume", run, "--json"))
    assert again["H"] == result["H"]


def test_candidates_where_they_have_no_effect_are_refused(tmp_path, capsys):
    data, run = save_small(tmp_path / "data"), tmp_path / "run"
    start = ("fit", data, "-o", run, "--candidates")
    assert "--candidates" in refused(capsys, *start, "zlap", "--method", "eszsl")
    assert "'svm'" in refused(capsys, *start, "svm")
    assert "'ridge'" in refused(capsys, *start, "ridge")
    assert not run.exists()
    assert "--candidates" in refused(capsys, "fit", "--resume", run, "--candidates", "zlap")


def test_the_classifier_takes_names():
    model = GZSLClassifier(candidates=("prototype",), budget=1000, random_state=0, config=SETTINGS)
    seen = np.flatnonzero(np.isin(DATA.labels, DATA.seen_classes))
    model.fit(DATA.features[seen], DATA.labels[seen], descriptors=DATA.descriptors)
    assert list(model.report_["tried"])[-1] == "prototype"
