"""Files in the benchmarks' format whose numbers are made up, for tests of size, speed and format.

Stand-ins of CUB, AWA1, AWA2, SUN, FLO and aPY follow their real split files: each row gets a
label that agrees with them, and features that depend on its class's descriptor, so that a short
training run learns something. What they score means nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copyfile

import h5py
import numpy as np
import scipy.io

# classes of train_loc, val_loc and test_unseen_loc in the real files
CLASS_GROUPS = {
    "CUB": (100, 50, 50),
    "AWA1": (27, 13, 10),
    "AWA2": (27, 13, 10),
    "SUN": (580, 65, 72),
    "FLO": (62, 20, 20),
    "APY": (15, 5, 12),
}


def write_standin(
    root: Path,
    name: str,
    real_root: Path,
    *,
    feature_size: int = 16,
    seed: int = 0,
    hdf5: bool = False,
    compress: bool = False,
    image_files: bool = True,
) -> Path:
    """Write `root/name/res101.mat` beside a copy of the real split file; return that folder.

    `name` is the folder's: CUB, AWA1, AWA2, SUN, FLO or APY. Features are float64 as published.
    `image_files` is part of the format, but takes most of the time at small sizes.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    split_name = "sent_splits.mat" if name == "CUB" else "att_splits.mat"
    copyfile(real_root / name / split_name, folder / split_name)
    split = scipy.io.loadmat(folder / split_name)
    rng = np.random.default_rng(seed)
    labels = _labels(split, CLASS_GROUPS[name], rng)
    fields = {
        "features": _features(split["att"].T, labels, feature_size, rng).T,
        "labels": labels[:, None].astype(np.float64) + 1,
    }
    if image_files:
        fields["image_files"] = [f"images/{row:06d}.jpg" for row in range(len(labels))]
    write_mat(folder / "res101.mat", fields, hdf5=hdf5, compress=compress)
    (folder / "stand-in.txt").touch()
    return folder


def _labels(
    split: Mapping[str, np.ndarray], groups: tuple[int, int, int], rng: np.random.Generator
) -> np.ndarray:
    rows = {part: split[part].ravel().astype(int) - 1 for part in split if part.endswith("_loc")}
    count = sum(len(rows[part]) for part in ("trainval_loc", "test_seen_loc", "test_unseen_loc"))
    labels = np.full(count, -1)
    train, val, unseen = np.split(rng.permutation(sum(groups)), np.cumsum(groups)[:-1])
    parts = {
        "test_unseen_loc": [(rows["test_unseen_loc"], unseen)],
        "trainval_loc": [(rows["train_loc"], train), (rows["val_loc"], val)],
        "test_seen_loc": [(rows["train_loc"], train), (rows["val_loc"], val)],
    }
    for part, pairs in parts.items():
        for candidates, classes in pairs:
            members = np.intersect1d(rows[part], candidates)
            labels[members] = classes[np.arange(len(members)) % len(classes)]
    left = np.flatnonzero(labels < 0)  # aPY: test_seen rows are in neither train_loc nor val_loc
    seen = np.concatenate([train, val])
    labels[left] = seen[np.arange(len(left)) % len(seen)]
    return labels


def _features(
    descriptors: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """(N, size) float64, non-negative like the outputs of a ReLU."""
    unit = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    means = centred @ rng.normal(size=(centred.shape[1], size))
    features = rng.standard_normal((len(labels), size), dtype=np.float64)
    features *= 0.3 * means.std()
    features += means[labels]
    return np.maximum(features, 0, out=features)


def tiny_benchmark(seed: int = 0) -> tuple[dict[str, object], dict[str, object]]:
    """Fields of a complete benchmark: 10 classes (3 unseen), 120 images, Dx 8, Da 6.

    Change a field, then write both with `write_mat` for a fault of your choice.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), 12)
    seen_rows, unseen_rows = np.arange(84), np.arange(84, 120)
    held = seen_rows % 6 == 0
    descriptors = rng.random((10, 6))
    features = {
        "features": (descriptors[labels] @ rng.random((6, 8)) + 0.1 * rng.random((120, 8))).T,
        "labels": labels[:, None] + 1.0,
        "image_files": [f"images/{row:03d}.jpg" for row in range(120)],
    }
    split = {
        "att": descriptors.T / np.linalg.norm(descriptors, axis=1),
        "original_att": 100 * descriptors.T,
        "allclasses_names": [f"class+{letter}" for letter in "abcdefghij"],
        "trainval_loc": seen_rows[~held][:, None] + 1.0,
        "test_seen_loc": seen_rows[held][:, None] + 1.0,
        "test_unseen_loc": unseen_rows[:, None] + 1.0,
        "train_loc": seen_rows[labels[seen_rows] < 5][:, None] + 1.0,
        "val_loc": seen_rows[labels[seen_rows] >= 5][:, None] + 1.0,
    }
    return features, split


def write_tiny(folder: Path, *, hdf5: bool = False, seed: int = 0) -> tuple[Path, Path]:
    """Write the tiny benchmark to `folder`; return its features file and its split file."""
    folder.mkdir(parents=True, exist_ok=True)
    features, split = tiny_benchmark(seed)
    write_mat(folder / "res101.mat", features, hdf5=hdf5)
    write_mat(folder / "att_splits.mat", split, hdf5=hdf5)
    return folder / "res101.mat", folder / "att_splits.mat"


def write_mat(
    path: Path, fields: Mapping[str, object], *, hdf5: bool = False, compress: bool = False
) -> None:
    """Write arrays and lists of strings as MATLAB does: v5 (v7 when compressed) or v7.3."""
    if not hdf5:
        cells = {
            name: _cell_array(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        scipy.io.savemat(path, cells, do_compression=compress)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in fields.items():
            if isinstance(value, list):
                _write_cells(file, name, value)
            else:
                array = np.asarray(value)
                options = {"chunks": True, "compression": "gzip"} if compress else {}
                dataset = file.create_dataset(name, data=array.T, **options)
                dataset.attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def _cell_array(strings: Sequence[str]) -> np.ndarray:
    cells = np.empty((len(strings), 1), dtype=object)
    cells[:, 0] = [np.array([text]) for text in strings]
    return cells


def _write_cells(file: h5py.File, name: str, strings: Sequence[str]) -> None:
    references = np.empty((1, len(strings)), dtype=h5py.ref_dtype)
    group = file.require_group("#refs#")
    for i, text in enumerate(strings):
        codes = np.frombuffer(text.encode("utf-16-le"), "<u2")
        target = group.create_dataset(f"{name}{i}", data=codes[:, None])
        target.attrs["MATLAB_class"] = np.bytes_("char")
        references[0, i] = target.ref
    dataset = file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
    dataset.attrs["MATLAB_class"] = np.bytes_("cell")
