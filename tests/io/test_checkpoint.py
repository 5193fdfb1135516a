"""Saved models and tensor files: exact round trips, and every damage is noticed and named."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mlis
from mlis.errors import ModelFileError
from mlis.io.checkpoint import load_exemplars, load_model, read_record, save_model
from mlis.model.recognizer import Recognizer, replace
from mlis.pipeline import fit
from mlis.storage.tensors import load_tensors, save_tensors
from pairs import Pair, trained_pair
from simulated import small, tiny

DATA = tiny()
SOURCE = Path(mlis.__file__).parent

FILES = ["config.json", "exemplars.safetensors", "model.safetensors"]


@pytest.fixture(scope="module")
def trained() -> Pair:
    return trained_pair(DATA.for_training(), small(), seed=1, device="cpu")


@pytest.fixture(scope="module")
def recognizer(trained) -> Recognizer:
    return replace(trained.recognizer, calibration=0.1 + 0.2)


@pytest.fixture
def saved(recognizer, trained, tmp_path) -> Path:
    save_model(recognizer, tmp_path / "model", trained.exemplars, {"seed": 1, "U": 12.5})
    return tmp_path / "model"


def assert_same(one: Recognizer, two: Recognizer) -> None:
    pairs = [
        (one.preprocessing.shift, two.preprocessing.shift),
        (one.preprocessing.factor, two.preprocessing.factor),
        (one.head.weight, two.head.weight),
        (one.head.bias, two.head.bias),
    ]
    if one.refiner.kind == "none":
        assert two.refiner.kind == "none"
    else:
        pairs += [(one.refiner.weight, two.refiner.weight), (one.refiner.bias, two.refiner.bias)]
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert one.preprocessing.transform == two.preprocessing.transform
    assert one.class_names == two.class_names
    assert one.calibration == two.calibration
    for ours, theirs in ((one.seen_mask, two.seen_mask), (one.descriptors, two.descriptors)):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("components", ["ml+is+sfr", "none"])
def test_round_trip_is_exact(components, precision, tmp_path):
    config = small(
        precision,
        refinement={"components": components},
        preprocessing={"feature_transform": "sqrt"},
        classification={"calibration": -0.7},
    )
    original = fit(DATA.for_training(), config, device="cpu").recognizer
    save_model(original, tmp_path)
    loaded = load_model(tmp_path)
    assert_same(original, loaded)
    np.testing.assert_array_equal(original.scores(DATA.features), loaded.scores(DATA.features))
    np.testing.assert_array_equal(original.refine(DATA.features), loaded.refine(DATA.features))


def test_scores_are_the_same_bits_whatever_the_length_of_the_names(recognizer, tmp_path):
    """The header's length decides where the weights lie in the file, and must decide no more."""
    for length in range(1, 18):
        names = tuple(f"{i}{'x' * length}" for i in range(9))
        named = replace(recognizer, class_names=names)
        save_model(named, tmp_path)
        np.testing.assert_array_equal(
            load_model(tmp_path).scores(DATA.features), recognizer.scores(DATA.features)
        )


def test_names_in_any_script_and_the_record(recognizer, tmp_path):
    names = ("ü", "汉字", 'quote"', "line\nbreak", "", "a\\b", "🌷", "null", "0")
    save_model(replace(recognizer, class_names=names), tmp_path, record={"seed": 3})
    assert load_model(tmp_path).class_names == names
    record = read_record(tmp_path)
    assert record["record"] == {"seed": 3}
    assert record["class_names"] == list(names)
    assert record["mlis"] == mlis.__version__


def test_tensors_of_every_kind(tmp_path):
    tensors = {
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "bool": torch.tensor([True, False, True]),
        "int64": torch.arange(5),
        "uint8": torch.arange(7, dtype=torch.uint8),
        "half": torch.randn(3, 3).bfloat16(),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    save_tensors(tmp_path / "t.safetensors", tensors, {"step": "4"})
    loaded, metadata = load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"step": "4"}
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0, equal_nan=True)


# --- damage -------------------------------------------------------------------------------------


