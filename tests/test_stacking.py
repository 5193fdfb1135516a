"""Several seeds trained together end where each ends alone, up to the rounding of sums."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import mlis.refinement.train
import mlis.training
from mlis.compute import Arithmetic, _one_hot_product, sum_by_class
from mlis.config import Config, Preprocessing
from mlis.data.stored import StoredRows, stored
from mlis.errors import DivergenceError, ModelFileError, SettingsError
from mlis.generation.ridge import fit_ridge
from mlis.generation.train import AdversarialTrainer, fit_generator
from mlis.inference import Recognizer
from mlis.pipeline import fit, fit_seeds
from mlis.preprocessing import prepare
from mlis.protocol import fit_and_calibrate_seeds
from mlis.provenance import generation_key, training_key
from mlis.refinement.train import RefinementTrainer
from mlis.snapshots import FolderMonitor
from mlis.stacking import Seeds, drawn, fill, streams
from mlis.streaming import StreamedRows
from mlis.tensorfile import load_tensors
from mlis.training import Monitor
from simulated import linear_world, small, tiny

SEEDS = (3, 0, 11)
EXACT = Arithmetic.of("float64", "cpu")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
DATA = tiny()
TRAINING = DATA.for_training()


@pytest.fixture(autouse=True)
def _log_every_step(monkeypatch):
    monkeypatch.setattr(mlis.training, "LOG_EVERY", 1)


def exact(precision: str = "float64", **sections) -> Config:
    """Tiny settings whose stage 2 has one minimum and goes to it.

    At the default tolerance L-BFGS stops on different points of a flat valley when the last bits
    of its features differ.
    """
    classification = {"weight_decay": 1e-2, "tolerance": 1e-10, "max_iterations": 2000}
    return small(precision, classification=classification).replace(sections)


def data(streamed_from=None):
    tensors = prepare(TRAINING, Preprocessing(), EXACT)[1]
    if streamed_from is None:
        return tensors
    path = streamed_from / "x.npy"
    np.save(path, tensors.x.numpy())
    where = stored(np.load(path, mmap_mode="r"))
    assert where is not None
    rows = StoredRows(where, np.arange(len(tensors.x)))
    return replace(tensors, x=StreamedRows(rows, lambda x: x, torch.float64))


# --- draws --------------------------------------------------------------------------------------


def test_each_seed_draws_what_it_draws_alone():
    rng = streams(SEEDS, "noise")
    together = [drawn(rng, lambda one: torch.rand(2, 3, generator=one)), torch.empty(3, 5)]
    fill(together[1], rng, torch.Tensor.normal_)
    for i, seed in enumerate(SEEDS):
        alone = streams(seed, "noise")
        assert torch.equal(together[0][i], torch.rand(2, 3, generator=alone))
        assert torch.equal(together[1][i], torch.randn(5, generator=alone))


@pytest.mark.parametrize("summed", [sum_by_class, _one_hot_product], ids=["cpu", "as on a gpu"])
def test_sums_by_class_are_those_of_each_seed(summed):
    rows = torch.randn(3, 20, 2, generator=streams(0, "rows"), dtype=torch.float64)
    labels = torch.randint(4, (3, 20), generator=streams(0, "labels"))
    expected = torch.stack([sum_by_class(*own, 5) for own in zip(rows, labels, strict=True)])
    torch.testing.assert_close(summed(rows, labels, 5), expected, **CLOSE)


@pytest.mark.parametrize("generator", ["cold", "warm", "ridge"])
def test_synthetic_features_are_those_of_each_seed(generator):
    tensors = data()
    if generator == "ridge":
        together = fit_ridge(tensors, exact().generation)
        alone = [together.of_seed(i) for i in range(3)]
    else:
        settings = exact(
            generation={"generator_init": "ridge" if generator == "warm" else "cold"}
        ).generation
        together = fit_generator(tensors, settings, EXACT, SEEDS, Monitor())
        alone = [fit_generator(tensors, settings, EXACT, seed, Monitor()) for seed in SEEDS]
    labels = torch.tensor([8, 0, 6, 6, 1])
    x = together.sampler(tensors.descriptors)(labels, streams(SEEDS, "draw"))
    assert x.shape == (3, 5, 9)
    for i, seed in enumerate(SEEDS):
        for one in (alone[i], together.of_seed(i)):
            own = one.sampler(tensors.descriptors)(labels, streams(seed, "draw"))
            torch.testing.assert_close(x[i], own, **CLOSE)
    assert not torch.equal(x[0], x[1])


# --- stage 1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("batch_size", [2, 16])  # fewer samples than classes in a step, and more
@pytest.mark.parametrize("init", ["cold", "ridge"])
def test_adversarial_steps_are_those_of_each_seed(init, batch_size, streamed, tmp_path):
    changes = {"generator_init": init, "batch_size": batch_size, "critic_steps": 1}
    settings = exact(generation={"init_std": 0.3, **changes}).generation
    together = AdversarialTrainer(data(tmp_path if streamed else None), settings, EXACT, SEEDS)
    alone = [AdversarialTrainer(data(), settings, EXACT, seed) for seed in SEEDS]
    assert together.critic.from_features.shape == (3, 12, 9)
    for _ in range(4):
        losses = together.step()
        separate = [one.step() for one in alone]
        for name, value in losses.items():
            torch.testing.assert_close(value, torch.stack([s[name] for s in separate]), **CLOSE)
    for name, value in together.state().items():
        if value.dim():  # but for Adam's counts of steps
            expected = torch.stack([one.state()[name] for one in alone])
            torch.testing.assert_close(value, expected, **CLOSE, msg=name)


def test_adversarial_steps_with_more_classes_than_all_seeds_have_samples():
    world = linear_world(classes=24, per_class=4)
    tensors = prepare(world.for_training(), Preprocessing(), EXACT)[1]
    warm = {"generator_init": "ridge", "batch_size": 2, "critic_steps": 1, "init_std": 0.3}
    settings = exact(generation=warm).generation
    together = AdversarialTrainer(tensors, settings, EXACT, SEEDS)
    alone = [AdversarialTrainer(tensors, settings, EXACT, seed) for seed in SEEDS]
    for trainer in (together, *alone):
        trainer.step(), trainer.step()
    for name, value in together.network.named_parameters():
        expected = torch.stack([one.network.get_parameter(name) for one in alone])
        torch.testing.assert_close(value, expected, **CLOSE)


def loss_with_weights() -> torch.nn.Module:
    torch.manual_seed(0)
    layer = torch.nn.Linear(10 + 4, 9)

    class Proxies(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, embeddings, labels):
            return torch.nn.functional.cross_entropy(self.layer(embeddings), labels)

    return Proxies()


class WithMemory(torch.nn.Module):
    """A loss without weights that remembers the last batch: seeds must not share it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("before", torch.zeros(14))

    def forward(self, embeddings, labels):
        loss = (embeddings.mean(0) - self.before).square().sum() + embeddings.var(0).sum()
        self.before = embeddings.detach().mean(0)
        return loss


