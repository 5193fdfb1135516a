"""Metric losses and cross-entropy against loops, hand-made numbers and pytorch-metric-learning."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
from mlis.config import Refinement
from mlis.encoder.metric_losses import (
    balanced_cross_entropy,
    circle,
    circle_eq1,
    concatenate,
    contrastive,
    multi_similarity,
    similarities,
    similarity_loss,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
OURS = {
    "circle": partial(circle, margin=0.25, gamma=8.0),
    "circle, the paper's scale": partial(circle, margin=0.25, gamma=80.0),
    "circle_eq1": partial(circle_eq1, margin=0.25, gamma=8.0),
    "contrastive": contrastive,
    "multi_similarity": multi_similarity,
}
LOOPS = {
    "circle": partial(reference.circle_loops, m=0.25, gamma=8.0),
    "circle, the paper's scale": partial(reference.circle_loops, m=0.25, gamma=80.0),
    "circle_eq1": partial(reference.circle_eq1_loops, m=0.25, gamma=8.0),
    "contrastive": reference.contrastive_loops,
    "multi_similarity": reference.multi_similarity_loops,
}
BATCHES = {
    "three classes": [0, 1, 2, 0, 1, 0, 2, 1],
    "an anchor without positives": [0, 0, 0, 1, 2, 2],
    "only one pair": [3, 3, 1],
}


def embeddings(size: int, seed: int = 0, width: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=rng, dtype=torch.float64)


def cosine_matrix(e: Tensor) -> Tensor:
    unit = e / e.norm(dim=1, keepdim=True)
    return unit @ unit.T


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_equal_loops(name, batch):
    labels = BATCHES[batch]
    e = embeddings(len(labels))
    s = cosine_matrix(e).requires_grad_()
    loss = OURS[name](s, torch.tensor(labels))
    loss.backward()
    loops = LOOPS[name]
    held = {"held": s.detach().numpy()} if name.split(",")[0] == "circle" else {}
    expected = loops(reference.cosines(e.numpy()), labels)
    assert expected > 0
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9)
    numerical = reference.numerical_gradient(
        lambda value: loops(value, labels, **held), s.detach().numpy().copy()
    )
    np.testing.assert_allclose(s.grad, numerical, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ["circle", "contrastive", "multi_similarity"])
def test_value_and_gradient_equal_pytorch_metric_learning(name, batch):
    theirs = reference.library_loss(name)
    settings = Refinement(loss=name, components="ml", margin=0.25, gamma=80.0)
    labels = torch.tensor(BATCHES[batch])
    for seed in range(3):
        one = embeddings(len(labels), seed).requires_grad_()
        two = one.detach().clone().requires_grad_()
        similarity, _ = similarities(one, labels, None, settings)
        ours = similarity_loss(settings)(similarity, labels)
        expected = theirs(two, labels)
        torch.testing.assert_close(ours, expected, **CLOSE)
        ours.backward()
        expected.backward()
        torch.testing.assert_close(one.grad, two.grad, **CLOSE)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5], [2]])
def test_a_batch_without_one_kind_of_pair_is_finite(name, labels):
    e = embeddings(len(labels)).requires_grad_()
    loss = OURS[name](cosine_matrix(e), torch.tensor(labels))
    loss.backward()
    assert torch.isfinite(e.grad).all()
    if name.startswith("circle"):
        assert loss.item() == 0
        assert not e.grad.any()
    elif len(labels) == 1:
        assert loss.item() == 0
    else:
        np.testing.assert_allclose(
            loss.item(), LOOPS[name](reference.cosines(e.detach().numpy()), labels), rtol=1e-9
        )


@pytest.mark.parametrize("name", OURS)
def test_the_order_of_the_batch_does_not_matter(name):
    labels = torch.tensor(BATCHES["three classes"])
    e = embeddings(len(labels))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    one = OURS[name](cosine_matrix(e), labels)
    two = OURS[name](cosine_matrix(e[order]), labels[order])
    torch.testing.assert_close(one, two, **CLOSE)


def test_equation_1_by_hand():
    """Two images of class 0, two of class 1, γ = 2, m = 0.5, similarities chosen by hand.

    positive pairs (0,1): 0.9 and (2,3): 0.6
        Σ_p exp(−2 s_p) = e^−1.8 + e^−1.2 = 0.165298888 + 0.301194212 = 0.466493100
    negative pairs (0,2): 0.1, (0,3): −0.2, (1,2): 0.3, (1,3): 0.0
        Σ_n exp(2 (s_n + 0.5)) = e^1.2 + e^0.6 + e^1.6 + e^1
                               = 3.320116923 + 1.822118800 + 4.953032424 + 2.718281828
                               = 12.813549976
    L = log(1 + 12.813549976 · 0.466493100) = log(6.977432651) = 1.942681000
    """
    similarity = torch.tensor(
        [[1.0, 0.9, 0.1, -0.2], [0.9, 1.0, 0.3, 0.0], [0.1, 0.3, 1.0, 0.6], [-0.2, 0.0, 0.6, 1.0]],
        dtype=torch.float64,
    )
    labels = torch.tensor([0, 0, 1, 1])
    loss = circle_eq1(similarity, labels, margin=0.5, gamma=2.0)
    assert loss.item() == pytest.approx(math.log(1 + 12.813549976 * 0.466493100), rel=1e-9)
    assert loss.item() == pytest.approx(1.9427, abs=1e-4)


def test_equation_1_counts_every_pair_of_the_batch():
    """L of eq. (1) is the number of negative pairs and K of positive ones: equal scores count all.

    With every similarity 0, γ = 1, m = 0: log(1 + L·K). Labels 0,0,0,1,1: K = 3 + 1, L = 3·2.
    """
    loss = circle_eq1(torch.zeros(5, 5).double(), torch.tensor([0, 0, 0, 1, 1]), 0.0, 1.0)
    assert loss.item() == pytest.approx(math.log(1 + 6 * 4), rel=1e-12)


def test_equation_1_does_not_overflow():
    e = embeddings(6).float().requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    loss = circle_eq1(cosine_matrix(e), labels, margin=0.25, gamma=1000.0)
    loss.backward()
    assert 100 < loss.item() < 5000
    assert torch.isfinite(e.grad).all()


def test_circle_by_hand():
    """One anchor pair and one negative, γ = 4, m = 0.25: anchors 0 and 1 count, anchor 2 does not.

    anchor 0: s_p = 0.5: α_p = 1.25 − 0.5 = 0.75, −4·0.75·(0.5 − 0.75) = 0.75
              s_n = 0.2: α_n = 0.45,               4·0.45·(0.2 − 0.25) = −0.09
              softplus(0.75 − 0.09) = log(1 + e^0.66)
    anchor 1: s_n = −0.5: α_n = 0, so 0: softplus(0.75) = log(1 + e^0.75)
    """
    similarity = torch.tensor(
        [[1.0, 0.5, 0.2], [0.5, 1.0, -0.5], [0.2, -0.5, 1.0]], dtype=torch.float64
    )
    loss = circle(similarity, torch.tensor([7, 7, 3]), margin=0.25, gamma=4.0)
    by_hand = (math.log(1 + math.exp(0.66)) + math.log(1 + math.exp(0.75))) / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)


# --- implicit semantics -------------------------------------------------------------------------


def semantic_case(scale: float, norm: str):
    settings = Refinement(semantic_scale=scale, visual_norm=norm)
    rng = torch.Generator().manual_seed(8)
    h = torch.rand(9, 5, generator=rng, dtype=torch.float64).requires_grad_()
    descriptors = torch.nn.functional.normalize(
        torch.randn(4, 3, generator=rng, dtype=torch.float64), dim=1
    )
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    gram = (scale * descriptors) @ (scale * descriptors).T
    return settings, h, descriptors, labels, gram


@pytest.mark.parametrize("norm", ["none", "l2"])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 20.0])
def test_similarities_are_cosines_of_the_real_concatenation(scale, norm):
    settings, h, descriptors, labels, gram = semantic_case(scale, norm)
    similarity, share = similarities(h, labels, gram, settings)
    weights = torch.randn(similarity.shape, generator=torch.Generator().manual_seed(1)).double()
    (by_gram,) = torch.autograd.grad((similarity * weights).sum(), h)

    visual = h / h.norm(dim=1, keepdim=True) if norm == "l2" else h
    joined = torch.stack(
        [torch.cat((visual[i], scale * descriptors[labels[i]])) for i in range(len(labels))]
    )
    torch.testing.assert_close(
        similarity.detach().numpy(), reference.cosines(joined.detach().numpy()), **CLOSE
    )
    (by_joined,) = torch.autograd.grad((cosine_matrix(joined) * weights).sum(), h)
    torch.testing.assert_close(by_gram, by_joined, **CLOSE)
    shares = [scale**2 / float(row @ row) for row in joined.detach()]
    assert float(share) == pytest.approx(sum(shares) / len(shares), rel=1e-9)
    torch.testing.assert_close(concatenate(h, descriptors[labels], settings), joined, **CLOSE)


def test_semantics_count_only_beside_their_own_class():
    """Same h, other classes' descriptors exchanged: pairs of untouched classes do not move."""
    settings, h, descriptors, labels, gram = semantic_case(1.0, "none")
    before, _ = similarities(h, labels, gram, settings)
    other = descriptors.clone()
    other[3] = -other[3]
    after, _ = similarities(h, labels, other @ other.T, settings)
    untouched = (labels != 3)[:, None] & (labels != 3)[None, :]
    torch.testing.assert_close(before[untouched], after[untouched], rtol=0, atol=0)
    assert (before - after).abs().max() > 0.1


