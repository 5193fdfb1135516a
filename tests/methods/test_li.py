"""After Li et al.: a step against all terms by plain formulas; what recognises an image."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlis.compute.precision import Precision
from mlis.methods.li import LiReconstruction, LiTrainer
from mlis.model.preprocessing import prepare
from simulated import small, tiny

DOUBLE = Precision.of("float64", "cpu")
SIZES = {
    **{"visual_encoder": 7, "visual_decoder": 6, "semantic_encoder": 5, "semantic_decoder": 4},
    **{"latent": 5, "batch_size": 6},  # d has 2 numbers, n has 3
}


def trainer(**options: Any) -> LiTrainer:
    settings = LiReconstruction(small("float64"), **{**SIZES, **options})
    _, data = prepare(tiny().for_training(), settings.config.preprocessing, DOUBLE)
    return LiTrainer(data, settings, DOUBLE, 0)


def test_a_step_follows_the_loss():
    """Row by row, with the weights in the middle of their warm-up, and Adam's first move."""
    one = trainer(learning_rate=0.01, class_weight=0.7, recombination_weight=0.3)
    for _ in range(30 * one.clock.per_epoch):
        one.clock.advance()
    P = {
        f"{name}.{key}": value.detach().clone().requires_grad_()
        for name, part in one._networks().items()
        for key, value in part.named_parameters()
    }
    rows, state = one.rows.clone(), one.rng.get_state()
    x, a = one.data.x[rows], one.data.descriptors[one.data.y[rows]]
    own = [one.data.seen.tolist().index(c) for c in one.data.y[rows].tolist()]
    rng = torch.Generator()
    rng.set_state(state)
    torch.randint(len(one.data.y), (6,), generator=rng)  # the rows of the next step come first
    eps = [torch.randn((6, 1), generator=rng).double() for _ in range(2)]
    order = torch.randperm(6, generator=rng).tolist()
    assert order != list(range(6))

    def layer(u: Tensor, name: str) -> Tensor:
        return P[f"{name}.weight"] @ u + P[f"{name}.bias"]

    def encode(u: Tensor, name: str) -> tuple[Tensor, Tensor]:
        h = layer(u, f"{name}.layers.0").clamp(min=0)
        return layer(h, f"{name}.mean"), layer(h, f"{name}.log_variance")

    def decode(z: Tensor, name: str) -> Tensor:
        return layer(layer(z, f"{name}.first").clamp(min=0), f"{name}.last")

    def entropy(d: Tensor, label: int) -> Tensor:
        scores = P["classifier.weight"] @ d + P["classifier.bias"]
        return scores.exp().sum().log() - scores[label]

    names = ("visual", "semantic")
    inputs = dict(zip(names, (x, a), strict=True))
    codes = {m: [encode(u, f"{m}_encoder") for u in inputs[m]] for m in names}
    z = {
        m: [mean + variance.exp() * noise[i] for i, (mean, variance) in enumerate(codes[m])]
        for m, noise in zip(names, eps, strict=True)
    }
    terms = ("reconstruction", "kl", "cross", "distance", "classes", "recombination")
    wanted = dict.fromkeys(terms, torch.zeros((), dtype=torch.float64))
    for i in range(6):
        for m, other in (names, names[::-1]):
            u, (mean, variance), own_z = inputs[m][i], codes[m][i], z[m][i]
            crossed = torch.cat((z[other][i][:2], own_z[2:]))
            mixed = torch.cat((own_z[:2], z[m][order[i]][2:]))
            again = encode(decode(mixed, f"{m}_decoder"), f"{m}_encoder")[0]
            kept = ((again[2:] - mixed[2:].detach()) ** 2).mean()
            found = {
                "reconstruction": (decode(own_z, f"{m}_decoder") - u).abs().sum(),
                "kl": 0.5 * (mean**2 + variance.exp() - 1 - variance).sum(),
                "cross": (decode(crossed, f"{m}_decoder") - u).abs().sum(),
                "classes": entropy(own_z[:2], own[i]),
                "recombination": entropy(again[:2], own[i]) + kept,
            }
            wanted = {name: value + found.get(name, 0) / 6 for name, value in wanted.items()}
        (m_v, l_v), (m_a, l_a) = codes["visual"][i], codes["semantic"][i]
        apart = (m_v - m_a) ** 2 + ((l_v / 2).exp() - (l_a / 2).exp()) ** 2
        wanted["distance"] = wanted["distance"] + torch.sqrt(apart[:2].sum() + 1e-8) / 6
    total = wanted["reconstruction"] + 0.25 * 30 / 93 * wanted["kl"]
    total = total + 2.37 * 9 / 54 * wanted["cross"] + 8.13 * wanted["distance"]
    total = total + 0.7 * wanted["classes"] + 0.3 * wanted["recombination"]
    watched = {"visual_encoder.mean": one.visual_encoder.mean, "classifier": one.classifier}
    before = {name: part.weight.detach().clone() for name, part in watched.items()}
    told = one.step()
    for name, value in wanted.items():
        assert float(told[name]) == pytest.approx(float(value.detach()), rel=1e-9), name
    for name, part in watched.items():
        gradient = torch.autograd.grad(total, P[f"{name}.weight"], retain_graph=True)[0]
        moved, steep = part.weight.detach() - before[name], gradient.abs() > 1e-6
        assert steep.double().mean() > 0.2  # other hidden units are zero for these rows
        torch.testing.assert_close(moved[steep], -0.01 * gradient[steep].sign(), rtol=1e-2, atol=0)


def test_an_image_is_recognised_by_the_mean_of_its_distilling_part():
    data = tiny()
    options: dict[str, Any] = {**SIZES, "epochs": 2, "seen_latents": 9, "unseen_latents": 7}
    method = LiReconstruction(small("float64"), **options)
    found = method.fit(data.for_training(), device="cpu").recognizer
    one = trainer(**options)
    for _ in range(2 * one.clock.per_epoch):
        one.step()
    x = found.preprocessing(torch.from_numpy(data.for_testing().features).double())
    d = one.visual_encoder(x)[0][:, :2]
    torch.testing.assert_close(found.refiner(x), d)
    scores = d @ found.head.weight.T + found.head.bias
    np.testing.assert_allclose(
        found.scores(data.for_testing().features), scores.detach().numpy(), rtol=1e-4, atol=1e-5
    )
