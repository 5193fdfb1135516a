"""Trainings cut short at any step end with the same bits; damaged snapshots are not used."""

import json
from pathlib import Path

import pytest
import torch

import mlis.training.loop
from mlis.config import Config
from mlis.errors import DivergenceError, ModelFileError
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit
from mlis.provenance import generation_key, training_key
from mlis.storage.tensors import load_tensors, save_tensors
from mlis.training.callbacks import Callback, LossLog
from mlis.training.checkpoints import CheckpointFolder
from simulated import small, tiny

TRAINING = tiny().for_training()


class Killed(BaseException):
    """What a test raises where a process would be killed."""


class Interrupted(CheckpointFolder):
    """Snapshots of a process that dies after `step` steps of `stage`, before it saves."""

    def __init__(self, folder: Path, key: str, stage: str, step: int, **options):
        super().__init__(folder, key, **options)
        self.stage, self.step = stage, step

    def due(self, stage: str, step: int) -> bool:
        if (stage, step) == (self.stage, self.step):
            raise Killed
        return super().due(stage, step)


@pytest.fixture(autouse=True)
def _log_every_step(monkeypatch):
    monkeypatch.setattr(mlis.training.loop, "LOG_EVERY", 1)


def weights(recognizer: Recognizer) -> list[torch.Tensor]:
    assert recognizer.refiner.kind != "none"

    return [
        recognizer.refiner.weight,
        recognizer.refiner.bias,
        recognizer.head.weight,
        recognizer.head.bias,
    ]


def assert_same_bits(one: Recognizer, two: Recognizer) -> None:
    for ours, theirs in zip(weights(one), weights(two), strict=True):
        assert torch.equal(ours, theirs)


def train(config: Config, checkpoints: CheckpointFolder | None = None, **options) -> Recognizer:
    """Fit with losses in the folder of the snapshots."""
    if checkpoints is not None and "callbacks" not in options:
        options["callbacks"] = [LossLog(checkpoints.folder)]
    options = {"seed": 5, "device": "cpu", "checkpoints": checkpoints, **options}
    return fit(TRAINING, config, **options).recognizer


def logged(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


CASES = [
    ("sequential", "generation", 1),
    ("sequential", "generation", 4),
    ("sequential", "refinement", 1),
    ("sequential", "refinement", 5),
    ("joint", "joint", 1),
    ("joint", "joint", 3),
]


@pytest.mark.parametrize(
    ("schedule", "stage", "step", "precision"),
    [*((*case, "float32") for case in CASES), ("sequential", "generation", 4, "bfloat16")],
)
def test_a_training_cut_short_ends_with_the_same_bits(schedule, stage, step, precision, tmp_path):
    config = small(precision, refinement={"schedule": schedule})
    with pytest.raises(Killed):
        train(config, Interrupted(tmp_path, "key", stage, step, every=0))
    resumed = train(config, CheckpointFolder(tmp_path, "key", every=0))
    assert_same_bits(resumed, train(config))
    for name in ("joint",) if schedule == "joint" else ("generation", "refinement"):
        total = config.refinement.steps if name == "refinement" else config.generation.steps
        assert logged(tmp_path / f"{name}.jsonl") == list(range(1, total + 1))


def test_cut_short_again_and_again(tmp_path):
    config = small()
    for stage, steps in (("generation", 5), ("refinement", 6)):
        for step in range(1, steps):
            with pytest.raises(Killed):
                train(config, Interrupted(tmp_path, "key", stage, step, every=0))
    assert_same_bits(train(config, CheckpointFolder(tmp_path, "key", every=0)), train(config))
    assert logged(tmp_path / "refinement.jsonl") == [1, 2, 3, 4, 5, 6]


def test_feedback_and_warm_start_resume_too(tmp_path):
    config = small(
        refinement={"schedule": "joint", "generator_feedback": 0.5},
        generation={"generator_init": "ridge"},
    )
    with pytest.raises(Killed):
        train(config, Interrupted(tmp_path, "key", "joint", 3, every=0))
    assert_same_bits(train(config, CheckpointFolder(tmp_path, "key", every=0)), train(config))


def test_a_loss_with_weights_of_its_own_resumes_too(tmp_path):
    class Proxies(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(9, 14))

        def forward(self, embeddings, labels):
            return torch.nn.functional.cross_entropy(embeddings @ self.weight.T, labels)

    loss, config = Proxies(), small()
    with pytest.raises(Killed):
        train(config, Interrupted(tmp_path, "key", "refinement", 4, every=0), loss=loss)
    resumed = train(config, CheckpointFolder(tmp_path, "key", every=0), loss=loss)
    assert_same_bits(resumed, train(config, loss=loss))


def test_a_finished_stage_is_not_trained_again(tmp_path):
    done = train(small(), CheckpointFolder(tmp_path, "key"))
    reported = []

    class Listener(Callback):
        def on_step(self, stage, step, total, losses):
            reported.append((stage, step))

    again = train(small(), CheckpointFolder(tmp_path, "key"), callbacks=[Listener()])
    assert not reported
    assert_same_bits(done, again)
    assert logged(tmp_path / "generation.jsonl") == [1, 2, 3, 4, 5]


def test_a_log_line_cut_in_half_is_dropped(tmp_path):
    config = small()
    with pytest.raises(Killed):
        train(config, Interrupted(tmp_path, "key", "refinement", 4, every=0))
    path = tmp_path / "refinement.jsonl"
    with path.open("a") as handle:
        handle.write('{"step": 5, "metr')
    train(config, CheckpointFolder(tmp_path, "key", every=0))
    assert logged(path) == [1, 2, 3, 4, 5, 6]


def test_killed_while_a_snapshot_is_written(tmp_path, monkeypatch):
    config = small()
    import mlis.storage.tensors

    whole = mlis.storage.tensors.save_file
    calls = []

    def half(tensors, path, metadata):
        calls.append(1)
        whole(tensors, path, metadata=metadata)
        if len(calls) == 3:
            with Path(path).open("rb+") as handle:
                handle.truncate(100)
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(mlis.storage.tensors, "save_file", half)
        with pytest.raises(Killed):
            train(config, CheckpointFolder(tmp_path, "key", every=0))
    assert load_tensors(tmp_path / "generation.safetensors")[1]["step"] == "2"
    assert_same_bits(train(config, CheckpointFolder(tmp_path, "key", every=0)), train(config))
    assert logged(tmp_path / "generation.jsonl") == [1, 2, 3, 4, 5]


def test_components_share_one_generator(tmp_path):
    """ML, ML+IS and ML+IS+SFR: the generator is trained by the first and read by the others."""
    started = []

    class Listener(Callback):
        def on_step(self, stage, step, total, losses):
            started.append(stage)

    for components in ("ml", "ml+is", "ml+is+sfr"):
        config = small(refinement={"components": components})
        checkpoints = CheckpointFolder(
            tmp_path / components,
            training_key(TRAINING, config, 5),
            shared={"generation": (tmp_path, generation_key(TRAINING, config, 5))},
        )
        found = train(config, checkpoints, callbacks=[Listener()])
        assert_same_bits(found, train(config))
    assert started.count("generation") == 5
    assert started.count("refinement") == 3 * 6
    assert not (tmp_path / "ml" / "generation.safetensors").exists()


# --- what must not be continued -----------------------------------------------------------------


@pytest.fixture
def cut(tmp_path) -> Path:
    with pytest.raises(Killed):
        train(small(), Interrupted(tmp_path, "key", "refinement", 4, every=0))
    return tmp_path


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def of_another_key(path: Path) -> None:
    state, metadata = load_tensors(path)
    save_tensors(path, state, {**metadata, "key": "another key"})


@pytest.mark.parametrize("stage", ["generation", "refinement"])
@pytest.mark.parametrize("damage", [flipped, truncated, of_another_key])
def test_a_damaged_or_foreign_snapshot_is_trained_again(cut, stage, damage, caplog):
    damage(cut / f"{stage}.safetensors")
    assert_same_bits(train(small(), CheckpointFolder(cut, "key")), train(small()))
    assert f"{stage} is trained again" in caplog.text
    assert f"{stage}.safetensors" in caplog.text
    total = {"generation": 5, "refinement": 6}[stage]
    assert logged(cut / f"{stage}.jsonl") == list(range(1, total + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"refinement": {"gamma": 81.0}},
        {"classification": {"weight_decay": 1e-4}},
        {"generation": {"penalty": 9.0}},
        {"precision": "float64"},
    ],
)
def test_keys_tell_settings_apart(changes):
    one, two = small(), small().replace(changes)
    assert training_key(TRAINING, one, 0) != training_key(TRAINING, two, 0)
    shared = generation_key(TRAINING, one, 0) == generation_key(TRAINING, two, 0)
    assert shared == ("refinement" in changes or "classification" in changes)


