"""Memory that does not suffice: the setting to lower is named; work on single rows gets by.

The failures are made up, at the place where an allocator would fail; one test limits a process.
"""

import io
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mlis.incremental.class_changes
import mlis.io.checkpoint
import mlis.pipeline
from cli_cases import QUICK, environment, one_line_error, save_small
from fake_backbones import Colours, check, names, write_images
from mlis.cli import main
from mlis.compute.memory import enough_memory, in_parts, is_shortage
from mlis.config import Config
from mlis.data.io.reading import reading
from mlis.errors import DataError, OutOfMemoryError
from mlis.evaluation import curve, evaluate, evaluate_retrieval
from mlis.evaluation import retrieval as retrieval_module
from mlis.features import decode as decode_module
from mlis.features.backbones.base import run
from mlis.features.decode import ImageError, ImageMemoryError, decode
from mlis.features.images.extract import extract_folder
from mlis.features.images.files import find_images
from mlis.io.checkpoint import load_model, save_model
from mlis.methods.cegzsl import CEGZSL
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit
from pairs import Pair, trained_pair
from simulated import small, tiny

TRAINING = tiny().for_training()
GAN = (*QUICK, "--generator", "wgan-gp", "--generation-steps", "20", "--no-reuse")

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
ARRAY = "Unable to allocate 3.00 GiB for an array with shape (1, 1) and data type float32"
CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB"


def test_what_is_a_shortage_and_what_is_not():
    for error in (MemoryError(), RuntimeError(CPU), torch.OutOfMemoryError(CUDA)):
        assert is_shortage(error)
        with pytest.raises(OutOfMemoryError, match=r"^thing: .*\. Lower it, or"):
            raise_in_thing(error)
    with pytest.raises(OutOfMemoryError, match=r"out of GPU memory .*20\.00 GiB requested"):
        raise_in_thing(torch.OutOfMemoryError(CUDA))
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x")):
        assert not is_shortage(error)
        with pytest.raises(type(error)):
            raise_in_thing(error)


def raise_in_thing(error: Exception) -> None:
    with enough_memory("thing", "Lower it"):
        raise error


@pytest.fixture(scope="module")
def recognizer():
    return fit(TRAINING, small(), seed=5).recognizer


def test_recognition_takes_smaller_batches_where_memory_is_short(recognizer, monkeypatch, caplog):
    x = tiny().features[:50]
    expected = recognizer.scores(x, batch_size=12)
    sizes = []
    addmm = torch.addmm

    def scarce(bias, rows, *args, **kwargs):
        if len(rows) > 12:
            raise RuntimeError(CPU)
        sizes.append(len(rows))
        return addmm(bias, rows, *args, **kwargs)

    monkeypatch.setattr(torch, "addmm", scarce)
    np.testing.assert_array_equal(recognizer.scores(x, batch_size=48), expected)
    assert set(sizes) == {12, 2}
    assert "out of memory for 48 rows at a time: trying half" in caplog.text
    monkeypatch.setattr(torch, "addmm", lambda *args, **kwargs: scarce(None, range(99)))
    with pytest.raises(OutOfMemoryError, match="even for one row"):
        recognizer.scores(x)


def test_features_of_images_take_smaller_batches(monkeypatch):
    class Model:
        def features(self, batch):
            if len(batch) > 2:
                raise RuntimeError(CPU)
            return batch.flatten(1).sum(1, keepdim=True)

    batch = torch.arange(24.0).reshape(6, 1, 2, 2)
    np.testing.assert_array_equal(run(Model(), batch), batch.flatten(1).sum(1, keepdim=True))
    monkeypatch.setattr(Model, "features", lambda self, batch: raise_(RuntimeError(CPU)))
    with pytest.raises(OutOfMemoryError, match="smaller --backbone"):
        run(Model(), batch)


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.skipif(sys.platform != "linux", reason="processes are limited by Linux's means")
def test_a_process_that_may_not_grow_says_which_setting_to_lower(tmp_path):
    data = save_small(tmp_path / "data")
    script = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "import mlis.runs.run\n"
        "from mlis.cli import main\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + (400 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "raise SystemExit(main(sys.argv[1:]))\n"
    )
    arguments = ["fit", data, "-o", tmp_path / "run", *GAN, "--generation-hidden", "9000000"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2, done.stderr
    said = one_line_error(done.stderr)
    assert "generation: out of memory" in said
    assert "Lower generation.batch_size or generation.hidden" in said


# --- stages beside the training -------------------------------------------------------------------


class Scarce:
    """A function that fails like an allocator on more than `most` rows, and counts what it got."""

    def __init__(self, function, most: int, rows=len):
        self.function, self.most, self.rows = function, most, rows
        self.sizes: list[int] = []

    def __call__(self, *args, **kwargs):
        count = self.rows(*args)
        if count > self.most:
            raise MemoryError(f"Unable to allocate 3.00 GiB for {count} rows")
        self.sizes.append(count)
        return self.function(*args, **kwargs)


def failing(error: Exception):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_parts_become_smaller_until_they_fit_and_cover_every_row_once():
    seen: list[int] = []

    def work(part: slice) -> None:
        if part.stop - part.start > 3:
            raise MemoryError
        seen.extend(range(part.start, part.stop))

    in_parts(50, 40, work, "thing", "use less")
    assert seen == list(range(50))
    with pytest.raises(OutOfMemoryError, match=r"^thing: .* one row at a time: use less, "):
        in_parts(50, 40, failing(torch.OutOfMemoryError(CUDA)), "thing", "use less")
    with pytest.raises(RuntimeError, match="broken"):
        in_parts(50, 40, failing(RuntimeError("broken")), "thing", "use less")


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 200)
    return rng.standard_normal((200, 8)).astype(np.float32), labels, np.arange(8) < 5


