"""Stage 1b: the encoder's training step for step, what each switch does, users' own losses."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
from mlis.compute.precision import Precision
from mlis.compute.random import stream
from mlis.config import Preprocessing, Refinement
from mlis.data.samplers import ClassBalancedSampler
from mlis.encoder.joint import fit_joint
from mlis.encoder.metric_losses import load_loss
from mlis.encoder.trainer import RefinementTrainer, fit_encoder
from mlis.errors import DivergenceError, SettingsError
from mlis.generators.registry import fit_generator
from mlis.generators.ridge import fit_ridge
from mlis.generators.wgan_gp.trainer import AdversarialTrainer
from mlis.model.preprocessing import TrainingTensors, prepare
from mlis.training.callbacks import Callback
from simulated import small, tiny

EXACT = Precision.of("float64", "cpu")
SINGLE = Precision.of("float32", "cpu")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
ALL = ["ml+is+sfr", "ml+is", "ml+sfr", "ml", "sfr"]


def tensors(precision: Precision = EXACT) -> TrainingTensors:
    return prepare(tiny().for_training(), Preprocessing(), precision)[1]


def settings(**changes) -> Refinement:
    return small(refinement=changes).refinement


def encoder(data: TrainingTensors, s: Refinement, generator=None, seed: int = 0, loss=None):
    """Weights of an encoder trained with the closed-form generator, or the one given."""
    generator = generator or fit_ridge(data, small().generation)
    precision = Precision.of(str(data.x.dtype).removeprefix("torch."), "cpu")
    trained = fit_encoder(data, generator, s, precision, seed, loss=loss)
    return torch.cat((trained.weight, trained.bias[:, None]), 1).detach()


class Recorder(Callback):
    """Keeps what training reports."""

    def __init__(self):
        self.reports: list[dict[str, float]] = []

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        self.reports.append({"step": step, **losses})


# --- the step -----------------------------------------------------------------------------------


def textbook_encoder(data: TrainingTensors, s: Refinement, seed: int, steps: int) -> Tensor:
    """The same training as anyone would write it: concatenation, PyTorch's layers and Adam."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    circle = losses.CircleLoss(m=s.margin, gamma=s.gamma)
    E = torch.nn.Linear(data.x.shape[1], s.hidden).double()
    head = torch.nn.Linear(s.hidden, data.num_classes).double()
    with torch.no_grad():
        for layer, name in ((E, "encoder"), (head, "head")):
            shape = layer.weight.shape
            layer.weight.copy_(torch.randn(shape, generator=stream(seed, name)) * s.init_std)
            layer.bias.zero_()
    adam = torch.optim.Adam(
        [*E.parameters(), *head.parameters()],
        lr=s.learning_rate,
        betas=(s.beta1, s.beta2),
        fused=False,
    )
    batches, noise = stream(seed, "batches"), stream(seed, "refinement-noise")
    sampler = ClassBalancedSampler(data.y, s.classes_per_batch, s.samples_per_class, batches)
    synthetic = fit_ridge(data, small().generation).sampler(data.descriptors)
    fake_y = [int(c) for c in data.unseen for _ in range(s.synthetic_per_unseen)]
    fake_y += [int(c) for c in data.seen for _ in range(s.synthetic_per_seen)]
    for _ in range(steps):
        rows = sampler.draw(batches)
        x, y = data.x[rows], data.y[rows]
        h = torch.relu(E(x))
        total = torch.zeros((), dtype=torch.float64)
        if "ml" in s.switches:
            own = s.semantic_scale * data.descriptors[y]
            total = total + circle(torch.cat((h, own), 1) if "is" in s.switches else h, y)
        if "sfr" in s.switches:
            fakes = synthetic(torch.tensor(fake_y), noise)
            logits = head(torch.relu(E(torch.cat((x, fakes)))))
            labels = torch.cat((y, torch.tensor(fake_y)))
            weight = 1 / torch.bincount(labels, minlength=data.num_classes).double()
            total = total + s.cross_entropy_weight * torch.nn.functional.cross_entropy(
                logits, labels, weight=weight
            )
        adam.zero_grad()
        total.backward()
        adam.step()
    return torch.cat((E.weight, E.bias[:, None]), 1).detach()


@pytest.mark.parametrize("components", ALL)
def test_training_equals_the_textbook_loop(components):
    data = tensors()
    s = settings(
        components=components,
        semantic_scale=0.7,
        cross_entropy_weight=0.3,
        synthetic_per_unseen=2,
        init_std=0.3,
        classes_per_batch=4,
    )
    torch.testing.assert_close(
        encoder(data, s, seed=3), textbook_encoder(data, s, 3, s.steps), **CLOSE
    )


