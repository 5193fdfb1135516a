"""H@test-best (optimistic): beside H@val, under its own label, and with H@val's own training."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli_cases import last_json, printed
from experiment_cases import Heard, brief, config, numbers, saved, source, task
from mlis.cli.output import to_toml
from mlis.config import Config, flat_settings
from mlis.data.dataset import GZSLDataset
from mlis.experiments import tables
from mlis.experiments.engine import LocalEngine, record_of, store_of, work_of
from mlis.experiments.plans import plan
from mlis.experiments.rerun import rerun
from mlis.experiments.running import How, run
from mlis.experiments.source import Source
from mlis.experiments.store import PROTOCOLS, TEST_BEST
from mlis.experiments.table_files import latex, markdown, table_csv
from mlis.experiments.tasks import BASELINES, Task
from mlis.experiments.testbest import (
    EncoderCheckpoints,
    _recognizers,
    best_alternative,
    measure_test_best,
    steps_of,
)
from mlis.methods.mlis import MLIS
from mlis.methods.registry import build_method
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit
from mlis.provenance import training_key
from mlis.training.callbacks import Callback
from simulated import noise_for_test_rows, small, tiny

LONGER = {"refinement": {"steps": 40}}


@pytest.fixture(autouse=True)
def _four_points(monkeypatch):
    """Each point is a fit of stage 2."""
    for module in ("tasks", "testbest"):
        monkeypatch.setattr(f"mlis.experiments.{module}.POINTS", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("data") / "tiny")


def measured(data: GZSLDataset, settings: Config, folder: Path):
    return measure_test_best(
        data,
        settings,
        **{"seed": 1, "device": "cpu", "folder": folder, "every": 30.0},
        **{"callback": Callback(), "reuse": False},
    )


def same_weights(one: Recognizer, two: Recognizer) -> bool:
    pairs = [
        (one.refiner.weight, two.refiner.weight),
        (one.refiner.bias, two.refiner.bias),
        (one.head.weight, two.head.weight),
        (one.head.bias, two.head.bias),
    ]
    return all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


# --- keys ---------------------------------------------------------------------------------------


def test_keys_of_rows_under_h_at_val_are_pinned():
    """Keys are pinned: a change of them, or of a default setting, trains every row again."""
    one = Task("x", {}, "0" * 64, "mlis", Config(precision="float32"), seed=0, device="cpu")
    assert one.key == "bd7e9b8597f1365c2a1a077f090173f3de2661f850b8ea766c432dee1989f984"
    assert one.stem == "6b3c028a083d9b5f1d3039153cf4af6083fbc71af1084a50e2a242e851d8f251"
    baseline = replace(one, method="eszsl")
    assert baseline.key == "65aa36d507584d6940f0a2b065f70ee89f4a895a5f5018a10b61067aa3ca6a81"


def test_the_other_protocol_has_keys_and_snapshots_of_its_own(folder, monkeypatch):
    one = task(folder)
    other = replace(one, protocol=TEST_BEST)
    assert other.key != one.key
    assert other.stem != one.stem
    assert other.title == f"{one.title}, {TEST_BEST}"
    assert Task.from_dict(json.loads(json.dumps(other.to_dict()))).key == other.key
    monkeypatch.setattr("mlis.experiments.tasks.POINTS", 3)
    assert replace(one, protocol=TEST_BEST).key != other.key
    assert replace(one, seed=1).key == one.key


# --- training is that of H@val ------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        config(**LONGER),
        config(generation={"steps": 12}, refinement={"schedule": "joint"}),
    ],
    ids=["wgan-gp", "joint"],
)
def test_each_step_is_the_training_that_ends_there(settings, tmp_path):
    """Bit for bit, stage 2 included; the last step is the model that H@val tests."""
    data = tiny()
    measured(data, settings, tmp_path)
    training, steps = data.for_training(), steps_of(settings)
    assert len(steps) == 4
    key = training_key(training, settings, 1, "cpu")
    common = {"seed": 1, "device": "cpu", "reuse": False}
    place, kept = (tmp_path, key), EncoderCheckpoints(tmp_path, key, steps)
    last = fit(training, settings, seed=1, device="cpu").recognizer
    tried = dict(_recognizers(training, settings, steps, last, kept, place, common))
    assert tuple(tried) == steps
    section = "generation" if settings.refinement.schedule == "joint" else "refinement"
    for step in (steps[0], steps[-1]):
        shorter = settings.replace({section: {"steps": step}})
        assert same_weights(tried[step], fit(training, shorter, seed=1, device="cpu").recognizer)
    trained = MLIS(settings).choose(data, seed=1, device="cpu")
    assert same_weights(tried[steps[-1]], trained.recognizer)


def test_no_test_row_reaches_the_checkpoints(tmp_path):
    data = tiny()
    noise = noise_for_test_rows(data)
    ours = measured(data, config(**LONGER), tmp_path / "plain")
    theirs = measured(noise, config(**LONGER), tmp_path / "noise")
    for step in steps_of(config(**LONGER)):
        place = f"checkpoints/{step}.safetensors"
        kept = [(tmp_path / name / place).read_bytes() for name in ("plain", "noise")]
        assert kept[0] == kept[1]
    assert ours.chosen != theirs.chosen


# --- rows ---------------------------------------------------------------------------------------


def test_a_row_is_the_best_of_all_steps_and_constants_and_says_so(folder, tmp_path):
    one = task(folder, settings=config(**LONGER), protocol=TEST_BEST)
    row = run(one, tmp_path / "best", How())
    tried = row.chosen["tried"]
    assert [point["step"] for point in tried] == list(steps_of(config(**LONGER)))
    assert row.test["H"] == pytest.approx(max(point["H"] for point in tried))
    assert all(point["H"] >= point["H_uncalibrated"] for point in tried)
    assert len({point["H"] for point in tried}) > 1
    assert tried[[point["step"] for point in tried].index(row.chosen["step"])]["H"] == max(
        point["H"] for point in tried
    )
    assert (row.protocol, row.provenance["protocol"]) == (TEST_BEST, TEST_BEST)
    assert row.validation is None
    plain = run(replace(one, protocol="H@val"), tmp_path / "val", How())
    assert plain.provenance["protocol"] == "H@val"
    assert row.test["H"] >= plain.test["H"]
    assert plain.test["best_H_optimistic"] == pytest.approx(tried[-1]["H"])


@pytest.mark.parametrize("method", [name for name in BASELINES if name != "cosine"])
def test_a_baseline_has_its_best_setting_and_constant_on_test(folder, tmp_path, method):
    one = task(folder, method, protocol=TEST_BEST)
    best = run(one, tmp_path / "best", How())
    plain = run(task(folder, method), tmp_path / "val", How())
    assert (plain.protocol, best.protocol) == PROTOCOLS
    alternatives = build_method(method, one.config, **one.options).alternatives()
    if len(alternatives) == 1:
        assert best.test["H"] == pytest.approx(plain.test["best_H_optimistic"])
        assert best.chosen == plain.chosen
        return
    tried = best.chosen["tried"]
    assert len(tried) == len(alternatives)
    varying = tried[0].keys() - {"H", "H_uncalibrated"}
    assert len({json.dumps([point[name] for name in varying]) for point in tried}) == len(tried)
    assert best.test["H"] == pytest.approx(max(point["H"] for point in tried))
    assert all(point["H"] >= point["H_uncalibrated"] for point in tried)
    # what validation chose is among them, and was trained alike
    at = [
        point["H"] for point in tried if setting(point, varying) == setting(plain.chosen, varying)
    ]
    assert at == pytest.approx([plain.test["best_H_optimistic"]])
    taken = [
        point["H"] for point in tried if setting(point, varying) == setting(best.chosen, varying)
    ]
    assert taken == [max(point["H"] for point in tried)]


def setting(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Of a point that was tried, or of all settings of a method."""
    flat = flat_settings({**values, **values.get("config", {})})
    return {name: flat[name] for name in names}