def test_measures_take_fewer_rows_at_a_time_and_stay_the_same(scores, monkeypatch):
    expected = evaluate(*scores, "abcdefgh")
    real, sizes = curve.in_parts, []

    def scarce(count, size, work, what, remedy):
        def less(part):
            if part.stop - part.start > 30:
                raise MemoryError
            sizes.append(part.stop - part.start)
            work(part)

        real(count, size, less, what, remedy)

    monkeypatch.setattr(curve, "in_parts", scarce)
    found = evaluate(*scores, "abcdefgh")
    assert max(sizes) <= 30
    assert len(sizes) > 6
    assert found.to_dict() == expected.to_dict()
    np.testing.assert_array_equal(found.curve.knots, expected.curve.knots)


def test_retrieval_takes_fewer_rows_at_a_time(scores, monkeypatch):
    features, labels, _ = scores
    expected = evaluate_retrieval(features, labels)
    nearest = Scarce(retrieval_module._nearest, 20, lambda directions, rows, count: len(rows))
    monkeypatch.setattr(retrieval_module, "_nearest", nearest)
    assert evaluate_retrieval(features, labels, chunk=128) == expected
    assert sum(nearest.sizes) == 200
    nearest.most = 0
    with pytest.raises(OutOfMemoryError, match=r"retrieval: .*use fewer images"):
        evaluate_retrieval(features, labels)


# --- images ---------------------------------------------------------------------------------------


class Hungry(Colours):
    """Some images do not fit the memory the first few times."""

    def __init__(self, times: int):
        super().__init__()
        self.times, self.failed = times, 0

    def prepare(self, image: Image.Image) -> np.ndarray:
        if image.getpixel((0, 0))[0] % 5 == 3 and self.failed < self.times:
            self.failed += 1
            raise MemoryError
        return super().prepare(image)


def test_an_image_for_which_memory_was_short_is_read_again_and_is_not_lost(tmp_path):
    images, output = tmp_path / "in", tmp_path / "out"
    write_images(images, names(12))
    result = extract_folder(find_images(images), Hungry(1), output, workers=3)
    assert result.bad == ()
    check(images, output, names(12))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_that_does_not_fit_ends_the_extraction_with_what_to_lower(
    threads, tmp_path, monkeypatch
):
    """It must not be left out as a bad file is: the result would depend on the machine's load."""
    monkeypatch.setattr("mlis.features.images.embed._at_once", lambda *_: threads)
    images, output = tmp_path / "in", tmp_path / "out"
    write_images(images, names(12))
    with pytest.raises(OutOfMemoryError, match=r"a/008\.png: .*reduce --workers"):
        extract_folder(find_images(images), Hungry(99), output, shard_images=3, workers=2)
    again = extract_folder(find_images(images), Hungry(0), output, shard_images=3)
    assert again.computed == 9  # what was finished is kept
    check(images, output, names(12))


@pytest.mark.parametrize("place", ["PIL.ImageFile.ImageFile.load", "PIL.ImageOps.exif_transpose"])
def test_decoding_without_memory_is_no_damage(place, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (9, 7)).save(file, "PNG")
    monkeypatch.setattr(place, failing(MemoryError()))
    with pytest.raises(ImageMemoryError, match="not enough memory to decode it"):
        decode(file.getvalue())
    with pytest.raises(ImageMemoryError, match="not enough memory to decode it"):
        decode_module.rgb(Image.open(io.BytesIO(file.getvalue())))
    assert issubclass(ImageMemoryError, ImageError)  # one request of a server, not the server


# --- files, the command line, the server ----------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError("3 GiB"), RuntimeError(CPU)])
def test_where_no_stage_knows_better_the_command_line_still_does_not_blame_itself(
    error, tmp_path, monkeypatch, capsys
):
    data = save_small(tmp_path / "data")
    monkeypatch.setattr("mlis.data.describe", failing(error))
    assert main(["data", "info", str(data)]) == 1
    said = one_line_error(capsys.readouterr().err)
    assert "out of memory" in said


