"""Features that stay in their file train the same model, whatever the reader's timing."""

import errno
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mlis.compute.precision import Precision
from mlis.data import GZSLDataset
from mlis.data.io.folder import TENSORS, load_folder, save_dataset
from mlis.data.out_of_core.spill import check_room, spill
from mlis.data.out_of_core.stored import StoredArray, StoredRows, stored
from mlis.data.out_of_core.streaming import StreamedRows
from mlis.encoder.trainer import RefinementTrainer
from mlis.errors import DataError
from mlis.generators.ridge import class_means, fit_ridge
from mlis.methods.mlis import MLIS
from mlis.model.preprocessing import prepare
from mlis.pipeline import fit
from mlis.protocol import evaluate_on_test
from simulated import small, tiny

VALUES = np.random.default_rng(0).random((60, 5), dtype=np.float32)
ROWS = np.random.default_rng(1).permutation(60)[:47]


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@pytest.fixture
def path(tmp_path) -> Path:
    np.save(tmp_path / "x.npy", VALUES)
    return tmp_path / "x.npy"


def streamed(path: Path, scale=double, dtype=torch.float32) -> StreamedRows:
    where = stored(np.load(path, mmap_mode="r"))
    assert where is not None
    return StreamedRows(StoredRows(where, ROWS), scale, dtype)


