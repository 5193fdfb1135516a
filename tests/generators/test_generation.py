"""Stage 1a: the adversarial training step for step, the ridge generator, and drawing samples."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Generation, Preprocessing
from mlis.errors import DivergenceError, SettingsError
from mlis.generators.base import synthesise
from mlis.generators.registry import fit_generator
from mlis.generators.ridge import RidgeGenerator, RidgePredictor, class_means, fit_ridge
from mlis.generators.wgan_gp.trainer import AdversarialTrainer
from mlis.model.preprocessing import TrainingTensors, prepare
from reference import TextbookCritic, TextbookGenerator, wgan_gp_autograd
from simulated import small, tiny

EXACT = Precision.of("float64", "cpu")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def tensors(seed: int = 0, precision: Precision = EXACT) -> TrainingTensors:
    return prepare(tiny(seed).for_training(), Preprocessing(), precision)[1]


def settings(**changes) -> Generation:
    return small(generation=changes).generation


# --- wgan-gp ------------------------------------------------------------------------------------


class TextbookTraining:
    """The published loop: critic steps by autograd, then one generator step, PyTorch's Adam."""

    def __init__(self, trainer: AdversarialTrainer, data: TrainingTensors, s: Generation):
        ours, critic = trainer.network, trainer.critic
        Dx, Da = data.x.shape[1], data.descriptors.shape[1]
        self.data, self.s = data, s
        self.G = TextbookGenerator(s.noise, Da, s.hidden, Dx)
        self.D = TextbookCritic(Dx, Da, s.hidden)
        with torch.no_grad():
            first, _, last, _ = self.G.layers
            first.weight.copy_(torch.cat((ours.from_noise, ours.from_descriptor), 1))
            last.weight.copy_(ours.to_features)
            first.bias.zero_()
            last.bias.zero_()
            first, _, last = self.D.layers
            first.weight.copy_(torch.cat((critic.from_features, critic.from_descriptor), 1))
            last.weight.copy_(critic.to_score[None])
            first.bias.zero_()
            last.bias.zero_()
        options = {"lr": s.learning_rate, "betas": (s.beta1, s.beta2), "fused": False}
        self.adam_G = torch.optim.Adam(self.G.parameters(), **options)
        self.adam_D = torch.optim.Adam(self.D.parameters(), **options)

    def draw_rows(self, rng: torch.Generator):
        size = (self.s.critic_steps + 1) * self.s.batch_size
        return torch.randint(len(self.data.y), (size,), generator=rng)

    def step(self, rows: torch.Tensor, rng: torch.Generator):
        """One step on these rows; returns its losses, and the rows of the next step."""
        s, B, rounds = self.s, self.s.batch_size, self.s.critic_steps
        z = torch.randn(((rounds + 1) * B, s.noise), generator=rng).double()
        alphas = torch.rand((rounds, B, 1), generator=rng).double()
        following = self.draw_rows(rng)
        a = self.data.descriptors[self.data.y[rows]]
        for i in range(rounds):
            part = slice(i * B, (i + 1) * B)
            fake = self.G(z[part], a[part]).detach()
            real = self.data.x[rows[part]]
            losses = wgan_gp_autograd(self.D, real, fake, a[part], alphas[i], s.penalty)
            self.adam_D.zero_grad()
            sum(losses).backward()
            self.adam_D.step()
        part = slice(rounds * B, None)
        loss = -self.D(self.G(z[part], a[part]), a[part]).mean()
        self.adam_G.zero_grad()
        loss.backward()
        self.adam_G.step()
        values = (*losses, loss + self.D.layers[2].bias)  # the package's D has no last bias
        return [float(value.detach()) for value in values], following


