"""From the call to the loss: few frames, one result type, and no hash that nobody needs."""

import traceback
from pathlib import Path

import numpy as np
import pytest

import mlis
from mlis import MLIS, MLISClassifier
from simulated import small, tiny

ROOT = Path(mlis.__file__).parent
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "owl"]


def frames(calibration: float | str, schedule: str) -> list[list[str]]:
    """Frames inside mlis at each call of a user's loss, outermost first."""
    found: list[list[str]] = []

    def loss(embeddings, labels):
        stack = traceback.extract_stack()
        found.append([frame.name for frame in stack if ROOT in Path(frame.filename).parents])
        return embeddings.square().mean()

    rng = np.random.default_rng(0)
    described = {name: rng.random(5) for name in NAMES}
    y = np.repeat(NAMES[:-1], 8)
    model = MLISClassifier(
        loss=loss,
        calibration=calibration,
        random_state=0,
        device="cpu",
        config=small(refinement={"schedule": schedule}),
    )
    model.fit(rng.random((len(y), 6)), y, descriptors=described)
    return found


@pytest.mark.parametrize("calibration", [0.0, "validation"])
def test_at_most_eight_frames_from_fit_to_the_metric_loss(calibration):
    found = frames(calibration, "sequential")
    assert found
    trainings = {"fit"} if calibration == 0.0 else {"fit", "validate"}
    assert {tuple(names[:7]) for names in found} == {
        ("fit", "choose", training, "fit", "fit_encoder", "train", "step") for training in trainings
    }
    assert max(map(len, found)) <= 8


@pytest.mark.parametrize("calibration", [0.0, "validation"])
def test_what_stays_in_memory_is_not_hashed(calibration, monkeypatch):
    def hashed(*_):
        raise AssertionError("the data were hashed")

    monkeypatch.setattr("mlis.data.dataset.update_hash", hashed)
    config = small(classification={"calibration": calibration})
    assert MLIS(config).choose(tiny(), device="cpu").recognizer
    frames(calibration, "sequential")
    with pytest.raises(AssertionError, match="hashed"):
        MLIS(small()).choose(tiny(), device="cpu", reuse=True)


def test_the_key_of_a_split_is_that_of_its_content():
    data = tiny()
    whole, again = data.for_training(), tiny().for_training()
    assert whole.key == again.key != tiny(1).for_training().key
    assert data.for_validation()[0].key != whole.key
    features = data.features.copy()
    features[data.split.test_unseen] += 1  # a test row decides nothing
    other = mlis.GZSLDataset(
        features, data.labels, data.descriptors, data.class_names, data.split, data.provenance
    )
    assert other.for_training().key == whole.key
