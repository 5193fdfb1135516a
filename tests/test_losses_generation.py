"""The closed-form WGAN-GP step against autograd's double backward and against explicit loops."""

import numpy as np
import pytest
import torch

import reference
from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.generators.wgan_gp.losses import critic_backward, generator_backward
from mlis.generators.wgan_gp.networks import Critic, Generator

CPU = torch.device("cpu")
EXACT = Precision.of("float64", CPU)
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


class Case:
    """A critic with nothing left at zero, its textbook twin, and a batch."""

    def __init__(self, seed: int, B=7, C=4, Dx=5, Da=3, hidden=6, std=0.7, dtype="float64"):
        rng = torch.Generator().manual_seed(seed)
        self.critic = Critic(Dx, Da, hidden, std=std, precision=Precision.of(dtype, CPU), rng=rng)
        self.critic.requires_grad_(False)
        self.critic.hidden_bias += torch.randn(hidden, generator=rng) * 0.3

        def draw(*shape):
            return torch.rand(shape, generator=rng, dtype=torch.float64)

        self.real, self.fake, self.alpha = draw(B, Dx), draw(B, Dx), draw(B, 1)
        self.descriptors = draw(C, Da) - 0.5
        self.labels = torch.randint(C, (B,), generator=rng)
        self.twin = reference.TextbookCritic(Dx, Da, hidden)
        with torch.no_grad():
            first, _, last = self.twin.layers
            first.weight.copy_(
                torch.cat((self.critic.from_features, self.critic.from_descriptor), 1)
            )
            first.bias.copy_(self.critic.hidden_bias)
            last.weight.copy_(self.critic.to_score[None])
            last.bias.fill_(0.37)  # the package leaves it out: it must not matter
        self.features = Dx

    def backward(self, weight: float = 10.0):
        dtype = self.critic.precision.master
        return critic_backward(
            self.critic,
            self.real.to(dtype),
            self.fake.to(dtype),
            self.labels,
            self.descriptors.to(dtype),
            self.alpha.to(dtype),
            weight,
        )

    def twin_losses(self, weight: float = 10.0):
        a = self.descriptors[self.labels]
        return reference.wgan_gp_autograd(self.twin, self.real, self.fake, a, self.alpha, weight)

    def assert_gradients_equal(self, **tolerance):
        first, _, last = self.twin.layers
        split = self.features
        for name, ours, theirs in (
            ("features", self.critic.from_features, first.weight.grad[:, :split]),
            ("descriptor", self.critic.from_descriptor, first.weight.grad[:, split:]),
            ("bias", self.critic.hidden_bias, first.bias.grad),
            ("score", self.critic.to_score, last.weight.grad[0]),
        ):
            torch.testing.assert_close(
                ours.grad.double(), theirs, **tolerance, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize("weight", [0.0, 10.0])
@pytest.mark.parametrize("seed", range(4))
def test_critic_step_equals_double_backward(seed, weight):
    case = Case(seed)
    losses = case.backward(weight)
    wasserstein, penalty = case.twin_losses(weight)
    (wasserstein + penalty).backward()
    torch.testing.assert_close(losses["wasserstein"], wasserstein.detach(), **CLOSE)
    torch.testing.assert_close(losses["penalty"], penalty.detach(), **CLOSE)
    case.assert_gradients_equal(**CLOSE)


@pytest.mark.parametrize("shape", [{"B": 1}, {"C": 1}, {"hidden": 1}, {"Dx": 1}, {"B": 40, "C": 2}])
def test_critic_step_of_extreme_shapes(shape):
    case = Case(11, **shape)
    case.backward()
    sum(case.twin_losses()).backward()
    case.assert_gradients_equal(**CLOSE)


def test_critic_step_where_the_gradient_vanishes():
    """‖∇D‖ = 0 has no derivative; autograd says 0 there, and so must the closed form."""
    case = Case(3)
    case.critic.to_score.zero_()
    losses = case.backward()
    assert losses["penalty"].item() == pytest.approx(10)
    assert all(torch.isfinite(p.grad).all() for p in case.critic.parameters())


def test_critic_step_in_float32_and_bfloat16_is_near():
    for dtype, error in (("float32", 1e-4), ("bfloat16", 0.2)):
        case = Case(5, B=64, Dx=32, hidden=48, std=0.2, dtype=dtype)
        case.backward()
        sum(case.twin_losses()).backward()
        first, _, last = case.twin.layers
        pairs = (
            (case.critic.from_features.grad, first.weight.grad[:, :32]),
            (case.critic.from_descriptor.grad, first.weight.grad[:, 32:]),
            (case.critic.to_score.grad, last.weight.grad[0]),
        )
        for ours, theirs in pairs:
            assert ours.dtype == torch.float32  # the masters'; a few slopes flip in bfloat16
            assert float((ours - theirs).norm() / theirs.norm()) < error, dtype


@pytest.mark.parametrize("seed", range(3))
def test_critic_step_equals_loops_and_their_differences(seed):
    case = Case(seed, B=3, C=2, Dx=2, Da=2, hidden=3)
    critic = case.critic
    batch = (
        case.real.tolist(),
        case.fake.tolist(),
        case.descriptors[case.labels].tolist(),
        case.alpha[:, 0].tolist(),
        10.0,
    )
    W = torch.cat((critic.from_features, critic.from_descriptor), 1).numpy().copy()
    b, w = critic.hidden_bias.numpy().copy(), critic.to_score.numpy().copy()
    losses = case.backward()
    expected = reference.wgan_gp_loops(W.tolist(), b.tolist(), w.tolist(), *batch)
    np.testing.assert_allclose(losses["wasserstein"].item(), expected[0], rtol=1e-9)
    np.testing.assert_allclose(losses["penalty"].item(), expected[1], rtol=1e-9)

    def total(W, b, w):
        return sum(reference.wgan_gp_loops(W.tolist(), b.tolist(), w.tolist(), *batch))

    by_W = reference.numerical_gradient(lambda value: total(value, b, w), W)
    by_b = reference.numerical_gradient(lambda value: total(W, value, w), b)
    by_w = reference.numerical_gradient(lambda value: total(W, b, value), w)
    ours = torch.cat((critic.from_features.grad, critic.from_descriptor.grad), 1)
    np.testing.assert_allclose(ours, by_W, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(critic.hidden_bias.grad, by_b, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(critic.to_score.grad, by_w, rtol=1e-6, atol=1e-8)


def test_critic_forward_is_the_textbook_network():
    case = Case(1)
    share = case.critic.share(case.descriptors)
    ours = case.critic(case.real, share, case.labels)
    theirs = case.twin(case.real, case.descriptors[case.labels]) - 0.37
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


def textbook_generator(network: Generator) -> reference.TextbookGenerator:
    hidden, noise = network.from_noise.shape
    twin = reference.TextbookGenerator(
        noise, network.from_descriptor.shape[1], hidden, len(network.feature_bias)
    )
    first, _, last, _ = twin.layers
    with torch.no_grad():
        first.weight.copy_(torch.cat((network.from_noise, network.from_descriptor), 1))
        first.bias.copy_(network.hidden_bias)
        last.weight.copy_(network.to_features)
        last.bias.copy_(network.feature_bias)
    return twin


def generator_case() -> tuple[Case, Generator, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    case = Case(2)
    network = Generator(4, 3, 6, 5, std=0.6, precision=EXACT, rng=rng)
    with torch.no_grad():
        network.hidden_bias += torch.randn(6, generator=rng)
        network.feature_bias += torch.randn(5, generator=rng) * 0.2
    return case, network, torch.randn(7, 4, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("with_feedback", [False, True])
def test_generator_forward_and_gradients_are_the_textbook_networks(warm, with_feedback):
    case, network, z = generator_case()
    a = case.descriptors[case.labels]
    base = torch.randn(len(case.descriptors), 5, dtype=torch.float64) if warm else None
    twin = textbook_generator(network)
    before_relu = twin.layers[:3](torch.cat((z, a), 1))
    expected = torch.relu(before_relu if base is None else before_relu + base[case.labels])
    fake = network(z, network.share(case.descriptors), case.labels, base)
    torch.testing.assert_close(fake, expected, **CLOSE)
    assert (fake == 0).any()  # the ReLU cuts something in this case
    assert (fake > 0).any()

    def feedback(x, labels):
        return (x.square().sum(1) * labels).mean()

    for scratch in (None, Scratch()):
        loss = generator_backward(
            network,
            case.critic,
            z,
            case.labels,
            case.descriptors,
            base,
            scratch,
            feedback if with_feedback else None,
        )
    textbook = -(case.twin(expected, a) - 0.37).mean()
    torch.testing.assert_close(loss, textbook.detach(), **CLOSE)
    (textbook + feedback(expected, case.labels) * with_feedback).backward()
    first, _, last, _ = twin.layers
    torch.testing.assert_close(network.from_noise.grad, first.weight.grad[:, :4], **CLOSE)
    torch.testing.assert_close(network.from_descriptor.grad, first.weight.grad[:, 4:], **CLOSE)
    torch.testing.assert_close(network.hidden_bias.grad, first.bias.grad, **CLOSE)
    torch.testing.assert_close(network.to_features.grad, last.weight.grad, **CLOSE)
    torch.testing.assert_close(network.feature_bias.grad, last.bias.grad, **CLOSE)
    assert all(p.grad is None for p in case.critic.parameters())


def test_ridge_base_is_added_before_the_relu():
    rng = stream(0, "test")
    network = Generator(2, 3, 4, 5, std=0.5, precision=EXACT, rng=rng)
    descriptors = torch.rand(2, 3, generator=rng, dtype=torch.float64)
    labels = torch.tensor([1, 0, 1])
    z = torch.randn(3, 2, generator=rng, dtype=torch.float64)
    base = torch.randn(2, 5, generator=rng, dtype=torch.float64)
    share = network.share(descriptors)
    twin = textbook_generator(network)
    before_relu = twin.layers[:3](torch.cat((z, descriptors[labels]), 1))
    expected = (before_relu + base[labels]).clamp(min=0)
    torch.testing.assert_close(network(z, share, labels, base), expected, **CLOSE)