def test_the_generator_is_not_trained_by_the_encoder():
    data = tensors()
    adversarial = AdversarialTrainer(data, small().generation, EXACT, 0)
    before = {k: v.clone() for k, v in adversarial.network.state_dict().items()}
    encoder(data, settings(), adversarial.generator)
    for name, parameter in adversarial.network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


# --- switches -----------------------------------------------------------------------------------


def other_descriptors(data: TrainingTensors, classes: Tensor) -> TrainingTensors:
    """The same data with the descriptors of `classes` exchanged in a circle."""
    descriptors = data.descriptors.clone()
    descriptors[classes] = descriptors[classes.roll(1)]
    return replace(data, descriptors=descriptors)


def test_ml_uses_no_descriptor_and_no_synthetic_feature():
    data = tensors(SINGLE)
    weights = encoder(data, settings(components="ml"))
    everything = torch.cat((data.seen, data.unseen))
    assert torch.equal(
        weights, encoder(other_descriptors(data, everything), settings(components="ml"))
    )


def test_is_uses_the_descriptors_of_seen_classes_only():
    data = tensors(SINGLE)
    s = settings(components="ml+is")
    weights = encoder(data, s)
    assert torch.equal(weights, encoder(other_descriptors(data, data.unseen), s))
    assert not torch.equal(weights, encoder(other_descriptors(data, data.seen), s))
    assert not torch.equal(weights, encoder(data, settings(components="ml")))


def test_is_at_scale_zero_is_ml():
    data = tensors()
    torch.testing.assert_close(
        encoder(data, settings(components="ml+is", semantic_scale=0.0)),
        encoder(data, settings(components="ml")),
        **CLOSE,
    )


@pytest.mark.parametrize("components", ["ml", "ml+is"])
def test_without_sfr_no_synthetic_feature_is_even_drawn(components):
    data = tensors(SINGLE)

    class Untouchable:
        def sampler(self, descriptors):
            raise AssertionError("asked for synthetic features")

    assert torch.equal(
        encoder(data, settings(components=components), Untouchable()),
        encoder(data, settings(components=components)),
    )


def test_sfr_uses_synthetic_features_and_the_metric_part_of_ml_sfr_no_descriptor():
    data = tensors()
    fixed = fit_ridge(data, small().generation)  # made before the descriptors change
    sampler = fixed.sampler(data.descriptors)

    class Fixed:
        def sampler(self, descriptors):
            return sampler

    swapped = other_descriptors(data, torch.cat((data.seen, data.unseen)))
    s = settings(components="ml+sfr")
    assert torch.equal(encoder(data, s, Fixed()), encoder(swapped, s, Fixed()))
    assert not torch.equal(encoder(data, s), encoder(swapped, s))
    with_semantics = settings(components="ml+is+sfr")
    assert not torch.equal(
        encoder(data, with_semantics, Fixed()), encoder(swapped, with_semantics, Fixed())
    )


# --- schedules ----------------------------------------------------------------------------------


def joint(**changes):
    data = tensors(SINGLE)
    generation = changes.pop("generation", {})
    config = small(generation=generation, refinement={"schedule": "joint", **changes})
    recorder = Recorder()
    generator, trained = fit_joint(data, config, SINGLE, 0, [recorder])
    return data, config, generator, trained, recorder


