"""Files that version 0.1.0 wrote give the same numbers; files of other formats are refused."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlis.data.io.feature_folder import read_feature_folder
from mlis.data.io.folder import load_folder
from mlis.errors import DataError, MlisError, ModelFileError
from mlis.estimator import MLISClassifier
from mlis.evaluation import summarise
from mlis.experiments.rerun import rerun
from mlis.experiments.store import Store
from mlis.incremental import add_classes
from mlis.io.checkpoint import load_exemplars, load_model, read_record, save_model
from mlis.io.saved_models import find_models
from mlis.methods.mlis import MLIS
from mlis.protocol import evaluate_on_test
from mlis.runs.run import RunPlan, execute
from mlis.storage.atomic import with_checksum, without_checksum

KEPT = Path(__file__).parents[1] / "data" / "v0.1.0"
EXPECTED = json.loads((KEPT / "expected.json").read_text())
MODEL = "seed-1/ml+is+sfr/model"


@pytest.fixture
def kept(tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(KEPT, tmp_path / "kept"))


def assert_trained_alike(found: np.ndarray, expected: list[list[float]]) -> None:
    """Scores of two trainings on CPUs that sum in another order: same classes, but for ties."""
    before = np.array(expected)
    margin = 0.1 * before.std()
    np.testing.assert_allclose(found, before, atol=margin, rtol=0)
    chosen = np.take_along_axis(before, np.argmax(found, axis=1)[:, None], axis=1)[:, 0]
    assert (chosen >= before.max(axis=1) - margin).all()


def test_a_dataset_folder_is_the_same_data():
    data = load_folder(KEPT / "dataset")
    assert data.sha256 == EXPECTED["data_sha256"]
    assert (len(data.labels), data.num_classes, len(data.unseen_classes)) == (72, 9, 3)


def test_a_model_gives_the_same_scores():
    model, data = load_model(KEPT / "run" / MODEL), load_folder(KEPT / "dataset")
    expected = np.array(EXPECTED["scores"], np.float32)
    np.testing.assert_allclose(model.scores(data.features[:6]), expected, rtol=1e-4, atol=1e-4)
    assert model.predict(data.features).tolist() == EXPECTED["predicted"]
    recorded = read_record(KEPT / "run" / MODEL)["record"]["test"]
    found = evaluate_on_test(model, data).to_dict()
    assert {name: found[name] for name in ("U", "S", "H")} == pytest.approx(
        {name: recorded[name] for name in ("U", "S", "H")}
    )


def test_a_model_with_a_growth_file_gives_the_same_scores_before_and_after_additions(tmp_path):
    kept = Path(__file__).parents[1] / "data" / "v0.1.0-config"
    expected, data = (
        json.loads((kept / "expected.json").read_text()),
        load_folder(kept / "dataset"),
    )
    model, exemplars = load_model(kept / "run" / MODEL), load_exemplars(kept / "run" / MODEL)
    x = data.features[:6]
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(model.scores(x), expected["scores"], **close)
    assert model.predict(data.features).tolist() == expected["predicted"]
    vectors = np.array(expected["grown"]["descriptors"], np.float32)
    grown, _ = add_classes(model, exemplars, ["new a", "new b"], vectors)
    assert_trained_alike(grown.scores(x), expected["grown"]["scores"])
    save_model(model, tmp_path, exemplars)  # in the present format
    again = load_model(tmp_path), load_exemplars(tmp_path)
    np.testing.assert_array_equal(again[0].scores(x), model.scores(x))
    regrown, _ = add_classes(*again, ["new a", "new b"], vectors)
    np.testing.assert_array_equal(regrown.scores(x), grown.scores(x))


def test_the_estimators_decision_function_is_that_of_before():
    kept = Path(__file__).parents[1] / "data" / "v0.1.0-config"
    expected, data = (
        json.loads((kept / "expected.json").read_text()),
        load_folder(kept / "dataset"),
    )
    rows = data.split.trainval
    before = {  # defaults of that version
        "preprocessing": {"feature_transform": "none"},
        "generation": {"ridge_kernel": "linear", "ridge_lambda": 0.1, "ridge_neighbours": 5},
        "refinement": {
            **{"margin": 0.25, "gamma": 80.0, "semantic_scale": 1.0, "learning_rate": 1e-4},
            **{"samples_per_class": 8, "cross_entropy_weight": 1.0},
        },
        "classification": {"calibration": 0.0, "weight_decay": 1e-5, "tolerance": 1e-5},
    }
    options = {"steps": 20, "random_state": 0, "precision": "float32", "config": before}
    model = MLISClassifier(generator="ridge", device="cpu", **options)
    described = dict(zip(data.class_names, data.descriptors, strict=True))
    model.fit(
        data.features[rows], np.array(data.class_names)[data.labels][rows], descriptors=described
    )
    found = model.decision_function(data.features[:6])
    assert_trained_alike(found, expected["estimator"])


def test_a_finished_run_is_read_and_not_done_again(kept, monkeypatch):
    monkeypatch.setattr(MLIS, "choose", None)
    run = kept / "run"
    plan = RunPlan.read(run)
    assert [model.folder for model in find_models(run)] == [run / MODEL]
    before = json.loads((run / "results.json").read_text())["components"]
    after = execute(run, plan, load_folder(kept / "dataset"))["components"]
    for components, found in after.items():
        assert found == {name: before[components][name] for name in found}


def test_a_result_row_is_read_and_agrees_when_done_again():
    (row,) = Store(KEPT / "results.jsonl")
    assert {name: row.test[name] for name in ("U", "S", "H")} == EXPECTED["test"]
    assert summarise([row.test])["H"] == [EXPECTED["test"]["H"]]
    # its constant was chosen on a single class, which is not done any more: it is given instead
    task = copy.deepcopy(dict(row.task))
    task["config"]["classification"]["calibration"] = row.calibration
    given = replace(row, task=task, validation=None)
    again = rerun(given, dataset={"name_or_path": str(KEPT / "dataset")})
    assert again.agrees, str(again)


def test_a_folder_of_features_is_read():
    images = read_feature_folder(KEPT / "features")
    np.testing.assert_array_equal(images.features, load_folder(KEPT / "dataset").features[:12])
    assert images.root == "/photos"


def changed(path: Path, **values: object) -> None:
    """Write a JSON record again with other values, and check digits that are right."""
    record = json.loads(path.read_text())
    if "check" in record:
        record = with_checksum({**without_checksum(record), **values})
    path.write_text(json.dumps({**record, **({} if "check" in record else values)}) + "\n")


def read_all(kept: Path) -> None:
    data = load_folder(kept / "dataset")
    read_feature_folder(kept / "features")
    load_model(kept / "run" / MODEL)
    execute(kept / "run", RunPlan.read(kept / "run"), data)
    list(Store(kept / "results.jsonl"))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("dataset/dataset.json", {"version": 2}, "expected version 1, got 2"),
        ("features/features.json", {"version": 7}, "expected version 1, got 7"),
        (f"run/{MODEL}/model.json", {"format": 3}, "has model format 3, but this version of mlis"),
        ("run/run.json", {"format": 2}, "has run format 2, but this version of mlis"),
        (
            "run/seed-1/ml+is+sfr/result.json",
            {"format": 3},
            "has run format 3, but this version of mlis",
        ),
        ("results.jsonl", {"schema": 2}, "a row of schema 2: this version reads 1"),
        ("run/run.json", {"stack_seeds": True}, "stack_seeds: expected false, got true"),
        (
            "results.jsonl",
            {"provenance": {"stacked": [0, 1]}},
            "provenance.stacked: expected none, got [0, 1]",
        ),
    ],
)
def test_another_format_and_seeds_trained_together_are_refused(kept, file, values, said):
    read_all(kept)
    changed(kept / file, **values)
    with pytest.raises(MlisError) as caught:
        read_all(kept)
    assert said in str(caught.value)
    assert Path(file).name in str(caught.value)


def test_an_edited_number_is_noticed(kept):
    """In the record of a run, in a result, and in a row of the store: never a wrong number."""
    place = kept / "run/seed-1/ml+is+sfr/result.json"
    record = json.loads(place.read_text())
    record["test"]["H"] += 1
    place.write_text(json.dumps(record))
    run = kept / "run"
    with pytest.raises(ModelFileError, match=r"result\.json is damaged .*checksum.*delete it"):
        execute(run, RunPlan.read(run), load_folder(kept / "dataset"))
    record = json.loads((run / "run.json").read_text())
    record["config"]["refinement"]["gamma"] = 81.0
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(ModelFileError, match=r"run\.json is not a run's record: .*checksum"):
        RunPlan.read(run)
    row = json.loads((kept / "results.jsonl").read_text())
    row["test"]["H"] += 1
    (kept / "results.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"results\.jsonl, line 1: no result row .*checksum"):
        list(Store(kept / "results.jsonl"))
