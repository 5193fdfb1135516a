"""The closed-form WGAN-GP step against autograd's double backward and against explicit loops."""

import numpy as np
import pytest
import torch

import reference
from mlis.compute.buffers import Buffers
from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.generators.wgan_gp.losses import critic_loss, generator_loss
from mlis.generators.wgan_gp.networks import Critic, Generator

CPU = torch.device("cpu")
EXACT = Precision.of("float64", CPU)
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


class Case:
    """A critic with nothing left at zero, its textbook twin, and a batch."""

    def __init__(self, seed: int, B=7, C=4, Dx=5, Da=3, hidden=6, std=0.7, dtype="float64"):
        rng = torch.Generator().manual_seed(seed)
        self.critic = Critic(Dx, Da, hidden, std=std, precision=Precision.of(dtype, CPU), rng=rng)
        self.buffers = Buffers()
        with torch.no_grad():
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

    def losses(self, weight: float = 10.0) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = self.critic.precision.master
        return critic_loss(
            self.critic,
            self.real.to(dtype),
            self.fake.to(dtype),
            self.labels,
            self.descriptors.to(dtype),
            self.alpha.to(dtype),
            weight,
            self.buffers,
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
    ours, theirs = case.losses(weight), case.twin_losses(weight)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    sum(ours).backward()
    sum(theirs).backward()
    case.assert_gradients_equal(**CLOSE)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.5, -3.0)])
def test_each_term_of_the_critic_loss_has_a_gradient_of_its_own(weights):
    case = Case(6)
    for terms in (case.losses(), case.twin_losses()):
        sum(w * term for w, term in zip(weights, terms, strict=True)).backward()
    case.assert_gradients_equal(**CLOSE)


def test_gradients_add_up_over_backward_passes_and_their_memory_is_reused_after_zero_grad():
    case = Case(7)
    for _ in range(2):  # a second pass in the same buffers adds to the first one's gradients
        sum(case.losses()).backward()
        sum(case.twin_losses()).backward()
    case.assert_gradients_equal(**CLOSE)
    case.critic.zero_grad()
    case.twin.zero_grad()
    memory = case.buffers.gradient("critic.from_features", case.critic.from_features)
    sum(case.losses()).backward()
    assert case.critic.from_features.grad.data_ptr() == memory.data_ptr()
    sum(case.twin_losses()).backward()
    case.assert_gradients_equal(**CLOSE)


def test_a_backward_pass_whose_buffers_were_overwritten_is_an_error():
    case = Case(8)
    overwritten = sum(case.losses())
    case.losses()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        overwritten.backward()


@pytest.mark.parametrize("shape", [{"B": 1}, {"C": 1}, {"hidden": 1}, {"Dx": 1}, {"B": 40, "C": 2}])
def test_critic_step_of_extreme_shapes(shape):
    case = Case(11, **shape)
    sum(case.losses()).backward()
    sum(case.twin_losses()).backward()
    case.assert_gradients_equal(**CLOSE)


def test_critic_step_where_the_gradient_vanishes():
    """‖∇D‖ = 0 has no derivative; autograd says 0 there, and so must the closed form."""
    case = Case(3)
    case.critic.to_score.data.zero_()
    wasserstein, penalty = case.losses()
    (wasserstein + penalty).backward()
    assert penalty.item() == pytest.approx(10)
    assert all(torch.isfinite(p.grad).all() for p in case.critic.parameters())


