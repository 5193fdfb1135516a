"""Files made to harm: damaged by chance, of absurd sizes, pointing outside, with code in them.

The long form of the first part is `make fuzz` (torture/fuzz.py).
"""

import functools
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "torture"))

import fuzz
import mlis.compute.memory
import mlis.data.io.matlab
from mlis.cli import main
from mlis.config import Config, read_toml, resolve
from mlis.data import load_tables
from mlis.data.io.feature_rows import read_features
from mlis.data.io.folder import load_folder, save_dataset
from mlis.data.io.matlab import read_columns, read_strings
from mlis.data.io.npy_file import load_npy, read_npz
from mlis.errors import LONGEST, DataError, MlisError, ModelFileError, SettingsError
from mlis.features.images.files import find_images
from mlis.io.checkpoint import RECORD, WEIGHTS, load_model, save_model
from mlis.model.recognizer import Metadata, Recognizer, replace
from mlis.pipeline import fit
from mlis.storage.atomic import strict_json
from mlis.storage.tensors import load_tensors, save_tensors
from readers import READERS
from simulated import small, tiny

SLOW = {
    "mat-7.3": 12,
    "snapshot": 5,
    "model": 10,
    "parquet": 30,
    "mat-5": 30,
}  # opened or trained at some cost


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_give_a_result_or_a_clear_error(name, tmp_path, monkeypatch):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr("mlis.training.loop.LOG_EVERY", 1)
    targets = READERS[name](tmp_path)
    for target in targets:
        assert fuzz.try_one(target, target.good) is None
    for number in range(SLOW.get(name, 60)):
        target, content = fuzz.damaged(targets, name, number)
        found = fuzz.try_one(target, content)
        assert found is None, f"input {number}: {found}"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's means")
def test_the_runner_sees_crashes_hangs_and_errors_and_goes_on(tmp_path, capfd):
    """Of a worker whose reader fails in every way that a reader must not."""
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(fuzz.__file__).parent)!r})
import fuzz, readers
from pathlib import Path
def read():
    if path[0].read_bytes() == b"good": return
    if number[0] == 3: os.abort()
    while number[0] == 5: pass
    if number[0] == 7: raise KeyError("x")
    if number[0] == 9: bytearray(fuzz.MEMORY * 2)
number, path = [0], [None]
def bad(folder):
    path[0] = folder / "x"
    return [readers.Target(folder / "x", b"good", lambda good, chance: b"bad", read)]
def damaged(targets, name, at):
    number[0] = at
    return targets[0], b"bad"
fuzz.READERS["bad"] = bad
fuzz.damaged, fuzz.LONGEST, fuzz.__file__ = damaged, 1.5, __file__
if sys.argv[1:2] == ["--worker"]:
    name, first, last, place, until = sys.argv[2:]
    fuzz.work(name, int(first), int(last), Path(place), float(until))
else:
    raise SystemExit(fuzz.main(sys.argv[1:]))
