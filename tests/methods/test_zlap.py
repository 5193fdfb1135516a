"""ZLAP: prior and loss against loops in float64, what it trains on, what the prior does."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Config
from mlis.generators.registry import GENERATORS
from mlis.methods.zlap import ZLAP, cosine_logits, log_prior
from mlis.model.preprocessing import prepare
from simulated import linear_world, tiny

PRECISION = Precision.of("float64", "cpu")
DOUBLE = Config(precision="float64").replace({"generation": {"generator": "ridge"}})


def test_the_prior_is_of_domain_and_class():
    found = log_prior(torch.tensor([30.0, 0.0, 10.0, 0.0], dtype=torch.float64), 4.0)
    wanted = [0.8 * 0.75, 0.2 * 0.5, 0.8 * 0.25, 0.2 * 0.5]
    np.testing.assert_allclose(found.exp(), wanted, rtol=1e-12)
    assert float(found.exp().sum()) == pytest.approx(1)


def test_without_unseen_classes_the_prior_is_finite():
    found = log_prior(torch.tensor([1.0, 3.0]), 9.0)
    np.testing.assert_allclose(found.exp(), [0.9 * 0.25, 0.9 * 0.75], rtol=1e-6)


def test_the_loss_and_its_gradient():
    """A batch's cross-entropy, row by row, with both kinds of rows in it."""
    training = tiny().for_training()
    _, data = prepare(training, DOUBLE.preprocessing, PRECISION)
    one = ZLAP(DOUBLE, batch_size=64, hidden=7, ratio=5.0, init_std=0.5)
    rng = torch.Generator().manual_seed(0)
    fakes = torch.rand((6, 9), generator=rng, dtype=torch.float64)
    labels = torch.cat((data.y, data.unseen.repeat(2)))
    P = one.network(data, PRECISION, 0)
    found = one.losses(P, data, fakes, labels)(stream(3, "batch"))["cross_entropy"]

    rows = torch.randint(len(labels), (64,), generator=stream(3, "batch"))
    assert (rows < len(data.y)).any()
    assert (rows >= len(data.y)).any()
    counts = [int((data.y == c).sum()) for c in range(9)]
    x = torch.cat((data.x, fakes))
    first, last = P.first, P.last
    terms = []
    for row in rows:
        logits = []
        for c in range(9):
            hidden = first.weight @ data.descriptors[c] + first.bias
            p = last.weight @ torch.where(hidden > 0, hidden, 0.2 * hidden) + last.bias
            cosine = x[row] @ p / (x[row].norm() * p.norm())
            share = counts[c] / sum(counts) * 5 / 6 if counts[c] else 1 / 3 / 6
            logits.append(cosine / 0.04 + math.log(share))
        terms.append(-torch.log_softmax(torch.stack(logits), 0)[labels[row]])
    wanted = torch.stack(terms).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
    pairs = [torch.autograd.grad(loss, list(P.parameters())) for loss in (found, wanted)]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_cosine_logits_ignore_lengths():
    x, p = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, 7.0], [-1.0, 0.0]])
    np.testing.assert_allclose(cosine_logits(x, p, 10.0), [[6.0, 8.0, -6.0]], rtol=1e-6)


def test_scores_are_raw_cosines_over_the_temperature():
    training = tiny().for_training()
    recognizer = (
        ZLAP(DOUBLE, steps=3, hidden=5, temperature=0.5).fit(training, device="cpu").recognizer
    )
    scores = recognizer.scores(training.features)
    assert np.abs(scores).max() <= 2 + 1e-9
    x = recognizer.preprocessing(torch.from_numpy(training.features)).double()
    wanted = cosine_logits(x, recognizer.head.prototypes, 2.0)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-6)


def test_ten_rows_of_each_unseen_class_are_drawn(monkeypatch):
    asked: list[Tensor] = []

    class Zeros:
        def sampler(self, descriptors: Tensor):
            def sample(labels: Tensor, rng: torch.Generator) -> Tensor:
                asked.append(labels)
                return torch.zeros((len(labels), 9), dtype=torch.float64)

            return sample

    monkeypatch.setitem(GENERATORS, "ridge", lambda *_: Zeros())
    training = tiny().for_training()
    ZLAP(DOUBLE, steps=2).fit(training, device="cpu")
    unseen = np.flatnonzero(~training.seen_mask)
    assert torch.cat(asked).tolist() == unseen.repeat(10).tolist()


def test_the_ratio_moves_scores_between_seen_and_unseen():
    """The larger r, the better must an unseen class fit in training; afterwards it scores more."""
    data = linear_world(noise=0.1)
    test = data.for_testing()
    leads = []
    for ratio in (1.0, 1000.0):
        method = ZLAP(DOUBLE, ratio=ratio, steps=150, learning_rate=3e-3, hidden=32, batch_size=128)
        scores = method.fit(data.for_training(), device="cpu").recognizer.scores(test.features)
        leads.append(np.mean(scores[:, ~test.seen_mask].max(1) - scores[:, test.seen_mask].max(1)))
    assert leads[1] > leads[0] + 1


def test_names_tell_the_generators_apart():
    assert ZLAP().name == "ZLAP"
    assert ZLAP(DOUBLE).name == "ZLAP, ridge generator"
