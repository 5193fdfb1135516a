"""`mlis evaluate`: the same numbers as the fit's own test, and no model on data it does not fit."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from cli_cases import NAMES, QUICK, SEEN, last_json, printed, refused, small_dataset
from mlis.cli import main
from mlis.data.dataset import GZSLDataset
from mlis.evaluation import evaluate_retrieval
from mlis.io.checkpoint import load_model, save_model

MEASURES = ("U", "S", "H", "T1", "AUSUC", "overall", "best_H_optimistic")


@pytest.fixture(scope="module")
def run(small_folder, tmp_path_factory):
    """A run of two components and two seeds."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    several = ("--seeds", "0,1", "--components", "ml,ml+is+sfr")
    assert main(["fit", str(small_folder), "-o", str(folder), *QUICK, *several]) == 0
    return folder


@pytest.fixture
def model(run):
    return run / "seed-1/ml/model"


def evaluate(capsys, *arguments) -> dict:
    return last_json(printed(capsys, "evaluate", *arguments, "--json"))


def failure(capsys, *arguments) -> str:
    return refused(capsys, "evaluate", *arguments)


def test_a_run_gives_what_its_fit_measured(run, capsys):
    found = evaluate(capsys, run)
    saved = json.loads((run / "results.json").read_text())
    for components in ("ml", "ml+is+sfr"):
        for name in MEASURES:
            assert found["components"][components][name] == saved["components"][components][name]
            mean = found["components"][components][f"{name}_mean"]
            assert mean == saved["components"][components][f"{name}_mean"]
    assert found["protocol"] == saved["protocol"]
    assert found["seeds"] == [0, 1]
    assert found["H"] == found["components"]["ml+is+sfr"]["H"]
    assert found["seconds"] > 0


def test_a_model_in_a_run_knows_its_dataset(model, run, capsys):
    found = evaluate(capsys, model)
    row = json.loads((run / "seed-1/ml/result.json").read_text())["test"]
    assert {name: found[name] for name in MEASURES} == {name: row[name] for name in MEASURES}
    assert found["per_class"] == row["per_class"]
    assert found["confusions"] == row["confusions"]
    assert found["component"] == "ml"


def test_a_model_elsewhere_needs_a_dataset(model, small_folder, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    assert "name DATASET" in failure(capsys, tmp_path / "model")
    found = evaluate(capsys, tmp_path / "model", small_folder)
    assert {name: found[name] for name in MEASURES} == {
        name: value for name, value in evaluate(capsys, model).items() if name in MEASURES
    }


def test_text_names_measures_classes_and_confusions(model, run, capsys):
    assert main(["evaluate", str(model), "--per-class", "--confusions", "2"]) == 0
    captured = capsys.readouterr()
    row = json.loads((run / "seed-1/ml/result.json").read_text())["test"]
    assert f"H {row['H']:.1f}" in captured.out
    lines = captured.out.splitlines()
    for line in row["per_class"]:
        (shown,) = [text for text in lines if text.startswith(line["name"] + "  ")]
        kind = "seen" if line["seen"] else "unseen"
        assert shown.split()[-3:] == [kind, str(line["images"]), f"{line['accuracy']:.1f}"]
    pairs = [text for text in lines if "taken for" in text]
    assert len(pairs) == 2
    worst = row["confusions"][0]
    assert pairs[0].startswith(f"{worst['count']} images")
    assert pairs[0].endswith(f"of {worst['label']} taken for {worst['predicted']}")
    assert captured.err == ""


def test_another_split_is_warned_of(model, tmp_path, capsys):
    base = small_dataset()
    GZSLDataset.from_arrays(
        *(base.features, base.labels, base.descriptors),
        class_names=NAMES,
        unseen_classes=NAMES[SEEN:],
        seed=5,
        name="again",
    ).save(tmp_path / "data")
    assert main(["evaluate", str(model), str(tmp_path / "data")]) == 0
    assert "training images may be among the test images" in capsys.readouterr().err


def other_dataset(**changes) -> GZSLDataset:
    base = small_dataset()
    given = {"features": base.features, "names": NAMES, "unseen": NAMES[SEEN:], **changes}
    labels = given.get("labels", base.labels)
    return GZSLDataset.from_arrays(
        *(given["features"], labels, given.get("descriptors", base.descriptors)),
        class_names=given["names"],
        unseen_classes=given["unseen"],
        name="other",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"features": small_dataset().features[:, :-1]},
            "takes 16 features, but other has 15",
        ),
        (
            {"names": (*NAMES[:3], "a stranger", *NAMES[4:])},
            "number 3 is 'kind 3' in the model, 'a stranger' in the data",
        ),
        (
            {
                "names": (*NAMES, "one more"),
                "unseen": (*NAMES[SEEN:], "one more"),
                "descriptors": np.vstack([small_dataset().descriptors, np.arange(6)]),
            },
            "12 in the model, 13 in the data",
        ),
        (
            {"unseen": (NAMES[0], *NAMES[SEEN + 1 :])},
            "different splits: 'kind 0' is seen in the model, but unseen in the data",
        ),
    ],
    ids=["features", "names", "number of classes", "split"],
)
def test_data_that_do_not_match_are_refused(model, changes, said, tmp_path, capsys):
    other_dataset(**changes).save(tmp_path / "data")
    assert said in failure(capsys, model, tmp_path / "data")


