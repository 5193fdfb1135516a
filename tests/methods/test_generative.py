"""What all VAE- and GAN-based methods have in common: they learn, take any features, are chosen."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.data.io.benchmarks import TABLE_1
from mlis.data.io.folder import save_dataset
from mlis.data.load import load_dataset
from mlis.errors import DivergenceError, SettingsError
from mlis.evaluation import evaluate
from mlis.experiments.budget import QUICK_OPTIONS
from mlis.methods.registry import METHODS, build_method
from mlis.model.recognizer import Recognizer
from mlis.pipeline import Trained
from simulated import linear_world, small, tiny

GAN = {"batch_size": 64, "hidden": 64, "learning_rate": 2e-3, "critic_steps": 2}
VAEGAN = {**GAN, "critic_hidden": 64, "noise": 8, "adversarial_weight": 0.3}
ENOUGH: dict[str, dict[str, Any]] = {  # to learn the simulated world
    "cada-vae": {
        **{"epochs": 100, "batch_size": 60, "latent": 16, "learning_rate": 3e-3},
        **{"visual_encoder": 64, "visual_decoder": 64},
        **{"semantic_encoder": 64, "semantic_decoder": 64},
        **{"seen_latents": 20, "unseen_latents": 40},
    },
    "hsva": {
        **{"epochs": 60, "batch_size": 60, "latent": 16, "learning_rate": 6e-3, "hidden": 64},
        **{"structure": 64, "classifier_hidden": 16, "projections": 16},
        **{"seen_latents": 20, "unseen_latents": 40},
    },
    "tcn": {
        **{"steps": 400, "batch_size": 32, "hidden": 64, "relation_hidden": 64},
        **{"learning_rate": 3e-3},
    },
    "sdgzsl": {
        **{"steps": 300, "hidden": 64, "code": 32, "latent": 8, "semantic": 32},
        **{"learning_rate": 2e-3, "encoder_dropout": 0.1, "decoder_dropout": 0.1},
        "autoencoder_dropout": 0.1,
    },
    "lisgan": {**GAN, "steps": 400, "class_samples": 4},
    "f-vaegan": {**VAEGAN, "steps": 250},
    "tf-vaegan": {**VAEGAN, "steps": 150, "decoder_rate": 2e-3},
    "free": {**VAEGAN, "steps": 250, "margin": 2.0, "refinement_rate": 2e-3},
    "gcm-cf": {
        **{**VAEGAN, "steps": 200, "decoder_rate": 2e-3, "counterfactuals": 8},
        **{"kl_weight": 1.0, "kl_warm_up": 20},
    },
    "keshari-reconstruction": {
        **{"steps": 200, "hidden": 64, "latent": 8, "embedding": 64, "learning_rate": 2e-3},
        "warm_up": 40,
    },
    "li-reconstruction": {
        **{"epochs": 60, "batch_size": 60, "latent": 32, "learning_rate": 3e-3},
        **{"visual_encoder": 64, "visual_decoder": 64},
        **{"semantic_encoder": 64, "semantic_decoder": 64},
        **{"seen_latents": 20, "unseen_latents": 40},
    },
    "tdcss-reconstruction": {"steps": 60, "hidden": 64, "learning_rate": 3e-3},
    "icce-reconstruction": {
        **{"steps": 30, "choices": (30,), "batch_size": 64, "embedding": 64, "learning_rate": 3e-3},
    },
    "taco-reconstruction": {
        **{**GAN, "steps": 250, "critic_steps": 1, "learning_rate": 4e-3},
        "inference_weight": 3.0,
    },
}
NAMES = tuple(ENOUGH)


def fitted(name: str, data: GZSLDataset, **options: Any) -> Recognizer:
    method = build_method(name, small(), **{**QUICK_OPTIONS[name], **options})
    return method.fit(data.for_training(), seed=1, device="cpu").recognizer


@cache
def quick(name: str) -> Recognizer:
    return fitted(name, tiny())


def signed() -> GZSLDataset:
    data = tiny()
    return replace(data, features=data.features - data.features.mean(0))


@pytest.mark.parametrize("name", NAMES)
def test_it_tells_unseen_classes_apart(name):
    """Of 24 classes, 6 unseen: by chance 17% among the unseen ones, H about 4."""
    data = linear_world(noise=0.1)
    sizes = {"hidden": 64, "noise": 8, "steps": 30}  # of the generator that some share with MLIS
    config = Config(precision="float32").replace(
        {"classification": {"synthetic_per_unseen": 40}, "generation": sizes}
    )
    recognizer = (
        build_method(name, config, **ENOUGH[name]).fit(data.for_training(), device="cpu").recognizer
    )
    test = data.for_testing()
    scores = recognizer.scores(test.features)
    found = evaluate(scores, test.labels, test.seen_mask, test.class_names)
    assert found.S is not None
    assert found.S > 60
    unseen = ~test.seen_mask[test.labels]
    scores[:, test.seen_mask] = -np.inf
    assert (scores[unseen].argmax(1) == test.labels[unseen]).mean() > 0.55


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_its_own_row_alone(name):
    """Neither on the other rows of a batch nor on chance."""
    rows = tiny().for_testing().features
    recognizer = quick(name)
    whole = recognizer.scores(rows)
    np.testing.assert_array_equal(recognizer.scores(rows), whole)
    alone = np.concatenate([recognizer.scores(row[None]) for row in rows])
    np.testing.assert_allclose(alone, whole, rtol=1e-4, atol=1e-5)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(recognizer.scores(rows[shuffled]), whole[shuffled], atol=1e-5)


@pytest.mark.parametrize("scaling", ["minmax", "standard", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_features_of_both_signs_are_taken(name, scaling):
    data = signed()
    config = small(preprocessing={"feature_scaling": scaling})
    method = build_method(name, config, **QUICK_OPTIONS[name])
    found = method.fit(data.for_training(), device="cpu").recognizer.scores(
        data.for_testing().features
    )
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", NAMES)
def test_choices_are_what_a_training_of_that_length_gives(name):
    training = tiny().for_training()
    method = build_method(name, small(), **QUICK_OPTIONS[name])
    if "epochs" in QUICK_OPTIONS[name]:
        method = replace(method, epochs=2)
    trained = method.candidates(training, seed=1, device="cpu")
    found = [(one, Trained.of(result).recognizer) for one, result in trained]
    assert [one for one, _ in found] == list(method.alternatives())
    assert len(found) > 1
    for one, recognizer in (found[0], found[-1]):
        alone = one.fit(training, seed=1, device="cpu").recognizer.state_dict()
        for key, value in recognizer.state_dict().items():
            assert torch.equal(value, alone[key]), key
    rows = tiny().for_testing().features
    first, last = (recognizer.scores(rows) for _, recognizer in found[:: len(found) - 1])
    assert not np.array_equal(first, last)


@pytest.mark.parametrize(
    ("name", "varied", "wanted"),
    [
        ("tcn", {"transfer_weight": 0.02}, {0.001, 0.01, 0.02, 0.1}),
        ("tcn", {"transfer_weight": 0.1}, {0.001, 0.01, 0.1}),
        ("free", {"margin": 85.0}, {50, 85, 120, 200}),
        ("sdgzsl", {"relation_weight": 2.0}, {0.4, 2, 10}),
        ("lisgan", {"fake_weight": 0.5}, {0.5, 0}),
        ("lisgan", {"fake_weight": 0.0, "class_weight": 0.0}, {0}),
    ],
)
def test_a_given_setting_is_among_those_to_choose_from(name, varied, wanted):
    (setting, *_), method = varied, build_method(name, **varied)
    tried = [(getattr(one, setting), one.options["steps"]) for one in method.alternatives()]
    assert set(tried) == {(value, steps) for value in wanted for _, steps in tried}
    assert len(tried) == len(set(tried))


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_gives_another_recognizer(name):
    other = build_method(name, small(), **QUICK_OPTIONS[name])
    found = other.fit(tiny().for_training(), seed=2, device="cpu").recognizer
    rows = tiny().for_testing().features
    assert np.abs(found.scores(rows) - quick(name).scores(rows)).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_stay_in_their_file_give_the_same(name, tmp_path, monkeypatch):
    """With a weight decay whose softmax is soon found: sums in another order change it little."""
    config = small(classification={"weight_decay": 0.05, "synthetic_per_unseen": 5})
    method = build_method(name, config, **QUICK_OPTIONS[name])
    rows = tiny().for_testing().features
    wanted = method.fit(tiny().for_training(), device="cpu").recognizer.scores(rows)
    save_dataset(tiny(), tmp_path / "data")
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "0")
    training = load_dataset(tmp_path / "data").for_training()
    assert not isinstance(training.features, np.ndarray)
    found = method.fit(training, device="cpu").recognizer.scores(rows)
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.ptp(wanted))


@pytest.mark.parametrize("name", NAMES)
def test_divergence_is_named(name):
    longer = {"epochs": 30} if "epochs" in QUICK_OPTIONS[name] else {"steps": 40}
    with pytest.raises(DivergenceError, match=name):
        fitted(name, tiny(), learning_rate=1e30, **longer)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("cada-vae", "epochs", 0),
        ("cada-vae", "latent", 0),
        ("cada-vae", "noise", "none"),
        ("cada-vae", "kl_weight", float("nan")),
        ("hsva", "projections", 0),
        ("hsva", "coral_limit", -1.0),
        ("tcn", "ridge_penalty", 0.0),
        ("sdgzsl", "decoder_dropout", 1.0),
        ("sdgzsl", "discriminator_every", 0),
        ("lisgan", "souls", 0),
        ("lisgan", "class_samples", 2.5),
        ("f-vaegan", "steps", 0),
        ("f-vaegan", "batch_size", 1),
        ("f-vaegan", "penalty_schedule", True),
        ("tf-vaegan", "train_feedback", -1.0),
        ("tf-vaegan", "fakes", "posterior"),
        ("free", "balance", 1.5),
        ("free", "other_class", "any"),
        ("gcm-cf", "counterfactuals", 0),
        ("gcm-cf", "gate_samples", 1.5),
        ("keshari-reconstruction", "toward", 1.5),
        ("keshari-reconstruction", "class_samples", 1),
        ("li-reconstruction", "latent", 1),
        ("tdcss-reconstruction", "edge_share", 1.5),
        ("taco-reconstruction", "joint_weight", -1.0),
    ],
)
def test_settings_out_of_range_are_refused(name, option, value):
    with pytest.raises(SettingsError, match=rf"\.{option} must be .*{value}"):
        build_method(name, **{option: value})


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].published])
def test_published_options_are_options(name):
    """The defaults of the generative ones are those of CUB."""
    method = METHODS[name]
    for own in method.published.values():
        options = {one: value for one, value in own.items() if one != "synthetic_per_unseen"}
        built = build_method(name, **options)
        if "choices" in options:
            assert max(options["choices"]) == options["steps"]
            assert len(built.alternatives()) > 1
    if "choices" not in method().options and "CUB" in method.published:
        assert method.published["CUB"].keys() <= {"steps", "synthetic_per_unseen"}
        assert method.published["CUB"].get("steps", 0) in (0, method().options.get("steps"))


def test_a_reconstruction_has_no_published_settings():
    named = [name for one in METHODS.values() if one.reconstruction for name in one.published]
    assert not TABLE_1.keys() & named