def test_joint_trains_the_same_generator_as_sequential():
    data, config, generator, _, _ = joint()
    alone = fit_generator(data, config.generation, SINGLE, 0)
    for one, two in zip(generator.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_joint_without_sfr_trains_the_same_encoder_as_sequential():
    data, config, _, trained, _ = joint(components="ml+is", steps=999)
    s = replace(config.refinement, schedule="sequential", steps=config.generation.steps)
    alone = fit_encoder(data, None, s, SINGLE, 0)
    assert torch.equal(trained.weight, alone.weight)


def test_feedback_trains_the_generator_through_the_encoder_and_not_the_other_way():
    _, _, without, _, _ = joint(generation={"steps": 1})
    _, _, with_feedback, _, _ = joint(generation={"steps": 1}, generator_feedback=5.0)
    assert not torch.equal(without.network.to_features, with_feedback.network.to_features)
    # in the first step the generator is updated before the encoder, whose own gradients must
    # not keep anything of it: with no synthetic feature in its loss it ends the same
    none = {"synthetic_per_unseen": 0, "synthetic_per_seen": 0}
    _, _, _, one, _ = joint(generation={"steps": 1}, generator_feedback=5.0, **none)
    _, _, _, two, _ = joint(generation={"steps": 1}, **none)
    assert torch.equal(one.weight, two.weight)


# --- users' own losses --------------------------------------------------------------------------


def pull(embeddings: Tensor, labels: Tensor) -> Tensor:
    """A loss of a user, found as `test_refinement:pull`."""
    return (embeddings[:, None] - embeddings[None]).square().mean()


NOT_CALLABLE = 3


def test_named_function_equals_the_function_itself():
    data = tensors(SINGLE)
    by_name = encoder(data, settings(loss="test_refinement:pull"))
    by_hand = encoder(data, settings(), loss=pull)
    assert torch.equal(by_name, by_hand)
    assert not torch.equal(by_name, encoder(data, settings()))


@pytest.mark.parametrize("name", ["circle", "contrastive", "multi_similarity"])
def test_library_losses_passed_in_train_as_ours_do(name):
    theirs = reference.library_loss(name)
    data = tensors()
    s = settings(components="ml+is", loss=name, semantic_scale=0.4, init_std=0.3)
    torch.testing.assert_close(
        encoder(data, s), encoder(data, s, loss=theirs), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", ["ProxyAnchorLoss", "ArcFaceLoss"])
def test_a_loss_with_weights_of_its_own_learns_them(name):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(0)
    theirs = getattr(losses, name)(num_classes=9, embedding_size=10 + 4)
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    data = tensors()
    s = settings(init_std=0.3)
    trainer = RefinementTrainer(data, s, EXACT, 0, None, theirs)
    first = trainer.step()["metric"]
    for _ in range(150):
        last = trainer.step()["metric"]
    assert last < 0.95 * first
    learned = {k: v for k, v in trainer.state().items() if k.startswith("loss.")}
    assert len(learned) == len(before) >= 1
    for key, value in learned.items():
        assert value.dtype == torch.float64
        assert not torch.equal(value.to(before[key[5:]]), before[key[5:]])
    # the caller's is untouched, so a second training is the same
    assert all(torch.equal(theirs.state_dict()[key], before[key]) for key in before)
    assert torch.equal(encoder(data, s, loss=theirs), encoder(data, s, loss=theirs))


def test_dead_refined_features_under_a_users_loss_are_not_taken_for_divergence():
    """One hidden unit: many images are refined to zero, and 0/0 is not a semantic share."""
    data = tensors()
    recorder = Recorder()
    s = settings(components="ml", hidden=1, init_std=1.0)
    zeros = []

    def loss(embeddings, labels):
        zeros.append(int((embeddings == 0).all(1).sum()))
        return embeddings.sum()

    for seed in range(4):
        fit_encoder(data, None, s, EXACT, seed, [recorder], loss=loss)
    assert sum(zeros) > 0
    assert all(np.isfinite(list(r.values())).all() for r in recorder.reports)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("circel", "expected circle, circle_eq1, contrastive, multi_similarity or module:function"),
        ("test_refinement:push", "push"),
        ("no_such_module:loss", "no_such_module"),
        ("test_refinement:NOT_CALLABLE", "not callable"),
        ("", "expected circle, circle_eq1, contrastive, multi_similarity or module:function"),
    ],
)
def test_a_loss_that_cannot_be_found(name, problem):
    with pytest.raises(SettingsError, match=problem):
        load_loss(name)


def test_a_loss_that_gives_no_scalar_is_named():
    data = tensors()
    for wrong in (lambda e, y: e.square().sum(1), lambda e, y: 0.5, lambda e, y: {"loss": e}):
        with pytest.raises(SettingsError, match="scalar"):
            encoder(data, settings(), loss=wrong)


def test_a_loss_that_turns_nan_stops_the_run():
    data = tensors()
    calls = []

    def loss(embeddings, labels):
        calls.append(1)
        return embeddings.square().mean() * (float("nan") if len(calls) > 30 else 1.0)

    recorder = Recorder()
    with pytest.raises(DivergenceError, match=r"refinement diverged: metric is nan at step 40"):
        fit_encoder(
            data, None, settings(components="ml", steps=200), EXACT, 0, [recorder], loss=loss
        )
    assert [r["step"] for r in recorder.reports] == [20]


# --- batches and sizes --------------------------------------------------------------------------


def test_one_seen_class_is_enough():
    data = tensors()
    one = replace(data, x=data.x[data.y == 0], y=data.y[data.y == 0], seen=data.seen[:1])
    weights = RefinementTrainer(one, settings(), EXACT, 0, None)
    assert torch.isfinite(weights.step()["metric"])