def whole(dtype=torch.float32) -> torch.Tensor:
    return 2 * torch.from_numpy(VALUES[ROWS]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_and_chunks_are_those_of_the_tensor(path, dtype):
    x, expected = streamed(path, dtype=dtype), whole(dtype)
    assert (x.shape, x.dtype, x.device) == (expected.shape, expected.dtype, expected.device)
    assert len(x) == len(expected)
    for rows in (
        torch.tensor([3, 3, 46, 0]),
        torch.arange(47),
        torch.tensor([], dtype=torch.int64),
    ):
        assert torch.equal(x[rows], expected[rows])
    for rows in (slice(0), slice(5, 9), slice(None)):
        assert torch.equal(x[rows], expected[rows])
    for size in (1, 10, 47, 100):
        parts = list(x.split(size))  # kept: none is written over by the next
        for ours, theirs in zip(parts, expected.split(size), strict=True):
            assert torch.equal(ours, theirs)


def test_the_readers_timing_does_not_matter(path, monkeypatch):
    gather, rng = StoredArray.gather, np.random.default_rng(0)

    def slow(self, rows, out):
        out.fill(np.nan)
        time.sleep(rng.choice([0, 0.003]))
        gather(self, rows, out)

    monkeypatch.setattr(StoredArray, "gather", slow)
    x, expected = streamed(path), whole()
    following = torch.randint(47, (8,), generator=torch.Generator().manual_seed(0))
    for step in range(30):
        rows, following = following, (following * 7 + step) % 47
        x.prefetch(following)
        assert torch.equal(x[rows], expected[rows])
        if step % 10 == 0:
            assert torch.equal(torch.cat(list(x.split(6))), expected)


def test_an_error_of_the_reader_is_raised_where_the_rows_are_asked_for(path):
    x = streamed(path)
    os.truncate(path, 128 + 30 * 5 * 4)
    gone = torch.from_numpy(np.flatnonzero(ROWS >= 30))
    there = torch.from_numpy(np.flatnonzero(ROWS < 30))
    x.prefetch(gone)
    x.prefetch(there)
    message = (
        rf"x\.npy: row {ROWS[ROWS >= 30].min()} is missing: the file was truncated to 728 bytes"
    )
    with pytest.raises(DataError, match=message):
        x[gone]
    assert torch.equal(x[there], whole()[there])
    with pytest.raises(DataError, match=message):
        x[gone]  # not prefetched
    with pytest.raises(DataError, match=r"x\.npy: row \d+ is missing"):
        list(x.split(7))


def reader_of(x: StreamedRows) -> threading.Thread:
    thread = x._reader._thread
    assert thread is not None
    return thread


@pytest.mark.parametrize("use", ["prefetch", "split", "unfinished split"])
def test_the_thread_ends_with_its_owner(path, use):
    x = streamed(path)
    assert x._reader._thread is None  # none is made before it is needed
    if use == "prefetch":
        x.prefetch(torch.arange(4))
    elif use == "split":
        list(x.split(9))
    else:
        next(iter(x.split(9)))
    thread = reader_of(x)
    assert thread.daemon
    del x
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_reader_that_hangs_does_not_keep_the_interpreter_from_ending():
    code = (
        "import threading;"
        "from mlis.data.out_of_core.streaming import Background; b = Background();"
        "started = threading.Event();"
        "b.submit(lambda: (started.set(), threading.Event().wait())); started.wait(); print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_gets_a_reader_of_its_own(path):
    x = streamed(path)
    list(x.split(9))
    child = os.fork()
    if child == 0:
        x.prefetch(torch.arange(3))
        os._exit(0 if torch.equal(x[torch.arange(3)], whole()[:3]) else 1)
    assert os.waitpid(child, 0)[1] == 0


# --- on disk and back ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spilled_rows_come_back_and_leave_nothing(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    every = torch.rand((23, 4), dtype=dtype, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(23)
    parts = zip(every.split(5), labels.split(5), strict=True)
    rows, numbers = spill(parts, torch.empty(0, 1, dtype=dtype), 4)
    assert not list(tmp_path.iterdir())
    assert (rows.shape, rows.dtype) == (every.shape, dtype)
    assert torch.equal(numbers, labels)
    for _ in range(2):
        assert torch.equal(torch.cat(list(rows.split(4))), every)


def test_an_error_while_spilling_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def parts():
        yield torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
        raise DataError("row 7")

    with pytest.raises(DataError, match="row 7"):
        spill(parts(), torch.empty(0, 1), 2)
    assert not list(tmp_path.iterdir())


class Full:
    """A file on a disk that is full after the first bytes; takes fewer than it is given."""

    def __init__(self, room: int):
        self.room = room

    def write(self, view) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(self.room, len(view), 7)
        self.room -= taken
        return taken

    def tell(self) -> int:
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_full_disk_is_told_with_the_folder_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full(50))
    parts = [(torch.zeros(9, 2), torch.zeros(9, dtype=torch.int64))]
    with pytest.raises(DataError, match=rf"{tmp_path}.*No space left.*TMPDIR"):
        spill(parts, torch.empty(0, 1), 2)


def test_room_is_looked_for_before_training(big, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check_room(10, 10, torch.float32)
    with pytest.raises(DataError, match=r"GiB needed.*TMPDIR"):
        check_room(10**12, 10**4, torch.float64)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    began: list[object] = []
    monkeypatch.setattr("mlis.pipeline.train_generator", lambda *args: began.append(args))
    with pytest.raises(DataError, match="space for the"):
        fit(big.for_training(), small(), device="cpu")
    assert not began


# --- the same model --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    save_dataset(tiny(), tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def big(folder, monkeypatch) -> GZSLDataset:
    """A dataset whose rows count as too many for memory."""
    data = load_folder(folder)
    monkeypatch.setenv("MLIS_RESIDENT_MIB", "0")
    return data


FITS: dict[str, dict[str, Any]] = {
    "ridge": {"generation": {"generator": "ridge"}},
    "wgan": {},
    "wgan, warm": {"generation": {"generator_init": "ridge"}},
    "joint": {"refinement": {"schedule": "joint"}},
    "no encoder": {"refinement": {"components": "none"}},
}


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "float32") for name in FITS), ("wgan", "float64")]
)
def test_a_streamed_fit_is_the_resident_one(name, precision, big, monkeypatch):
    monkeypatch.setattr("mlis.data.out_of_core.streaming.CHUNK_ROWS", 16)
    monkeypatch.setattr("mlis.pipeline.CHUNK_ROWS", 16)
    monkeypatch.setattr("mlis.generators.ridge.CHUNK_ROWS", 16)
    monkeypatch.setattr("mlis.model.classification.CHUNK_ROWS", 16)
    settled = {"classification": {"synthetic_per_seen": 3, "weight_decay": 0.01}}
    config = small(precision, **settled).replace(FITS[name])
    split = big.for_training()
    assert isinstance(split.features, StoredRows)
    ours = fit(split, config, seed=3, device="cpu").recognizer
    resident = fit(tiny().for_training(), config, seed=3, device="cpu").recognizer
    theirs = resident.state_dict()
    for name, value in ours.state_dict().items():
        if name.startswith(("preprocessing.", "refiner.")):
            assert torch.equal(value, theirs[name]), name
    x = torch.from_numpy(np.array(big.features))
    probabilities = [torch.softmax(model.scores(x), 1) for model in (ours, resident)]
    torch.testing.assert_close(*probabilities, rtol=0, atol=1e-3)


