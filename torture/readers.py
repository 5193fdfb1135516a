"""Every reader of files, with good files of its own to damage.

A reader is a list of targets: a good file, how it is damaged, and what reads it. Files of several
parts (a model, a dataset folder) have one target a part; those that carry a checksum also one
whose checksum is made right again after the damage, so that what lies behind it is reached.
"""

import csv
import hashlib
import io
import json
import random
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import mutations

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """One file to damage.

    Attributes:
        path: where it is written.
        good: its content.
        mutate: what is done to it.
        read: reads it, and whatever lies beside it.
    """

    path: Path
    good: bytes
    mutate: Mutate
    read: Callable[[], object]


def matlab_5(folder: Path) -> list[Target]:
    return _matlab(folder, hdf5=False)


def matlab_73(folder: Path) -> list[Target]:
    return _matlab(folder, hdf5=True)


def _matlab(folder: Path, *, hdf5: bool) -> list[Target]:
    """A small file of every kind of field, six times of seven, else a whole benchmark."""
    from mlis.data import load_pair
    from mlis.data.io.matlab import field_shapes, read_array, read_columns, read_strings
    from mlis.errors import DataError
    from standins import tiny_benchmark, write_mat, write_tiny

    fields = {
        "x": np.arange(12.0).reshape(3, 4),
        "labels": LABELS[:4, None] + 1.0,
        "names": ["a", "b", "cé"],
    }

    def read_fields(path: Path) -> None:
        for field in field_shapes(path):
            for read in (read_columns, read_array, read_strings):
                try:
                    read(path, field)
                except DataError:
                    continue

    def target(path: Path, read: Callable[[Path], object]) -> Target:
        return Target(path, path.read_bytes(), mutations.bytes_of, lambda: read(path))

    targets = []
    for compress in (False, True):
        path = folder / f"fields-{compress}.mat"
        write_mat(path, fields, hdf5=hdf5, compress=compress)
        targets += 6 * [target(path, read_fields)]
        good = write_tiny(folder / str(compress))
        for which, content in enumerate(tiny_benchmark()):
            path = folder / f"{compress}{which}.mat"
            write_mat(path, content, hdf5=hdf5, compress=compress)
            pair = [path, good[1]] if which == 0 else [good[0], path]
            targets.append(target(path, lambda _, pair=pair: load_pair(*pair, cache=False)))
    return targets


def npy(folder: Path) -> list[Target]:
    labels = folder / "labels.npy"
    np.save(labels, LABELS)
    content = labels.read_bytes()
    features = _npy(FEATURES)
    classes = _classes(folder)
    damaged = folder / "damaged.npy"
    from mlis.data import load_tables
    from mlis.data.io.feature_rows import read_features

    whole = folder / "features.npy"
    whole.write_bytes(features)
    return [
        Target(
            damaged,
            features,
            mutations.bytes_of,
            lambda: (read_features(damaged), load_tables(damaged, classes, labels_file=labels)),
        ),
        Target(
            folder / "damaged-labels.npy",
            content,
            mutations.bytes_of,
            lambda: load_tables(whole, classes, labels_file=folder / "damaged-labels.npy"),
        ),
    ]


def npz(folder: Path) -> list[Target]:
    from mlis.data import load_tables
    from mlis.data.io.feature_rows import read_features

    classes, path = _classes(folder), folder / "f.npz"

    def packed(save: Callable[..., None]) -> bytes:
        file = io.BytesIO()
        save(file, features=FEATURES, labels=LABELS, split=np.array(MARKS))
        return file.getvalue()

    def read() -> None:
        read_features(path)
        load_tables(path, classes)

    return [
        Target(path, packed(save), mutations.bytes_of, read)
        for save in (np.savez, np.savez_compressed)
    ]


def csv_tables(folder: Path) -> list[Target]:
    from mlis.data import load_tables
    from mlis.data.io.classes_file import read_classes
    from mlis.data.io.feature_rows import read_features
    from mlis.data.io.text_table import read_table
    from mlis.features.descriptors.class_descriptions import read_descriptions

    classes = _classes(folder)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["label", "split", *(f"f{i}" for i in range(FEATURES.shape[1]))])
    for label, mark, row in zip(LABELS, MARKS, FEATURES, strict=True):
        writer.writerow([label, mark, *row.tolist()])
    good = folder / "features.csv"
    good.write_text(text.getvalue())
    damaged, words = folder / "damaged.csv", folder / "words.tsv"
    other = folder / "damaged-classes.csv"

    def read_damaged() -> None:
        read_features(damaged)
        load_tables(damaged, classes)

    def read_other() -> None:
        read_classes(other)
        load_tables(good, other)

    said = "name\tsplit\ttext\tsize\tstripes\nzebra\tunseen\ta striped animal\t12 %\tyes\n"
    said += "horse\tseen\ta large animal\t80\tno\nhorse\tseen\tit has a mane\t\tno\n"
    return [
        Target(damaged, good.read_bytes(), mutations.text_of, read_damaged),
        Target(other, classes.read_bytes(), mutations.text_of, read_other),
        Target(
            words,
            said.encode(),
            mutations.text_of,
            lambda: (read_table(words), read_descriptions(words)),
        ),
    ]


