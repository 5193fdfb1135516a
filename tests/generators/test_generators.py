"""The cache of trained generators: found, waited for, continued, and checked."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mlis.training.checkpoints
import mlis.training.loop
from cli_cases import QUICK, save_small, start
from mlis.cli import main
from mlis.config import Config
from mlis.errors import DivergenceError
from mlis.methods.mlis import MLIS
from mlis.model.recognizer import Recognizer
from mlis.pipeline import Trained, fit
from mlis.provenance import generation_key, training_key
from mlis.storage.atomic import cache_folder
from mlis.storage.tensors import load_tensors, save_tensors
from mlis.training.callbacks import Callback, LossLog
from mlis.training.checkpoints import CheckpointFolder
from mlis.training.generator_cache import generator_folder
from simulated import small, tiny

TRAINING = tiny().for_training()
CONFIG = small()
KEY = generation_key(TRAINING, CONFIG, 5)


@pytest.fixture(autouse=True)
def _log_every_step(monkeypatch):
    monkeypatch.setattr(mlis.training.loop, "LOG_EVERY", 1)


class Steps(Callback):
    """Counts the steps that are taken, and may die at one of them."""

    def __init__(self, die_at: tuple[str, int] | None = None):
        self.taken: list[tuple[str, int]] = []
        self.die_at = die_at

    def on_step(self, stage, step, total, losses):
        if (stage, step) == self.die_at:
            raise Killed
        self.taken.append((stage, step))

    def of(self, stage: str) -> list[int]:
        return [step for name, step in self.taken if name == stage]


class Killed(BaseException):
    """What a test raises where a process would be killed."""


def train(folder: Path, config: Config = CONFIG, listener: Callback | None = None, **options):
    """Fit as a run does: snapshots in `folder`, the generator in the cache or beside them."""
    options = {"training": TRAINING, "seed": 5, **options}
    data, seed = options.pop("training"), options.pop("seed")
    own = CheckpointFolder(
        folder / "ml",
        training_key(data, config, seed),
        shared={"generation": (folder, generation_key(data, config, seed))},
        every=0,
    )
    log = LossLog(folder / "ml", {"generation": folder})
    callbacks = [log] if listener is None else [listener, log]
    options = {"reuse": True, "callbacks": callbacks, "checkpoints": own, **options}
    return fit(data, config, seed=seed, **options)


def undisturbed(config: Config = CONFIG) -> Recognizer:
    return fit(TRAINING, config, seed=5).recognizer


def assert_same_bits(trained: Trained | Recognizer, other: Recognizer) -> None:
    one = trained.recognizer if isinstance(trained, Trained) else trained
    assert torch.equal(one.head.weight, other.head.weight)
    assert torch.equal(one.head.bias, other.head.bias)
    if one.refiner.kind != "none":
        assert torch.equal(one.refiner.weight, other.refiner.weight)


def logged(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


STORED = Path("generation.safetensors")


def stored(key: str = KEY) -> Path:
    return generator_folder(key) / STORED


# --- found, and not found ------------------------------------------------------------------------


def test_another_run_with_the_same_key_trains_nothing(tmp_path):
    first = train(tmp_path / "one")
    assert not list((tmp_path / "one").rglob("generation.safetensors"))
    before = stored().stat().st_mtime_ns
    steps = Steps()
    second = train(tmp_path / "two", listener=steps)
    assert steps.of("generation") == []
    assert steps.of("refinement") == [1, 2, 3, 4, 5, 6]
    assert stored().stat().st_mtime_ns == before
    assert_same_bits(first, undisturbed())
    assert_same_bits(second, undisturbed())
    assert logged(tmp_path / "one/generation.jsonl") == [1, 2, 3, 4, 5]
    assert not (tmp_path / "two/generation.jsonl").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"config": small(generation={"penalty": 9.0})},
        {"config": small(preprocessing={"feature_scaling": "none"})},
        {"config": small("float64")},
        {"training": tiny(1).for_training()},
        {"training": tiny().for_validation()[0]},
    ],
    ids=["seed", "setting", "preprocessing", "precision", "data", "rows"],
)
def test_another_key_is_trained(tmp_path, change):
    train(tmp_path / "one")
    steps = Steps()
    train(tmp_path / "two", listener=steps, **change)
    assert steps.of("generation") == [1, 2, 3, 4, 5]


def test_without_reuse_the_run_keeps_its_own(tmp_path):
    train(tmp_path / "one")
    before = stored().stat().st_mtime_ns
    steps = Steps()
    alone = train(tmp_path / "two", listener=steps, reuse=False)
    assert steps.of("generation") == [1, 2, 3, 4, 5]
    assert (tmp_path / "two" / STORED).exists()
    assert stored().stat().st_mtime_ns == before
    assert_same_bits(alone, undisturbed())
    # and goes on with it, whatever the cache has
    steps = Steps()
    again = train(tmp_path / "two", listener=steps)
    assert steps.taken == []
    assert not again.reused


def test_in_python_without_a_run_folder(tmp_path):
    data, config = tiny(), small(classification={"calibration": "validation"})
    options = {"seed": 3, "device": "cpu"}
    plain = MLIS(config).choose(data, **options)
    assert not (cache_folder() / "generators").exists()
    first = MLIS(config).choose(data, **options, reuse=True)
    steps = Steps()
    second = MLIS(config).choose(
        data, **options, reuse=True, callbacks=[steps], validation_callbacks=[steps]
    )
    assert set(steps.of("generation")) == set()
    assert second.reused
    assert not first.reused
    for trained in (first, second):
        assert_same_bits(trained.recognizer, plain.recognizer)
        assert trained.recognizer.calibration == plain.recognizer.calibration


def test_the_joint_schedule_is_not_stored(tmp_path):
    """There the generator may depend on the encoder."""
    fitted = train(tmp_path, small(refinement={"schedule": "joint"}))
    assert not stored().exists()
    assert (tmp_path / "ml/joint.safetensors").exists()
    assert not fitted.reused


def test_cut_short_it_is_continued_by_another_run(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path / "one", listener=Steps(die_at=("generation", 3)))
    assert load_tensors(stored())[1]["step"] == "2"
    steps = Steps()
    other = train(tmp_path / "two", listener=steps)
    assert steps.of("generation") == [3, 4, 5]
    assert_same_bits(other, undisturbed())
    assert logged(tmp_path / "two/generation.jsonl") == [3, 4, 5]


def test_a_failure_gives_the_lock_back(tmp_path):
    """The next training of this process would else wait for itself."""
    diverging = small(generation={"learning_rate": 1e18, "steps": 30})
    for name in ("one", "two"):
        with pytest.raises(DivergenceError):
            train(tmp_path / name, diverging)


# --- processes ------------------------------------------------------------------------------------

SETTINGS = (
    *(*QUICK, "--generator", "wgan-gp", "--generation-hidden", "16", "--noise", "4"),
    *("--batch-size", "16", "--critic-steps", "1", "--generation-steps", "160"),
    *("--snapshot-every", "0"),
)
RESULT = Path("seed-0/ml+is+sfr/result.json")
MODEL = Path("seed-0/ml+is+sfr/model/model.safetensors")
PATIENCE = 600  # seconds until a test that hangs is given up, on a busy machine too
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP on Windows")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_small(tmp_path_factory.mktemp("generators") / "data")


@pytest.fixture(scope="module")
def calm(data, tmp_path_factory) -> bytes:
    """The model of a run that knows no cache."""
    run = tmp_path_factory.mktemp("calm") / "run"
    assert main(["fit", str(data), "-o", str(run), *SETTINGS, "--no-reuse"]) == 0
    return (run / MODEL).read_bytes()


def begin(data: Path, run: Path) -> subprocess.Popen:
    """Start `mlis fit`; what it says goes to a file."""
    with run.with_suffix(".log").open("wb") as log:
        return start("fit", data, "-o", run, *SETTINGS, stdout=subprocess.DEVNULL, stderr=log)


def until(process: subprocess.Popen, reached) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, "it ended before that"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def stopped_and_waiting(data, tmp_path) -> Iterator[tuple[subprocess.Popen, subprocess.Popen]]:
    """One process in the middle of its generator, stopped; another that waits for it."""
    one = begin(data, tmp_path / "one")
    log = tmp_path / "one/seed-0/generation.jsonl"
    until(one, lambda: log.exists() and 40 <= max([0, *complete(log)]) < 140)
    one.send_signal(signal.SIGSTOP)
    two = begin(data, tmp_path / "two")
    until(two, lambda: f"process {one.pid} on" in (tmp_path / "two.log").read_text())
    yield one, two
    for process in (one, two):
        process.kill()
        process.wait()


def complete(path: Path) -> list[int]:
    """Steps of the complete lines of a log that is being written."""
    return [json.loads(line)["step"] for line in path.read_text().split("\n")[:-1]]


def row(run: Path) -> dict:
    return json.loads((run / RESULT).read_text())


@needs_signals
def test_a_second_process_waits_for_the_first(stopped_and_waiting, tmp_path, calm):
    one, two = stopped_and_waiting
    assert "trains the same generator: waiting" in (tmp_path / "two.log").read_text()
    time.sleep(0.3)
    assert not (tmp_path / "two/seed-0/generation.jsonl").exists()
    one.send_signal(signal.SIGCONT)
    assert (one.wait(PATIENCE), two.wait(PATIENCE)) == (0, 0)
    rows = [row(tmp_path / name) for name in ("one", "two")]
    assert [found["generator_reused"] for found in rows] == [False, True]
    for name in ("one", "two"):
        assert (tmp_path / name / MODEL).read_bytes() == calm
    assert logged(tmp_path / "one/seed-0/generation.jsonl") == list(range(20, 161, 20))
    assert "refinement" in (tmp_path / "two.log").read_text()
    assert "generation 160/160" not in (tmp_path / "two.log").read_text()


@pytest.mark.slow
@needs_signals
def test_killed_while_another_waits(stopped_and_waiting, tmp_path, calm):
    one, two = stopped_and_waiting
    one.kill()
    one.wait()
    assert two.wait(PATIENCE) == 0
    assert (tmp_path / "two" / MODEL).read_bytes() == calm
    assert not row(tmp_path / "two")["generator_reused"]  # it trained the last steps
    assert "generation continues after step" in (tmp_path / "two.log").read_text()
    assert logged(tmp_path / "two/seed-0/generation.jsonl")[-1] == 160
    assert not list((cache_folder() / "generators").rglob(".*tmp*"))


@pytest.mark.slow
def test_started_together(data, tmp_path, calm):
    runs = [tmp_path / name for name in ("one", "two")]
    processes = [begin(data, run) for run in runs]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    assert sorted(row(run)["generator_reused"] for run in runs) == [False, True]
    trained = ["generation 160/160" in run.with_suffix(".log").read_text() for run in runs]
    assert sorted(trained) == [False, True]
    for run in runs:
        assert (run / MODEL).read_bytes() == calm


# --- whatever is wrong with the cache -------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_another_key(path: Path) -> None:
    state, metadata = load_tensors(path)
    save_tensors(path, state, {**metadata, "key": "0" * 64})


def without_record(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(load_tensors(path)[0], path)


def of_other_code(path: Path) -> None:
    """The checksum is right, the key is right, and yet the tensors have other names."""
    state, metadata = load_tensors(path)
    save_tensors(path, {f"{name}_v0": value for name, value in state.items()}, metadata)


DAMAGE = [truncated, flipped, of_another_key, without_record]


def of_the_cache(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the cache warned of; the classifier's tiny problem may not converge, and say so."""
    return [
        found.getMessage()
        for found in caplog.records
        if found.name in ("mlis.training.generator_cache", "mlis.training.checkpoints")
    ]


