"""Loading any dataset: the command line's DATASET and its options."""

import os
from pathlib import Path
from typing import Any

from mlis.data.dataset import GZSLDataset
from mlis.data.io.benchmarks import TABLE_1, benchmark_name, is_benchmark, load_benchmark
from mlis.data.io.csv_file import LABEL
from mlis.data.io.folder import METADATA, is_dataset_folder, load_folder
from mlis.data.io.joined import Files
from mlis.data.io.tables import load_tables
from mlis.data.io.xlsa17 import load_pair
from mlis.data.labels import suggestion
from mlis.errors import DataError

AnyPath = str | os.PathLike[str]


def load_dataset(
    name_or_path: AnyPath | None = None,
    *,
    data_root: AnyPath | None = None,
    features_file: Files | None = None,
    split_file: AnyPath | None = None,
    classes_file: AnyPath | None = None,
    labels_file: AnyPath | None = None,
    label_column: str = LABEL,
    descriptors: str = "att",
    missing: float | None = None,
    seed: int = 0,
    test_fraction: float | None = None,
    cache: bool = True,
) -> GZSLDataset:
    """Load a benchmark, a dataset folder, the embedded letters, or a pair of files.

    - `load_dataset("FLO", data_root=DIR)`: a benchmark, or any folder of DIR in the same format;
      see `load_benchmark`.
    - `load_dataset("letters")`: the embedded demonstration data; see `load_letters`.
    - `load_dataset(FOLDER)`: a folder written by `save_dataset` or `mlis data convert`; features
      are memory-mapped and the hash is verified.
    - `load_dataset(features_file=F, split_file=S)`: the format of the benchmarks; see `load_pair`.
    - `load_dataset(features_file=F, classes_file=C)`: tables; see `load_tables`.

    `features_file` may be a list: files of the same rows in the same order, such as several views
    of each picture, are joined by columns.

    Raises:
        DataError: there is no such dataset, or it is invalid.
    """
    pair_options: dict[str, Any] = {
        "descriptors": descriptors,
        "missing": missing,
        "seed": seed,
        "cache": cache,
    }
    if name_or_path is not None:
        name = os.fspath(name_or_path)
        if data_root is not None and is_benchmark(name, data_root):
            files = {"features_file": features_file, "split_file": split_file}
            return load_benchmark(name, data_root, **files, **pair_options)
        return _load_named(name_or_path, benchmark_name(name), seed)
    if features_file is None or (split_file is None) == (classes_file is None):
        raise DataError(
            "dataset: expected the name of a benchmark, a dataset folder, or a features file "
            "with a split file or a classes file, got none of these."
        )
    if split_file is not None:
        return load_pair(features_file, split_file, **pair_options)
    assert classes_file is not None
    return load_tables(
        features_file,
        classes_file,
        labels_file=labels_file,
        label_column=label_column,
        missing=missing,
        seed=seed,
        test_fraction=test_fraction,
    )


def check_dataset_folder(path: Path) -> None:
    """Raise `DataError` for a folder of something else, such as photographs."""
    if not is_dataset_folder(path):
        raise DataError(
            f"{path}: expected a dataset folder, got a folder without {METADATA}. Make one of "
            f"photographs with `mlis data build --images {path} --classes CLASSES.csv -o DATA`."
        )


def _load_named(name_or_path: AnyPath, known: str | None, seed: int) -> GZSLDataset:
    path = Path(name_or_path)
    if is_dataset_folder(path):
        return load_folder(path)
    if os.fspath(name_or_path).casefold() == "letters":
        from mlis.data.letters.dataset import load_letters  # imports matplotlib

        return load_letters(seed=seed).dataset
    if known:
        raise DataError(
            f"{known}: give the folder that contains {known.upper()}/ (data_root, --data-root)."
        )
    if path.is_dir():
        check_dataset_folder(path)
    names = (*TABLE_1, "letters")
    raise DataError(
        f"{path}: expected a dataset folder or one of {', '.join(names)}."
        f"{suggestion(os.fspath(name_or_path), names)}"
    )
