"""Features unlike the training's are told; signed ones are learned; constant ones are ignored."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from mlis import MLISClassifier
from mlis.cli import main
from mlis.data.dataset import GZSLDataset
from mlis.errors import FeatureRangeWarning
from mlis.evaluation import evaluate
from mlis.generators.ridge import fit_ridge
from mlis.io.checkpoint import load_model, save_model
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit
from pairs import loaded_pair, trained_pair
from simulated import linear_world, small

WORLD: GZSLDataset = linear_world()
RIDGE = {"generation": {"generator": "ridge"}, "refinement": {"components": "none"}}


def with_features(features: np.ndarray, world: GZSLDataset = WORLD) -> GZSLDataset:
    return GZSLDataset.from_arrays(
        features.astype(np.float32),
        world.labels,
        world.descriptors,
        unseen_classes=np.flatnonzero(~world.seen_mask),
        seed=0,
        test_fraction=0.3,
        name="simulated",
    )


def trained(data: GZSLDataset, **sections: object) -> Recognizer:
    return fit(data.for_training(), small(**{**RIDGE, **sections}), device="cpu").recognizer


def measured(data: GZSLDataset, **sections: object) -> float:
    """H on test rows."""
    test = data.for_testing()
    scores = trained(data, **sections).scores(test.features)
    return evaluate(scores, test.labels, test.seen_mask, test.class_names).H


# --- far outside the training's range -----------------------------------------------------------


@pytest.mark.parametrize("method", ["predict", "scores", "refine", "top_k"])
def test_rows_of_another_normalisation_are_told_once_a_call(method):
    lengths = np.linalg.norm(WORLD.features, axis=1, keepdims=True)
    model = trained(with_features(WORLD.features / lengths))
    with pytest.warns(FeatureRangeWarning, match=r"90% of the values.*in column \d+") as told:
        getattr(model, method)(np.array(WORLD.features), batch_size=50)
    assert len(told) == 1
    assert told[0].filename == __file__


def test_usual_rows_of_unseen_classes_give_no_warning():
    trained(WORLD).predict(WORLD.features)


def test_one_column_in_other_units():
    x = np.array(WORLD.features)
    x[:, 5] *= 100
    with pytest.warns(FeatureRangeWarning, match="in column 5, which was"):
        trained(WORLD).predict(x)


def test_a_column_that_training_never_saw_changes_nothing_and_is_told():
    """It decided everything by the weights it began with."""
    rng = np.random.default_rng(0)
    unseen = ~WORLD.seen_mask[WORLD.labels]
    extra = np.where(unseen[:, None], np.abs(rng.normal(size=(len(unseen), 4))), 0) * 10
    sections = {"refinement": {"components": "ml+is+sfr"}}
    model = trained(with_features(np.hstack([WORLD.features, extra])), **sections)
    x = np.hstack([WORLD.features, extra]).astype(np.float32)
    blank = np.hstack([WORLD.features, 0 * extra]).astype(np.float32)
    with pytest.warns(FeatureRangeWarning, match="which was 0 to 0 in training"):
        found = model.scores(x)
    np.testing.assert_array_equal(found, model.scores(blank))


def test_a_saved_model_knows_its_range_and_an_old_one_is_silent(tmp_path):
    model = trained(WORLD)
    save_model(model, tmp_path)
    far = np.array(WORLD.features) * 100
    with pytest.warns(FeatureRangeWarning):
        load_model(tmp_path).predict(far)
    old = load_model(
        Path(__file__).parents[1] / "data" / "v0.1.0" / "run" / "seed-1" / "ml+is+sfr" / "model"
    )
    old.predict(np.full((2, old.num_features), 1e3, dtype=np.float32))


def test_the_estimator_tells_it():
    seen = WORLD.seen_mask[WORLD.labels]
    model = MLISClassifier(generator="ridge", components="none", random_state=0, device="cpu")
    model.fit(WORLD.features[seen], WORLD.labels[seen], descriptors=WORLD.descriptors)
    with pytest.warns(FeatureRangeWarning):
        model.predict(100 * WORLD.features)


def test_the_command_line_tells_it_in_a_line(tmp_path, capsys):
    save_model(trained(WORLD), tmp_path / "model")
    np.save(tmp_path / "x.npy", 1000 * WORLD.features)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["predict", str(tmp_path / "model"), str(tmp_path / "x.npy")]) == 0
    err = capsys.readouterr().err
    assert err.startswith("mlis: warning: features: ")
    assert err.count("\n") == 1


# --- features of both signs ---------------------------------------------------------------------


def signed() -> GZSLDataset:
    return with_features(WORLD.features - WORLD.features.mean(0))


@pytest.mark.parametrize("scaling", ["none", "standard"])
@pytest.mark.parametrize("generator", ["ridge", "wgan-gp"])
def test_signed_features_are_learned_as_well_as_scaled_ones(scaling, generator):
    """Synthetic features without their negative half lost most of H."""
    generation = {"generator": generator, "generator_init": "ridge"}
    scaled = measured(signed(), generation=generation)
    found = measured(signed(), generation=generation, preprocessing={"feature_scaling": scaling})
    assert found > scaled - 3


def test_synthetic_features_are_negative_only_where_the_trainings_are():
    import torch

    from mlis.compute.precision import Precision
    from mlis.compute.random import stream
    from mlis.model.preprocessing import prepare

    precision = Precision.of("float32", "cpu")
    for scaling, expected in (("minmax", False), ("none", True), ("standard", True)):
        config = small(preprocessing={"feature_scaling": scaling})
        _, data = prepare(signed().for_training(), config.preprocessing, precision)
        sample = fit_ridge(data, config.generation).sampler(data.descriptors)
        x = sample(torch.arange(24).repeat(20), stream(0, "x"))
        assert data.signed is expected
        assert bool((x < 0).any()) is expected


@pytest.mark.parametrize("generator", ["ridge", "wgan-gp"])
def test_classes_are_added_to_a_model_of_signed_features(generator, tmp_path):
    generation = {"generator": generator}
    scaling = {"preprocessing": {"feature_scaling": "standard"}}
    config = small(**{**RIDGE, "generation": generation, **scaling})
    pair = trained_pair(signed().for_training(), config, device="cpu")
    pair.save(tmp_path)
    vector, x = WORLD.descriptors[:1] + 0.1, signed().features
    grown, again = (one.add(["n"], vector) for one in (pair, loaded_pair(tmp_path)))
    assert grown.exemplars.signed
    np.testing.assert_array_equal(again.scores(x), grown.scores(x))


@pytest.mark.parametrize("transform", ["none", "sqrt"])
def test_standard_scaling_is_by_mean_and_deviation_of_training_rows(transform):
    import torch

    rng = np.random.default_rng(0)
    x = (1e3 + rng.random((5000, 3))).astype(np.float32)
    x[:, 2] = 7.0
    config = small(preprocessing={"feature_scaling": "standard", "feature_transform": transform})
    scaler = FeatureScaler.fit(x, config.preprocessing)
    expected = (x if transform == "none" else np.sqrt(x.astype(np.float64))).astype(np.float64)
    np.testing.assert_allclose(scaler.shift[:2], expected[:, :2].mean(0), rtol=1e-9)
    np.testing.assert_allclose(1 / scaler.factor[:2], expected[:, :2].std(0), rtol=1e-5)
    assert scaler(torch.from_numpy(x))[:, 2].abs().max() == 0