def parquet(folder: Path) -> list[Target]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlis.data import load_tables
    from mlis.data.io.feature_rows import read_features
    from mlis.data.io.text_table import read_table

    classes, path = _classes(folder), folder / "f.parquet"
    columns = {f"f{i}": FEATURES[:, i] for i in range(FEATURES.shape[1])}
    wide = pa.table({"label": LABELS, **columns})
    lists = pa.table({"label": LABELS, "split": MARKS, "x": list(FEATURES)})

    def written(table: Any, **options: Any) -> bytes:
        file = io.BytesIO()
        pq.write_table(table, file, **options)
        return file.getvalue()

    def read() -> None:
        read_features(path)
        load_tables(path, classes)
        read_table(path)

    return [
        Target(path, written(table, compression=kind), mutations.bytes_of, read)
        for table in (wide, lists)
        for kind in ("none", "snappy", "zstd")
    ]


def dataset_folder(folder: Path) -> list[Target]:
    """`dataset.json` and `features.safetensors`, the latter also with another header."""
    from mlis.data.io.folder import METADATA, TENSORS, load_folder, save_dataset
    from simulated import tiny

    save_dataset(tiny(), folder)

    def read() -> None:
        load_folder(folder)

    tensors, words = folder / TENSORS, folder / METADATA
    return [
        Target(words, words.read_bytes(), mutations.json_of, read),
        Target(tensors, tensors.read_bytes(), mutations.bytes_of, read),
        Target(tensors, tensors.read_bytes(), _other_header, read),
    ]


def feature_folder(folder: Path) -> list[Target]:
    """`features.json`, `images.csv` and `features.safetensors`, and the folder of descriptors."""
    from mlis.data.io.feature_folder import (
        IMAGES,
        RECORD,
        TENSORS,
        ImageFeatures,
        read_feature_folder,
        write_feature_folder,
    )
    from mlis.features.descriptors import describe as descriptors

    count = len(FEATURES)
    paths = tuple(f"{i}.jpg" for i in range(count))
    names = tuple(f"class {label}" for label in LABELS)
    images = ImageFeatures(FEATURES, paths, names, tuple(MARKS), ("00ff",) * count, {"name": "x"})
    write_feature_folder(images, folder)
    record = {"format": descriptors.FORMAT, "version": descriptors.VERSION, "kind": "text by t"}
    record |= {"text": {"name": "t"}, "attributes": [], "attribute_weight": 0.5}
    record |= {"notes": [], "source": {}}
    vectors = np.eye(2, dtype=np.float32)
    said = descriptors.Descriptors(("a", "b"), vectors, ("seen", "unseen"), record)
    described = folder / "descriptors"
    descriptors.write_descriptors(said, described)

    def target(path: Path, mutate: Mutate, read: Callable[[Path], object]) -> Target:
        return Target(path, path.read_bytes(), mutate, lambda: read(path.parent))

    return [
        target(folder / RECORD, mutations.json_of, read_feature_folder),
        target(folder / IMAGES, mutations.text_of, read_feature_folder),
        target(folder / TENSORS, mutations.bytes_of, read_feature_folder),
        target(described / descriptors.RECORD, mutations.json_of, descriptors.read_descriptors),
        target(described / descriptors.TABLE, mutations.text_of, descriptors.read_descriptors),
    ]


def model(folder: Path) -> list[Target]:
    """`config.json`, `model.safetensors`, and both changed alike so that they belong together."""
    from mlis.io.checkpoint import RECORD, WEIGHTS, load_model, read_record, save_model
    from mlis.pipeline import fit
    from simulated import small, tiny

    data = tiny()
    save_model(fit(data.for_training(), small(), seed=0).recognizer, folder, record={"seed": 0})
    rows = data.features[:3]

    def read() -> None:
        read_record(folder)
        load_model(folder).scores(rows)

    record, weights = folder / RECORD, folder / WEIGHTS

    def read_both() -> None:
        """The record travels in the weights file; take both from there."""
        metadata, _ = _opened(weights.read_bytes())
        text = json.loads(metadata["__metadata__"]["mlis"]).get("description", "{}")
        kept = json.loads(text) if text[:1] == "{" and text[-1:] == "}" else text
        record.write_text(json.dumps({**kept, "record": {}} if isinstance(kept, dict) else kept))
        try:
            read()
        finally:
            record.write_bytes(good)

    good = record.read_bytes()
    return [
        Target(record, good, mutations.json_of, read),
        Target(weights, weights.read_bytes(), mutations.bytes_of, read),
        Target(weights, weights.read_bytes(), _other_header, read),
        Target(weights, weights.read_bytes(), _resealed, read_both),
    ]


