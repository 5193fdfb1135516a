"""One entry for everything that can be loaded: the command line's DATASET and its options."""

import os
from pathlib import Path
from typing import Any

from mlis.data.dataset import GZSLDataset
from mlis.data.io.benchmarks import TABLE_1, benchmark_name, load_benchmark
from mlis.data.io.folder import WORDS, is_dataset_folder, load_folder
from mlis.data.io.tables import LABEL, load_tables
from mlis.data.io.xlsa17 import load_pair
from mlis.data.labels import suggestion
from mlis.errors import DataError

AnyPath = str | os.PathLike[str]


def load_dataset(
    name_or_path: AnyPath | None = None,
    *,
    data_root: AnyPath | None = None,
    features_file: AnyPath | None = None,
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

    - `load_dataset("FLO", data_root=DIR)`: a benchmark, in any case; see `load_benchmark`.
    - `load_dataset("letters")`: the embedded demonstration data; see `load_letters`.
    - `load_dataset(FOLDER)`: what `GZSLDataset.save` or `mlis data convert` wrote.
    - `load_dataset(features_file=F, split_file=S)`: the benchmarks' format; see `load_pair`.
    - `load_dataset(features_file=F, classes_file=C)`: tables; see `load_tables`.

    Raises:
        DataError: nothing of that name, or what is wrong with it.
    """
    of_pair: dict[str, Any] = {
        "descriptors": descriptors,
        "missing": missing,
        "seed": seed,
        "cache": cache,
    }
    if name_or_path is not None:
        known = benchmark_name(os.fspath(name_or_path))
        if known and data_root is not None:
            files = {"features_file": features_file, "split_file": split_file}
            return load_benchmark(known, data_root, **files, **of_pair)
        return _load_named(name_or_path, known, seed)
    if features_file is None or (split_file is None) == (classes_file is None):
        raise DataError(
            "no dataset named: give a benchmark's name or a dataset folder, or a features file "
            "with either a split file or a classes file."
        )
    if split_file is not None:
        return load_pair(features_file, split_file, **of_pair)
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


def _load_named(name_or_path: AnyPath, known: str | None, seed: int) -> GZSLDataset:
    path = Path(name_or_path)
    if is_dataset_folder(path):
        return load_folder(path)
    if os.fspath(name_or_path).casefold() == "letters":
        from mlis.data.letters.render import load_letters  # imports matplotlib

        return load_letters(seed=seed).dataset
    if known:
        raise DataError(
            f"{known} is read from files: name the folder that holds {known.upper()}/ (data_root, "
            f"--data-root)."
        )
    if path.is_dir():
        raise DataError(f"{path}: no dataset folder, as it has no {WORDS}.")
    names = (*TABLE_1, "letters")
    raise DataError(
        f"{path}: neither a dataset folder nor one of {', '.join(names)}."
        f"{suggestion(os.fspath(name_or_path), names)}"
    )
