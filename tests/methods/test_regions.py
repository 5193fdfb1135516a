"""DAZLE, DVBE and VGSE with patches: each loss by loops or known answers, and what all share."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from method_cases import choose_and_test
from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.errors import SettingsError
from mlis.experiments.plans import label_of
from mlis.io.checkpoint import load_model, save_model
from mlis.io.onnx import export_onnx
from mlis.methods._regions import principal_components
from mlis.methods.base import Job
from mlis.methods.dazle import DAZLE, DenseAttention, self_calibration
from mlis.methods.dvbe import DVBE, Branches, RegionUnits, adaptive_margin
from mlis.methods.registry import build_method
from mlis.methods.vgse_patches import (
    PatchClusters,
    VGSEPatches,
    agreement_loss,
    class_shares,
    nearest_of_others,
    negative_entropy,
)
from mlis.model.heads import GatedHead, LinearHead
from mlis.model.refiners import REFINERS, Identity, RegionLinear, RegionMean, SecondOrder
from mlis.model.refiners.regions import attribute_scores, covariance_root
from mlis.protocol import Chosen, evaluate_on_test
from simulated import of_regions, regions_world

DOUBLE = Precision.of("float64", "cpu")
RNG = np.random.default_rng(0)
SIZES = {"channels": 12, "gate_hidden": 4, "width": 48, "hidden": 32}
QUICK = {
    "dazle": {"steps": 200, "choices": (200,), "learning_rate": 3e-3},
    "dvbe": {"steps": 150, "choices": (150,), "batch_size": 64, **SIZES},
    "vgse-patches": {
        **{"steps": 300, "choices": (300,), "learning_rate": 1e-3},
        **{"clusters": 20, "cluster_steps": 100, "cluster_batch": 32},
    },
}
TITLES = {
    "dazle": ("DAZLE", "DAZLE (R=1)"),
    "dvbe": ("DVBE", "DVBE (pooled)"),
    "vgse-patches": (
        "VGSE (grid, losses partly ours)",
        "VGSE (pooled, losses partly ours)",
    ),
}


def drawn(*shape: int) -> Tensor:
    return torch.from_numpy(RNG.normal(size=shape))


def job(method, regions: int = 4) -> Job:
    config = method.config.replace({"precision": "float64"})
    assert config.precision == "float64"
    return Job(regions_world(regions=regions, classes=9, unseen=3).for_training(), device="cpu")


# --- DAZLE ----------------------------------------------------------------------------------------


def scores_by_loops(x: Tensor, queries: Tensor, regions: int) -> Tensor:
    look, see, count = queries
    rows = []
    for row in x:
        parts = [f / f.norm() for f in row.view(regions, -1)]
        scores = []
        for i in range(len(look)):
            powers = [math.exp(look[i] @ f) for f in parts]
            alpha = [p / sum(powers) for p in powers]
            h = sum(a * f for a, f in zip(alpha, parts, strict=True))
            scores.append((see[i] @ h) / (1 + math.exp(-(count[i] @ h))))
        rows.append(torch.stack(scores))
    return torch.stack(rows)


@pytest.mark.parametrize("regions", [1, 5])
def test_each_attribute_attends_to_regions(regions):
    x, queries = drawn(3, regions * 6), drawn(3, 4, 6)
    expected = scores_by_loops(x, queries, regions)
    torch.testing.assert_close(attribute_scores(x, queries), expected)


def test_attention_is_uniform_at_the_start():
    network = DenseAttention(drawn(4, 7), 6, DOUBLE, stream(0, "test"))
    x = drawn(3, 5 * 6)
    units = torch.nn.functional.normalize(x.view(3, 5, 6), dim=2).mean(1)
    torch.testing.assert_close(network(x), 0.5 * units @ network.queries()[1].T)
    torch.testing.assert_close(network.vectors.norm(dim=1), torch.ones(4).double())
    first = network.queries()[1].detach()  # v W with W of N(0, 1): N(0, 1) as well
    assert 0.6 < float(first.std()) < 1.5


def test_self_calibration_raises_unseen_classes():
    scores, unseen = drawn(5, 4).requires_grad_(), torch.tensor([1, 3])
    found = self_calibration(scores, unseen)
    shares = []
    for row in scores.tolist():
        powers = [math.exp(s + (1 if c in (1, 3) else -1)) for c, s in enumerate(row)]
        shares.append((powers[1] + powers[3]) / sum(powers))
    assert float(found.detach()) == pytest.approx(-math.log(sum(shares) / 5))
    (gradient,) = torch.autograd.grad(found, scores)
    assert bool((gradient[:, [1, 3]] < 0).all())
    assert bool((gradient[:, [0, 2]] > 0).all())


def test_the_loss_of_dazle_is_over_all_classes():
    one = DAZLE(Config(precision="float64"), batch_size=11, calibration=0.3)
    _, data, reader = one.read(job(one))
    network = DenseAttention(drawn(8, 5), 24, DOUBLE, stream(0, "test"))
    found = one.losses(network, data, reader)(stream(3, "batch"))
    rows = torch.randint(len(data.y), (11,), generator=stream(3, "batch"))
    scores = scores_by_loops(data.x[rows], network.queries().detach(), 4) @ data.descriptors.T
    own = [-torch.log_softmax(s, 0)[y] for s, y in zip(scores, data.y[rows], strict=True)]
    torch.testing.assert_close(found["cross_entropy"], torch.stack(own).mean())
    torch.testing.assert_close(found["calibration"], 0.3 * self_calibration(scores, data.unseen))


def test_vectors_of_attribute_names_are_used_where_there_are_some():
    training = regions_world().for_training()
    vectors = RNG.normal(size=(8, 5)).astype(np.float32)
    named = replace(training, attribute_vectors=vectors)
    method = DAZLE(Config(precision="float64"), steps=1, choices=(1,), learning_rate=0.0)
    plain, told, again = (
        method.fit(t, device="cpu").recognizer.refiner.state_dict()
        for t in (training, named, replace(named, attribute_vectors=3 * vectors))
    )
    (key,) = plain
    assert not torch.allclose(plain[key], told[key])
    torch.testing.assert_close(told[key], again[key])
    expected = np.linalg.matrix_rank(vectors)
    assert (
        torch.linalg.matrix_rank(told[key][1]) == expected < torch.linalg.matrix_rank(plain[key][1])
    )


# --- DVBE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", [2, 9])
def test_the_root_is_that_of_newton_and_schulz(regions):
    y1, y2 = drawn(3, regions, 6), None
    y2 = y1 * (1 + 0.3 * torch.rand(3, regions, 1, dtype=torch.float64, generator=stream(0, "x")))
    found = covariance_root(y1, y2)
    for b in range(3):
        p, q = (y[b] - y[b].mean(0) for y in (y1, y2))
        a = sum(torch.outer(p[r], q[r]) for r in range(regions)) / regions
        y, z, one = a / a.trace(), torch.eye(6).double(), torch.eye(6).double()
        for _ in range(5):
            y, z = 0.5 * y @ (3 * one - z @ y), 0.5 * (3 * one - z @ y) @ z
        torch.testing.assert_close(found[b], y * a.trace().sqrt(), rtol=1e-9, atol=1e-12)


def test_after_many_iterations_it_is_the_square_root():
    y = drawn(2, 40, 3)
    root = covariance_root(y, y, iterations=40)
    for b in range(2):
        torch.testing.assert_close(root[b] @ root[b], torch.cov(y[b].T, correction=0))


def test_equal_regions_have_no_covariance():
    y = torch.ones(2, 4, 3).requires_grad_()
    root = covariance_root(y, y)
    assert bool((root == 0).all())
    assert bool(torch.autograd.grad(root.sum(), y)[0].isfinite().all())


def test_second_order_pooling():
    one = SecondOrder.empty(5, 3).to_empty(device="cpu").double()
    for parameter in one.parameters():
        torch.nn.init.normal_(parameter, generator=stream(0, "test"))
    x = drawn(2, 4 * 5)
    found = one(x)
    assert found.shape == (2, one.width(20)) == (2, 15)
    for b in range(2):
        y = x[b].view(4, 5)
        first, second = one.channel
        h = torch.relu(first.weight @ y.mean(0) + first.bias)
        y1 = y * (1 + torch.sigmoid(second.weight @ h + second.bias))
        first, second = one.spatial
        gates = [second.weight @ torch.relu(first.weight @ f + first.bias) + second.bias for f in y]
        y2 = y * (1 + torch.sigmoid(torch.stack(gates)))
        root = covariance_root(y1[None], y2[None])[0]
        expected = [root[i, j] for i in range(5) for j in range(i, 5)]
        torch.testing.assert_close(found[b], torch.stack(expected))


def test_the_adaptive_margin():
    logits, own = drawn(6, 4).requires_grad_(), torch.tensor([0, 1, 2, 3, 0, 1])
    terms = []
    for row, y in zip(logits.tolist(), own.tolist(), strict=True):
        p = math.exp(row[y]) / sum(map(math.exp, row))
        row[y] *= 1 - math.exp(-((p - 1) ** 2) / 0.7)
        terms.append(-row[y] + math.log(sum(map(math.exp, row))))
    found = adaptive_margin(logits, own, 0.7)
    assert float(found.detach()) == pytest.approx(sum(terms) / 6)
    sure = torch.tensor([[40.0, 0.0, 0.0]])  # nothing of its logit is left
    assert float(adaptive_margin(sure, torch.tensor([0]), 0.5)) == pytest.approx(math.log(3))


def test_units_are_folded_into_one_layer():
    units = RegionUnits(6, 3, DOUBLE, stream(0, "test"))
    for _ in range(5):
        units(drawn(20, 12) + 2)
    x = drawn(4, 12)
    torch.testing.assert_close(units.refiner()(x), units.eval()(x))


def test_the_losses_of_dvbe():
    one = DVBE(Config(precision="float64"), batch_size=10, **SIZES)
    _, data, reader = one.read(job(one))
    sizes = 24, 8, len(data.seen), 4
    network = Branches(*sizes, one, DOUBLE, stream(0, "test")).eval()
    found = one.losses(network, data, reader)(stream(3, "batch"))
    rows = torch.randint(len(data.y), (10,), generator=stream(3, "batch"))
    first, last = network.semantic.first, network.semantic.last
    aligned, auxiliary = [], []
    for row in rows:
        y = data.seen.tolist().index(int(data.y[row]))
        v = network.aligned.refiner()(data.x[row][None]).view(4, -1).mean(0)
        h = first.weight @ data.descriptors[data.y[row]] + first.bias
        w = last.weight @ torch.where(h > 0, h, 0.01 * h) + last.bias
        w = torch.where(w > 0, w, 0.01 * w)
        aligned.append(1 - v @ w / v.norm() / w.norm())
        o = network.auxiliary.weight @ v + network.auxiliary.bias
        auxiliary.append(-torch.log_softmax(o, 0)[y])
    torch.testing.assert_close(found["zsr"], torch.stack(aligned).mean())
    torch.testing.assert_close(found["auxiliary"], torch.stack(auxiliary).mean())
    own = torch.searchsorted(data.seen, data.y[rows])
    torch.testing.assert_close(
        found["odr"], adaptive_margin(network.logits(data.x[rows]), own, 0.5)
    )


def test_the_gate_is_the_certainty_of_the_softmax():
    order = [2, 0, 3, 1, 4]  # classes 1 and 3 are the first seen ones, 0 the third
    head = GatedHead(LinearHead(drawn(3, 4), drawn(3)), drawn(2, 6), order)
    h = drawn(7, 10)
    scores = head(h)
    for row, found in zip(h, scores, strict=True):
        p = torch.softmax(head.seen.weight @ row[:4] + head.seen.bias, 0)
        expected = [*(p.max() + 1e-3 * p)]
        for w in head.prototypes:
            expected.append(1e-3 * (1 + row[4:] @ w / row[4:].norm() / w.norm()) / 2)
        torch.testing.assert_close(found, torch.stack([expected[i] for i in order]))
    gate = torch.softmax(head.seen(h[:, :4]), 1).amax(1)
    constant = float(gate.median()) + 1e-2
    seen = torch.tensor([i < 3 for i in order])
    best = (scores - constant * seen).argmax(1)
    assert torch.equal(seen[best], gate > constant)
    few = head.chosen(torch.tensor([4, 3, 1, 2, 0]))
    torch.testing.assert_close(few(h), scores[:, [4, 3, 1, 2, 0]])
    only = head.chosen(torch.tensor([2, 4]))(h)
    torch.testing.assert_close(only, scores[:, [2, 4]])
    with pytest.raises(ValueError, match="order: expected a permutation"):
        GatedHead(head.seen, head.prototypes, [0, 1, 2, 3, 3])


# --- VGSE -----------------------------------------------------------------------------------------


def test_neighbours_are_of_other_images():
    patches, images = drawn(9, 4), torch.tensor([5, 5, 5, 2, 2, 2, 8, 8, 8])
    found = nearest_of_others(patches, images, 2)
    units = patches / patches.norm(dim=1, keepdim=True)
    for i in range(9):
        others = [j for j in range(9) if images[j] != images[i]]
        others.sort(key=lambda j: -float(units[i] @ units[j]))
        assert found[i].tolist() == others[:2]
    assert nearest_of_others(patches, images, 100).shape == (9, 6)
    twice = torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 1])  # one image, drawn again and again
    assert nearest_of_others(patches, twice, 2).shape == (9, 0)


def test_losses_of_clusters():
    a = torch.softmax(drawn(5, 3), dim=1)
    near = torch.tensor([[1, 2], [0, 4], [3, 0], [2, 2], [1, 0]])
    terms = [-math.log(float(a[i] @ a[j])) for i in range(5) for j in near[i]]
    assert float(agreement_loss(a, near)) == pytest.approx(sum(terms) / 10)
    one = torch.eye(3)[[1, 1, 1]].double()
    assert float(agreement_loss(one, torch.tensor([[1], [2], [0]]))) == pytest.approx(0)
    assert float(negative_entropy(torch.eye(3).double())) == pytest.approx(-math.log(3))
    assert float(negative_entropy(one)) == pytest.approx(0)


def test_the_loss_of_a_batch_and_the_shares_of_classes():
    weights = {"entropy_weight": 0.7, "class_weight": 0.6, "word_weight": 0.3}
    one = VGSEPatches(Config(precision="float64"), cluster_batch=6, neighbours=2, **weights)
    config = one.config.replace({"preprocessing": {"feature_scaling": "none"}})
    _, data = job(one).prepare(config, pool=False)
    network = PatchClusters(24, 5, len(data.seen), 8, DOUBLE, stream(0, "test"))
    found = one.cluster_losses(network, data, data.descriptors)(stream(3, "batch"))
    rows = torch.randint(len(data.y), (6,), generator=stream(3, "batch"))
    apart, classes = [], []
    patches: list[tuple[int, torch.Tensor, torch.Tensor]] = []  # image, unit feature, a
    for row in rows.tolist():
        y = int(data.y[row])
        for patch in data.x[row].view(4, 24):
            a = torch.softmax(network.assign.weight @ (patch / patch.norm()), 0)
            patches.append((row, patch / patch.norm(), a))
            apart.append((network.ground.weight @ a - data.descriptors[y]).norm())
            logits = torch.log_softmax(network.classify.weight @ a, 0)
            classes.append(-logits[data.seen.tolist().index(y)])
    agreement = []
    for image, unit, a in patches:
        others = [other for other in patches if other[0] != image]
        others.sort(key=lambda other, unit=unit: -float(unit @ other[1]))
        agreement += [-(a @ other[2]).log() for other in others[:2]]
    mean = torch.stack([a for _, _, a in patches]).mean(0)
    wanted = {
        "agreement": torch.stack(agreement).mean(),
        "entropy": 0.7 * sum(share * share.log() for share in mean),
        "class": 0.6 * torch.stack(classes).mean(),
        "words": 0.3 * torch.stack(apart).mean(),
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)
    shares = class_shares(network, data)
    torch.testing.assert_close(shares.sum(1), torch.isin(torch.arange(9), data.seen).double())
    mine = network(data.x[data.y == 2].reshape(-1, 24)).mean(0)
    torch.testing.assert_close(shares[2], mine)


def test_names_of_classes_can_take_the_place_of_descriptors():
    training = regions_world().for_training()
    method = build_method(
        "vgse-patches", words="names", **QUICK["vgse-patches"] | {"cluster_steps": 3}
    )
    with pytest.raises(SettingsError, match=r"words='names'.*--phrases"):
        method.fit(training, device="cpu")
    named = replace(training, name_vectors=RNG.normal(size=(24, 7)).astype(np.float32))
    other = replace(named, descriptors=named.descriptors[:, ::-1].copy())
    first, second = (method.fit(t, device="cpu").recognizer.head.weight for t in (named, other))
    assert torch.equal(first, second)  # no attribute is used


# --- principal components -------------------------------------------------------------------------


def test_components_are_those_of_all_regions():
    x = drawn(30, 4 * 6) @ torch.diag(torch.linspace(1, 3, 24).double())
    found = principal_components(x, 4, 2)
    regions = x.view(-1, 6).numpy()
    centred = regions - regions.mean(0)
    expected = np.linalg.svd(centred, full_matrices=False)[2][:2]
    signs = np.sign((found.weight.numpy() * expected).sum(1))
    np.testing.assert_allclose(found.weight, expected * signs[:, None], atol=1e-9)
    np.testing.assert_allclose(found(x).view(-1, 2), centred @ found.weight.numpy().T, atol=1e-9)
    with pytest.raises(SettingsError, match="at most 6 components"):
        principal_components(x, 4, 7)


def test_a_layer_of_regions_is_the_same_for_each():
    one = RegionLinear(drawn(2, 3), drawn(2), 0.1)
    x = drawn(4, 5 * 3)
    parts = [one(part) for part in x.split(3, dim=1)]
    torch.testing.assert_close(one(x), torch.cat(parts, dim=1))
    assert one.width(15) == 10
    torch.testing.assert_close(RegionMean(3)(x), torch.stack(x.split(3, dim=1)).mean(0))
    for part in (one, RegionMean(3), Identity()):
        assert type(REFINERS[part.kind].empty(**part.sizes())) is type(part)


# --- all three ------------------------------------------------------------------------------------

CASES = [(name, regions) for name in QUICK for regions in (4, 1)]


@cache
def trained(name: str, regions: int) -> tuple[GZSLDataset, Chosen]:
    data = regions_world(regions=regions)
    method = build_method(name, Config(precision="float32"), **QUICK[name])
    return data, method.choose(data, seed=1, device="cpu")


@pytest.mark.parametrize(("name", "regions"), CASES)
def test_unseen_classes_are_recognised(name, regions):
    """Of 24 classes, 6 unseen; T1 by chance is 17, H 4."""
    data, found = trained(name, regions)
    tested = evaluate_on_test(found.recognizer, data)
    assert tested.T1 > 60
    assert tested.H > 25
    assert label_of(name, regions) == TITLES[name][regions == 1]


@pytest.mark.parametrize(("name", "regions"), CASES)
def test_a_score_depends_on_its_row_alone(name, regions, tmp_path):
    data, found = trained(name, regions)
    rows = data.for_testing().features[:20]
    scores = found.recognizer.scores(rows)
    for i in (0, 7, 19):
        np.testing.assert_allclose(
            found.recognizer.scores(rows[i : i + 1])[0], scores[i], atol=1e-5
        )
    save_model(found.recognizer, tmp_path)
    np.testing.assert_allclose(load_model(tmp_path).scores(rows), scores, atol=1e-6)


@pytest.mark.parametrize("name", QUICK)
def test_it_is_exported(name, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    data, found = trained(name, 4)
    rows = data.for_testing().features[:5]
    export_onnx(found.recognizer, tmp_path / "model.onnx")
    path = str(tmp_path / "model.onnx")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"features": rows})
    np.testing.assert_allclose(scores, found.recognizer.scores(rows), rtol=1e-4, atol=1e-4)


def short(name: str, **changes):
    options = {"steps": 6, "choices": (3, 6), **changes}
    options |= {"cluster_steps": 4} if name == "vgse-patches" else {}
    return build_method(name, Config(precision="float32"), **{**QUICK[name], **options})


@pytest.mark.parametrize("name", QUICK)
def test_noise_in_test_rows_changes_nothing(name):
    data = regions_world(classes=9, unseen=3)
    features = data.features.copy()
    for rows in (data.split.test_seen, data.split.test_unseen):
        features[rows] = 100 * np.random.default_rng(0).random(features[rows].shape)
    options = {} if name == "vgse-patches" else {"pca": 6}
    first, second = (
        short(name, **options).choose(d, device="cpu")
        for d in (data, replace(data, features=features))
    )
    assert first.method == second.method
    assert first.recognizer.calibration == second.recognizer.calibration
    pairs = zip(*(r.recognizer.state_dict().items() for r in (first, second)), strict=True)
    for (key, one), (_, other) in pairs:
        assert torch.equal(one, other), key


@pytest.mark.parametrize("name", QUICK)
def test_features_of_both_signs(name):
    data = regions_world()
    data = of_regions(replace(data, features=data.features - 1), 4)
    method = build_method(name, Config(precision="float32"), **QUICK[name])
    _, tested = choose_and_test(method, data, seed=1)
    assert tested.T1 > 60


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("dazle", {"calibration": -1}, r"DAZLE.calibration: expected a number from 0"),
        ("dazle", {"pca": 1.5}, r"DAZLE.pca: expected a whole number"),
        ("dvbe", {"batch_size": 1}, r"DVBE.batch_size: .* from 2"),
        ("dvbe", {"sigma": 0}, r"DVBE.sigma"),
        ("vgse-patches", {"clusters": 1}, r"VGSEPatches.clusters"),
        (
            "vgse-patches",
            {"words": "nouns"},
            r"expected one of 'descriptors', 'names', got 'nouns'",
        ),
    ],
)
def test_wrong_settings(name, options, said):
    with pytest.raises(SettingsError, match=said):
        build_method(name, **options)
