"""After Feng et al.: each loss and its gradients by hand, pseudo-samples at two radii."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.generators.ridge import fit_ridge
from mlis.methods.tdcss import SplittingTrainer, TDCSSReconstruction, at_two_radii
from mlis.model.preprocessing import TrainingTensors, prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SMALL = TDCSSReconstruction(
    **{"config": small("float64"), "steps": 4, "batch_size": 12, "hidden": 5},
    **{"reversal": 0.3, "reconstruction_weight": 0.7},
)


def tensors() -> TrainingTensors:
    return prepare(tiny().for_training(), SMALL.config.preprocessing, DOUBLE)[1]


def trainer(seed: int = 0) -> SplittingTrainer:
    return SplittingTrainer(tensors(), SMALL, DOUBLE, seed)


def entropy(scores: list[Tensor], labels: Tensor) -> Tensor:
    terms = [s.exp().sum().log() - s[y] for s, y in zip(scores, labels, strict=True)]
    return torch.stack(terms).mean()


def test_the_losses_of_a_batch_and_who_follows_them():
    """E_i follows the adversary's loss backwards, the adversary itself forwards."""
    one = trainer()
    x, labels = one.data.x[:9], one.labels[[0, 3, 6, 9, 12, 15, 18, 2, 5]]

    def of(layer, row: Tensor) -> Tensor:
        return layer.weight @ row + layer.bias

    codes = [of(one.encoder, row).clamp(min=0) for row in x]
    wanted = {
        "class": entropy([of(one.classifier, r[:5]) for r in codes], labels),
        "adversary": entropy([of(one.adversary, r[5:]) for r in codes], labels),
        "reconstruction": 0.7
        * torch.stack(
            [(of(one.decoder, r) - row) ** 2 for r, row in zip(codes, x, strict=True)]
        ).mean(),
    }
    found = one.losses(x, labels)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=0)

    def gradient(loss: Tensor, weight: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(loss, weight, retain_graph=True)
        return grad

    total, forwards = sum(found.values()), wanted["class"] + wanted["reconstruction"]
    backwards = gradient(wanted["adversary"], one.encoder.weight)
    assert backwards[5:].abs().max() > 1e-3
    assert not backwards[:5].any()  # r_c is none of the adversary's business
    expected = gradient(forwards, one.encoder.weight) - 0.3 * backwards
    torch.testing.assert_close(gradient(total, one.encoder.weight), expected, rtol=1e-9, atol=1e-15)
    for part in (one.adversary, one.classifier, one.decoder):
        expected = gradient(sum(wanted.values()), part.weight)
        torch.testing.assert_close(gradient(total, part.weight), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_rows_are_moved_to_two_radii(share):
    """Class by class: the farthest share of rows to ρ_edge, the others to ρ_centre."""
    rng = torch.Generator().manual_seed(0)
    data = tensors()
    kept = torch.randperm(len(data.y), generator=rng)[:20]  # classes of different sizes
    data = replace(data, x=data.x[kept].clone(), y=data.y[kept])
    assert len(set(torch.bincount(data.y)[data.seen].tolist())) > 1
    settings = replace(SMALL, centre_radius=0.25, edge_radius=1.5, edge_share=share)
    before = data.x.clone()
    found = at_two_radii(data, settings, SMALL.config.generation)
    assert torch.equal(data.x, before)
    for c in data.seen.tolist():
        rows = [i for i in range(len(data.y)) if data.y[i] == c]
        mean = before[rows].mean(0)
        rows.sort(key=lambda i, mean=mean: float((before[i] - mean).norm()))
        for rank, i in enumerate(rows):
            radius = 1.5 if (rank + 0.5) / len(rows) > 1 - share else 0.25
            wanted = mean + radius * (before[i] - mean)
            torch.testing.assert_close(found.x[i], wanted, rtol=1e-10, atol=1e-12)


def test_radius_one_is_the_closed_form_generator_and_zero_its_means():
    data, generation = tensors(), SMALL.config.generation
    plain = fit_ridge(data, generation)
    labels = data.unseen.repeat_interleave(7)
    for radius in (0.0, 1.0):
        settings = replace(SMALL, centre_radius=radius, edge_radius=radius)
        sampler = at_two_radii(data, settings, generation).sampler(data.descriptors)
        found = sampler(labels, torch.Generator().manual_seed(3))
        wanted = plain.sampler(data.descriptors)(labels, torch.Generator().manual_seed(3))
        if radius == 0:
            wanted = torch.relu(plain.predictor(data.descriptors))[labels]
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_the_softmax_sees_the_task_correlated_part():
    data = tiny()
    one = trainer()
    head, refiner = SMALL.outcome(one, one.data, 0)
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    assert found.head.weight.shape == head.weight.shape == (9, 5)
    expected = torch.relu(one.data.x @ one.encoder.weight[:5].T + one.encoder.bias[:5])
    torch.testing.assert_close(refiner(one.data.x), expected)
    one.step()  # later steps leave what was made alone
    torch.testing.assert_close(refiner(one.data.x), expected)