def pull(embeddings, labels):
    """A loss that returns one number in a vector, as some do."""
    same = labels[:, None] == labels[None, :]
    return (torch.cdist(embeddings, embeddings).square() * (same.float() - 0.1)).mean()[None]


OWN = {"function": lambda: pull, "weights": loss_with_weights, "memory": WithMemory}


@pytest.mark.parametrize("most", [4, 1024])  # of nine classes, with synthetic features in a step
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("changes", "own"),
    [
        *[({"components": c}, None) for c in ("ml+is+sfr", "ml+is", "ml+sfr", "ml", "sfr")],
        *[({"loss": name}, None) for name in ("circle_eq1", "contrastive", "multi_similarity")],
        *[({"visual_norm": "l2"}, own) for own in (None, "function", "weights", "memory")],
        ({"synthetic_per_seen": 0, "synthetic_per_unseen": 0}, None),
    ],
)
def test_encoder_steps_are_those_of_each_seed(changes, own, streamed, most, tmp_path, monkeypatch):
    monkeypatch.setattr(mlis.refinement.train, "MOST_CLASSES", most)
    settings = exact(refinement={"init_std": 0.3, **changes}).refinement
    tensors = data(tmp_path if streamed else None)
    sampler = fit_ridge(data(), exact().generation).sampler(data().descriptors)

    def trainer(seed, tensors):
        loss = None if own is None else OWN[own]()
        return RefinementTrainer(tensors, settings, EXACT, seed, lambda: sampler, loss)

    together, alone = trainer(SEEDS, tensors), [trainer(seed, data()) for seed in SEEDS]
    assert together.encoder.weight.shape == (3, 10, 9)
    for _ in range(6):
        losses = together.step()
        separate = [one.step() for one in alone]
        for name, value in losses.items():
            expected = torch.stack([one[name].reshape(()) for one in separate])
            torch.testing.assert_close(value, expected, **CLOSE)
    for name, value in together.state().items():
        if name.startswith(("encoder", "head", "noise", "batches", "rows")):
            expected = torch.stack([one.state()[name] for one in alone])
            torch.testing.assert_close(value, expected, **CLOSE, msg=name)
    if own == "weights":
        learned = together.state()
        for i, one in enumerate(alone):
            torch.testing.assert_close(
                learned[f"loss.{i}.layer.weight"], one.state()["loss.layer.weight"], **CLOSE
            )


