"""The messages in docs/errors.md are those that the faults give."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from cli_cases import save_small, small_dataset
from mlis.cli import main
from mlis.compute.memory import check_room
from mlis.config import Config
from mlis.data import GZSLDataset, Split, load_pair, load_tables
from mlis.data.io.folder import load_folder, save_dataset
from mlis.data.io.npy_file import load_npy
from mlis.data.summary import describe, format_info
from mlis.errors import DataError, FeatureRangeWarning, MlisError
from mlis.experiments.store import Store
from mlis.explanation import explain
from mlis.image_classifier import training_images
from mlis.io.checkpoint import load_model, record_path, save_model
from mlis.methods.mlis import MLIS
from mlis.model.calibrate import calibrate
from mlis.model.recognizer import replace as other
from mlis.pipeline import fit
from mlis.storage.locks import held
from mlis.storage.tensors import load_tensors, save_tensors
from simulated import small, tiny
from standins import tiny_benchmark, write_mat

KEPT = Path(__file__).parents[1] / "data" / "v0.1.0"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
MEANT, _, REST = PAGE.read_text(encoding="utf-8").partition("## Files that")
HELD = REST.partition("## Out of memory")[0]


def rows(section: str) -> dict[str, str]:
    """What is wrong → the message, of a table with a remedy in its third column."""
    return dict(re.findall(r"^\| (?!what is wrong|---)(.+?) \| `(.+?)` \| .+ \|$", section, re.M))


MESSAGES = rows(MEANT) | rows(HELD)


def pair(folder: Path, **changes: object) -> None:
    """Read a benchmark whose fields were changed; `None` swaps a matrix."""
    files = tiny_benchmark()
    for fields, name in zip(files, ("f.mat", "s.mat"), strict=True):
        for field in fields.keys() & changes.keys():
            old, new = fields[field], changes[field]
            fields[field] = new(old) if callable(new) else new
        write_mat(folder / name, fields)
    load_pair(folder / "f.mat", folder / "s.mat", cache=False)


def arrays(**changes: object) -> GZSLDataset:
    rng = np.random.default_rng(0)
    values = {
        "features": rng.random((24, 5)),
        "labels": np.repeat(np.arange(6), 4),
        "descriptors": rng.random((6, 3)),
        "class_names": tuple("abcdef"),
        "unseen_classes": [5],
        **changes,
    }
    return GZSLDataset.from_arrays(**values)


def with_value(row: int, column: int, value: float) -> np.ndarray:
    features = np.random.default_rng(0).random((24, 5))
    features[row, column] = value
    return features


def parts(**changes: np.ndarray) -> GZSLDataset:
    data = small_dataset()
    return replace(data, split=replace(data.split, **changes))


def info(data: GZSLDataset) -> None:
    print(format_info(describe(data)))


def twins() -> GZSLDataset:
    data = tiny()
    features = np.array(data.features)
    features[data.split.test_seen[:3]] = features[data.split.trainval[:3]]
    return replace(data, features=features)


def build(folder: Path) -> None:
    from mlis.features.build import described_images
    from mlis.features.images.files import find_images

    (folder / "photos/Black_Bear").mkdir(parents=True)
    (folder / "photos/Black_Bear/1.png").write_bytes(b"x")
    described_images(find_images(folder / "photos"), ("black bear", "cat"), skip=False)


def table(folder: Path, features: str, classes: str = "name,x,y\na,1,2\nb,2,1\nc,3,1\n") -> None:
    (folder / "f.csv").write_text(features)
    (folder / "c.csv").write_text(classes)
    load_tables(folder / "f.csv", folder / "c.csv")


def unknown_category(folder: Path) -> None:
    from mlis.features.descriptors.class_descriptions import read_descriptions
    from mlis.features.descriptors.describe import describe
    from mlis.features.descriptors.new_classes import describe_like

    (folder / "c.csv").write_text("name,bill\na,hooked\nb,cone\nc,cone\n")
    (folder / "new.csv").write_text("name,bill\nd,spoon\n")
    describe_like(describe(read_descriptions(folder / "c.csv"), None).record, folder / "new.csv")


def objects(folder: Path) -> None:
    np.save(folder / "f.npy", np.array(["a", "b"], dtype=object), allow_pickle=True)
    load_npy(folder / "f.npy")


def images_beside_classes(folder: Path) -> None:
    from mlis.features.images.files import images_of_classes

    (folder / "photos/okapi").mkdir(parents=True)
    for name in ("1.png", "okapi/1.png"):
        (folder / "photos" / name).write_bytes(b"x")
    images_of_classes(folder / "photos")


def split_folders(folder: Path) -> None:
    from mlis.features.images.files import find_images

    for name in ("train/a", "test/a", "more/a"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(b"x")
    find_images(folder)


def swapped_folders(names: list[str]) -> list[str]:
    letters = "bacdefghij"
    return [f"images/class {letters[i // 12]}/{i}.jpg" for i in range(len(names))]


def with_row_of(part: str, other: str) -> Callable[[Path], object]:
    """A row of `other` that lies in `part` too, or in its place."""

    def fault(_: Path) -> object:
        split = small_dataset().split
        rows = getattr(split, other)[:1]
        return parts(**{part: np.concatenate([getattr(split, part), rows])})

    return fault


def unseen_in_training(_: Path) -> object:
    split = small_dataset().split
    return parts(
        trainval=np.concatenate([split.trainval, split.test_unseen[:2]]),
        test_unseen=split.test_unseen[2:],
    )


def both_seen_and_unseen(_: Path) -> object:
    split = small_dataset().split
    return parts(
        test_seen=np.concatenate([split.test_seen, split.test_unseen[:1]]),
        test_unseen=split.test_unseen[1:],
    )


def one_image(_: Path) -> object:
    labels = np.r_[np.repeat(np.arange(5), 4), 4, 4, 4, 5]
    data = arrays(labels=labels, unseen_classes=[0])
    return info(data)


def recognised(factor: float) -> np.ndarray:
    model = fit(tiny().for_training(), small(generation={"generator": "ridge"}), seed=0).recognizer
    return model.predict(factor * tiny().features.astype(np.float64))


def another_scale(_: Path) -> None:
    with pytest.warns(FeatureRangeWarning) as told:
        recognised(100)
    raise DataError(str(told[0].message))  # as the others


def training_of_unseen(folder: Path) -> object:
    data, rows = tiny(), tiny().split.test_unseen
    names = [data.class_names[label] for label in data.labels[rows]]
    np.savez(folder / "t.npz", features=data.features[rows], labels=names)
    made = fit(data.for_training(), small(generation={"generator": "ridge"}), seed=0)
    return training_images(folder / "t.npz", made.recognizer)


def few_classes(_: Path) -> None:
    calibrated = {
        "generation": {"generator": "ridge"},
        "classification": {"calibration": "validation"},
    }
    MLIS(small(**calibrated)).choose(tiny(), device="cpu")


FAULTS: dict[str, Callable[[Path], object]] = {
    "`features` of a `.mat` file are (N, Dx)": lambda f: pair(f, features=np.transpose),
    "an array of features is (Dx, N)": lambda _: arrays(
        features=np.ones((5, 24)), split=Split(np.arange(20), [], np.arange(20, 24))
    ),
    "`att` is (C, Da)": lambda f: pair(f, att=np.transpose),
    "rows of a `.mat` split count from 0": lambda f: pair(
        f, **dict.fromkeys(("trainval_loc", "test_seen_loc", "test_unseen_loc"), lambda r: r - 1)
    ),
    "labels of a `.mat` file count from 0": lambda f: pair(f, labels=lambda labels: labels - 1),
    "labels of an array count from 1": lambda _: arrays(labels=np.repeat(np.arange(1, 7), 4)),
    "labels of a `.mat` file go beyond the descriptors": lambda f: pair(
        f, labels=lambda labels: labels + 3
    ),
    "split rows go beyond the features": lambda f: pair(f, test_seen_loc=lambda rows: rows + 200),
    "a label is not a class name": lambda _: arrays(labels=["zebra"] * 24),
    "class names differ in case, underscores or a letter": lambda _: arrays(
        class_names=("black bear", *"bcdef"), labels=["Black_Bear"] * 24
    ),
    "labels may count from 0 or from 1": lambda _: arrays(
        labels=np.repeat([1, 2], 12), unseen_classes=None
    ),
    "labels are numbers, and names of classes too": lambda _: arrays(
        labels=np.repeat([3, 1], 12), class_names=("3", "1", "0", "2", "4", "5")
    ),
    "a label and a name are one number, written differently": lambda _: arrays(
        labels=np.repeat([1, 0], 12), class_names=("000", "001", *"cdef")
    ),
    "two names differ in case alone": lambda _: arrays(class_names=("Cat", "cat", *"cdef")),
    "a column has no name": lambda f: table(f, ",label,u\n0,a,1\n1,b,2\n"),
    "a column numbers the rows": lambda f: table(
        f, "label,id,u\n" + "".join(f"{'ab'[i // 5]},{i},{i * i}\n" for i in range(10))
    ),
    "a table has no header": lambda f: table(f, "0.5,0.25,1\n0.1,0.3,2\n"),
    "a number of a table can be read in two ways": lambda f: table(f, 'label,u\na,"1,500"\n'),
    "-1 stands for a missing value": lambda _: arrays(
        descriptors=np.vstack([[-1, 1, 2], np.eye(6)[:5, :3] + [[1, 2, 3]]])
    ),
    "a further class has an unknown category": unknown_category,
    "Python objects in `.npy` or `.npz`": objects,
    "a matrix of a `.mat` file is sparse": lambda f: pair(f, att=scipy.sparse.csc_matrix),
    "a folder given to `mlis add-images` holds images beside class folders": images_beside_classes,
    "folders of a split lie beside others": split_folders,
    "folders of images and described classes have other names": build,
    "descriptors are in another order than the labels": lambda f: pair(
        f, image_files=swapped_folders
    ),
    "a class has no descriptor or no name": lambda _: replace(
        small_dataset(), class_names=("a", "b")
    ),
    "a descriptor is the same in all columns": lambda _: arrays(
        descriptors=np.vstack([np.zeros(3), np.eye(3), 1 - np.eye(3)[:2]])
    ),
    "all descriptors are equal": lambda _: arrays(descriptors=np.tile([1.0, 2, 3], (6, 1))),
    "a descriptor is NaN": lambda _: arrays(descriptors=np.full((6, 3), np.nan)),
    "all features are equal": lambda _: arrays(features=np.ones((24, 5))),
    "a feature is NaN": lambda _: arrays(features=with_value(3, 1, np.nan)),
    "features overflowed in float16": lambda _: arrays(
        features=np.minimum(with_value(3, 1, 70000), 70000).astype(np.float16)
    ),
    "a number is too large for float32": lambda _: arrays(features=with_value(3, 1, 1e300)),
    "a class has one image for training": one_image,
    "test images are training images too": lambda _: info(twins()),
    "a row is in two parts of the split": with_row_of("test_seen", "trainval"),
    "a class is both seen and unseen": both_seen_and_unseen,
    "an unseen class has training rows": unseen_in_training,
    "a feature to be recognised is NaN or overflows": lambda _: recognised(1e300),
    "features to be recognised are of another scale": another_scale,
    "`unknown` is asked of a model without quantiles": lambda _: fit(
        tiny().for_training(), small(generation={"generator": "ridge"}), seed=0
    ).recognizer.unknown(tiny().features, 0.05),
    "an explanation is asked of a model without anything to compare with": lambda _: explain(
        fit(tiny().for_training(), small(generation={"generator": "ridge"}), seed=0).recognizer,
        tiny().features,
    ),
    "`--training` names images of unseen classes alone": training_of_unseen,
    "few classes to choose the calibration constant on": few_classes,
    "a trade-off is asked of a model without a validation curve": lambda _: calibrate(
        fit(tiny().for_training(), small(generation={"generator": "ridge"}), seed=0).recognizer,
        "seen-loss=5",
    ),
    "a calibration that is none": lambda _: Config.from_dict(
        {"classification": {"calibration": "auc"}}
    ),
    "features of another image model": lambda _: fit(
        tiny().for_training(), small(generation={"generator": "ridge"}), seed=0
    ).recognizer.predict(np.ones((2, 3), np.float32)),
}


def damaged(folder: Path) -> object:
    (folder / "x.npy").write_bytes(b"no array")
    return load_npy(folder / "x.npy")


def larger_than_memory(folder: Path) -> object:
    return check_room(f"{folder / 'x.mat'}: features", 1 << 60)


def changed_dataset(folder: Path) -> object:
    save_dataset(small_dataset(seed=1), folder / "other")
    words = save_small(folder / "data") / "dataset.json"
    words.write_bytes((folder / "other/dataset.json").read_bytes())
    return load_folder(folder / "data")


def saved_model(folder: Path) -> Path:
    settings = small(generation={"generator": "ridge"})
    save_model(fit(tiny().for_training(), settings, seed=0).recognizer, folder / "model")
    return folder / "model"


def changed_model(folder: Path) -> object:
    weights = saved_model(folder) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return load_model(folder / "model")


def not_finite(folder: Path) -> object:
    weights = saved_model(folder) / "model.safetensors"
    tensors, words = load_tensors(weights)
    tensors["head.bias"][0] = np.nan
    save_tensors(weights, tensors, words)
    return load_model(folder / "model")


def one_name(folder: Path) -> object:
    model = load_model(saved_model(folder))
    save_model(other(model, class_names=("a",) * len(model.class_names)), folder / "model")
    return load_model(folder / "model")


def of_another_version(folder: Path) -> object:
    path = record_path(saved_model(folder))
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    return load_model(folder / "model")


def changed_result(folder: Path) -> object:
    kept = json.loads((KEPT / "results.jsonl").read_text())
    kept["test"]["H"] += 1
    (folder / "results.jsonl").write_text(json.dumps(kept) + "\n")
    return list(Store(folder / "results.jsonl"))


def occupied(folder: Path) -> object:
    with held(folder), held(folder):
        return None


def not_unicode(folder: Path) -> object:
    names = ("x\udcff", *small_dataset().class_names[1:])
    return replace(small_dataset(), class_names=names)


FAULTS |= {
    "damaged, or of another kind": damaged,
    "larger than the memory": larger_than_memory,
    "a dataset folder was changed": changed_dataset,
    "a model was changed": changed_model,
    "a model's weights are not finite": not_finite,
    "two classes of a model share a name": one_name,
    "a result was changed": changed_result,
    "another version wrote it": of_another_version,
    "a name is not Unicode text": not_unicode,
    "another process works there": occupied,
}


def test_every_fault_of_the_page_is_made_here():
    assert list(MESSAGES) == list(FAULTS)


@pytest.mark.parametrize("wrong", FAULTS)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_the_message_is_the_one_on_the_page(wrong, tmp_path, capsys, caplog):
    """An error, a warning in the log, or a line of `mlis data info`."""
    said = ""
    try:
        FAULTS[wrong](tmp_path)
    except MlisError as error:
        said = str(error)
    found = " ".join([said, caplog.text, capsys.readouterr().out])
    pattern = r".+?".join(map(re.escape, MESSAGES[wrong].split("…")))
    assert re.search(pattern, found), f"{MESSAGES[wrong]!r} is not in {found!r}"


def test_convert_tells_the_number_of_twins(tmp_path, capsys):
    save_dataset(twins(), tmp_path / "twins")
    assert main(["data", "convert", str(tmp_path / "twins"), "-o", str(tmp_path / "out")]) == 0
    assert "warning: 3 test images have the same features as a training image" in (
        capsys.readouterr().err
    )
    save_small(tmp_path / "good")
    assert main(["data", "convert", str(tmp_path / "good"), "-o", str(tmp_path / "out2")]) == 0
    assert "same features" not in capsys.readouterr().err


def test_zeros_of_either_sign_are_the_same_feature():
    data = tiny()
    features = np.array(data.features)
    features[:, 0] = 0
    features[data.split.test_seen[0]] = features[data.split.trainval[0]]
    features[data.split.test_seen[0], 0] = -0.0
    found = describe(replace(data, features=features))
    assert found["test_images_equal_to_a_training_image"] == 1