def test_critic_step_in_float32_and_bfloat16_is_near():
    for dtype, error in (("float32", 1e-4), ("bfloat16", 0.2)):
        case = Case(5, B=64, Dx=32, hidden=48, std=0.2, dtype=dtype)
        sum(case.losses()).backward()
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
    W = torch.cat((critic.from_features, critic.from_descriptor), 1).detach().numpy().copy()
    b, w = (p.detach().numpy().copy() for p in (critic.hidden_bias, critic.to_score))
    losses = case.losses()
    sum(losses).backward()
    expected = reference.wgan_gp_loops(W.tolist(), b.tolist(), w.tolist(), *batch)
    np.testing.assert_allclose([loss.item() for loss in losses], expected, rtol=1e-9)

    def total(W, b, w):
        return sum(reference.wgan_gp_loops(W.tolist(), b.tolist(), w.tolist(), *batch))

    by_W = reference.numerical_gradient(lambda value: total(value, b, w), W)
    by_b = reference.numerical_gradient(lambda value: total(W, value, w), b)
    by_w = reference.numerical_gradient(lambda value: total(W, b, value), w)
    ours = torch.cat((critic.from_features.grad, critic.from_descriptor.grad), 1)
    np.testing.assert_allclose(ours, by_W, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(critic.hidden_bias.grad, by_b, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(critic.to_score.grad, by_w, rtol=1e-6, atol=1e-8)


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


def generator_case(precision: str = "float64") -> tuple[Case, Generator, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    case = Case(2, dtype=precision)
    network = Generator(4, 3, 6, 5, std=0.6, precision=Precision.of(precision, CPU), rng=rng)
    with torch.no_grad():
        network.hidden_bias += torch.randn(6, generator=rng)
        network.feature_bias += torch.randn(5, generator=rng) * 0.2
    return case, network, torch.randn(7, 4, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("with_feedback", [False, True])
def test_generator_forward_and_gradients_are_the_textbook_networks(warm, with_feedback):
    case, network, z = generator_case()
    a = case.descriptors[case.labels]
    base = torch.randn(7, 5, dtype=torch.float64) if warm else None
    twin = textbook_generator(network)
    before_relu = twin.layers[:3](torch.cat((z, a), 1))
    expected = torch.relu(before_relu if base is None else before_relu + base)

    def feedback(x):
        return with_feedback * (x.square().sum(1) * case.labels).mean()

    for _ in range(2):  # the second time in memory that was used before
        network.zero_grad()
        class_term = network.own_class_term(case.descriptors, case.labels)
        fake = network(z, class_term, base, network.weights(case.buffers))
        loss = generator_loss(case.critic, fake, case.labels, case.descriptors, case.buffers)
        (loss + feedback(fake)).backward(inputs=list(network.parameters()))
    torch.testing.assert_close(fake, expected, **CLOSE)
    assert (fake == 0).any()  # the ReLU cuts something in this case
    assert (fake > 0).any()
    textbook = -(case.twin(expected, a) - 0.37).mean()
    torch.testing.assert_close(loss, textbook, **CLOSE)
    (textbook + feedback(expected)).backward()
    first, _, last, _ = twin.layers
    torch.testing.assert_close(network.from_noise.grad, first.weight.grad[:, :4], **CLOSE)
    torch.testing.assert_close(network.from_descriptor.grad, first.weight.grad[:, 4:], **CLOSE)
    torch.testing.assert_close(network.hidden_bias.grad, first.bias.grad, **CLOSE)
    torch.testing.assert_close(network.to_features.grad, last.weight.grad, **CLOSE)
    torch.testing.assert_close(network.feature_bias.grad, last.bias.grad, **CLOSE)
    assert all(p.grad is None for p in case.critic.parameters())


def test_casting_weights_in_reused_memory_changes_no_gradient():
    """bfloat16 products: the same bits as with autograd's own cast, which allocates."""
    case, network, z = generator_case("bfloat16")
    found = []
    for weights in (None, network.weights(Buffers())):
        network.zero_grad()
        class_term = network.own_class_term(case.descriptors.float(), case.labels)
        network(z.float(), class_term, None, weights).square().sum().backward()
        found.append([p.grad.clone() for p in network.parameters()])
    for one, other in zip(*found, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
        assert one.any()


def test_ridge_base_is_added_before_the_relu():
    rng = stream(0, "test")
    network = Generator(2, 3, 4, 5, std=0.5, precision=EXACT, rng=rng)
    descriptors = torch.rand(2, 3, generator=rng, dtype=torch.float64)
    labels = torch.tensor([1, 0, 1])
    z = torch.randn(3, 2, generator=rng, dtype=torch.float64)
    base = torch.randn(2, 5, generator=rng, dtype=torch.float64)[labels]
    twin = textbook_generator(network)
    before_relu = twin.layers[:3](torch.cat((z, descriptors[labels]), 1))
    expected = (before_relu + base).clamp(min=0)
    class_term = network.class_term(descriptors)[labels]
    torch.testing.assert_close(network(z, class_term, base), expected, **CLOSE)