def test_a_model_without_a_record_is_evaluated(model, small_folder, tmp_path, capsys):
    save_model(load_model(model), tmp_path / "model", record={})
    found = evaluate(capsys, tmp_path / "model", small_folder)
    assert found["protocol"] == "unknown"
    assert found["H"] == evaluate(capsys, model)["H"]


def test_a_run_without_a_finished_training(run, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    shutil.copy(run / "run.json", tmp_path / "run")
    assert "no finished training" in failure(capsys, tmp_path / "run")


def test_a_folder_that_is_neither(tmp_path, capsys):
    assert "holds neither config.json nor run.json" in failure(capsys, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_model(model, small_folder, name, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model" / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    assert str(tmp_path / "model") in failure(capsys, tmp_path / "model", small_folder)


def test_a_device_that_is_not_there(model, capsys):
    assert "device must be" in failure(capsys, model, "--device", "abacus")


RETRIEVAL = ("recall_at_1_raw", "recall_at_1_refined", "map_at_r_raw", "map_at_r_refined")


def test_retrieval_of_unseen_classes_raw_beside_refined(model, run, tmp_path, capsys):
    base = small_dataset()
    noise = np.random.default_rng(0).random(base.features.shape, dtype=np.float32)
    data = dataclasses.replace(base, features=base.features + 2 * noise)  # else all are found
    data.save(tmp_path / "data")
    rows = data.split.test_unseen
    recognizer = load_model(model)
    raw = evaluate_retrieval(data.features[rows], data.labels[rows])
    refined = evaluate_retrieval(recognizer.refine(data.features[rows]), data.labels[rows])
    wanted = (raw.recall_at_1, refined.recall_at_1, raw.map_at_r, refined.map_at_r)
    found = evaluate(capsys, model, tmp_path / "data")
    assert [found[name] for name in RETRIEVAL] == pytest.approx(wanted)
    assert len(set(wanted)) == 4
    assert raw.images == len(rows)
    text = printed(capsys, "evaluate", model, tmp_path / "data")
    shown = "Recall@1 {:.1f} → {:.1f}, MAP@R {:.1f} → {:.1f}".format(*wanted)
    assert f"raw → refined features: {shown}" in text
    several = evaluate(capsys, run, tmp_path / "data")["components"]["ml"]
    assert several["map_at_r_refined"][1] == pytest.approx(refined.map_at_r)
    assert several["map_at_r_refined_mean"] == pytest.approx(np.mean(several["map_at_r_refined"]))


def test_without_unseen_test_images_there_is_nothing_to_retrieve(model, tmp_path, capsys):
    base = small_dataset()
    split = dataclasses.replace(base.split, test_unseen=np.empty(0, dtype=np.int64))
    dataclasses.replace(base, split=split).save(tmp_path / "data")
    found = evaluate(capsys, model, tmp_path / "data")
    assert not set(RETRIEVAL) & set(found)
    assert found["S"] is not None