def test_every_flipped_byte_of_the_weights_file_is_noticed(recognizer, saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    places = np.linspace(0, len(whole) - 1, 60).astype(int)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"(model\.safetensors|config\.json)"):
            load_model(saved)
    path.write_bytes(whole)
    assert_same(load_model(saved), recognizer)


@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
def test_a_truncated_weights_file(saved, kept):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(
        ModelFileError, match=r"model\.safetensors: not a safetensors file, or damaged"
    ):
        load_model(saved)


def test_a_tensor_that_is_missing(saved):
    tensors, metadata = load_tensors(saved / "model.safetensors")
    del tensors["head.bias"]
    save_tensors(saved / "model.safetensors", tensors, metadata)
    with pytest.raises(ModelFileError, match=r"holds no tensor 'head\.bias'"):
        load_model(saved)


def test_the_json_of_another_model(recognizer, saved, tmp_path):
    other = replace(recognizer, class_names=recognizer.class_names[::-1])
    save_model(other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "config.json", saved / "config.json")
    with pytest.raises(ModelFileError, match="do not belong together"):
        load_model(saved)


@pytest.mark.parametrize("field", ["calibration", "class_names", "preprocessing"])
def test_an_edited_json(saved, field):
    facts = json.loads((saved / "config.json").read_text())
    facts[field] = {"calibration": 5.0, "class_names": ["x"], "preprocessing": {}}[field]
    (saved / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ModelFileError, match="edited or replaced"):
        load_model(saved)


@pytest.mark.parametrize("text", ["", "[1, 2]", "\x00\x01"])
def test_json_that_is_none(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"config\.json"):
        load_model(saved)


@pytest.mark.parametrize("version", [3, "1"])
def test_another_format_version(saved, version):
    facts = json.loads((saved / "config.json").read_text())
    facts["format"] = version
    (saved / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ModelFileError, match=f"model format {version!r}.*reads formats 1 and 2"):
        load_model(saved)


def test_missing_files_and_folders(saved, tmp_path):
    with pytest.raises(
        ModelFileError, match=r"is not a saved model: .*config\.json does not exist"
    ):
        load_model(tmp_path / "nothing")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors: no such file"):
        load_model(saved)


def test_a_failed_save_leaves_the_old_model(recognizer, saved):
    with pytest.raises(ValueError, match="JSON"):
        save_model(replace(recognizer, calibration=8.0), saved, record={"U": float("nan")})
    names = sorted(p.name for p in saved.iterdir())
    assert names == FILES  # no temporary file is left
    assert_same(load_model(saved), recognizer)


# --- nothing is unpickled -----------------------------------------------------------------------


def test_no_module_reads_pickles():
    """But for published weights that come as such: PyTorch's restricted reader, tensors alone."""
    restricted = re.compile(r"torch\.load\([^()]*\bweights_only=True\)")
    forbidden = re.compile(r"torch\.load|torch\.save|\bpickle\b|allow_pickle\s*=\s*True|joblib")
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 30
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code = restricted.sub("", line.split("#")[0])
            assert not forbidden.search(code), f"{path}:{number}: {line.strip()}"


# --- a model with a right checksum and wrong content ---------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("preprocessing.shift", "preprocessing.factor", "refiner.weight", "head.bias"),
        "descriptors",
    ],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(name, value, saved):
    path = saved / "model.safetensors"
    tensors, metadata = load_tensors(path)
    tensors[name].view(-1)[-1] = value
    save_tensors(path, tensors, metadata)
    with pytest.raises(ModelFileError, match=rf"{name}\[.*\]: expected a finite number, got"):
        load_model(saved)


def test_kept_rows_that_are_not_finite_are_refused(saved):
    path = saved / "exemplars.safetensors"
    tensors, metadata = load_tensors(path)
    tensors["step"][0] = torch.nan
    save_tensors(path, tensors, metadata)
    with pytest.raises(ModelFileError, match=r"exemplars\.safetensors: step\[0\].*finite"):
        load_exemplars(saved)


def test_two_classes_of_one_name_are_refused(recognizer, tmp_path):
    names = ("a", *recognizer.class_names[1:-1], "a")
    save_model(replace(recognizer, class_names=names), tmp_path)
    with pytest.raises(ModelFileError, match=r"class_names: .*'a' for class 0 and class 8"):
        load_model(tmp_path)