def test_what_is_tried_on_test_is_trained_without_it(folder, tmp_path):
    """With noise for all test rows the same alternatives are trained; another one may be best."""
    method, data = build_method("gaussian"), tiny()
    ours, theirs = (
        best_alternative(method, one, seed=1, device="cpu")
        for one in (data, noise_for_test_rows(data))
    )
    assert [
        setting(point, point.keys() - {"H", "H_uncalibrated"}) for point in ours.chosen["tried"]
    ] == [
        setting(point, point.keys() - {"H", "H_uncalibrated"}) for point in theirs.chosen["tried"]
    ]
    assert ours.chosen["tried"] != theirs.chosen["tried"]


def test_a_run_that_is_stopped_continues_and_runs_again_alike(folder, tmp_path):
    settings = config(refinement={"steps": 40})
    one = task(folder, settings=settings, protocol=TEST_BEST)
    calm = run(one, tmp_path / "calm", How())
    engine = LocalEngine(snapshot_every=0.0, listen=Heard(stop=(one.title, "refinement", 20)))
    with pytest.raises(KeyboardInterrupt):
        list(engine.run([one], tmp_path / "rough"))
    assert work_of(tmp_path / "rough", one).exists()
    heard = Heard()
    (outcome,) = LocalEngine(listen=heard, models_of=(1,)).run([one], tmp_path / "rough")
    assert 0 < heard.steps[one.title]["refinement"] < 40
    assert outcome.row is not None
    assert numbers(outcome.row) == numbers(calm)
    record = record_of(tmp_path / "rough", one.key)
    assert (record / "training" / "refinement.jsonl").exists()
    assert not (record / "model").exists()  # chosen on test data: nobody's to use
    assert not list((tmp_path / "rough" / "work").iterdir())
    assert rerun(outcome.row).same_bits


