"""Runs: named by all they depend on, each done once, continued when stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiment_cases import Heard, config, numbers, saved, task
from mlis.errors import DataError, SettingsError
from mlis.experiments.engine import LocalEngine, record_of, store_of, work_of
from mlis.experiments.rerun import compare, rerun
from mlis.experiments.running import How, run
from mlis.experiments.tasks import BASELINES, Task
from mlis.io.checkpoint import load_model
from mlis.methods.mlis import MLIS
from mlis.protocol import evaluate_on_test
from mlis.storage.locks import lock_folder
from simulated import tiny

METHODS = ("mlis", *(name for name in BASELINES if name != "cosine"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("data") / "tiny")


def engine(**options) -> LocalEngine:
    return LocalEngine(**{"models_of": (1,), "snapshot_every": 0.0, **options})


# --- keys ---------------------------------------------------------------------------------------


def test_a_key_holds_all_that_numbers_depend_on_and_nothing_else(folder):
    one = task(folder)
    others = [
        task(folder, "raw"),
        task(folder, seed=2),
        task(folder, data_sha256="0" * 64),
        task(folder, settings=config(refinement={"margin": 0.3})),
        task(folder, settings=replace(config(), precision="float64")),
        task(folder, "cegzsl"),
        task(folder, "cegzsl", options={}),
    ]
    assert len({one.key, *(other.key for other in others)}) == len(others) + 1
    elsewhere = {"name_or_path": "somewhere/else"}
    assert task(folder, dataset=elsewhere, name="other").key == one.key
    assert Task.from_dict(json.loads(json.dumps(one.to_dict()))).key == one.key


def test_a_key_holds_the_method_s_defaults(folder):
    keys = [
        task(folder, "keshari-reconstruction", options=options).key
        for options in ({}, {"warm_up": 400}, {"warm_up": 401})
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_key_holds_what_validation_tries(folder, monkeypatch):
    before = task(folder, "free").key
    monkeypatch.setattr("mlis.methods.free.MARGINS", (50.0,))
    assert task(folder, "free").key != before


def test_unknown_methods_and_protocols_are_refused(folder):
    with pytest.raises(SettingsError, match=r"method: expected one of .*mlis.*, got 'svm'"):
        task(folder, "svm")
    with pytest.raises(SettingsError, match=r"unknown protocol 'H@test'"):
        task(folder, protocol="H@test")
    with pytest.raises(DataError, match="without the task"):
        Task.from_dict({"name": "x"})


# --- one run ------------------------------------------------------------------------------------


def test_a_row_is_what_the_protocol_gives(folder, tmp_path):
    row = run(task(folder), tmp_path, How())
    data = tiny()
    trained = MLIS(config()).choose(data, seed=1, device="cpu")
    expected = evaluate_on_test(trained.recognizer, data).to_dict()
    assert {name: row.test[name] for name in expected} == expected
    assert {"recall_at_1_raw", "map_at_r_refined"} <= row.test.keys()
    assert row.calibration == trained.recognizer.calibration
    assert row.validation == trained.validation.to_dict()
    assert row.protocol == "H@val"
    facts = row.provenance
    assert facts["data_sha256"] == data.sha256
    assert {"versions", "device", "product_dtype", "cpu"} <= facts.keys()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "mlis"])
def test_baselines_give_rows_with_what_was_chosen(folder, tmp_path, method):
    row = run(task(folder, method), tmp_path, How())
    assert row.protocol == "H@val"
    assert row.test["H"] is not None
    assert row.validation is not None
    asked = config().preprocessing.descriptor_norm
    assert row.chosen["config"]["preprocessing"]["descriptor_norm"] == asked


def test_other_data_than_the_tasks_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match="expected data with SHA-256 000"):
        run(task(folder, data_sha256="0" * 64), tmp_path, How())


# --- many ---------------------------------------------------------------------------------------


def test_nothing_is_run_twice(folder, tmp_path):
    tasks = [task(folder), task(folder, "eszsl"), task(folder, seed=2)]
    first = list(engine().run(tasks, tmp_path))
    heard = Heard()
    again = list(engine(listen=heard).run(tasks, tmp_path))
    assert heard.steps == {}
    assert [numbers(one.row) for one in again] == [numbers(one.row) for one in first]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3


def test_runs_that_differ_in_stage_two_share_the_encoder_and_no_number_changes(folder, tmp_path):
    tasks = [
        task(folder, settings=config(classification={**calibrated, "synthetic_per_unseen": count}))
        for calibrated in ({"calibration": "validation"},)
        for count in (3, 9)
    ]
    assert len({one.stem for one in tasks}) == 1
    heard = Heard()
    shared = list(engine(listen=heard).run(tasks, tmp_path / "shared"))
    assert heard.steps[tasks[0].title]["refinement"] == 0  # of the last of them
    assert [one.row.cost["reused"] for one in shared if one.row] == [False, True]
    for outcome in shared:
        alone = run(outcome.task, tmp_path / outcome.task.key, How(reuse=False))
        assert numbers(outcome.row) == numbers(alone)
    assert list((tmp_path / "shared" / "work").iterdir()) == []  # snapshots are not kept


def test_losses_and_some_models_are_kept(folder, tmp_path):
    tasks = [task(folder, seed=1), task(folder, seed=2)]
    list(engine().run(tasks, tmp_path))
    for one in tasks:
        record = record_of(tmp_path, one.key)
        lines = (record / "training" / "refinement.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == config().refinement.steps
        assert (record / "validation" / "generation.jsonl").exists()
    model = load_model(record_of(tmp_path, tasks[0].key) / "model")
    row = store_of(tmp_path).get(tasks[0].key)
    assert row is not None
    assert row.test["H"] == evaluate_on_test(model, tiny()).H
    assert not (record_of(tmp_path, tasks[1].key) / "model").exists()


@pytest.mark.parametrize("stage", ["generation", "refinement"])
def test_a_run_that_is_stopped_continues(folder, tmp_path, stage):
    settings = config(generation={"steps": 40}, refinement={"steps": 40})
    one = task(folder, settings=settings)
    calm = run(one, tmp_path / "calm", How(reuse=False))
    heard = Heard(stop=(one.title, stage, 20))
    with pytest.raises(KeyboardInterrupt):
        list(engine(listen=heard).run([one], tmp_path / "rough"))
    assert list(store_of(tmp_path / "rough")) == []
    heard = Heard()
    (outcome,) = engine(listen=heard).run([one], tmp_path / "rough")
    steps = heard.steps[one.title]
    assert 0 < steps[stage] < 40
    assert heard.steps[f"{one.title}, validation"] == {"generation": 0, "refinement": 0}
    assert numbers(outcome.row) == numbers(calm)


def test_what_cannot_be_run_does_not_stop_the_others(folder, tmp_path):
    gone = task(folder, dataset={"name_or_path": str(tmp_path / "gone")}, seed=3)
    diverging = task(folder, settings=config(refinement={"learning_rate": 1e30}))
    outcomes = list(engine().run([gone, diverging, task(folder, seed=2)], tmp_path))
    assert [one.row is None for one in outcomes] == [True, True, False]
    assert "gone" in outcomes[0].problem
    assert "refinement" in outcomes[1].problem
    assert len(list(store_of(tmp_path))) == 1


def test_a_task_that_another_process_is_at_is_put_off(folder, tmp_path):
    one, two = task(folder, seed=1), task(folder, seed=2)
    held = lock_folder(work_of(tmp_path, one))
    outcomes = engine().run([one, two], tmp_path)
    assert next(outcomes).task == two
    held.close()
    assert [outcome.task for outcome in outcomes] == [one]


@pytest.mark.slow
def test_several_processes_give_the_same_rows(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as this process has; it may decide the last bits
    tasks = [task(folder, seed=seed) for seed in (1, 2)] + [task(folder, "prototype")]
    alone = {one.task.key: numbers(one.row) for one in engine().run(tasks, tmp_path / "one")}
    beside = {one.task.key: numbers(one.row) for one in engine(jobs=2).run(tasks, tmp_path / "two")}
    assert alone == beside
    assert len((tmp_path / "two" / "results.jsonl").read_text().splitlines()) == 3


# --- again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mlis", "cegzsl"])
def test_a_row_can_be_run_again_from_itself(folder, tmp_path, method):
    list(engine().run([task(folder, method)], tmp_path))
    (row,) = store_of(tmp_path)
    found = rerun(row)
    assert found.same_place
    assert found.same_bits
    assert found.agrees
    assert str(found) == "agrees: every number is the same"


def test_rows_that_differ_are_told_apart(folder, tmp_path):
    row = run(task(folder, "prototype"), tmp_path, How())
    assert row.test["H"] is not None
    close = replace(row, test={**row.test, "H": row.test["H"] + 0.5})
    far = replace(row, test={**row.test, "U": row.test["U"] - 3.0})
    elsewhere = {**row.provenance, "cpu": "another"}
    assert not compare(row, close).agrees  # the same machine: bits
    assert compare(row, replace(close, provenance=elsewhere)).agrees
    found = compare(row, replace(far, provenance=elsewhere))
    assert not found.agrees
    assert found.difference == pytest.approx(3.0)
    assert "does not agree: 3 points" in str(found)