@pytest.mark.parametrize("partial", [False, True], ids=["finished", "partial"])
@pytest.mark.parametrize("damage", [*DAMAGE, of_other_code], ids=lambda damage: damage.__name__)
def test_damaged_and_foreign_files(damage, partial, tmp_path, caplog):
    if partial:
        with pytest.raises(Killed):
            train(tmp_path / "one", listener=Steps(die_at=("generation", 3)))
    else:
        train(tmp_path / "one")
    damage(stored())
    steps = Steps()
    with caplog.at_level(logging.WARNING, "mlis"):
        fitted = train(tmp_path / "two", listener=steps)
    assert_same_bits(fitted, undisturbed())
    assert steps.of("generation") == [1, 2, 3, 4, 5]
    (warning,) = of_the_cache(caplog)
    assert "trained again" in warning
    assert not fitted.reused
    steps = Steps()  # the cache is whole again
    train(tmp_path / "three", listener=steps)
    assert steps.of("generation") == []


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLIS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(Killed):
        train(tmp_path / "run", listener=Steps(die_at=("generation", 3)))
    assert "is not stored in" in caplog.text
    steps = Steps()
    fitted = train(tmp_path / "run", listener=steps)
    assert steps.of("generation") == [3, 4, 5]
    assert_same_bits(fitted, undisturbed())
    assert logged(tmp_path / "run/generation.jsonl") == [1, 2, 3, 4, 5]
    assert_same_bits(
        fit(TRAINING, CONFIG, seed=5, reuse=True).recognizer, undisturbed()
    )  # and without a run