# --- labels -------------------------------------------------------------------------------------


def both(*seeds: int):
    return replace(brief(*seeds), protocols=PROTOCOLS)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source(saved(tmp_path_factory.mktemp("data") / "tiny"))


def test_tables_have_a_line_a_protocol_and_mix_nothing(here, tmp_path):
    entries = plan("table3", [here], both(0))
    alone = plan("table3", [here], brief(0))
    assert [e.tasks for e in entries[::2]] == [e.tasks for e in alone]
    list(LocalEngine().run([one for entry in entries for one in entry.tasks], tmp_path))
    store = store_of(tmp_path)
    table = tables.table("table3", entries, store, both(0))
    assert [row["protocol"] for row in table.data] == list(PROTOCOLS) * 3
    for row, entry in zip(table.data, entries, strict=True):
        rows = [store.get(one.key) for one in entry.tasks]
        assert {one.protocol for one in rows if one} == {row["protocol"]}
        assert row["H_mean"] == pytest.approx(np.mean([one.test["H"] for one in rows if one]))
    before = tables.table("table3", alone, store, brief(0))
    assert before.lines == table.lines[::2]
    assert TEST_BEST not in markdown(before) + latex(before)
    for text in (markdown(table), table_csv(table), latex(table)):
        lines = [line for line in text.splitlines() if "ML" in line and "measured" in line]
        assert [TEST_BEST in line for line in lines] == [False, True] * 3
        assert ["H@val" in line for line in lines] == [True, False] * 3


def test_the_command_adds_rows_and_never_leaves_the_others_out(folder, tmp_path, capsys):
    settings = tmp_path / "small.toml"
    settings.write_text(to_toml(small()), encoding="utf-8")
    common = ("reproduce", "table3", "--datasets", folder, "-o", tmp_path / "r", "--seeds", "0")
    common = (*common, "--settings", settings, "--device", "cpu", "--json")
    found = last_json(printed(capsys, *common))
    assert (found["protocol"], found["run_now"]) == ("H@val", 3)
    before = (tmp_path / "r" / "results.jsonl").read_bytes()

    dry = last_json(printed(capsys, *common, "--protocol", "both", "--dry-run"))
    assert [TEST_BEST in one["run"] for one in dry["runs"]] == [False, True] * 3
    assert [one["seconds"] is None for one in dry["runs"]] == [False, True] * 3

    assert printed(capsys, *common, "--protocol", "val").count(TEST_BEST) == 0
    flags = ("--protocol", "test-best")
    from mlis.cli import main

    assert main([*map(str, (*common, *flags))]) == 0
    said = capsys.readouterr()
    found = last_json(said.out)
    assert (found["protocol"], found["run_now"]) == (", ".join(PROTOCOLS), 3)
    results = [line for line in said.err.splitlines() if ": H " in line]
    assert len(results) == 3
    assert all(f"({TEST_BEST})" in line for line in results)
    after = (tmp_path / "r" / "results.jsonl").read_bytes()
    assert after.startswith(before)
    rows = [json.loads(line) for line in after.splitlines()]
    assert [row["protocol"] for row in rows] == [PROTOCOLS[0]] * 3 + [TEST_BEST] * 3
    again = last_json(
        printed(capsys, "rerun", rows[-1]["key"][:12], "-o", tmp_path / "r", "--json")
    )
    assert (again["protocol"], again["same_bits"]) == (TEST_BEST, True)
