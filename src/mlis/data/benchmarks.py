"""The benchmarks in the format of Xian et al. (xlsa17), or any pair of files in that format.

A features file (`res101.mat` or another name) has `features` (Dx, N) and `labels` (N, 1), which
count from 1. A split file (`att_splits.mat`, `sent_splits.mat`) has the descriptors `att`
(Da, C), perhaps `original_att` and `allclasses_names`, and the rows of each part, which count
from 1: `trainval_loc`, `test_seen_loc`, `test_unseen_loc`, perhaps `train_loc` and `val_loc`.

**Labels index the columns of `att`.** Names are for people to read: in CUB's split file
`allclasses_names` is not in CUB's own numbering ("002.Laysan_Albatross" is first), so whoever
computes features from the images must match classes by name, never by the number in the name.
"""

import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from mlis.data.cache import cached_arrays, file_sha256
from mlis.data.dataset import GZSLDataset, Provenance
from mlis.data.matfile import field_shapes, read_array, read_columns, read_strings
from mlis.data.splits import Split, add_validation
from mlis.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """One line of Table 1 of the MLIS paper: the sizes of a benchmark's proposed split."""

    classes: int
    seen: int
    unseen: int
    trainval_images: int
    test_seen_images: int
    test_unseen_images: int

    @classmethod
    def of(cls, data: GZSLDataset) -> "Counts":
        """The same numbers of any dataset."""
        split = data.split
        return cls(
            data.num_classes,
            len(data.seen_classes),
            len(data.unseen_classes),
            len(split.trainval),
            len(split.test_seen),
            len(split.test_unseen),
        )


TABLE_1 = {
    "CUB": Counts(200, 150, 50, 7057, 1764, 2967),
    "AWA1": Counts(50, 40, 10, 19832, 4958, 5685),  # not in the paper; Xian et al., Table 2
    "AWA2": Counts(50, 40, 10, 23527, 5882, 7913),
    "SUN": Counts(717, 645, 72, 10320, 2580, 1440),
    "FLO": Counts(102, 82, 20, 5631, 1403, 1155),
    "aPY": Counts(32, 20, 12, 5932, 1483, 7924),
}
_PARTS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")


def benchmark_name(name: str) -> str | None:
    """The benchmark's usual spelling ("apy" gives "aPY"), or None for anything else."""
    return {known.casefold(): known for known in TABLE_1}.get(name.casefold())


def load_benchmark(
    name: str,
    data_root: str | os.PathLike[str],
    *,
    features_file: str | os.PathLike[str] | None = None,
    split_file: str | os.PathLike[str] | None = None,
    descriptors: str = "att",
    seed: int = 0,
    cache: bool = True,
) -> GZSLDataset:
    """Read benchmark `name` (in any case) from `data_root/NAME/`, and check it against Table 1.

    Args:
        name: CUB, AWA1, AWA2, SUN, FLO or aPY.
        data_root: the folder that holds `CUB/`, `APY/`, …
        features_file: name in that folder, or path; `res101.mat`, else the only other file with
            `features`.
        split_file: name in that folder, or path; `att_splits.mat`, for CUB `sent_splits.mat`
            where present.
        descriptors: `att` (unit length in most files) or `original_att`.
        seed: of the validation split's held-out rows.
        cache: keep the features in the user's cache folder, memory-mapped the next time.

    Raises:
        DataError: a file is missing or damaged, or a count differs from Table 1.
    """
    known = benchmark_name(name)
    if known is None:
        raise DataError(f"unknown benchmark {name!r}: expected one of {', '.join(TABLE_1)}.")
    folder = _benchmark_folder(known, Path(data_root))
    if split_file is None:
        sentences = folder / "sent_splits.mat"
        use_sentences = known == "CUB" and sentences.exists()
        split_file = sentences if use_sentences else folder / "att_splits.mat"
    features_path = folder / features_file if features_file else _find_features(folder)
    data = load_pair(
        features_path,
        folder / split_file,
        name=known,
        descriptors=descriptors,
        seed=seed,
        cache=cache,
    )
    _check_counts(known, data, features_path)
    return data


