"""The benchmarks by name, checked against Table 1 of the MLIS paper, and others beside them.

The files are `DATA_ROOT/CUB/res101.mat`, `DATA_ROOT/CUB/att_splits.mat` etc., in the format of
:mod:`mlis.data.io.xlsa17`. Any other folder with these files is a dataset by its name.
"""

import logging
import os
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path

from mlis.data.dataset import GZSLDataset
from mlis.data.io.joined import Files, file_paths
from mlis.data.io.matlab import field_shapes
from mlis.data.io.xlsa17 import load_pair
from mlis.errors import DataError

logger: logging.Logger = logging.getLogger(__name__)

SPLITS = "att_splits.mat"
SENTENCE_SPLITS = "sent_splits.mat"  # of CUB: the same split, sentences in place of attributes
STAND_IN = "stand-in.txt"  # marks a folder of artificial features, for all outputs

# The split file of FLO has no names; these are in the numbering of Oxford-102.
FLOWER_NAMES = tuple(
    resources.files("mlis.data.io").joinpath("flowers.txt").read_text("utf-8").splitlines()
)


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
        """The sizes of a dataset."""
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
    "AWA1": Counts(50, 40, 10, 19832, 4958, 5685),  # not in the paper; from Xian et al.
    "AWA2": Counts(50, 40, 10, 23527, 5882, 7913),
    "SUN": Counts(717, 645, 72, 10320, 2580, 1440),
    "FLO": Counts(102, 82, 20, 5631, 1403, 1155),
    "aPY": Counts(32, 20, 12, 5932, 1483, 7924),
}

# `Split.fingerprint` of the first version; the files of the second have no train_loc and val_loc
PROPOSED_SPLITS = {
    **{"CUB": "4165c97f0b4d", "AWA1": "da3f9d1b46c6", "AWA2": "f44e90dd3c98"},
    **{"SUN": "0d9954cb2213", "FLO": "80db2ef4d265", "aPY": "4f1074824009"},
}


def benchmark_name(name: str) -> str | None:
    """The usual spelling of a benchmark's name ("aPY" for "apy"), or None."""
    return {known.casefold(): known for known in TABLE_1}.get(name.casefold())


def is_benchmark(name: str, data_root: str | os.PathLike[str]) -> bool:
    """Whether `load_benchmark` takes that name: a benchmark's, or a folder's with a split file."""
    return benchmark_name(name) is not None or (Path(data_root) / name / SPLITS).is_file()


def load_benchmark(
    name: str,
    data_root: str | os.PathLike[str],
    *,
    features_file: Files | None = None,
    split_file: str | os.PathLike[str] | None = None,
    descriptors: str = "att",
    missing: float | None = None,
    seed: int = 0,
    cache: bool = True,
) -> GZSLDataset:
    """Load a benchmark from `data_root/NAME/`, and check its sizes against Table 1.

    Args:
        name: CUB, AWA1, AWA2, SUN, FLO or aPY, in any case; or another folder of `data_root` with
            files in their format, whose sizes are not checked.
        data_root: folder that contains `CUB/`, `APY/`, ….
        features_file: name in that folder, or path; default `res101.mat`, or if absent, the only
            other file with `features`. Columns of several files are joined: see `load_pair`.
        split_file: name in that folder, or path; default `att_splits.mat`, for CUB
            `sent_splits.mat` if present.
        descriptors, missing, seed, cache: see `load_pair`.

    Raises:
        DataError: a file is missing or damaged, or a size differs from Table 1.
    """
    known = benchmark_name(name) or name
    if not is_benchmark(name, data_root):
        raise DataError(
            f"benchmark: expected one of {', '.join(TABLE_1)}, or a folder of {data_root} with "
            f"{SPLITS}, got {name!r}."
        )
    folder = _benchmark_folder(known, Path(data_root))
    split_file = split_file or split_files(known, data_root)[0]
    features_paths = features_paths_of(known, data_root, features_file)
    data = load_pair(
        features_paths,
        _locate(folder, split_file),
        name=known,
        class_names=FLOWER_NAMES if known == "FLO" else None,
        descriptors=descriptors,
        missing=missing,
        seed=seed,
        cache=cache,
    )
    if known in TABLE_1:
        _check_counts(known, data, features_paths[0])
    if (folder / STAND_IN).exists():
        notes = (*data.provenance.notes, "stand-in: artificial features, results are meaningless")
        data = replace(data, provenance=replace(data.provenance, notes=notes))
    return data


def split_files(name: str, data_root: str | os.PathLike[str]) -> list[str]:
    """Split files of a benchmark's folder, which differ in descriptors alone; the default first.

    Raises:
        DataError: there is no such folder.
    """
    known = benchmark_name(name) or name
    folder = _benchmark_folder(known, Path(data_root))
    several = (SENTENCE_SPLITS, SPLITS) if known == "CUB" else ()
    return [file for file in several if (folder / file).exists()] or [SPLITS]


def features_paths_of(
    name: str, data_root: str | os.PathLike[str], features_file: Files | None
) -> tuple[Path, ...]:
    """The features files that `load_benchmark` reads for the same arguments.

    Raises:
        DataError: a folder or the file is missing.
    """
    folder = _benchmark_folder(name, Path(data_root))
    if features_file is None:
        return (_find_features(folder),)
    return tuple(_locate(folder, file) for file in file_paths(features_file))


def _benchmark_folder(known: str, data_root: Path) -> Path:
    if not data_root.is_dir():
        raise DataError(
            f"{data_root}: no such folder. Give the folder that contains {known.upper()}/."
        )
    for folder in sorted(data_root.iterdir()):
        if folder.is_dir() and folder.name.casefold() == known.casefold():
            return folder
    raise DataError(
        f"{data_root}: expected {known.upper()}/res101.mat and {known.upper()}/att_splits.mat, as "
        f"in xlsa17.zip, got no folder {known.upper()}."
    )


def _locate(folder: Path, file: str | os.PathLike[str]) -> Path:
    """A file in the benchmark's folder, or else at its own path."""
    inside = folder / file
    return Path(file) if Path(file).exists() and not inside.exists() else inside


def _find_features(folder: Path) -> Path:
    """`res101.mat`, or the only other MATLAB file with `features`."""
    default = folder / "res101.mat"
    if default.exists():
        return default
    others = [path for path in sorted(folder.glob("*.mat")) if "features" in field_shapes(path)]
    if len(others) == 1:
        logger.info("%s is absent; reading features from %s", default, others[0].name)
        return others[0]
    found = ", ".join(path.name for path in others) or "none"
    raise DataError(
        f"{default}: no such file, and other files with features: {found}. Name the one to use, or "
        "several views of the same rows to join their columns (--features once per file; "
        "features_file, a path or a list)."
    )


def _check_counts(name: str, data: GZSLDataset, features_path: Path) -> None:
    expected, found = asdict(TABLE_1[name]), asdict(Counts.of(data))
    wrong = [
        f"{field.name.replace('_', ' ')} expected {expected[field.name]}, got {found[field.name]}"
        for field in fields(Counts)
        if found[field.name] != expected[field.name]
    ]
    if wrong:
        raise DataError(
            f"{name}: {features_path} and its split differ from Table 1: {'; '.join(wrong)}. "
            "Download the official files, or load these as a pair of files (without this check)."
        )