def test_the_server_says_that_it_is_not_the_request(monkeypatch):
    pytest.importorskip("fastapi")
    import asyncio

    from mlis.serving.problems import _not_possible

    for error, status in ((OutOfMemoryError("x"), 503), (DataError("x"), 422)):
        assert asyncio.run(_not_possible(None, error)).status_code == status


# --- every stage, as the page says it -------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
TABLE = PAGE.read_text(encoding="utf-8").partition("## Out of memory")[2]
MESSAGES = dict(re.findall(r"^\| (?!while|---)(.+?) \| `(.+?)` \|$", TABLE, re.M))
Place = str | tuple[object, str]


def trained(config: Config) -> Callable[[Path], object]:
    return lambda _: fit(TRAINING, config, seed=5).recognizer


def recognised(folder: Path) -> Recognizer:
    return fit(TRAINING, small(generation={"generator": "ridge"}), seed=5).recognizer


def kept(folder: Path) -> Pair:
    return trained_pair(TRAINING, small(generation={"generator": "ridge"}), seed=5)


def with_exemplars(_: object) -> object:
    return trained_pair(TRAINING, small(), seed=5)


def loaded(folder: Path) -> object:
    save_model(recognised(folder), folder / "model")
    return folder / "model"


def grown(pair: Pair) -> object:
    return pair.add(["new"], np.ones((1, pair.descriptors.shape[1])))


def scored(recognizer: Recognizer) -> object:
    return recognizer.scores(tiny().features)


def measured(_: object) -> object:
    return evaluate(np.eye(3), np.arange(3), np.arange(3) < 2, "abc")


def retrieved(_: object) -> object:
    return evaluate_retrieval(tiny().features, tiny().labels)


def compared(_: object) -> object:
    method = CEGZSL(config=small(), steps=2, batch_size=8, embedding=8, projection=4, hidden=8)
    with pytest.raises(OutOfMemoryError, match="CE-GZSL"):
        method.choose(tiny(), device="cpu")
    return method.fit(TRAINING, device="cpu")


def photographs(folder: Path) -> Path:
    write_images(folder / "in", names(2))
    return folder / "in"


def extracted(images: Path) -> object:
    return extract_folder(find_images(images), Colours(), images.parent / "out", workers=1)


def embedded(_: object) -> object:
    return run(types.SimpleNamespace(features=torch.relu), torch.zeros(4, 3))


def read(_: object) -> object:
    with reading(Path("x.npy"), "a .npy file", "Save it again."):
        return np.load("x.npy")


def nothing(_: Path) -> None: ...


JOINT = small(refinement={"schedule": "joint"})
STAGES: dict[str, tuple[Place, Callable[[Path], Any], Callable[[Any], object]]] = {
    "training rows are read and scaled": ((mlis.pipeline, "prepare"), nothing, trained(small())),
    "the generator is trained": ((mlis.pipeline, "fit_generator"), nothing, trained(small())),
    "the encoder is trained": ((mlis.pipeline, "fit_encoder"), nothing, trained(small())),
    "both are trained together": ((mlis.pipeline, "fit_joint"), nothing, trained(JOINT)),
    "the classifier is trained": ((mlis.pipeline, "fit_classifier"), nothing, trained(small())),
    "the exemplar buffer is made": (
        *((mlis.pipeline, "keep_exemplars"), nothing),
        with_exemplars,
    ),
    "classes are added": ((mlis.incremental.class_changes, "refit"), kept, grown),
    "a model is loaded": ((mlis.io.checkpoint, "load_tensors"), loaded, load_model),
    "images are recognised, one by one": ((torch, "addmm"), recognised, scored),
    "the scores of all rows are put together": ((torch, "empty"), recognised, scored),
    "measures are taken": ((np, "isfinite"), nothing, measured),
    "retrieval is measured": ((np, "argsort"), nothing, retrieved),
    "another method is trained": ("mlis.methods.cegzsl.EmbeddingTrainer", nothing, compared),
    "photographs are decoded": ("PIL.ImageOps.exif_transpose", photographs, extracted),
    "an image model computes features": ((torch, "relu"), nothing, embedded),
    "a file is read": ((np, "load"), nothing, read),
}


def test_every_stage_of_the_page_is_made_here():
    assert list(MESSAGES) == list(STAGES)


@pytest.mark.parametrize("error", [MemoryError(ARRAY), RuntimeError(CPU)], ids=["numpy", "torch"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_message_names_the_stage_and_the_setting_to_lower(stage, error, tmp_path, monkeypatch):
    place, before, provoke = STAGES[stage]
    if isinstance(error, RuntimeError) and stage in ("photographs are decoded", "a file is read"):
        pytest.skip("PyTorch is not asked there")
    made = before(tmp_path)
    where = place if isinstance(place, tuple) else (place,)
    monkeypatch.setattr(*where, failing(error))
    with pytest.raises((OutOfMemoryError, DataError)) as caught:
        provoke(made)
    monkeypatch.undo()
    pattern = r".+?".join(map(re.escape, MESSAGES[stage].split("…")))
    assert re.search(pattern, str(caught.value)), str(caught.value)