def load_pair(
    features_file: str | os.PathLike[str],
    split_file: str | os.PathLike[str],
    *,
    name: str | None = None,
    descriptors: str = "att",
    seed: int = 0,
    cache: bool = True,
) -> GZSLDataset:
    """Read a features file and a split file of any size in the benchmark format.

    Arguments as in `load_benchmark`. Raises `DataError`.
    """
    features_path, split_path = Path(features_file), Path(split_file)
    names = ("features", "labels")
    if cache:
        arrays, digest = cached_arrays(features_path, names, _read_features)
    else:
        arrays, digest = _read_features(features_path), None
    shapes = field_shapes(split_path)
    matrix = _read_descriptors(split_path, descriptors, arrays["labels"])
    rows = _read_rows(split_path, [part for part in shapes if part.endswith("_loc")], arrays)
    labels = _zero_based_labels(arrays["labels"], len(matrix), features_path, split_path)
    split, note = add_validation(
        Split(*(rows[part] for part in _PARTS)),
        labels,
        train_loc=rows.get("train_loc"),
        val_loc=rows.get("val_loc"),
        seed=seed,
    )
    provenance = Provenance(
        name=name or features_path.stem,
        features=features_path.name,
        descriptors=f"{split_path.name}:{descriptors}",
        files={
            features_path.name: digest or file_sha256(features_path),
            split_path.name: file_sha256(split_path),
        },
        notes=(note,),
    )
    return GZSLDataset(
        arrays["features"],
        labels,
        matrix,
        _class_names(split_path, shapes, len(matrix)),
        split,
        provenance,
    )


def _benchmark_folder(known: str, data_root: Path) -> Path:
    if not data_root.is_dir():
        raise DataError(f"{data_root}: no such folder. Give the one that holds {known.upper()}/.")
    for folder in sorted(data_root.iterdir()):
        if folder.is_dir() and folder.name.casefold() == known.casefold():
            return folder
    raise DataError(
        f"{data_root}: no folder {known.upper()} in it. Expected "
        f"{data_root / known.upper() / 'res101.mat'} and att_splits.mat, as xlsa17.zip has them."
    )


def _find_features(folder: Path) -> Path:
    """`res101.mat`, or the only other MATLAB file with `features`."""
    default = folder / "res101.mat"
    if default.exists():
        return default
    others = [path for path in sorted(folder.glob("*.mat")) if "features" in field_shapes(path)]
    if len(others) == 1:
        logger.info("%s is absent; features are read from %s", default, others[0].name)
        return others[0]
    found = ", ".join(path.name for path in others) or "none"
    raise DataError(
        f"{default}: no such file, and other files with features: {found}. Name the one to use "
        f"(features_file, --features-file)."
    )


def _read_features(path: Path) -> dict[str, np.ndarray]:
    """`features` (N, Dx) float32 and `labels` (N,) int64, still counting from 1."""
    shapes = field_shapes(path)
    labels = _whole_numbers(path, "labels", shapes)
    if not labels.size:
        raise DataError(f"{path}: labels is empty. Fetch the file again.")
    shape = shapes.get("features", ())
    if len(shape) == 2 and shape[1] != len(labels) == shape[0]:
        raise DataError(
            f"{path}: features are {shape}, one row an image, but the format has one column an "
            f"image: (Dx, N). Transpose them."
        )
    if len(shape) == 2 and shape[1] != len(labels):
        raise DataError(
            f"{path}: features are {shape}, so {shape[1]} images (columns), but there are "
            f"{len(labels)} labels."
        )
    return {"features": read_columns(path, "features"), "labels": labels}


