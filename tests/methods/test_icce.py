"""After Kong et al.: both losses by loops, rows of one class, the generator's training."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.errors import SettingsError
from mlis.generators.wgan_gp.trainer import fit_wgan_gp
from mlis.methods.base import Job
from mlis.methods.icce import Embedding, ICCEReconstruction, SameClass, distillation
from mlis.model.preprocessing import TrainingTensors, prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SMALL = ICCEReconstruction(
    **{"config": small("float64"), "steps": 3, "choices": (1, 3), "batch_size": 10},
    **{"embedding": 7, "contrast_weight": 0.4, "contrast_temperature": 0.5, "init_std": 0.4},
    **{"distillation_weight": 0.6, "distillation_temperature": 2.0},
)


def tensors() -> TrainingTensors:
    return prepare(tiny().for_training(), SMALL.config.preprocessing, DOUBLE)[1]


def job(**options) -> Job:
    return Job(tiny().for_training(), device="cpu", **options)


def looped_divergence(scores: Tensor, teachers: Tensor, t: float) -> Tensor:
    terms = []
    for s, wanted in zip(scores, teachers, strict=True):
        p, q = ((one / t).exp() / (one / t).exp().sum() for one in (wanted, s))
        terms.append(sum(p[k] * (p[k] / q[k]).log() for k in range(len(p))))
    return torch.stack(terms).mean()


def test_distillation_and_its_gradient():
    rng = torch.Generator().manual_seed(0)
    scores, teachers = torch.randn((2, 5, 4), generator=rng, dtype=torch.float64)
    scores.requires_grad_()
    found, wanted = distillation(scores, teachers, 2.0), looped_divergence(scores, teachers, 2.0)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    pair = [torch.autograd.grad(loss, scores)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-15)
    assert pair[0].abs().max() > 1e-3
    teachers.requires_grad_()
    distillation(scores, teachers, 2.0).backward()
    assert teachers.grad is None
    assert abs(float(distillation(scores, scores + 3, 2.0).detach())) < 1e-15


def test_the_generator_is_drawn_to_its_class():
    """By loops over synthetic and real rows; the real ones have a synthetic one's class."""
    data, rng = tensors(), torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 0, 3, 5, 1])
    fake = torch.rand((5, 9), generator=rng, dtype=torch.float64).requires_grad_()
    state = rng.get_state()
    found = SMALL.contrast(data, rng)(fake, labels)
    rng.set_state(state)
    real = data.x[SameClass(data).draw(labels, rng)]
    v = [row / row.norm() for row in (*fake, *real)]
    classes = [*labels.tolist(), *labels.tolist()]
    anchors = []
    for i in range(10):
        apart = sum((v[i] @ v[n] / 0.5).exp() for n in range(10) if classes[n] != classes[i])
        toward = [
            (v[i] @ v[p] / 0.5).exp() for p in range(10) if classes[p] == classes[i] and p != i
        ]
        anchors.append(sum(-(one / (one + apart)).log() for one in toward) / len(toward))
    wanted = 0.4 * sum(anchors) / 10
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    pair = [torch.autograd.grad(loss, fake)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-15)


def test_rows_of_a_class_are_drawn_equally_often():
    data = tensors()
    data = replace(data, x=data.x[3:], y=data.y[3:])  # the first class has fewer
    labels = torch.arange(len(data.seen)).repeat(4000)
    rows = SameClass(data).draw(labels, torch.Generator().manual_seed(0))
    assert torch.equal(data.y[rows], data.seen[labels])
    counts = torch.bincount(data.y)[data.y]
    drawn = torch.bincount(rows, minlength=len(data.y)) * counts / 4000
    torch.testing.assert_close(drawn, torch.ones(len(drawn)), rtol=0.15, atol=0)


def test_the_losses_of_the_embedding():
    """Cross-entropy of real rows; t² w_d KL of real pairs of a class, and of synthetic ones."""
    data, rng = tensors(), torch.Generator().manual_seed(2)
    network = Embedding(data, SMALL, DOUBLE, 0)
    generator = SMALL.generator(data, DOUBLE, job())
    asked, sampler = [], generator.sampler(data.descriptors)

    class Spy:
        def sampler(self, descriptors):
            return lambda labels, rng: asked.append((labels, sampler(labels, rng))) or asked[-1][1]

    batches: list[Tensor] = []
    network.register_forward_hook(lambda module, inputs, output: batches.append(inputs[0]))
    found = SMALL.losses(network, data, Spy())(rng)
    real, made = batches
    labels = [int(data.y[(data.x == row).all(1)][0]) for row in real]
    assert labels[:10] == labels[10:]
    assert not torch.equal(real[:10], real[10:])
    ((unseen, synthetic),) = asked
    assert torch.equal(made, synthetic)
    assert torch.equal(unseen[:10], unseen[10:])
    assert set(unseen.tolist()) <= set(data.unseen.tolist())

    def scores(rows: Tensor) -> Tensor:
        h = (rows @ network.encoder.weight.T + network.encoder.bias).clamp(min=0)
        return h @ network.classifier.weight.T + network.classifier.bias

    own = torch.searchsorted(data.seen, torch.tensor(labels[:10]))
    entropy = -torch.log_softmax(scores(real[:10]), 1)[range(10), own].mean()
    pairs = [
        looped_divergence(scores(one[:10]), scores(one[10:]).detach(), 2.0) for one in (real, made)
    ]
    wanted = {"cross_entropy": entropy, "distillation": 0.6 * 4 * sum(pairs) / 2}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=0)
    ours, theirs = (
        torch.autograd.grad(sum(one.values()), network.encoder.weight)[0] for one in (found, wanted)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


def weights(generator) -> list[Tensor]:
    return [p.detach().clone() for p in generator.network.parameters()]


def test_without_contrast_it_is_the_wgan_gp():
    data, settings = tensors(), replace(SMALL, contrast_weight=0.0)
    plain = weights(fit_wgan_gp(data, SMALL.config.generation, DOUBLE, 0))
    found, other = (weights(one.generator(data, DOUBLE, job())) for one in (settings, SMALL))
    assert all(map(torch.equal, found, plain))
    assert not any(map(torch.equal, other, plain))


@pytest.mark.parametrize(
    ("option", "value"),
    [("contrast_temperature", 0.0), ("distillation_weight", -1.0), ("embedding", 1.5)],
)
def test_settings_out_of_range_are_refused(option, value):
    with pytest.raises(SettingsError, match=rf"ICCEReconstruction\.{option}: .*{value}"):
        ICCEReconstruction(**{option: value})


def test_its_generator_is_the_wgan_gp_whatever_the_preset_says():
    found = ICCEReconstruction(small(generation={"generator": "ridge", "steps": 7}))
    assert found.config.generation.generator == "wgan-gp"
    assert found.config.generation.steps == 7
