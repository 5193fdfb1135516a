"""TCN: similarities of classes, both losses, its head."""

from dataclasses import replace

import numpy as np
import torch

from mlis.compute.precision import Precision
from mlis.methods import tcn
from mlis.methods.tcn import TCN, ContrastTrainer, class_similarity
from mlis.model.preprocessing import prepare
from simulated import small, tiny
from updates import watched

DOUBLE = Precision.of("float64", "cpu")
SMALL = TCN(small("float64"), steps=3, batch_size=5, hidden=6, relation_hidden=4)


def trainer(**options) -> ContrastTrainer:
    _, tensors = prepare(tiny().for_training(), SMALL.config.preprocessing, DOUBLE)
    return ContrastTrainer(tensors, replace(SMALL, **options), DOUBLE, 0)


def test_similarities_are_a_ridge_regression():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    unseen = rng.random((4, 9))
    seen = rng.random((6, 4)) @ unseen + 0.1 * rng.random((6, 9))
    wanted = []
    for a in seen:
        found = Ridge(alpha=0.3).fit(unseen.T, a).coef_
        found = np.where(found < 1e-3, 0, found)
        wanted.append(found / found.sum())
    found = class_similarity(torch.from_numpy(seen), torch.from_numpy(unseen), 0.3)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-8, atol=1e-12)


def test_a_class_that_resembles_none_takes_the_least_unlike_one():
    unseen = torch.tensor([[1.0, 0.0, 0.0, -1.0], [0.0, 1.0, -1.0, 0.0]])
    found = class_similarity(torch.tensor([[-2.0, -1.0, 1.0, 2.0]]), unseen, 1.0)
    assert found.tolist() == [[0, 1]]


def test_the_update_follows_both_losses(monkeypatch):
    """By loops over samples and classes, from the networks' weights."""
    one = trainer(transfer_weight=0.3)
    x, labels = one.data.x[one.rows], one.own[one.rows]
    updates = watched(monkeypatch, one, tcn)
    told = one.step()
    (update,) = updates
    P = update.before
    terms: dict[str, list[torch.Tensor]] = {"contrast": [], "transfer": []}
    for b in range(5):
        for i, c in enumerate([*one.data.seen.tolist(), *one.data.unseen.tolist()]):
            u = P["prototypes.first.weight"] @ one.data.descriptors[c] + P["prototypes.first.bias"]
            u = torch.where(u > 0, u, 0.01 * u)
            u = P["prototypes.last.weight"] @ u + P["prototypes.last.bias"]
            u = x[b] * torch.where(u > 0, u, 0.01 * u)
            h = P["relation.first.weight"] @ u + P["relation.first.bias"]
            h = P["relation.last.weight"][0] @ h.clamp(min=0) + P["relation.last.bias"][0]
            p = torch.sigmoid(h)
            is_seen = i < len(one.data.seen)
            target = float(i == labels[b])
            if not is_seen:
                target = float(one.similarity[labels[b], i - len(one.data.seen)])
            loss = -target * torch.log(p) - (1 - target) * torch.log(1 - p)
            terms["contrast" if is_seen else "transfer"].append(loss)
    means = {name: torch.stack(values).mean() for name, values in terms.items()}
    update.follows(means["contrast"] + 0.3 * means["transfer"])
    assert update.moved == {"prototypes", "relation"}
    for name, value in means.items():
        torch.testing.assert_close(told[name], value.detach(), rtol=1e-10, atol=0)


def test_the_head_scores_as_the_networks_do():
    one = trainer()
    x = one.data.x[:4]
    p = one.prototypes_of(one.data.descriptors)
    wanted = one.relation((x[:, None] * p).flatten(0, 1)).view(4, len(p))
    torch.testing.assert_close(one.head()(x), wanted)
    chosen = one.head().chosen(torch.tensor([2, 0]))
    torch.testing.assert_close(chosen(x), wanted[:, [2, 0]])


def test_without_unseen_classes_there_is_nothing_to_transfer():
    data = tiny()
    training = data.for_training()
    _, tensors = prepare(training, SMALL.config.preprocessing, DOUBLE)
    seen = replace(
        tensors, descriptors=tensors.descriptors[tensors.seen], unseen=tensors.unseen[:0]
    )
    assert torch.equal(tensors.seen, torch.arange(len(tensors.seen)))
    one = ContrastTrainer(seen, SMALL, DOUBLE, 0)
    assert float(one.step()["transfer"]) == 0
    assert one.head().prototypes.shape[0] == len(tensors.seen)
