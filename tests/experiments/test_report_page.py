"""The page: what was measured, each number with its label, whatever is missing."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiment_cases import brief, saved, source
from mlis.config import Config
from mlis.data.io.folder import load_folder
from mlis.experiments.budget import Budget
from mlis.experiments.engine import LocalEngine, store_of
from mlis.experiments.plans import plan
from mlis.experiments.report.material import load_data, no_data
from mlis.experiments.report.write import Written, write_report
from mlis.experiments.store import TEST_BEST
from page_cases import Reader, check_self_contained
from report_cases import CLASSES, row, stored, variants
from simulated import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset with names that would break a page that does not escape them."""
    names = ("<b>bold</b>", 'quote "one"', "a & b", "ünseen", *(f"kind {i}" for i in range(5)))
    return saved(tmp_path_factory.mktemp("data") / "birds", replace(tiny(), class_names=names))


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table 3 with two seeds and a baseline, really run."""
    folder = tmp_path_factory.mktemp("results")
    here = source(data)
    entries = plan("table3", [here], brief(0, 1)) + plan("table2", [here], brief(0, 1))[:1]
    tasks = {task.key: task for entry in entries for task in entry.tasks}
    assert all(outcome.row for outcome in LocalEngine().run(list(tasks.values()), folder))
    return folder


def load(study):
    return load_data(study, data_root=None, images=None)


@pytest.fixture(scope="module")
def written(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_report(results, tmp_path_factory.mktemp("page") / "new" / "r.html", load)


@pytest.fixture(scope="module")
def page(written: Written) -> Reader:
    return Reader(written.page.read_text(encoding="utf-8"))


def read(folder: Path, output: Path, loader=no_data) -> Reader:
    return Reader(write_report(folder, output, loader).page.read_text(encoding="utf-8"))


# --- content ------------------------------------------------------------------------------------


def test_it_has_every_part(page, written):
    for words in (
        "What was measured",
        "How it was measured",
        "Table 1: datasets",
        "Table 3: components of stage 1",
        "What was trained",
        "Training curves",
        "What refinement does",
        "Recall@1",
        "random_state 0",
        "Whether probabilities mean what they say",
        "seen classes: ECE",
        "Class by class",
        "Where it goes wrong",
        "Where the numbers come from",
    ):
        assert words in page.text, words
    assert "Figure 4" not in page.text  # was not run
    assert written.runs == 8
    assert written.missing == (
        "tiny [quick budget]: no picture of a row is known; --images names a folder of photographs",
    )
    assert list(written.page.parent.iterdir()) == [written.page]


def test_numbers_are_those_of_the_store_and_carry_their_labels(page, results):
    found: dict[str, list[float]] = {}
    for one in store_of(results):
        if one.task["method"] == "mlis":
            components = one.task["config"]["refinement"]["components"].upper()
            found.setdefault(components, []).append(one.test["H"])
    assert list(found) == ["ML", "ML+IS", "ML+IS+SFR"]
    for name, values in found.items():
        cell = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
        assert [row[-1] for row in page.rows if row[0] == f"{name} H@val, 2 runs"] == [cell]
    assert ["refinement.margin", "0.25"] in page.rows
    assert "tiny [quick budget]: MLIS, H@val, 2 seeds" in page.text
    assert "a few steps and small networks" in page.text  # tests train as little as that
    assert "stand-in" not in page.text
    assert TEST_BEST not in page.text


def test_mistakes_have_a_reason(page, data):
    """Of one image each: why that class, and whose training images are nearest."""
    names = load_folder(data).class_names
    reasons = re.findall(
        r"One of them, against (.+?): .+? Nearest training images: (.+?)\.", page.text
    )
    assert reasons
    for against, nearest in reasons:
        assert against in names
        assert sum(int(one.partition(" of ")[0]) for one in nearest.split(", ")) == 3


def test_names_are_words_and_never_markup(page, written):
    text = written.page.read_text(encoding="utf-8")
    assert "<b>bold</b>" not in text
    for name in ("<b>bold</b>", 'quote "one"', "a & b", "ünseen"):
        assert name in page.text


def test_where_it_is_from_stands_there(page, results):
    first = next(iter(store_of(results)))
    assert first.task["data_sha256"] in page.text
    assert f"mlis rerun {first.key[:12]} -o RESULTS" in page.text
    for name, version in first.provenance["versions"].items():
        assert f"{name} {version}" in page.text
    assert page.text.count("H@val") > 8
    assert str(results) not in page.text  # whoever reads it has other folders


def test_the_same_store_gives_the_same_page(written, results, tmp_path):
    again = write_report(results, tmp_path / "r.html", load)
    assert again.page.read_bytes() == written.page.read_bytes()


# --- what is missing ------------------------------------------------------------------------------


def test_without_data_it_says_so_and_keeps_the_rest(tmp_path):
    folder = stored(tmp_path / "results", [*variants(), *variants(seed=1)])
    page = read(folder, tmp_path / "r.html", load)
    assert "/nowhere/birds: expected a dataset folder" in page.text
    assert "No losses: runs/ holds none of this series" in page.text
    assert "raw Recall@1 40.0" in page.text.replace("\u00a0", " ")
    for words in ("Figure 3", "Figure 4", "As numbers", "gull & <tern>"):
        assert words in page.text
    page = read(folder, tmp_path / "r.html", no_data)
    assert "the data were not to be read" in page.text


def test_data_that_are_others_now_are_not_shown(data, tmp_path):
    moved = row(dataset={"name_or_path": str(data)})
    page = read(stored(tmp_path / "results", [moved]), tmp_path / "r.html", load)
    assert "expected data with SHA-256" in page.text


def test_runs_models_and_losses_may_be_missing(results, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    for path in folder.glob("runs/*/model/model.safetensors"):
        path.write_bytes(b"damaged")
    page = read(folder, tmp_path / "r.html", load)
    for part in ("map", "reliability diagram"):
        assert re.search(rf"No {part}: [^ ]*/model/model.safetensors", page.text)
    for path in (folder / "runs").glob("*/training/refinement.jsonl"):
        path.write_text('{"step": 1, "metric": 3.5}\nnonsense\n{"step": 2, "metric": NaN}\n[]\n')
    page = read(folder, tmp_path / "r.html", load)
    assert "metric against steps; at the end: seed 0 3.5" in page.text
    shutil.rmtree(folder / "runs")
    page = read(folder, tmp_path / "r.html", load)
    assert "/model is not there (seed 0)" in page.text
    assert "No losses" in page.text


def test_a_store_of_baselines_alone_is_a_page_too(tmp_path):
    folder = stored(tmp_path / "results", [row(method="eszsl"), row(method="raw")])
    page = read(folder, tmp_path / "r.html")
    assert "No run of MLIS itself is in this store" in page.text
    assert "ESZSL" in page.text


def test_every_protocol_budget_and_stand_in_is_labelled(tmp_path):
    quick = Budget("quick").limited(Config()).to_dict()
    rows = [
        *variants(name="FLO"),
        *variants(name="FLO", protocol=TEST_BEST),
        *variants(name="CUB", notes=("stand-in: made up",)),
        row(name="SUN", settings=quick),
    ]
    page = read(stored(tmp_path / "results", rows), tmp_path / "r.html")
    for words in (TEST_BEST, "CUB (stand-in)", "SUN [quick budget]", "as published"):
        assert words in page.text
    for said in (
        "the best of several steps or settings, and of all calibration constants",
        "features made up",
        "not a result",
    ):
        assert said in page.text
    for label in ("H@val", TEST_BEST):  # in the table, at its bars, at its curves
        assert any(row[0].startswith(f"MLIS {label}") for row in page.rows)
        assert re.search(rf"MLIS \d+\.\d · {re.escape(label)}", page.text)
        assert f"FLO, {label}, H against scale factor γ" in page.text


def test_a_reduced_system_is_labelled_in_table_and_chart(tmp_path):
    small = row(method="tcn")
    task = {**small.task, "options": {"steps": 2000}}
    facts = {**small.provenance, "inputs": {"split": "own split, 12ab", "features": "f, 9-d"}}
    rows = [row(method="eszsl"), replace(small, key="f" * 64, task=task, provenance=facts)]
    page = read(stored(tmp_path / "results", rows), tmp_path / "r.html")
    (line,) = [one for one in page.rows if one[0].startswith("TCN")]
    assert "reduced size: steps 2000 (default 50000)" in line[0]
    assert re.search(r"TCN \d+\.\d · H@val · reduced size", page.text)
    assert "It shows that a system learns, not how good it is." in page.text
    page = read(stored(tmp_path / "full", rows[:1]), tmp_path / "full.html")
    assert "reduced size" not in page.text


def test_features_descriptors_and_split_stand_above_the_lines(page, written):
    (title, *_) = [one[0] for one in page.rows if one[0].startswith("tiny [quick budget] ")]
    for words in ("9-d", "4-d", "own split, "):
        assert words in title


def test_table_2_has_what_a_line_was_given_in_columns_of_each(tmp_path):
    facts = row().provenance | {
        "inputs": {"features": "f.mat", "descriptors": "attributes", "split": "s"}
    }
    rows = [row(name="CUB", method=one, provenance=facts) for one in ("mlis", "sje")]
    page = read(stored(tmp_path / "results", rows), tmp_path / "r.html")
    assert ["Measured here"] in page.rows
    assert ["As published"] in page.rows
    lines = [one for one in page.rows if one[0].startswith(("SJE", "MLIS H@val"))]
    assert [one[4:] for one in lines] == 2 * [["CUB", "full", "f.mat", "attributes", "s"]]
    assert "shorter than published: 3000 steps of 11000 (CUB)" in lines[0][0]
    (theirs,) = [one for one in page.rows if one[0].startswith("GCM-CF")]
    assert theirs[4:6] == ["CUB", "–"]
    assert theirs[7:] == ["attributes, 312-d", "proposed split v2"]


def test_the_page_is_alone_and_has_one_script_for_table_2(written, page):
    text = written.page.read_text(encoding="utf-8")
    check_self_contained(text, scripts=1)
    assert [a for a in page.all("div") if "data-sortable" in a]
    assert "fetch(" not in text
    assert "innerHTML" not in text


def test_the_page_is_bounded(tmp_path):
    """Many datasets with many classes and many runs: still one page that opens."""
    names = tuple(f"class {i} with a rather long name, {'x' * 200}" for i in range(300))
    rows = [
        row(seed, name=f"data {i}", classes=names, settings={"refinement": {"gamma": 1.0 + g}})
        for i in range(14)
        for g in range(2)
        for seed in range(2)
    ]
    rows += [
        row(seed, settings={"refinement": {"margin": 0.5, "gamma": float(g + 1)}})
        for g in range(300)
        for seed in range(4)
    ]
    rows += [row()]
    found = write_report(stored(tmp_path / "results", rows), tmp_path / "r.html", no_data)
    assert found.bytes < 8 * 2**20
    page = Reader(found.page.read_text(encoding="utf-8"))
    assert "more are in results.jsonl" in page.text
    assert CLASSES[1] not in page.text  # the 15th dataset is in the tables only