@pytest.mark.parametrize(("critic_steps", "batch_size"), [(3, 11), (3, 4), (2, 2)])
def test_training_equals_the_published_loop(critic_steps, batch_size):
    """Four steps from the same weights and random numbers; of six classes, or of fewer samples."""
    data = tensors()
    s = settings(critic_steps=critic_steps, batch_size=batch_size, init_std=0.3)
    trainer = AdversarialTrainer(data, s, EXACT, seed=4)
    textbook = TextbookTraining(trainer, data, s)
    rng = stream(4, "adversarial")
    before = trainer.network.to_features.detach().clone()
    rows = textbook.draw_rows(rng)
    for _ in range(4):
        ours = trainer.step()
        losses = [float(ours[name]) for name in ("wasserstein", "penalty", "generator")]
        expected, rows = textbook.step(rows, rng)
        assert losses == pytest.approx(expected, rel=1e-9)
    first, _, last, _ = textbook.G.layers
    joined = torch.cat((trainer.network.from_noise, trainer.network.from_descriptor), 1)
    torch.testing.assert_close(joined, first.weight, **CLOSE)
    torch.testing.assert_close(trainer.network.hidden_bias, first.bias, **CLOSE)
    torch.testing.assert_close(trainer.network.to_features, last.weight, **CLOSE)
    torch.testing.assert_close(trainer.network.feature_bias, last.bias, **CLOSE)
    first, _, last = textbook.D.layers
    joined = torch.cat((trainer.critic.from_features, trainer.critic.from_descriptor), 1)
    torch.testing.assert_close(joined, first.weight.detach(), **CLOSE)
    torch.testing.assert_close(trainer.critic.to_score, last.weight.detach()[0], **CLOSE)
    assert not torch.equal(trainer.network.to_features, before)


def test_initial_weights_are_normal_with_the_given_deviation_and_the_same_in_every_precision():
    data = tensors()
    s = settings(hidden=400, noise=50, init_std=0.02)
    exact = AdversarialTrainer(data, s, EXACT, seed=1).network
    weights = exact.from_noise.detach().flatten().numpy()
    assert scipy.stats.kstest(weights / 0.02, "norm").pvalue > 1e-4
    assert not exact.hidden_bias.any()
    single = AdversarialTrainer(
        tensors(precision=Precision.of("float32", "cpu")),
        s,
        Precision.of("float32", "cpu"),
        seed=1,
    ).network
    assert torch.equal(single.from_noise.double(), exact.from_noise)


def test_samples_depend_on_class_and_noise_and_are_not_negative():
    data = tensors()
    generator = fit_generator(data, settings(init_std=0.5), EXACT, 0)
    sampler = generator.sampler(data.descriptors)
    labels = torch.tensor([0, 0, 1])
    one = sampler(labels, stream(0, "a"))
    assert one.shape == (3, data.x.shape[1])
    assert one.min() >= 0
    assert torch.equal(one, sampler(labels, stream(0, "a")))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, sampler(torch.tensor([2, 0, 1]), stream(0, "a")))
    assert not one.requires_grad


def test_ridge_warm_start_begins_at_the_predicted_means():
    data = tensors()
    s = settings(generator_init="ridge", init_std=0.0, steps=0)
    generator = fit_generator(data, s, EXACT, 0)
    means = fit_ridge(data, s).predictor(data.descriptors).clamp(min=0)
    labels = torch.arange(data.num_classes)
    samples = generator.sampler(data.descriptors)(labels, stream(0, "z"))
    torch.testing.assert_close(samples, means, **CLOSE)
    trained = fit_generator(data, settings(generator_init="ridge"), EXACT, 0)
    assert (trained.sampler(data.descriptors)(labels, stream(0, "z")) - means).abs().max() > 0