@pytest.mark.parametrize(
    ("stage", "drop"),
    [("refinement", "head"), ("refinement", "batches"), ("generation", "generator.to_features")],
)
def test_a_snapshot_that_lacks_tensors(cut, stage, drop):
    path = cut / f"{stage}.safetensors"
    state, metadata = load_tensors(path)
    kept = {name: value for name, value in state.items() if not name.startswith(drop)}
    assert len(kept) < len(state)
    save_tensors(path, kept, metadata)
    with pytest.raises(ModelFileError, match="does not fit these settings"):
        train(small(), CheckpointFolder(cut, "key"))


# --- divergence ---------------------------------------------------------------------------------


def test_divergence_keeps_the_last_good_snapshot(tmp_path):
    calls = []

    def loss(embeddings, labels):
        calls.append(1)
        return embeddings.square().mean() * (float("nan") if len(calls) == 4 else 1.0)

    with pytest.raises(DivergenceError, match="refinement diverged: metric is nan at step 4"):
        train(small(), CheckpointFolder(tmp_path, "key", every=0), loss=loss)
    state, metadata = load_tensors(tmp_path / "refinement.safetensors")
    assert metadata["step"] == "3"
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())
    assert logged(tmp_path / "refinement.jsonl") == [1, 2, 3]
    # the loss recovers on the next call: the run continues from there
    train(small(), CheckpointFolder(tmp_path, "key", every=0), loss=loss)
    assert logged(tmp_path / "refinement.jsonl") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generation": {"learning_rate": 1e18}},
            r"generation diverged.*generation\.learning_rate",
        ),
        (
            {"refinement": {"learning_rate": 1e25}},
            r"refinement diverged.*refinement\.learning_rate",
        ),
        (
            {"refinement": {"schedule": "joint"}, "generation": {"learning_rate": 1e18}},
            r"joint diverged.*generation\.learning_rate",
        ),
    ],
)
def test_divergence_names_settings_that_exist(changes, message, tmp_path):
    changes = {**changes, "generation": {"steps": 30, **changes.get("generation", {})}}
    with pytest.raises(DivergenceError, match=message) as caught:
        train(small(**changes), CheckpointFolder(tmp_path, "key", every=0))
    assert "at step" in str(caught.value)
    assert "joint.learning_rate" not in str(caught.value)