# --- all stages ---------------------------------------------------------------------------------


def weights(recognizer: Recognizer) -> list[torch.Tensor]:
    encoder = [recognizer.encoder_weight, recognizer.encoder_bias]
    classifier = [recognizer.classifier.weight, recognizer.classifier.bias]
    return [part for part in (*encoder, *classifier) if part is not None]


def assert_each_is_as_alone(config: Config, loss=None, *, rtol=1e-6, device="cpu", **places):
    options = {"device": device, "loss": loss}
    together = fit_seeds(TRAINING, config, seeds=SEEDS, **options, **places)
    for one, seed in zip(together, SEEDS, strict=True):
        alone = fit(TRAINING, config, seed=seed, **options)
        assert len(weights(one)) == len(weights(alone))
        for ours, theirs in zip(weights(one), weights(alone), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * theirs.abs().max())
        assert (one.predict(DATA.features) == alone.predict(DATA.features)).all()
    assert not torch.allclose(weights(together[0])[0], weights(together[1])[0], rtol=1e-2)
    return together


FITS = {
    "default": {},
    "ml": {"refinement": {"components": "ml"}},
    "warm": {"generation": {"generator_init": "ridge"}},
    "warm, ml": {
        "generation": {"generator_init": "ridge"},
        "refinement": {"components": "ml"},
    },
    "contrastive": {"refinement": {"loss": "contrastive"}},
    "multi_similarity": {"refinement": {"loss": "multi_similarity"}},
    "raw": {"refinement": {"components": "none"}},
    "ridge": {"generation": {"generator": "ridge"}},
    "joint": {"refinement": {"schedule": "joint"}},
    "feedback": {"refinement": {"schedule": "joint", "generator_feedback": 1.0}},
}


@pytest.mark.parametrize("name", FITS)
def test_recognizers_are_those_of_each_seed(name):
    assert_each_is_as_alone(exact(**FITS[name]))


@pytest.mark.parametrize("own", OWN)
def test_with_a_loss_of_the_users_own(own):
    loss = OWN[own]()
    before = loss.state_dict() if isinstance(loss, torch.nn.Module) else {}
    kept = {name: value.clone() for name, value in before.items()}
    config = exact()
    together = fit_seeds(TRAINING, config, seeds=SEEDS, device="cpu", loss=loss)
    assert all(torch.equal(value, kept[name]) for name, value in before.items())
    for one, seed in zip(together, SEEDS, strict=True):
        alone = fit(TRAINING, config, seed=seed, device="cpu", loss=OWN[own]())
        torch.testing.assert_close(one.encoder_weight, alone.encoder_weight, **CLOSE)


