"""Zero-shot, linear probe and a method on the same rows: against expectations by hand."""

import dataclasses

import numpy as np
import pytest

from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError, SettingsError
from mlis.experiments.compare import compare, linear_probe, prompts
from mlis.methods.registry import build_method

NAMES = [f"class {letter}" for letter in "abcdefgh"]
UNSEEN = NAMES[6:]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def data(noise: float = 0.4, seed: int = 0) -> GZSLDataset:
    """Features scattered around one direction a class; descriptors are those directions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(8), 20)
    features = DIRECTIONS[labels] + noise * rng.standard_normal((160, 10))
    return GZSLDataset.from_arrays(
        features, labels, DIRECTIONS, class_names=NAMES, unseen_classes=UNSEEN
    )


DIRECTIONS = np.random.default_rng(7).standard_normal((8, 10)).astype(np.float32)


class Directions:
    """Texts that name a class by its last letter are embedded near its direction; others at 0."""

    def __init__(self):
        self.told = []

    def describe(self, texts):
        self.told.append([list(one) for one in texts])
        rows = [DIRECTIONS["abcdefgh".index(one[0].strip(".")[-1])] for one in texts]
        return unit(np.stack(rows)).astype(np.float32)


def by_name(rows):
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def found():
    model = Directions()
    descriptions = {name: [f"it is {name}", "a second text"] for name in NAMES}
    rows = compare(
        *(data(), model),
        templates=["a photo of {}.", "{}"],
        descriptions=descriptions,
        method=build_method("gaussian"),
        device="cpu",
    )
    return model, by_name(rows)


def test_every_row_is_of_the_same_test_rows(found):
    model, rows = found
    assert list(rows) == [
        "zero-shot, class names",
        "zero-shot, descriptions",
        "zero-shot, names and descriptions",
        "linear probe on seen classes",
        f"mlis, {build_method('gaussian').name}",
        f"mlis, {build_method('gaussian').name}, the model's texts",
    ]
    split = data().split
    count = len(split.test_seen) + len(split.test_unseen)
    assert {row.evaluation.images for row in rows.values()} == {count}
    assert model.told[0][2] == ["a photo of class c.", "class c"]
    assert model.told[1][2] == ["it is class c", "a second text"]


def test_zero_shot_is_the_cosine_with_the_texts(found):
    test = data().for_testing()
    scores = unit(test.features) @ unit(DIRECTIONS).T
    right = scores.argmax(1) == test.labels
    own = [100 * right[test.labels == c].mean() for c in range(8)]
    row = found[1]["zero-shot, class names"]
    assert pytest.approx(np.mean(own[:6])) == row.evaluation.S
    assert pytest.approx(np.mean(own[6:])) == row.evaluation.U
    assert row.evaluation.S > 60
    only = scores[test.labels >= 6][:, 6:].argmax(1) + 6 == test.labels[test.labels >= 6]
    assert pytest.approx(100 * only.mean()) == row.evaluation.T1
    assert "nothing" in row.protocol


def test_the_zero_shot_classifier_is_blended_where_it_is_best():
    """Image features that say little: the texts, which need no training, are worth more."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 20)
    features = DIRECTIONS[labels] + 0.4 * rng.standard_normal((160, 10))
    told_nothing = rng.standard_normal((8, 3)).astype(np.float32)
    one = GZSLDataset.from_arrays(
        features, labels, told_nothing, class_names=NAMES, unseen_classes=UNSEEN
    )
    auto = build_method("auto", budget=1e9)
    rows = by_name(compare(one, Directions(), method=auto, device="cpu"))
    without, blended = (rows[f"mlis, {auto.name}{end}"] for end in ("", ", the model's texts"))
    assert "text" not in without.protocol.partition("; kept ")[2]
    assert "text" in blended.protocol.partition("; kept ")[2]
    assert blended.evaluation.H > without.evaluation.H + 10


def test_the_probe_names_seen_classes_alone(found):
    probe = found[1]["linear probe on seen classes"].evaluation
    assert (probe.U, probe.H, probe.T1, probe.AUSUC) == (0.0, 0.0, None, None)
    assert probe.S > 70  # chance is 17


def test_the_probes_penalty_is_chosen_without_test_rows():
    one = data()
    noise = one.features.copy()
    test = np.concatenate([one.split.test_seen, one.split.test_unseen])
    noise[test] = np.random.default_rng(1).standard_normal((len(test), 10))
    other = dataclasses.replace(one, features=noise)
    assert linear_probe(one, device="cpu")[1] == linear_probe(other, device="cpu")[1]
    assert linear_probe(other, device="cpu")[0].S < 50


def test_rows_without_validation_keep_the_default_penalty():
    one = data()
    none = np.empty(0, dtype=np.int64)
    split = dataclasses.replace(one.split, train=none, val_seen=none, val_unseen=none)
    tested, chosen = linear_probe(dataclasses.replace(one, split=split), device="cpu")
    assert chosen == "fixed penalty"
    assert tested.S > 70


def test_prompts_of_names():
    assert prompts(["red_fox"], ["a {}.", "{}, {}"]) == [("a red fox.", "red fox, red fox")]
    for wrong in ([], ["a photo"]):
        with pytest.raises(SettingsError, match="templates"):
            prompts(["red_fox"], wrong)


def test_texts_of_another_size_and_missing_descriptions():
    short = dataclasses.replace(data(), features=data().features[:, :9].copy())
    with pytest.raises(DataError, match="features of 9 numbers and texts of 10"):
        compare(short, Directions())
    with pytest.raises(DataError, match="none of 7: class b"):
        compare(data(), Directions(), descriptions={"class a": ["it is a"]})
