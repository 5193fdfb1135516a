"""Recall@1 and MAP@R against pytorch-metric-learning's calculator, and against loops."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from mlis.errors import DataError
from mlis.evaluation import evaluate_retrieval

CALCULATOR = AccuracyCalculator(
    include=("precision_at_1", "mean_average_precision_at_r"),
    k="max_bin_count",
    device=torch.device("cpu"),
    knn_func=CustomKNN(CosineSimilarity()),
)


def sample(seed: int, images: int = 90, classes: int = 7):
    """Classes of very different sizes, of which some have one image."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.35, images), classes) * 10
    labels[0] = 5  # alone
    centres = rng.normal(size=(100, 6))
    return centres[labels] + rng.normal(size=(images, 6)), labels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk", [1, 13, 512])
def test_as_the_authors_library_counts(seed, chunk):
    features, labels = sample(seed)
    found = evaluate_retrieval(features, labels, chunk=chunk)
    theirs = CALCULATOR.get_accuracy(torch.from_numpy(features), torch.from_numpy(labels))
    assert found.recall_at_1 == pytest.approx(100 * theirs["precision_at_1"], abs=1e-9)
    assert found.map_at_r == pytest.approx(100 * theirs["mean_average_precision_at_r"], abs=1e-9)
    assert 5 < found.map_at_r < found.recall_at_1 < 100
    _, counts = np.unique(labels, return_counts=True)
    assert found.images == counts[counts > 1].sum()


def test_by_hand():
    """Angles 0, 10, 30, 40, 90 degrees of classes a a b a b."""
    angles = np.radians([0, 10, 30, 40, 90])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = evaluate_retrieval(features, [0, 0, 1, 0, 1])
    # a 0: a b → (1 + 0) / 2; a 10: a b → 1/2; b 30: a → 0; a 40: b a → (1/2) / 2; b 90: a → 0
    assert found.map_at_r == pytest.approx(100 * (0.5 + 0.5 + 0 + 0.25 + 0) / 5)
    assert found.recall_at_1 == pytest.approx(100 * 2 / 5)


def test_lengths_do_not_matter_and_equal_images_do_not_find_themselves():
    features, labels = sample(1)
    scales = np.random.default_rng(0).uniform(0.1, 9, (len(features), 1))
    assert evaluate_retrieval(features * scales, labels) == evaluate_retrieval(features, labels)
    twice = np.eye(3)[[0, 0, 1, 1]]
    assert evaluate_retrieval(twice, [0, 1, 2, 3]).images == 0
    assert evaluate_retrieval(twice, [0, 1, 0, 1]).recall_at_1 == 0


def test_of_equal_cosines_the_lower_row_comes_first():
    features = np.ones((4, 2))
    assert evaluate_retrieval(features, [0, 0, 1, 1]).recall_at_1 == 50
    assert evaluate_retrieval(features, [0, 1, 1, 0]).recall_at_1 == 25


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.ones(3), [0, 0, 1], "numeric .images, length. array"),
        (np.ones((3, 2)), [0, 0], "labels to be integers of shape .3,."),
        (np.ones((3, 2)), [0.0, 0.0, 1.0], "labels to be integers"),
        (np.array([[1, 2], [np.nan, 1], [0, 0]]), [0, 0, 1], "infinity in row 1"),
        (np.ones((0, 2)), np.zeros(0, dtype=int), "non-empty"),
    ],
)
def test_what_cannot_be_measured(features, labels, said):
    with pytest.raises(DataError, match=said):
        evaluate_retrieval(features, labels)
