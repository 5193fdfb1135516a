"""What the methods that train one network share: settings, loop, lengths, and that each learns."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from mlis.compute.random import stream
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.errors import DivergenceError, SettingsError
from mlis.evaluation import best_calibration, evaluate
from mlis.methods.cngzsl import CNGZSL
from mlis.methods.network_method import NetworkMethod, NetworkTrainer
from mlis.methods.sje import SJE
from mlis.methods.vgse import VGSE
from mlis.methods.zicldm import ZICLDMReconstruction
from mlis.methods.zlap import ZLAP
from mlis.model.recognizer import Recognizer
from simulated import linear_world, tiny

CONFIG = Config(precision="float32").replace({"generation": {"generator": "ridge"}})
SIZES = {
    "zlap": (ZLAP, {"hidden": 64}),
    "cngzsl": (CNGZSL, {"hidden": 64}),
    "zicldm-reconstruction": (ZICLDMReconstruction, {"common": 48, "hidden": 48, "relation": 24}),
    "sje": (SJE, {}),
    "vgse": (VGSE, {}),
}
LEARNING = {"steps": 150, "choices": (50, 150), "batch_size": 64, "learning_rate": 5e-3}


def build(name: str, **changes) -> NetworkMethod:
    kind, sizes = SIZES[name]
    return kind(CONFIG, **{**sizes, **LEARNING, **changes})


def world(around_zero: bool = False) -> GZSLDataset:
    """Of positive features, or the same of both signs."""
    data = linear_world(noise=0.1)
    return replace(data, features=data.features - np.float32(1)) if around_zero else data


def best_H(scores: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> float:
    """At the best constant: how well the classes are told apart, not how the constant is chosen."""
    constant = best_calibration(scores, labels, seen)
    names = [str(i) for i in range(len(seen))]
    return evaluate(scores - constant * seen, labels, seen, names).H or 0.0


@cache
def fitted(name: str, around_zero: bool = False) -> Recognizer:
    return build(name).fit(world(around_zero).for_training(), device="cpu").recognizer


# --- each of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("around_zero", [False, True], ids=["positive", "signed"])
@pytest.mark.parametrize("name", SIZES)
def test_they_recognise_unseen_classes(name, around_zero):
    """Of 24 classes, 6 unseen; H by chance is 4. Raw features far from zero are alike by cosine."""
    test = world(around_zero).for_testing()
    scores = fitted(name, around_zero).scores(test.features)
    found = best_H(scores, test.labels, test.seen_mask)
    assert found > (35 if name == "cngzsl" and not around_zero else 55)


@pytest.mark.parametrize("name", SIZES)
def test_a_row_is_scored_by_itself_and_by_nothing_random(name):
    recognizer = fitted(name)
    rows = world().for_testing().features
    torch.manual_seed(1)
    whole = recognizer.scores(rows)
    torch.manual_seed(2)
    for start in (0, 5, 17):
        alone = recognizer.scores(rows[start : start + 1])
        np.testing.assert_allclose(alone[0], whole[start], rtol=1e-4, atol=1e-4)
    others = rows.copy()
    others[1:] = others[1:] ** 2
    np.testing.assert_allclose(recognizer.scores(others)[0], whole[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_choices_are_what_a_training_of_so_many_steps_gives(name):
    training = tiny().for_training()
    method = build(name, steps=5, choices=(2, 5), batch_size=8, decay=0.5, decay_every=3)
    before = torch.random.get_rng_state()
    found = list(method.candidates(training, seed=1, device="cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [one for one, _ in found] == list(method.alternatives())
    assert {one.steps for one, _ in found} == {2, 5}
    for one, recognizer in (found[0], found[-1]):
        alone = one.fit(training, seed=1, device="cpu").recognizer.state_dict()
        for key, value in recognizer.state_dict().items():
            assert torch.equal(value, alone[key]), key
    other = found[0][0].fit(training, seed=2, device="cpu").recognizer.state_dict()
    assert any(not torch.equal(v, other[k]) for k, v in found[0][1].state_dict().items())


@pytest.mark.parametrize("name", SIZES)
def test_without_unseen_classes_seen_ones_are_learned(name):
    data = linear_world(noise=0.1, classes=8, unseen=0)
    recognizer = build(name).fit(data.for_training(), device="cpu").recognizer
    test = data.for_testing()
    assert (recognizer.predict(test.features) == test.labels).mean() > 0.5


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (ZLAP, {"steps": 0}, r"ZLAP\.steps: expected a whole number from 1 .*got 0"),
        (ZLAP, {"steps": 2.5}, r"ZLAP\.steps.*got 2\.5"),
        (ZLAP, {"ratio": 0.0}, r"ZLAP\.ratio.*got 0\.0"),
        (ZLAP, {"temperature": -1}, r"ZLAP\.temperature.*got -1"),
        (ZLAP, {"choices": ()}, r"ZLAP\.choices"),
        (ZLAP, {"choices": (10, 0)}, r"ZLAP\.choices.*got 0"),
        (CNGZSL, {"spread": "range"}, r"CNGZSL\.spread: expected one of 'variance', 'deviation'"),
        (CNGZSL, {"learning_rate": float("nan")}, r"CNGZSL\.learning_rate.*got nan"),
        (ZICLDMReconstruction, {"common": True}, r"ZICLDMReconstruction\.common.*got True"),
        (SJE, {"loss": "hinge"}, r"SJE\.loss.*got 'hinge'"),
        (SJE, {"beta1": 1.0}, r"SJE\.beta1.*got 1\.0"),
        (VGSE, {"alpha": 0.5}, r"VGSE\.alpha.*got 0\.5"),
        (VGSE, {"batch_size": "64"}, r"VGSE\.batch_size.*got '64'"),
    ],
)
def test_bad_settings_are_refused(kind, changes, said):
    with pytest.raises(SettingsError, match=said):
        kind(CONFIG, **changes)


# --- the loop -----------------------------------------------------------------------------------


def trainer(**changes) -> NetworkTrainer:
    network = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight.zero_()

    def losses(rng: torch.Generator) -> dict[str, torch.Tensor]:
        noise = 1 + torch.rand(3, generator=rng, dtype=torch.float64)
        return {"one": (network.weight * noise).sum(), "two": 0.5 * network.weight.sum()}

    return NetworkTrainer(network, losses, SJE(CONFIG, **changes), stream(0, "test"))


def test_the_learning_rate_falls_by_its_factor():
    """Of a gradient that is constant, Adam's step is the learning rate: 1 + 1 + ½ + ½ + ¼."""
    one = trainer(learning_rate=1.0, decay=0.5, decay_every=2, beta1=0.0, beta2=0.0)
    for _ in range(5):
        one.step()
    torch.testing.assert_close(one.network.weight.detach(), torch.full((1, 3), -3.25).double())


def test_a_training_goes_on_from_its_state():
    one, two = trainer(decay=0.5, decay_every=2), trainer(decay=0.5, decay_every=2)
    for _ in range(3):
        one.step()
    two.load_state({name: value.clone() for name, value in one.state().items()})
    for _ in range(2):
        assert one.step() == two.step()
    assert torch.equal(one.network.weight, two.network.weight)
    third = trainer()
    third.load_outcome(one.outcome())
    assert torch.equal(one.network.weight, third.network.weight)


def test_divergence_is_named():
    method = build("zicldm-reconstruction", learning_rate=1e30, steps=20)
    with pytest.raises(DivergenceError, match="zicldm diverged"):
        method.fit(tiny().for_training(), device="cpu")
