"""CADA-VAE: distances, noise and schedule against plain formulas; a step against its loss."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.methods import cada_vae
from mlis.methods._aligned_vae import LatentNoise, first_rows, warm_up, wasserstein
from mlis.methods.cada_vae import CADAVAE, NOISE, CADAVAETrainer
from mlis.model.preprocessing import prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SIZES = {"visual_encoder": 7, "visual_decoder": 6, "semantic_encoder": 5, "semantic_decoder": 4}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trainer(**options) -> CADAVAETrainer:
    settings = CADAVAE(small("float64"), **{**SIZES, "latent": 3, "batch_size": 6, **options})
    _, data = prepare(tiny().for_training(), settings.config.preprocessing, DOUBLE)
    return CADAVAETrainer(data, settings, DOUBLE, 0)


def test_wasserstein_distance_of_diagonal_gaussians():
    """By the general formula for covariances, with a matrix square root."""
    from scipy.linalg import sqrtm

    one, other = (
        (numbers(4, 3), numbers(4, 3, seed=1)),
        (numbers(4, 3, seed=2), numbers(4, 3, seed=3)),
    )
    total = 0.0
    for i in range(4):
        A, B = (np.diag(np.exp(pair[1][i].numpy())) for pair in (one, other))
        root = np.real(sqrtm(sqrtm(A) @ B @ sqrtm(A)))
        apart = ((one[0][i] - other[0][i]) ** 2).sum().item()
        total += np.sqrt(apart + np.trace(A + B - 2 * root))
    assert float(wasserstein(one, other)) == pytest.approx(total / 4, rel=1e-6)


def test_equal_gaussians_have_a_gradient():
    mean = numbers(2, 3).requires_grad_()
    distance = wasserstein((mean, torch.zeros(2, 3)), (mean.detach().clone(), torch.zeros(2, 3)))
    distance.backward()
    assert float(distance.detach()) < 1e-3
    assert mean.grad is not None
    assert torch.isfinite(mean.grad).all()


@pytest.mark.parametrize(("epoch", "wanted"), [(0, 0), (21, 0), (48, 0.5), (75, 1), (200, 1)])
def test_warm_up(epoch, wanted):
    assert warm_up(epoch, *cada_vae.WARM_UP["cross"]) == wanted


def test_weights_grow_over_the_same_share_of_a_shorter_training():
    shorter = trainer(warm_up=0.5)
    for share in (0.0, 0.1, 0.3, 0.5, 0.8, 1.0):
        found = []
        for one, epochs in ((trainer(), 100), (shorter, 50)):
            one.clock.steps.fill_(round(share * epochs) * one.clock.per_epoch)
            found.append(one.weights())
        assert found[0] == pytest.approx(found[1])
    assert found[0] == {"kl": 0.25, "cross": 2.37, "distance": 8.13}


def test_noise_of_the_program_is_one_number_a_row_times_the_variance():
    mean, log_variance = numbers(50_000, 2), numbers(1, 2, seed=1).expand(50_000, 2)
    for kind, power in (("program", 1.0), ("standard", 0.5)):
        noise = NOISE[kind].draw((mean, log_variance), stream(0, "test")) - mean
        scaled = noise / (power * log_variance).exp()
        torch.testing.assert_close(
            scaled.std(0), torch.ones(2, dtype=torch.float64), atol=0.02, rtol=0
        )
        same = torch.allclose(scaled[:, 0], scaled[:, 1])
        assert same == (kind == "program")


def test_no_noise_where_there_is_no_variance():
    mean = numbers(4, 2)
    found = LatentNoise().draw((mean, torch.full((4, 2), -1e4)), stream(0, "test"))
    assert torch.equal(found, mean)


def test_the_first_rows_of_each_class():
    y = torch.tensor([3, 1, 3, 3, 1, 5])
    found = first_rows(y, torch.tensor([1, 3, 5]), 4)
    assert found.tolist() == [1, 4, 1, 4, 0, 2, 3, 0, 5, 5, 5, 5]


def test_a_step_follows_the_loss():
    """All terms from plain formulas, their weights in the warm-up, and Adam's first move."""
    one = trainer(learning_rate=0.01)
    for _ in range(30 * one.clock.per_epoch):  # all weights are on their way
        one.clock.advance()
    rows, state = one.rows.clone(), one.rng.get_state()
    P = {
        f"{name}.{key}": value.detach().clone().requires_grad_()
        for name, part in one._networks().items()
        for key, value in part.named_parameters()
    }
    x, a = one.data.x[rows], one.data.descriptors[one.data.y[rows]]
    rng = torch.Generator()
    rng.set_state(state)
    torch.randint(len(one.data.y), (6,), generator=rng)  # the rows of the next step come first
    eps = [torch.randn((6, 1), generator=rng).double() for _ in range(2)]

    def layer(u: Tensor, name: str) -> Tensor:
        return u @ P[f"{name}.weight"].T + P[f"{name}.bias"]

    def encode(u: Tensor, name: str) -> tuple[Tensor, Tensor]:
        h = layer(u, f"{name}.layers.0").clamp(min=0)
        return layer(h, f"{name}.mean"), layer(h, f"{name}.log_variance")

    def decode(z: Tensor, name: str) -> Tensor:
        return layer(layer(z, f"{name}.first").clamp(min=0), f"{name}.last")

    (m_v, l_v), (m_a, l_a) = encode(x, "visual_encoder"), encode(a, "semantic_encoder")
    z_v, z_a = m_v + torch.exp(l_v) * eps[0], m_a + torch.exp(l_a) * eps[1]

    def error(z_x: Tensor, z_y: Tensor) -> Tensor:
        to_x = (decode(z_x, "visual_decoder") - x).abs().sum()
        return (to_x + (decode(z_y, "semantic_decoder") - a).abs().sum()) / 6

    def kl(m: Tensor, v: Tensor) -> Tensor:
        return 0.5 * (m**2 + v.exp() - 1 - v).sum() / 6

    apart = ((m_v - m_a) ** 2).sum(1) + ((l_v.exp() ** 0.5 - l_a.exp() ** 0.5) ** 2).sum(1)
    wanted = {
        "reconstruction": error(z_v, z_a),
        "cross": error(z_a, z_v),
        "kl": kl(m_v, l_v) + kl(m_a, l_a),
        "distance": torch.sqrt(apart + 1e-8).mean(),
    }
    total = wanted["reconstruction"] + 0.25 * 30 / 93 * wanted["kl"]
    total = total + 2.37 * 9 / 54 * wanted["cross"] + 8.13 * wanted["distance"]
    gradient = torch.autograd.grad(total, P["visual_encoder.mean.weight"])[0]
    before = one.visual_encoder.mean.weight.detach().clone()
    found = one.step()
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(float(value.detach()), rel=1e-9), name
    moved = one.visual_encoder.mean.weight.detach() - before
    steep = gradient.abs() > 1e-6
    assert steep.double().mean() > 0.2  # other hidden units are zero for these rows
    torch.testing.assert_close(moved[steep], -0.01 * gradient[steep].sign(), rtol=1e-2, atol=0)


def test_an_image_is_recognised_by_its_mean():
    data = tiny()
    options = {**SIZES, "latent": 3, "epochs": 2, "seen_latents": 9, "unseen_latents": 7}
    found = CADAVAE(small("float64"), **options).fit(data.for_training(), device="cpu").recognizer
    first, last = found.refiner.parts
    x = found.preprocessing(torch.from_numpy(data.for_testing().features).double())
    h = (x @ first.weight.T + first.bias).clamp(min=0)
    wanted = (h @ last.weight.T + last.bias) @ found.head.weight.T + found.head.bias
    np.testing.assert_allclose(
        found.scores(data.for_testing().features), wanted.numpy(), rtol=1e-4, atol=1e-5
    )