def test_the_cache_is_deleted_between_and_during_trainings(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path / "one", listener=Steps(die_at=("refinement", 3)))
    shutil.rmtree(cache_folder() / "generators")
    assert_same_bits(train(tmp_path / "one"), undisturbed())
    assert logged(tmp_path / "one/generation.jsonl") == [1, 2, 3, 4, 5]

    class Delete(Callback):
        def on_step(self, stage, step, total, losses):
            if (stage, step) == ("generation", 3):
                shutil.rmtree(cache_folder() / "generators")

    shutil.rmtree(cache_folder() / "generators")
    assert_same_bits(train(tmp_path / "two", listener=Delete()), undisturbed())
    assert (tmp_path / "two" / STORED).exists()
    assert logged(tmp_path / "two/generation.jsonl") == [1, 2, 3, 4, 5]


# --- keys -----------------------------------------------------------------------------------------


def test_keys_tell_a_users_losses_apart(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def key(source: str, name: str, loss=None) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        config = CONFIG if loss else small(refinement={"loss": f"{name}:pull"})
        return training_key(TRAINING, config, 5, loss=loss)

    body = "def pull(embeddings, labels):\n    return embeddings.sum() * {}\n"
    keys = [key(body.format(1), "loss_a"), key(body.format(2), "loss_b")]

    def one(embeddings, labels):
        return embeddings.sum()

    def two(embeddings, labels):
        return embeddings.mean()

    class Three(torch.nn.Module):
        def forward(self, embeddings, labels):
            return embeddings.mean()

    keys += [training_key(TRAINING, CONFIG, 5, loss=loss) for loss in (one, two, Three(), max)]
    keys.append(training_key(TRAINING, CONFIG, 5))
    assert len(set(keys)) == len(keys)
    assert training_key(TRAINING, CONFIG, 5, loss=one) == keys[2]
    # the same name and settings, another text
    del sys.modules["loss_a"]
    import linecache

    (tmp_path / "loss_a.py").write_text(body.format(10))
    linecache.clearcache()
    assert training_key(TRAINING, small(refinement={"loss": "loss_a:pull"}), 5) != keys[0]