def _whole_numbers(path: Path, field: str, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """A (n, 1) or (1, n) field as (n,) int64."""
    values = read_array(path, field).astype(np.float64)
    if values.size and 1 not in values.shape:  # MATLAB's [] is (0, 0)
        raise DataError(f"{path}: {field} must be (n, 1), but is {shapes[field]}.")
    values = values.ravel()
    bad = np.flatnonzero(~((np.abs(values) < 2**53) & (values == np.floor(values))))
    if bad.size:
        raise DataError(
            f"{path}: {field}: entry {bad[0] + 1} is {values[bad[0]]}, not a whole number."
        )
    return values.astype(np.int64)


def _read_descriptors(path: Path, field: str, labels: np.ndarray) -> np.ndarray:
    """(C, Da) float32."""
    shapes = field_shapes(path)
    if field not in shapes:
        choices = [known for known in ("att", "original_att") if known in shapes]
        raise DataError(
            f"{path}: no descriptors {field!r}; it has {', '.join(choices or shapes) or 'nothing'}."
        )
    matrix = read_columns(path, field)
    used = np.unique(labels)
    if len(matrix) != len(used) == matrix.shape[1] == used[-1]:
        raise DataError(
            f"{path}: {field} is {shapes[field]}, one row for each of the {len(used)} classes, "
            f"but the format has one column a class: (Da, C). Transpose it."
        )
    return matrix


def _read_rows(
    path: Path, parts: list[str], arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Row numbers of each part, counting from 0."""
    for part in _PARTS:
        if part not in parts:
            raise DataError(f"{path}: no field {part!r}; it has {', '.join(parts) or 'no rows'}.")
    count = len(arrays["labels"])
    wanted = [part for part in (*_PARTS, "train_loc", "val_loc") if part in parts]
    shapes = field_shapes(path)
    rows = {part: _whole_numbers(path, part, shapes) for part in wanted}
    for part, numbers in rows.items():
        if numbers.size and numbers.min() < 1:
            at = int(numbers.argmin())
            raise DataError(
                f"{path}: {part}: entry {at + 1} is {numbers[at]}, but rows count from 1. These "
                f"seem to count from 0: add 1 to every *_loc field."
            )
        if numbers.size and numbers.max() > count:
            at = int(numbers.argmax())
            raise DataError(
                f"{path}: {part}: entry {at + 1} is row {numbers[at]}, but there are {count} "
                f"images. Use the features file that belongs to this split."
            )
    return {part: numbers - 1 for part, numbers in rows.items()}


def _zero_based_labels(
    labels: np.ndarray, classes: int, features_path: Path, split_path: Path
) -> np.ndarray:
    if labels.min() < 1:
        at = int(labels.argmin())
        raise DataError(
            f"{features_path}: labels: entry {at + 1} is {labels[at]}, but labels count from 1. "
            f"These seem to count from 0: add 1 to all."
        )
    if labels.max() > classes:
        at = int(labels.argmax())
        raise DataError(
            f"{features_path}: labels: entry {at + 1} is class {labels[at]}, but {split_path} has "
            f"descriptors of {classes} classes (columns). Use the files of one benchmark."
        )
    return np.asarray(labels) - 1


def _class_names(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> tuple[str, ...]:
    if "allclasses_names" not in shapes:
        return tuple(f"class_{number:03d}" for number in range(1, count + 1))
    names = read_strings(path, "allclasses_names")
    if len(names) != count:
        raise DataError(
            f"{path}: allclasses_names has {len(names)} names, but there are descriptors of "
            f"{count} classes (columns)."
        )
    return names


def _check_counts(name: str, data: GZSLDataset, features_path: Path) -> None:
    expected, found = asdict(TABLE_1[name]), asdict(Counts.of(data))
    wrong = [
        f"{field.name.replace('_', ' ')} {found[field.name]} instead of {expected[field.name]}"
        for field in fields(Counts)
        if found[field.name] != expected[field.name]
    ]
    if wrong:
        raise DataError(
            f"{name}: {features_path} and its split differ from Table 1: {'; '.join(wrong)}. Fetch "
            f"the official files, or load them as a pair of files (no Table 1 check)."
        )