def test_a_loss_named_in_the_settings():
    assert_each_is_as_alone(exact(refinement={"loss": "test_stacking:pull"}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_lower_precision_learns_the_same(precision):
    """Not to the last bit, but the same answers but for a few images."""
    world = linear_world()
    config = small(
        precision,
        generation={"steps": 40, "hidden": 64, "learning_rate": 2e-3, "init_std": 0.1},
        refinement={"steps": 60, "hidden": 48, "classes_per_batch": 16},
        classification={"synthetic_per_unseen": 30, "weight_decay": 1e-3},
    )
    together = fit_seeds(world.for_training(), config, seeds=(1, 2), device="cpu")
    for one, seed in zip(together, (1, 2), strict=True):
        alone = fit(world.for_training(), config, seed=seed, device="cpu")
        assert one.encoder_weight.dtype == torch.float32
        assert (one.predict(world.features) == alone.predict(world.features)).mean() > 0.93


def test_one_seed_and_none():
    (one,) = fit_seeds(TRAINING, exact(), seeds=[4], device="cpu")
    alone = fit(TRAINING, exact(), seed=4, device="cpu")
    torch.testing.assert_close(one.encoder_weight, alone.encoder_weight, **CLOSE)
    with pytest.raises(SettingsError, match="at least one seed"):
        fit_seeds(TRAINING, exact(), seeds=[])


# --- snapshots and divergence -------------------------------------------------------------------


class Killed(BaseException):
    """What a test raises where a process would be killed."""


class Cut(FolderMonitor):
    """Its process dies after `step` steps of `stage`."""

    def __init__(self, folder, stage, step):
        super().__init__(folder, "key", every=0)
        self.at = (stage, step)

    def wants_snapshot(self, stage, step):
        if (stage, step) == self.at:
            raise Killed
        return True


def train(monitor=None, seeds=SEEDS, loss=None, **sections) -> list[Recognizer]:
    config = small(**sections)
    return fit_seeds(TRAINING, config, seeds=seeds, device="cpu", monitor=monitor, loss=loss)


@pytest.mark.parametrize("own", [None, "weights"])
@pytest.mark.parametrize(
    ("stage", "step"), [("generation", 1), ("generation", 4), ("refinement", 5), ("joint", 3)]
)
def test_cut_short_they_end_with_the_same_bits(stage, step, own, tmp_path):
    sections = {"refinement": {"schedule": "joint" if stage == "joint" else "sequential"}}

    def run(monitor=None):
        return train(monitor, loss=OWN[own]() if own else None, **sections)

    with pytest.raises(Killed):
        run(Cut(tmp_path, stage, step))
    resumed = run(FolderMonitor(tmp_path, "key", every=0))
    for one, two in zip(resumed, run(), strict=True):
        assert all(map(torch.equal, weights(one), weights(two)))
    lines = [json.loads(line) for line in (tmp_path / f"{stage}.jsonl").read_text().splitlines()]
    total = {"refinement": 6}.get(stage, 5)
    assert [line["step"] for line in lines] == list(range(1, total + 1))


def test_losses_are_reported_by_seed(tmp_path):
    train(FolderMonitor(tmp_path, "key"))
    fit(TRAINING, small(), seed=0, device="cpu", monitor=FolderMonitor(tmp_path / "alone", "key"))
    for stage, loss in (("generation", "wasserstein"), ("refinement", "metric")):
        together, alone = (
            json.loads((folder / f"{stage}.jsonl").read_text().splitlines()[0])
            for folder in (tmp_path, tmp_path / "alone")
        )
        assert together[f"{loss} of seed 0"] == pytest.approx(alone[loss], rel=1e-4)
        assert {f"{loss} of seed 3", f"{loss} of seed 11"} <= together.keys()
        assert together[f"{loss} of seed 3"] != together[f"{loss} of seed 0"]


@pytest.mark.parametrize("other", [(3, 0), (3, 0, 11, 4)])
@pytest.mark.parametrize(("stage", "step"), [("generation", 4), ("refinement", 4)])
def test_a_snapshot_of_another_number_of_seeds(stage, step, other, tmp_path):
    with pytest.raises(Killed):
        train(Cut(tmp_path, stage, step))
    with pytest.raises(ModelFileError, match="does not fit this run's settings"):
        train(FolderMonitor(tmp_path, "key"), seeds=other)
    with pytest.raises(ModelFileError, match="does not fit this run's settings"):
        fit(TRAINING, small(), seed=3, device="cpu", monitor=FolderMonitor(tmp_path, "key"))


@pytest.mark.parametrize("key", [training_key, generation_key])
def test_keys_tell_stacked_seeds_from_separate_ones_and_their_order(key):
    seeds = [0, 1, (0,), (1,), (0, 1), (1, 0)]
    assert len({key(TRAINING, small(), seed, "cpu") for seed in seeds}) == len(seeds)


def test_a_stacked_generator_is_stored_and_taken_again(monkeypatch):
    """It is no generator of a single seed, and of no other seeds; it never changes the result."""
    trained: list[Seeds] = []
    whole = AdversarialTrainer.__init__

    def count(self, data, settings, arithmetic, seed):
        trained.append(seed)
        whole(self, data, settings, arithmetic, seed)

    steps: list[str] = []

    class Reports(Monitor):
        def report(self, stage, step, total, values):
            steps.append(stage)

    monkeypatch.setattr(AdversarialTrainer, "__init__", count)
    config = small(classification={"calibration": "validation"})
    options = {"seeds": (2, 1), "device": "cpu", "monitor": Reports()}
    plain = fit_and_calibrate_seeds(DATA, config, **options)
    first = fit_and_calibrate_seeds(DATA, config, **options, reuse=True)
    again = fit_and_calibrate_seeds(DATA, config, **options, reuse=True)
    assert trained == [(2, 1)] * 6  # validation and training each
    assert (steps.count("generation"), steps.count("refinement")) == (2 * 5, 3 * 6)
    for runs in zip(plain, first, again, strict=True):
        assert {one.stacked for one in runs} == {(2, 1)}
        assert len({one.recognizer.calibration for one in runs}) == 1
        for one in runs[1:]:
            pairs = zip(weights(runs[0].recognizer), weights(one.recognizer), strict=True)
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
            shares = [account.seconds for account in one.generators.values()]
            assert sum(shares) > 0
        assert [all(a.reused for a in one.generators.values()) for one in runs[1:]] == [False, True]
    assert first[0].generators["training"].seconds == first[1].generators["training"].seconds
    assert first[0].validation.to_dict() != first[1].validation.to_dict()


class Spoiled:
    """A loss that is NaN on its `call`-th call: seeds are called in turns."""

    def __init__(self, call):
        self.call, self.calls = call, 0

    def __call__(self, embeddings, labels):
        self.calls += 1
        return embeddings.square().mean() * (float("nan") if self.calls == self.call else 1.0)


def test_divergence_of_one_seed_names_it_and_keeps_the_last_good_snapshot(tmp_path):
    monitor = FolderMonitor(tmp_path, "key", every=0)
    message = "refinement diverged: metric of seed 0 is nan at step 4"
    with pytest.raises(DivergenceError, match=message):
        train(monitor, loss=Spoiled(3 * 3 + 2))
    assert load_tensors(tmp_path / "refinement.safetensors")[1]["step"] == "3"


@pytest.mark.parametrize(("call", "whose"), [(1, "3"), (2, "0"), (3, "11")])
def test_weights_that_are_not_finite_name_their_seed(call, whose, tmp_path, monkeypatch):
    monkeypatch.setattr(mlis.training, "LOG_EVERY", 100)
    message = f"the tensor encoder.weight of seed {whose} is nan at step 1"
    with pytest.raises(DivergenceError, match=message):
        train(FolderMonitor(tmp_path, "key", every=0), loss=Spoiled(call))


# --- GPUs ---------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", ["default", "ml", "warm", "joint", "ridge"])
def test_on_a_gpu(name, tmp_path):
    assert_each_is_as_alone(exact(**FITS[name]), device="cuda")
    config = small(**FITS[name])
    one, two = (fit_seeds(TRAINING, config, seeds=SEEDS, device="cuda") for _ in range(2))
    for ours, theirs in zip(one, two, strict=True):
        assert all(map(torch.equal, weights(ours), weights(theirs)))