def test_a_dead_row_gives_zeros_not_nan():
    """A refined feature with every unit at zero: its cosine is 0, as the library has it."""
    h = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    similarity, share = similarities(torch.relu(h), labels, None, Refinement())
    assert similarity[0].tolist() == [0, 0, 0]
    circle(similarity, labels, 0.25, 80.0).backward()
    assert torch.isfinite(h.grad).all()
    assert torch.isfinite(share)


# --- cross-entropy ------------------------------------------------------------------------------


def test_balanced_cross_entropy_equals_loops():
    labels = [2, 2, 2, 4, 4, 4, 4, 4, 0]
    logits = 3 * embeddings(9, width=5)
    logits.requires_grad_()
    loss = balanced_cross_entropy(logits, torch.tensor(labels))
    loss.backward()
    at = logits.detach().numpy().copy()
    expected = reference.balanced_cross_entropy_loops(at, labels)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9)
    numerical = reference.numerical_gradient(
        lambda value: reference.balanced_cross_entropy_loops(value, labels), at
    )
    np.testing.assert_allclose(logits.grad, numerical, rtol=1e-6, atol=1e-9)


def test_more_samples_of_a_class_do_not_give_it_more_weight():
    logits = embeddings(3, width=3)
    labels = torch.tensor([0, 1, 2])
    repeated = torch.tensor([0, 1, 1, 1, 1, 2])
    torch.testing.assert_close(
        balanced_cross_entropy(logits, labels),
        balanced_cross_entropy(logits[repeated], labels[repeated]),
        **CLOSE,
    )