"""
    (tmp_path / "bad.py").write_text(script)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "bad.py"), "-o", str(out), "--readers", "bad"]
    done = subprocess.run([*command, "--inputs", "12"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in (out / "findings.jsonl").read_text().splitlines()]
    kinds = {line["number"]: line["kind"] for line in lines}
    assert kinds == {3: "crash", 5: "hang", 7: "KeyError", 9: "MemoryError"}
    assert json.loads((out / "bad.json").read_text())["done"] == 12
    assert (out / "inputs" / "bad-3").exists()


# --- code -----------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_nothing_is_ever_unpickled(tmp_path):
    trace = tmp_path / "executed"
    load = pickle.dumps(Bomb(trace))
    objects = np.array([Bomb(trace)], dtype=object)
    np.save(tmp_path / "f.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "f.npz", features=objects, labels=objects, allow_pickle=True)
    torch.save({"x": Bomb(trace)}, tmp_path / "f.pt")
    readers = [(load_npy, "f.npy"), (read_npz, "f.npz"), (read_features, "f.npy")]
    for name in ("model.safetensors", "f.mat", "f.csv", "f.parquet", "f.npz", "f.npy"):
        (tmp_path / name).write_bytes(load if name != "model.safetensors" else
                                      (tmp_path / "f.pt").read_bytes())  # fmt: skip
        read = load_tensors if name.startswith("model") else read_features
        readers.append((read, name))
    assert pickle.loads(load) is None  # what it would do
    assert trace.exists()
    trace.unlink()
    for read, name in readers:
        with pytest.raises(MlisError):
            read(tmp_path / name)
    assert not trace.exists()


def test_an_extension_type_of_parquet_is_not_unpickled(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    trace = tmp_path / "executed"
    field = pa.field("label", pa.int64()).with_metadata(
        {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Bomb(trace)),
        }
    )
    table = pa.table([[0, 1], [0.5, 0.25]], schema=pa.schema([field, pa.field("x", pa.float32())]))
    pq.write_table(table, tmp_path / "f.parquet")
    try:
        read_features(tmp_path / "f.parquet")
    except DataError as error:
        assert "f.parquet" in str(error)  # noqa: PT017
    assert not trace.exists()


# --- sizes ----------------------------------------------------------------------------------------


def npy(shape: tuple[int, ...], descr: str = "<f4", body: bytes = bytes(64)) -> bytes:
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + body


@pytest.mark.parametrize(
    ("shape", "descr"),
    [
        ((2**40, 2**40), "<f4"),
        ((2**32, 2**32), "<f4"),  # its product is 0 in 64 bits
        ((-1, 4), "<f4"),
        ((10**15,), "<U0"),
        ((1,) * 65, "<f4"),
    ],
)
def test_numpy_headers_that_claim_absurd_shapes(tmp_path, shape, descr):
    (tmp_path / "f.npy").write_bytes(npy(shape, descr))
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("features.npy", npy(shape, descr))
    for name in ("f.npy", "f.npz"):
        with pytest.raises(DataError, match=r"f\.np"):
            read_features(tmp_path / name)


def test_numpy_headers_that_claim_an_absurd_length(tmp_path, monkeypatch):
    """Of versions 2 and 3 the length has four bytes, and NumPy would take two gigabytes for it."""
    monkeypatch.setattr(np.lib.format, "open_memmap", None)  # is not asked
    for version in (2, 3):
        start = b"\x93NUMPY" + bytes([version, 0]) + (2**31 - 1).to_bytes(4, "little")
        (tmp_path / "f.npy").write_bytes(start + npy((4, 4))[10:])
        with pytest.raises(DataError, match=r"header declares a length of 2,147,483,647 bytes"):
            read_features(tmp_path / "f.npy")


def test_an_archive_that_expands_a_thousandfold(tmp_path, monkeypatch):
    """Sixteen megabytes of zeros in sixteen kilobytes, on a machine with ten."""
    with zipfile.ZipFile(tmp_path / "f.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", npy((2000, 2000), body=bytes(16 * 10**6)))
    assert (tmp_path / "f.npz").stat().st_size < 50_000
    scipy.io.savemat(tmp_path / "f.mat", {"features": np.zeros((1000, 3000))}, do_compression=True)
    with h5py.File(tmp_path / "g.mat", "w") as file:
        file.create_dataset("features", data=np.zeros((3000, 1000)), compression="gzip")
    for module in (mlis.data.io.matlab, mlis.data.io.npy_file):
        assert module.check_room is mlis.compute.memory.check_room
    monkeypatch.setattr(mlis.compute.memory, "available_memory", lambda: 10 << 20)
    for name in ("f.npz", "f.mat", "g.mat"):
        with pytest.raises(DataError, match=rf"{name[0]}\.{name[2:]}: features, .* GiB are avail"):
            read_features(tmp_path / name)


def test_a_name_of_a_megabyte_in_a_kilobyte(tmp_path):
    body = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, 1, 1)
    body += struct.pack("<II", 1, 1 << 20) + b"x" * (1 << 20) + struct.pack("<IId", 9, 8, 1.0)
    packed = zlib.compress(struct.pack("<II", 14, len(body)) + body)
    header = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    (tmp_path / "f.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(DataError, match="name or shape of 1048576 bytes"):
        read_columns(tmp_path / "f.mat", "features")


def test_a_string_of_a_megabyte_is_read_and_one_of_a_hundred_is_not(tmp_path, monkeypatch):
    scipy.io.savemat(tmp_path / "f.mat", {"s": np.array(["x" * 5000])}, do_compression=True)
    assert read_strings(tmp_path / "f.mat", "s") == ("x" * 5000,)
    monkeypatch.setattr("mlis.data.io.mat5._MAX_TEXT", 1000)
    with pytest.raises(DataError, match="string of 5000 bytes"):
        read_strings(tmp_path / "f.mat", "s")


@functools.cache
def recognizer() -> Recognizer:
    return fit(tiny().for_training(), small(), seed=0).recognizer


@pytest.fixture
def model(tmp_path) -> Path:
    save_model(recognizer(), tmp_path / "model")
    return tmp_path / "model"


def test_safetensors_headers_that_claim_absurd_sizes(tmp_path, model):
    save_dataset(tiny(), tmp_path / "data")
    for path, read in (
        (tmp_path / "data/features.safetensors", lambda: load_folder(tmp_path / "data")),
        (model / WEIGHTS, lambda: load_model(model)),
    ):
        good = path.read_bytes()
        (length,) = struct.unpack("<Q", good[:8])
        header = json.loads(good[8 : 8 + length])
        name = next(key for key in header if key != "__metadata__")
        header[name] |= {"shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}
        text = json.dumps(header).encode()
        for damaged in (
            struct.pack("<Q", len(text)) + text + good[8 + length :],
            struct.pack("<Q", 2**62) + good[8:],
            struct.pack("<Q", 10**6) + b"[" * 10**6,
        ):
            path.unlink()  # what was mapped keeps its file
            path.write_bytes(damaged)
            with pytest.raises(MlisError, match=path.name):
                read()


# --- text -----------------------------------------------------------------------------------------

DEEP = '{"a":' * 5_000


def test_json_that_nests_deep_or_holds_no_numbers(tmp_path, model):
    save_dataset(tiny(), tmp_path / "data")
    for path, read in (
        (tmp_path / "data/dataset.json", lambda: load_folder(tmp_path / "data")),
        (model / RECORD, lambda: load_model(model)),
    ):
        for text in (DEEP, "[" * 5_000, "9" * 5000, '{"format": 1e999}', '{"x": NaN}', "\x00"):
            path.write_text(text)
            with pytest.raises(MlisError, match=path.name):
                read()


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60) | st.sampled_from(["NaN", "[-Infinity]", DEEP, "9" * 5000]))
def test_strict_json_gives_a_value_or_a_value_error(text):
    try:
        value = strict_json(text)
    except ValueError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 5_000, "nests too deep"),
        ("[generation]\nsteps = " + "9" * 5000, "not valid TOML"),
        ("[generation]\nlearning_rate = " + "9" * 400, "must be at least 0, but got inf"),
        ("[generation]\nsteps = 1979-05-27", "must be a whole number"),
        ("[refinement]\nloss = [1]", "must be a string"),
    ],
)
def test_settings_files_with_monsters(tmp_path, text, said):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(SettingsError, match=said):
        resolve(read_toml(tmp_path / "s.toml"))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    section=st.sampled_from(["generation", "refinement", "classification", "preprocessing", "x"]),
    name=st.sampled_from(["steps", "learning_rate", "loss", "calibration", "generator", "__x__"]),
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
)
def test_any_value_of_any_setting_is_taken_or_refused(section, name, value):
    try:
        config = Config.from_dict({section: {name: value}})
    except SettingsError as error:
        assert len(str(error)) <= LONGEST  # noqa: PT017
    else:
        assert Config.from_dict(config.to_dict()) == config


@settings(max_examples=25, deadline=None)
@given(st.text())
def test_a_message_is_one_short_printable_line(text):
    shown = str(DataError(text * 100))
    assert len(shown) <= LONGEST
    assert shown.isprintable()


def test_a_class_name_cannot_move_the_terminals_cursor(tmp_path):
    data = "label,x\n\x1b[2Jzebra,1\n"
    (tmp_path / "f.csv").write_text(data)
    (tmp_path / "c.csv").write_text("name,x\nhorse,1\n")
    with pytest.raises(DataError, match=r"\\x1b\[2Jzebra") as caught:
        load_tables(tmp_path / "f.csv", tmp_path / "c.csv")
    assert "\x1b" not in str(caught.value)


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
def test_a_table_of_images_cannot_name_files_outside_the_folder(tmp_path, path):
    (tmp_path / "photos/a").mkdir(parents=True)
    (tmp_path / "photos/a/1.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "t.csv").write_text(f"path,class\na/1.png,a\n{path},b\n")
    with pytest.raises(DataError, match=r"t\.csv: row 1, column 'path': expected a path inside"):
        find_images(tmp_path / "photos", tmp_path / "t.csv")


HEARD: list[str] = []


@functools.cache
def listen() -> None:
    """From now on, whoever opens a file; it cannot be taken back."""
    sys.addaudithook(lambda event, args: HEARD.append(str(args[0])) if event == "open" else None)


@pytest.fixture
def opened() -> list[str]:
    """Every file that is opened from now on."""
    listen()
    HEARD.clear()
    return HEARD


OUTSIDE = {"features": "/etc/passwd", "files": {"../../secret": "../../secret"}}


def test_the_ear_hears_what_is_opened(tmp_path, opened):
    (tmp_path / "x").write_text("x")
    np.fromfile(tmp_path / "x", np.uint8)
    assert opened == [str(tmp_path / "x")] * 2


def test_a_dataset_folder_opens_no_file_but_its_own(tmp_path, opened):
    """Whatever names its words hold: they are for people."""
    save_dataset(tiny(), tmp_path / "data")
    words = json.loads((tmp_path / "data/dataset.json").read_text())
    words["provenance"] |= OUTSIDE
    (tmp_path / "data/dataset.json").write_text(json.dumps(words))
    opened.clear()
    assert load_folder(tmp_path / "data").provenance.features == "/etc/passwd"
    own = {str(tmp_path / "data" / name) for name in ("dataset.json", "features.safetensors")}
    assert own <= set(opened)
    assert not [path for path in opened if "passwd" in path or "secret" in path]


def test_a_model_opens_no_file_but_its_own(tmp_path, opened):
    metadata = Metadata({**OUTSIDE, "backbone": {}}, record=OUTSIDE)
    save_model(replace(recognizer(), metadata=metadata), tmp_path / "model")
    opened.clear()
    assert load_model(tmp_path / "model").metadata.sources["features"] == "/etc/passwd"
    assert str(tmp_path / "model" / RECORD) in opened
    assert not [path for path in opened if "passwd" in path or "secret" in path]


ADDED = {"action": "add", "classes": ["a"], "when": "now"}


@pytest.mark.parametrize(
    "changes",
    [
        {"sources": ["a"]},
        {"sources": {"backbone": ["microsoft/resnet-18"]}},
        {"sources": {"backbone": {"name": "a", "fingerprint": 3}}},
        {"sources": {"descriptors": "mlis-descriptors"}},
        {"sources": {"descriptors": {"texts": ["a bird"]}}},
        {"sources": {"descriptors": {"texts": {"class_000": "a bird"}}}},
        {"sources": {"descriptors": {"texts": {"class_000": [3]}}}},
        {"sources": {"descriptors": {"text": "all-MiniLM-L6-v2"}}},
        {"history": [ADDED, {"action": "add", "classes": ["a"]}]},
        {"history": [{**ADDED, "classes": 3}]},
        {"record": ["a"]},
        {"record": {"provenance": ["a"]}},
    ],
)
def test_words_of_the_wrong_kind_are_a_damaged_model(changes, model, capsys):
    facts = json.loads((model / RECORD).read_text()) | changes
    record = facts.pop("record")
    tensors, _ = load_tensors(model / WEIGHTS)
    text = json.dumps(facts, sort_keys=True)
    save_tensors(model / WEIGHTS, tensors, {"description": text})
    (model / RECORD).write_text(json.dumps({**facts, "record": record}))
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(model)
    assert main(["predict", str(model), "photo.jpg"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "sources", [["a"], {"backbone": ["a"]}, {"backbone": {"name": 3}}, {"descriptors": 3}]
)
def test_words_of_the_wrong_kind_are_a_damaged_dataset(sources, tmp_path):
    save_dataset(tiny(), tmp_path)
    words = json.loads((tmp_path / "dataset.json").read_text())
    words["provenance"]["sources"] = sources
    (tmp_path / "dataset.json").write_text(json.dumps(words))
    with pytest.raises(DataError, match="damaged"):
        load_folder(tmp_path)


# --- models and snapshots -------------------------------------------------------------------------


def resaved(model: Path, **changes: torch.Tensor | None) -> None:
    tensors, metadata = load_tensors(model / WEIGHTS)
    tensors = {**tensors, **changes}
    save_tensors(model / WEIGHTS, {k: v for k, v in tensors.items() if v is not None}, metadata)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head.weight", torch.zeros(9, 11)),
        ("head.bias", torch.zeros(9, dtype=torch.float64)),
        ("refiner.weight", torch.zeros(10, 8)),
        ("refiner.bias", None),
        ("preprocessing.shift", torch.zeros(8, dtype=torch.float64)),
        ("preprocessing.factor", torch.zeros(9, dtype=torch.int64)),
        ("classifier.weight", torch.zeros(9, 10)),
        ("descriptors", torch.zeros(8, 4)),
    ],
)
def test_tensors_that_fit_no_model_are_named(model, name, value):
    """The checksum is right, as of a file that someone made."""
    resaved(model, **{name: value})
    with pytest.raises(ModelFileError, match=r"model\.safetensors (is not|holds no)"):
        load_model(model)


def test_moments_of_a_snapshot_cannot_be_shorter_than_the_weights(tmp_path):
    """PyTorch's fused Adam writes beyond their end: the heap was damaged, the process aborted."""
    from mlis.training.loop import adam
    from mlis.training.state import pack, unpack

    layer = torch.nn.Linear(4, 8)
    optimiser = adam(layer.parameters(), 0.1, 0.5, 0.9)
    layer(torch.ones(1, 4)).sum().backward()
    optimiser.step()
    packed = {name: value.clone() for name, value in pack(adam=optimiser, layer=layer).items()}
    unpack(packed, adam=optimiser, layer=layer)
    for name, value in {
        "adam.0.exp_avg_sq": torch.zeros(7, 4),
    }.items():
        with pytest.raises(ModelFileError, match=rf"does not fit .*{name.split('.')[-1]}"):
            unpack({**packed, name: value}, adam=optimiser, layer=layer)
    missing = {name: value for name, value in packed.items() if name != "adam.0.exp_avg_sq"}
    with pytest.raises(ModelFileError, match="does not fit"):
        unpack(missing, adam=optimiser, layer=layer)