def test_the_generator_of_streamed_rows_is_the_resident_one(big):
    """Whatever a step draws and synthesises: the same bits."""
    config, precision = small(), Precision.of("float32", "cpu")
    _, ours = prepare(big.for_training(), config.preprocessing, precision)
    _, resident = prepare(tiny().for_training(), config.preprocessing, precision)
    assert isinstance(ours.x, StreamedRows)
    assert isinstance(resident.x, torch.Tensor)
    assert torch.equal(ours.x[:], resident.x)
    assert torch.equal(
        class_means(ours.x, ours.y, ours.num_classes),
        class_means(resident.x, resident.y, resident.num_classes),
    )
    labels = torch.arange(ours.num_classes).repeat(5)
    samples = [
        fit_ridge(data, config.generation).sampler(data.descriptors)(
            labels, torch.Generator().manual_seed(0)
        )
        for data in (ours, resident)
    ]
    assert torch.equal(*samples)


def test_protocol_and_test_work_on_rows_of_a_file(big):
    config = small(
        generation={"generator": "ridge"},
        classification={"calibration": "validation", "weight_decay": 0.01},
    )
    ours = MLIS(config).choose(big, device="cpu").recognizer
    resident = MLIS(config).choose(tiny(), device="cpu").recognizer
    assert ours.calibration == pytest.approx(resident.calibration, abs=1e-2)
    assert (
        pytest.approx(evaluate_on_test(resident, tiny()).H, abs=3) == evaluate_on_test(ours, big).H
    )
    test = big.for_testing()
    assert isinstance(test.features, StoredRows)
    scores = ours.scores(test.features, batch_size=7)
    assert isinstance(scores, np.ndarray)
    np.testing.assert_allclose(scores, ours.scores(np.asarray(test.features)), atol=1e-4, rtol=1e-4)


def test_a_file_cut_short_while_training_stops_it_with_file_and_row(big, folder):
    training = big.for_training()
    path = folder / TENSORS
    start = path.stat().st_size
    config = small(refinement={"steps": 3})
    step = RefinementTrainer.step

    def cut(self):
        os.truncate(path, start // 4)
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RefinementTrainer, "step", cut)
        with pytest.raises(DataError, match=rf"{TENSORS}: row \d+ is missing.*truncated"):
            fit(training, config, device="cpu")


# --- on a GPU --------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", FITS)
def test_a_gpu_streams_to_the_same_model(name, big, monkeypatch):
    config = small(classification={"weight_decay": 0.01}).replace(FITS[name])
    kept = fit(big.for_training(), config, seed=3, device="cuda").recognizer
    monkeypatch.setattr("mlis.model.preprocessing.fits_device", lambda *_: False)
    ours = fit(big.for_training(), config, seed=3, device="cuda").recognizer
    assert (ours.refiner.kind == "none") == (kept.refiner.kind == "none")
    if ours.refiner.kind != "none" and kept.refiner.kind != "none":
        assert torch.equal(ours.refiner.weight, kept.refiner.weight)
    x = np.array(big.features)
    probabilities = [torch.softmax(torch.from_numpy(m.scores(x)), 1) for m in (ours, kept)]
    torch.testing.assert_close(*probabilities, rtol=0, atol=1e-3)
