"""The weight of attributes against sentences: it moves to the block that knows the images."""

import dataclasses

import numpy as np
import pytest

from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError, SettingsError
from mlis.experiments.attribute_weight import choose_attribute_weight
from mlis.features.descriptors.describe import Descriptors, concatenate, reweighed
from simulated import linear_world, noise_for_test_rows

WORDS = 12


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def world(useful: str) -> tuple[GZSLDataset, Descriptors]:
    """Images that one block, or both, of the descriptors predicts; the other is noise."""
    data, rng = linear_world(attributes=8, noise=0.1), np.random.default_rng(5)
    blocks = {name: rng.normal(size=(24, 8)) for name in ("text", "attributes")}
    blocks |= {name: data.descriptors for name in blocks if useful in (name, "both")}
    text = unit(np.pad(blocks["text"], ((0, 0), (0, WORDS - 8))))
    vectors = concatenate(text, blocks["attributes"], weight=0.5).astype(np.float32)
    order = rng.permutation(24)  # descriptors need not be in the dataset's order
    record = {
        "kind": "sentences by m and 8 attributes, weight 0.5",
        "text": {"name": "m"},
        "attributes": [{}] * 8,
        "attribute_weight": 0.5,
        "notes": ["as it was"],
        "source": {},
    }
    names = tuple(data.class_names[i] for i in order)
    data = dataclasses.replace(data, descriptors=vectors)
    return data, Descriptors(names, vectors[order], None, record)


def weight(found: Descriptors) -> float:
    return found.record["attribute_weight"]


def test_the_weight_moves_to_the_block_that_knows():
    text, attributes, both = (
        choose_attribute_weight(*world(useful), device="cpu")
        for useful in ("text", "attributes", "both")
    )
    assert weight(text) < 0.5 < weight(attributes)
    assert weight(both) == 0.5
    tried = attributes.record["attribute_weights_tried"]
    assert list(tried) == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    assert tried["0.9"] > tried["0.1"] + 5
    assert attributes.notes[0] == "as it was"
    assert f"weight of attributes {weight(attributes):g}" in attributes.notes[1]
    assert attributes.kind.endswith(f"weight {weight(attributes):g}")


def test_no_test_row_matters():
    data, descriptors = world("attributes")
    found, other = (
        choose_attribute_weight(one, descriptors, device="cpu").record
        for one in (data, noise_for_test_rows(data))
    )
    assert found == other


def test_another_weight_is_as_if_described_with_it():
    _, descriptors = world("both")
    text, numbers = np.split(descriptors.vectors, [WORDS], axis=1)
    again = reweighed(descriptors, 0.8).vectors
    np.testing.assert_allclose(
        again, np.hstack([0.2**0.5 * unit(text), 0.8**0.5 * unit(numbers)]), atol=1e-6
    )
    np.testing.assert_allclose(reweighed(descriptors, 0.5).vectors, descriptors.vectors, atol=1e-6)


def test_what_cannot_be_weighed_is_refused():
    data, descriptors = world("both")
    record = {**descriptors.record, "attributes": [], "kind": "sentences by m"}
    with pytest.raises(SettingsError, match="got sentences by m"):
        choose_attribute_weight(data, dataclasses.replace(descriptors, record=record))
    with pytest.raises(SettingsError, match=r"got 1\.5"):
        choose_attribute_weight(data, descriptors, weights=(0.5, 1.5))
    none = np.empty(0, dtype=np.int64)
    split = dataclasses.replace(data.split, train=none, val_seen=none, val_unseen=none)
    with pytest.raises(DataError, match="no validation split"):
        choose_attribute_weight(dataclasses.replace(data, split=split), descriptors)