def snapshot(folder: Path) -> list[Target]:
    """Snapshots of both stages, taken half way, and a training that continues from them."""
    from mlis.pipeline import fit
    from mlis.training.checkpoints import CheckpointFolder
    from simulated import small, tiny

    training = tiny().for_training()

    class Half(CheckpointFolder):
        def due(self, stage: str, step: int) -> bool:
            return step == 2

        def save(self, stage: str, step: int, state: Any) -> None:
            if step == 2:
                super().save(stage, step, state)

    settings = small(
        generation={"steps": 3},
        refinement={"steps": 3},
        classification={"max_iterations": 1},
    )
    fit(training, settings, seed=0, checkpoints=Half(folder, "key"))
    whole = {path: path.read_bytes() for path in folder.iterdir()}

    class Keeper(CheckpointFolder):
        """Continues from a snapshot and writes none."""

        def save(self, stage: str, step: int, state: Any) -> None:
            pass

    def read() -> None:
        try:
            fit(training, settings, seed=0, checkpoints=Keeper(folder, "key"))
        finally:
            for path, content in whole.items():
                path.write_bytes(content)

    targets = []
    for path, content in whole.items():
        if path.suffix == ".safetensors":
            kinds = (mutations.bytes_of, _other_header)
            targets += [Target(path, content, mutate, read) for mutate in kinds]
        else:
            targets.append(Target(path, content, mutations.text_of, read))
    return targets


def records(folder: Path) -> list[Target]:
    """`results.jsonl`, `run.json` and `result.json`, and what is made of them."""
    from experiment_cases import row
    from mlis.config import Config
    from mlis.evaluation import summarise
    from mlis.experiments.store import Store
    from mlis.experiments.tasks import Task
    from mlis.runs.run import RunPlan, _read_result, begin

    path = folder / "results.jsonl"
    task = Task("x", {"name_or_path": "x"}, "0" * 64, "mlis", Config(), 0).to_dict()
    measures = {"U": 40.0, "S": 60.0, "H": 48.0, "T1": 50.0, "AUSUC": 30.0, "overall": 50.0}
    lines = [row(key, test=measures, task=task) for key in ("a1", "b2", "c3")]
    store = b"".join(one.to_line() for one in lines)

    def read_store() -> None:
        rows = list(Store(path))
        if rows:
            summarise([one.test for one in rows])
            for one in rows:
                Task.from_dict(one.task)
        Store(path).append(row("d4"))

    def without_checks(good: bytes, chance: random.Random) -> bytes:
        """One line changed as a value, as if whoever wrote it meant it."""
        values = [json.loads(line) for line in good.splitlines()]
        for value in values:
            value.pop("check", None)
        at = chance.randrange(len(values))
        values[at] = mutations.value_of(values[at], chance)
        return b"".join(json.dumps(value).encode() + b"\n" for value in values)

    begin(folder, RunPlan({"name_or_path": "x"}, "0" * 64, Config()))
    run, result = folder / "run.json", folder / "result.json"
    found = {
        "seed": 0,
        "test": measures,
        "seconds": 1.0,
        "generator_reused": False,
        "calibration": 0.1,
    }

    def read_result() -> None:
        summarise([_read_result(result)["test"]])

    return [
        Target(path, store, mutations.bytes_of, read_store),
        Target(path, store, mutations.text_of, read_store),
        Target(path, store, without_checks, read_store),
        Target(run, run.read_bytes(), mutations.json_of, lambda: RunPlan.read(folder)),
        Target(result, json.dumps(found).encode(), mutations.json_of, read_result),
    ]


def toml(folder: Path) -> list[Target]:
    from mlis.cli.output import to_toml
    from mlis.config import Config, read_toml, resolve

    path = folder / "settings.toml"
    presets = Path(__file__).resolve().parents[1] / "src/mlis/presets"
    texts = [to_toml(Config()), *(p.read_text() for p in sorted(presets.glob("*.toml")))]

    def read() -> None:
        resolve(read_toml(path)).to_dict()

    return [Target(path, text.encode(), mutations.text_of, read) for text in texts]


def images(folder: Path) -> list[Target]:
    from mlis.features.decode import decode, quiet_pillow, read_file
    from odd_images import good

    path = folder / "image"

    def read() -> None:
        with quiet_pillow():
            decode(read_file(path, 0).data, 16)

    return [Target(path, content, mutations.bytes_of, read) for content in good().values()]