def test_the_generator_gradient_reaches_through_the_warm_start():
    data = tensors()
    trainer = AdversarialTrainer(data, settings(generator_init="ridge"), EXACT, 0)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    trainer.step()
    for old, new in zip(before, trainer.network.parameters(), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("changes", [{"learning_rate": 1e18}, {"penalty": 1e38}])
def test_divergence_names_stage_step_and_loss(changes):
    data = tensors(precision=Precision.of("float32", "cpu"))
    s = settings(steps=40, **changes)
    with pytest.raises(
        DivergenceError, match=r"generation diverged: .* at step \d+.*learning_rate"
    ):
        fit_generator(data, s, Precision.of("float32", "cpu"), 0)


# --- ridge --------------------------------------------------------------------------------------


def test_linear_ridge_equals_the_primal_solution():
    """Dual (kernel) and primal solutions of the same problem agree: W = (AᵀA + λI)⁻¹ AᵀM."""
    rng = np.random.default_rng(0)
    A, M, new = rng.normal(size=(7, 4)), rng.normal(size=(7, 5)), rng.normal(size=(3, 4))
    for penalty in (0.01, 1.0, 50.0):
        ours = RidgePredictor.fit(torch.tensor(A), torch.tensor(M), "linear", penalty)
        W = np.linalg.solve(A.T @ A + penalty * np.eye(4), A.T @ (M - M.mean(0)))
        np.testing.assert_allclose(ours(torch.tensor(new)), M.mean(0) + new @ W, rtol=1e-9)


@pytest.mark.parametrize("S", [6, 30])
def test_rbf_ridge_equals_loops(S):
    rng = np.random.default_rng(1)
    A, M, new = rng.normal(size=(S, 3)), rng.normal(size=(S, 2)), rng.normal(size=(4, 3))
    distances = sorted(math.dist(A[i], A[j]) for i in range(S) for j in range(i))
    width = distances[(len(distances) - 1) // 2]

    def kernel(u, v):
        return math.exp(-0.5 * (math.dist(u, v) / width) ** 2)

    gram = np.array([[kernel(u, v) for v in A] for u in A])
    dual = np.linalg.solve(gram + 0.1 * np.eye(S), M - M.mean(0))
    expected = M.mean(0) + np.array([[kernel(u, v) for v in A] for u in new]) @ dual
    ours = RidgePredictor.fit(torch.tensor(A), torch.tensor(M), "rbf", 0.1)
    np.testing.assert_allclose(ours(torch.tensor(new)), expected, rtol=1e-7)


def test_rbf_kernel_of_equal_descriptors_is_finite():
    A = torch.ones(3, 2, dtype=torch.float64)
    M = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)
    predictor = RidgePredictor.fit(A, M, "rbf", 0.1)
    torch.testing.assert_close(predictor(A[:1]), torch.tensor([[3.0]], dtype=torch.float64))


def test_a_penalty_too_small_for_the_descriptors_is_named():
    A = torch.full((3, 2), 1e9, dtype=torch.float64)
    with pytest.raises(SettingsError, match=r"ridge_lambda=1e-12 is too small.*raise it"):
        RidgePredictor.fit(A, torch.rand(3, 2).double(), "linear", 1e-12)


def test_weak_penalty_reproduces_the_seen_means():
    data = tensors()
    ridge = fit_ridge(data, settings(ridge_lambda=1e-10, ridge_kernel="rbf"))
    means = class_means(data.x, data.y, data.num_classes)
    predicted = ridge.predictor(data.descriptors[data.seen])
    torch.testing.assert_close(predicted, means[data.seen], rtol=1e-6, atol=1e-6)


def test_ridge_samples_are_means_plus_residuals_of_the_most_similar_seen_classes():
    data = tensors()
    s = settings(ridge_neighbours=2)
    ridge = fit_ridge(data, s)
    assert isinstance(ridge, RidgeGenerator)
    target = int(data.unseen[1])
    labels = torch.full((3000,), target)
    samples = ridge.sampler(data.descriptors)(labels, stream(0, "ridge"))

    unit = data.descriptors / data.descriptors.norm(dim=1, keepdim=True)
    closeness = {int(c): float(unit[target] @ unit[c]) for c in data.seen}
    lenders = sorted(closeness, key=lambda c: -closeness[c])[:2]
    base = ridge.predictor(data.descriptors)[target]
    means = class_means(data.x, data.y, data.num_classes)
    candidates = torch.cat([(base + data.x[data.y == c] - means[c]).clamp(min=0) for c in lenders])
    distance = (samples[:, None] - candidates[None]).abs().amax(2)
    assert distance.min(1).values.max() < 1e-12
    drawn = torch.bincount(distance.argmin(1), minlength=len(candidates)).numpy()
    sizes = [int((data.y == c).sum()) for c in lenders]
    expected = np.repeat([1500 / size for size in sizes], sizes)
    assert scipy.stats.chisquare(drawn, expected).pvalue > 1e-4


def test_synthesise_counts_and_order():
    def sampler(labels, rng):
        return labels[:, None].double() + torch.rand((len(labels), 1), generator=rng)

    parts = list(synthesise(sampler, torch.tensor([4, 1]), 3, stream(0, "s"), chunk=2))
    x, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    assert y.tolist() == [4, 4, 4, 1, 1, 1]
    assert x[:, 0].floor().tolist() == y.tolist()
    assert len(set(x[:, 0].tolist())) == 6
