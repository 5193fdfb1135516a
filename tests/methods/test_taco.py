"""After Chandhok and Balasubramanian: critics by autograd, the coupling by hand, who learns."""

from dataclasses import replace

import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.methods.taco import CouplingTrainer, PlainCritic, TACOReconstruction
from mlis.model.preprocessing import prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SMALL = TACOReconstruction(
    **{"config": small("float64"), "steps": 4, "batch_size": 8, "hidden": 6, "noise": 3},
    **{"critic_steps": 2, "joint_weight": 0.7, "inference_weight": 0.3},
)


def trainer(seed: int = 0, **options) -> CouplingTrainer:
    settings = replace(SMALL, **options)
    _, data = prepare(tiny().for_training(), settings.config.preprocessing, DOUBLE)
    return CouplingTrainer(data, settings, DOUBLE, seed)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaky(x: Tensor) -> Tensor:
    return torch.maximum(x, 0.2 * x)


def score(critic: PlainCritic, rows: Tensor) -> Tensor:
    d = critic.network
    return leaky(rows @ d.from_features.T + d.hidden_bias) @ d.to_score


def test_a_critic_of_one_argument():
    """The WGAN-GP's loss with autograd's own double backward pass."""
    critic = PlainCritic(4, 6, 0.5, DOUBLE, stream(0, "test"))
    with torch.no_grad():
        critic.network.hidden_bias.copy_(numbers(6, seed=4))
    real, fake = numbers(5, 4, seed=1), numbers(5, 4, seed=2).requires_grad_()
    alpha = torch.rand((5, 1), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    between = (alpha * real + (1 - alpha) * fake.detach()).requires_grad_()
    (slope,) = torch.autograd.grad(score(critic, between).sum(), between, create_graph=True)
    penalty = 10 * ((slope.norm(dim=1) - 1) ** 2).mean()
    wanted = score(critic, fake.detach()).mean() - score(critic, real).mean() + penalty
    found = critic.loss(real, fake.detach(), alpha, 10.0)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
    d = critic.network
    inputs = (d.from_features, d.hidden_bias, d.to_score)
    pairs = [torch.autograd.grad(loss, inputs) for loss in (found, wanted)]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    found, wanted = critic(fake), -score(critic, fake).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
    pair = [torch.autograd.grad(loss, fake)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-14)


def test_the_coupling_by_hand():
    one = trainer()
    labels, others = one.labels[[0, 5, 9, 14]], one.labels[[1, 7, 11, 2]]
    real = one.data.x[:4]
    fake = one.generate(numbers(4, 3), labels)
    found = one.coupling(fake, labels, real, others)

    def infer(x: Tensor) -> Tensor:
        first, last = one.inference.first, one.inference.last
        return leaky(x @ first.weight.T + first.bias) @ last.weight.T + last.bias

    semantic = joint = errors = 0.0
    for b in range(4):
        own, other = one.descriptors[labels[b]], one.descriptors[others[b]]
        described = infer(real[b])
        semantic = semantic - score(one.semantic, described)
        joint = joint + score(one.joint, torch.cat((real[b], described)))
        joint = joint - score(one.joint, torch.cat((fake[b], own)))
        errors = errors + (infer(fake[b]) - own).abs().sum() + (described - other).abs().sum()
    wanted = {"semantic": semantic / 4, "joint": 0.7 * joint / 4, "inference": 0.3 * errors / 4}
    assert found.keys() == wanted.keys()
    weights = (one.network.to_features, one.inference.first.weight)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-15)
    pairs = [
        torch.autograd.grad(sum(losses.values()), weights, retain_graph=True)
        for losses in (found, wanted)
    ]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-15)
        assert ours.abs().max() > 1e-6


def test_critics_learn_in_their_step_and_the_others_in_theirs():
    one = trainer()
    critics = ("critic", "semantic", "joint")
    names = ("generator", "inference", *critics)

    def moved(step) -> set[str]:
        before = {
            name: [p.detach().clone() for p in one.parts()[name].parameters()] for name in names
        }
        step()
        return {
            name
            for name in names
            if not all(map(torch.equal, before[name], one.parts()[name].parameters()))
        }

    x, labels = one.data.x[:8], one.labels[:8]
    fake, alpha = one.generate(numbers(8, 3), labels).detach(), numbers(8, 1).sigmoid()
    assert moved(lambda: one.critic_step(x, fake, labels, alpha)) == set(critics)
    assert moved(lambda: one.generator_step(numbers(8, 3), labels)) == {"generator", "inference"}


def test_the_second_level_is_shown_pairs():
    """Real features with inferred descriptors against made ones with their own."""
    one, shown = trainer(), {}
    for name in ("semantic", "joint"):
        critic = getattr(one, name)
        loss = critic.loss
        critic.loss = lambda *pair, name=name, loss=loss: shown.update({name: pair}) or loss(*pair)
    x, labels = one.data.x[:8], one.labels[:8]
    fake, alpha = numbers(8, 9, seed=2), numbers(8, 1).sigmoid()
    inferred, own = one.inference(x).detach(), one.descriptors[labels]
    one.critic_step(x, fake, labels, alpha)
    real, made = shown["joint"][:2]
    assert torch.equal(real, torch.cat((x, inferred), dim=1))
    assert torch.equal(made, torch.cat((fake, own), dim=1))
    assert torch.equal(shown["semantic"][0], own)
    assert torch.equal(shown["semantic"][1], inferred)


def test_the_softmax_sees_features_and_hidden_units():
    data = tiny()
    found = SMALL.fit(data.for_training(), device="cpu").recognizer
    x = found.preprocessing(torch.from_numpy(data.for_testing().features).double())
    plain, hidden = found.refiner(x).split([9, 6], dim=1)
    torch.testing.assert_close(plain, x)
    first = found.refiner.parts[1]
    torch.testing.assert_close(hidden, leaky(x @ first.weight.T + first.bias))
