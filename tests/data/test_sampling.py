"""Batches: really P classes × K rows, every row equally likely, small classes, sizes."""

import numpy as np
import pytest
import scipy.stats
import torch

from mlis.compute.random import stream
from mlis.data.samplers import ClassBalancedSampler, uniform_rows


def labels_of(counts: list[int], seed: int = 0) -> torch.Tensor:
    """Class 0 has counts[0] rows and so on; in shuffled order."""
    labels = torch.tensor(np.repeat(np.arange(len(counts)), counts))
    return labels[torch.randperm(len(labels), generator=stream(seed, "labels"))]


def batches(labels: torch.Tensor, classes: int, samples: int, draws: int, seed: int = 0):
    rng = stream(seed, "batches")
    sampler = ClassBalancedSampler(labels, classes, samples, rng)
    return torch.stack([sampler.draw(rng) for _ in range(draws)])


@pytest.mark.parametrize("samples", [3, 7])
@pytest.mark.parametrize("counts", [[7] * 6, [100, 101, 1000, 13, 7, 9]])
def test_a_batch_is_P_distinct_classes_times_K_distinct_rows(counts, samples):
    labels = labels_of(counts)
    for batch in batches(labels, 4, samples, draws=200):
        assert batch.shape == (4 * samples,)
        assert batch.dtype == torch.int64
        by_class = labels[batch].view(4, samples)
        assert (by_class == by_class[:, :1]).all()  # a class's rows lie next to each other
        assert len(set(by_class[:, 0].tolist())) == 4
        assert len(set(batch.tolist())) == 4 * samples


def test_small_classes_repeat_rows_as_evenly_as_can_be():
    labels = labels_of([1, 2, 3, 5])
    for batch in batches(labels, 4, 5, draws=100):
        for c, count in enumerate([1, 2, 3, 5]):
            rows, times = torch.unique(batch[labels[batch] == c], return_counts=True)
            assert times.sum() == 5
            assert len(rows) == count
            assert times.max() - times.min() <= 1


def test_every_row_of_a_class_is_equally_likely():
    counts = [5, 6, 7, 23]
    labels = labels_of(counts)
    drawn = batches(labels, 4, 3, draws=4000)
    times = torch.bincount(drawn.flatten(), minlength=len(labels)).numpy()
    for c in range(4):
        assert scipy.stats.chisquare(times[labels.numpy() == c]).pvalue > 1e-4
        assert times[labels.numpy() == c].sum() == 3 * 4000  # P is all: every class, every batch


def test_every_class_is_equally_likely_whatever_its_size():
    labels = labels_of([2, 3, 50, 100, 4])
    drawn = batches(labels, 2, 2, draws=4000)
    times = torch.bincount(labels[drawn].flatten(), minlength=5).numpy() / 2
    assert scipy.stats.chisquare(times).pvalue > 1e-4


def test_uniform_rows():
    rows = uniform_rows(7, 7000, stream(0, "rows"))
    assert rows.dtype == torch.int64
    assert scipy.stats.chisquare(torch.bincount(rows, minlength=7).numpy()).pvalue > 1e-4