READERS: dict[str, Callable[[Path], list[Target]]] = {
    "mat-5": matlab_5,
    "mat-7.3": matlab_73,
    "npy": npy,
    "npz": npz,
    "csv": csv_tables,
    "parquet": parquet,
    "dataset-folder": dataset_folder,
    "feature-folder": feature_folder,
    "model": model,
    "snapshot": snapshot,
    "records": records,
    "toml": toml,
    "images": images,
}

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(6), 5)
FEATURES = RNG.random((30, 4), dtype=np.float32)
MARKS = ["train", "train", "val", "train", "test"] * 5 + ["test"] * 5


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _classes(folder: Path) -> Path:
    path = folder / "classes.csv"
    lines = [f"{name},{'unseen' if name == 'f' else 'seen'},{i},{i * i}" for i, name in _named()]
    path.write_text("\n".join(["name,split,x,y", *lines]) + "\n")
    return path


def _named() -> list[tuple[int, str]]:
    return list(enumerate("abcdef", 1))


def _opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and arrays of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _closed(header: Any, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + rest


def _other_header(good: bytes, chance: random.Random) -> bytes:
    header, rest = _opened(good)
    return _closed(mutations.value_of(header, chance), rest)


def _resealed(good: bytes, chance: random.Random) -> bytes:
    """Other tensors or other metadata in a file that is whole, with a checksum that is right."""
    import torch

    header, rest = _opened(good)
    metadata = json.loads(header.pop("__metadata__")["mlis"])
    metadata.pop("sha256")
    kind = chance.random()
    if kind < 0.5:
        metadata = _changed_words(metadata, chance)
    if kind > 0.3:
        header, rest = _changed_tensors(header, rest, chance)
    try:
        from mlis.storage.tensors import checksum

        size = {name: value["data_offsets"] for name, value in header.items()}
        tensors = {
            name: torch.frombuffer(bytearray(rest[a:b]), dtype=_TORCH[header[name]["dtype"]])
            .reshape(header[name]["shape"])
            .clone()
            if b > a
            else torch.empty(header[name]["shape"], dtype=_TORCH[header[name]["dtype"]])
            for name, (a, b) in size.items()
        }
        words = json.dumps({**metadata, "sha256": checksum(tensors, metadata)}, sort_keys=True)
    except (RuntimeError, ValueError, TypeError, KeyError):
        words = json.dumps({"sha256": hashlib.sha256(rest).hexdigest()})
    return _closed({"__metadata__": {"mlis": words}, **header}, rest)


def _changed_words(metadata: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    name = chance.choice(list(metadata))
    text = metadata[name]
    try:
        inner = json.loads(text)
    except (ValueError, TypeError):
        inner = text
    changed = mutations.value_of(inner, chance)
    return {**metadata, name: changed if isinstance(changed, str) else json.dumps(changed)}


def _changed_tensors(
    header: dict[str, Any], rest: bytes, chance: random.Random
) -> tuple[dict[str, Any], bytes]:
    """A tensor dropped, renamed, of another shape or type, or with other numbers."""
    header = {name: dict(value) for name, value in header.items()}
    name = chance.choice(list(header))
    kind = chance.randrange(5)
    begin, end = header[name]["data_offsets"]
    if kind == 0:
        header[chance.choice(list(header)) if chance.random() < 0.3 else name + "x"] = header.pop(
            name
        )
    elif kind == 1:
        shape = header[name]["shape"]
        header[name]["shape"] = chance.choice([shape[::-1], [*shape, 1], [1, *shape]])
    elif kind == 2:
        wide = {"F32": ["I32"], "I64": ["F64"], "F64": ["I64"], "U8": ["I8", "BOOL"]}
        wide |= {"BOOL": ["U8"]}
        header[name]["dtype"] = chance.choice(wide.get(header[name]["dtype"], ["F32"]))
    elif kind == 3 and end > begin:
        rest = rest[:begin] + chance.randbytes(end - begin) + rest[end:]
    else:
        return _shorter(header, rest, name)
    return header, rest


def _shorter(header: dict[str, Any], rest: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """Take the last row of a tensor away; those behind it move up."""
    shape = header[name]["shape"]
    begin, end = header[name]["data_offsets"]
    if not shape or shape[0] < 2:
        return header, rest
    gone = (end - begin) // shape[0]
    header[name] = {
        **header[name],
        "shape": [shape[0] - 1, *shape[1:]],
        "data_offsets": [begin, end - gone],
    }
    for other, value in header.items():
        if other != name and value["data_offsets"][0] >= end:
            value["data_offsets"] = [place - gone for place in value["data_offsets"]]
    return header, rest[: end - gone] + rest[end:]


class _Types(dict[str, Any]):
    def __missing__(self, code: str) -> Any:
        import torch

        names = {"F32": "float32", "F64": "float64", "I64": "int64", "I32": "int32", "U8": "uint8"}
        return getattr(torch, {**names, "I8": "int8", "BOOL": "bool"}[code])


_TORCH = _Types()
