"""Tables and figures: every figure with its protocol, its kind, and what its data are."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from experiment_cases import brief, saved, source
from mlis.config import Config
from mlis.experiments import figures, tables
from mlis.experiments.budget import QUICK_OPTIONS, REDUCED_OPTIONS, size_of
from mlis.experiments.engine import store_of
from mlis.experiments.inputs import NAMES as NAMES_OF_INPUTS
from mlis.experiments.inputs import inputs_of, kind_of
from mlis.experiments.plans import NAMES, PAPER_DATASETS, SWEEPS, plan
from mlis.experiments.published import published
from mlis.experiments.source import Source
from mlis.experiments.store import Store
from mlis.experiments.table_files import latex, markdown, table_csv
from mlis.experiments.tables import HEADER, HOW_TO_GET, table
from mlis.experiments.tasks import USUAL
from mlis.methods.free import FREE
from mlis.methods.registry import METHODS, build_method
from mlis.methods.sdgzsl import SDGZSL
from report_cases import row
from simulated import small, tiny

NOTES = ("stand-in: made up",)
MISSING = Source("CUB", {}, Config(), None, "/data: no folder CUB in it")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Under the name of a benchmark, so that published figures stand beside it."""
    folder = saved(tmp_path_factory.mktemp("data") / "tiny", notes=NOTES)
    return replace(source(folder), name="FLO")


@pytest.fixture(scope="module")
def results(here: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, without training, of all of table 3 with two seeds, and of figure 4 with one."""
    folder = tmp_path_factory.mktemp("results")
    entries = [*plan("table3", [here], brief(0, 1)), *plan("figure4", [here], brief(0))]
    tasks = {task.key: task for entry in entries for task in entry.tasks}
    for number, task in enumerate(tasks.values()):
        made = row(H=50.0 + number, key=task.key, task=task.to_dict(), notes=NOTES)
        assert store_of(folder).append(made)
    return folder


# --- plans --------------------------------------------------------------------------------------


def test_plans_are_those_of_the_paper(here):
    labels = {name: [e.label for e in plan(name, [here], brief(0, 1))] for name in NAMES}
    assert labels["table3"] == ["ML", "ML+IS", "ML+IS+SFR"]
    assert labels["table4"] == [
        *("circle", "circle+IS", "contrastive", "contrastive+IS"),
        *("multi-similarity", "multi-similarity+IS"),
    ]
    methods = {(row.method) for row in published("table3")}
    assert set(labels["table3"]) == methods
    assert set(labels["table4"]) == {row.method for row in published("table4")}
    for name, sweeps in SWEEPS.items():
        found = [(e.label, e.x) for e in plan(name, [here], brief(0))]
        assert found == [(label, value) for label, _, _, values in sweeps for value in values]
    assert PAPER_DATASETS["table4"] == ("CUB", "AWA2")


def test_same_runs_of_different_experiments_have_one_key(here):
    keys = {
        (name, entry.label): entry.tasks[0].key
        for name in ("table2", "table3", "table4")
        for entry in plan(name, [here], brief(0))
    }
    assert keys["table3", "ML"] == keys["table4", "circle"]
    assert keys["table3", "ML+IS"] == keys["table4", "circle+IS"]
    assert keys["table3", "ML+IS+SFR"] == keys["table2", "MLIS"]
    default = small().refinement.synthetic_per_unseen
    (five,) = [e for e in plan("figure3", [here], brief(0)) if e.x == default]
    assert five.tasks[0].key == keys["table2", "MLIS"]


def test_the_quick_budget_only_cuts_down(here):
    large = replace(here, config=Config(), dataset=here.dataset)
    for entry in plan("table2", [large], brief(0, name="quick")):
        config = entry.tasks[0].config
        assert config.refinement.steps == config.generation.steps == 10
        assert config.generation.learning_rate == Config().generation.learning_rate
    (entry, *_) = plan("table3", [here], brief(0, name="quick"))
    assert entry.tasks[0].config.refinement.steps == small().refinement.steps


def test_the_cosine_is_asked_for_where_it_can_be_taken(tmp_path):
    data = tiny()
    rows = np.unique(data.labels, return_index=True)[1]
    square = replace(data, descriptors=np.ascontiguousarray(data.features[rows]))
    labels = [e.label for e in plan("table2", [source(saved(tmp_path / "s", square))], brief())]
    assert "cosine of feature and descriptor" in labels
    labels = [e.label for e in plan("table2", [source(saved(tmp_path / "t"))], brief())]
    assert "cosine of feature and descriptor" not in labels


def test_the_reduced_budget_cuts_only_what_is_slow(here):
    every = replace(brief(name="reduced"), methods=tuple(METHODS))
    for entry in plan("table2", [here], every):
        (task,) = entry.tasks
        assert task.options == REDUCED_OPTIONS.get(task.method, {})
        assert task.config == here.config
        size, detail = size_of(task.to_dict() | {"config": Config().to_dict()})
        assert size == ("reduced" if task.method in REDUCED_OPTIONS else "full")
        assert detail.startswith("reduced size: ") == (size == "reduced")
    for name, options in REDUCED_OPTIONS.items():
        usual = build_method(name).options
        assert (
            options["epochs" if "epochs" in options else "steps"]
            < usual["epochs" if "epochs" in options else "steps"]
        ), name


def test_reduced_warm_ups_are_the_same_share_of_the_training():
    reduced, full = REDUCED_OPTIONS["sdgzsl"], SDGZSL()
    rows = (
        full.steps
        * full.batch_size
        / (reduced["steps"] * reduced.get("batch_size", full.batch_size))
    )
    for name in ("kl_warm_up", "correlation_warm_up"):
        assert reduced[name] == pytest.approx(rows * getattr(full, name), rel=0.01)
    for name in ("cada-vae", "li-reconstruction"):
        usual, own = build_method(name).options, REDUCED_OPTIONS[name]
        assert own["epochs"] == pytest.approx(own["warm_up"] * usual["epochs"])


def test_the_docs_say_what_is_reduced():
    page = Path(__file__).parents[2] / "docs" / "reproduce.md"
    told = dict(
        re.findall(r"^\| `([\w-]+)` \| (.+ \(default .+) \|$", page.read_text("utf-8"), re.M)
    )
    task = {"config": Config().to_dict()}
    details = {
        name: size_of({**task, "method": name, "options": options})[1]
        for name, options in REDUCED_OPTIONS.items()
    }
    assert told == {name: one.removeprefix("reduced size: ") for name, one in details.items()}


def test_only_the_methods_that_were_asked_for_are_planned(here):
    two = replace(brief(), methods=("mlis", "tcn"))
    assert [e.label for e in plan("table2", [here], two)] == ["TCN", "MLIS"]
    usual = [e.tasks[0].method for e in plan("table2", [here], brief())]
    assert usual == [name for name in USUAL if name not in ("cosine", "mlis")] + ["mlis"]


def test_the_papers_budget_takes_the_settings_published_for_a_benchmark(here):
    """And their number of synthetic samples; a dataset that is no benchmark has the defaults."""
    every = replace(brief(), methods=tuple(METHODS))
    for name in ("FLO", "CUB", "aPY", "elsewhere"):
        own = replace(here, name=name, config=Config())
        for entry in plan("table2", [own], every):
            (task,) = entry.tasks
            known = dict(METHODS[task.method].published.get(name, {}))
            samples = known.pop("synthetic_per_unseen", 300)
            assert task.options == known
            assert task.config == Config().replace(
                {"classification": {"synthetic_per_unseen": samples}}
            )
            size, detail = size_of(task.to_dict())
            assert size == "full"
            if name in METHODS[task.method].published:
                assert detail == f"settings published for {name}"
            elif name == "elsewhere" and task.method in ("sje", "vgse", "dvbe"):
                assert detail.startswith("shorter than published")


def test_which_settings_were_published_is_told_from_a_row():
    config = Config().to_dict()
    task = {"method": "free", "config": config, "options": {}, "name": "FLO"}
    more = "but 300 synthetic samples per unseen class"
    assert size_of(task) == ("full", f"settings published for CUB, {more}")
    options = {name: v for name, v in FREE.published["FLO"].items() if "synthetic" not in name}
    assert size_of({**task, "options": options})[1] == f"settings published for FLO, {more}"
    assert size_of({**task, "options": {**options, "steps": 10}})[0] == "reduced"
    same = {"config": config, "options": {}, "method": "hsva"}  # the same for most benchmarks
    assert size_of({**same, "name": "AWA2"})[1] == "settings published for AWA2"
    assert size_of({**same, "name": "SUN"})[1] == "settings published for CUB"
    short = {"config": config, "options": {}, "name": "FLO"}
    assert (
        size_of({**short, "method": "sje"})[1]
        == "shorter than published: 3000 steps of 11000 (CUB)"
    )
    assert "500" not in size_of({**short, "method": "zicldm-reconstruction"})[1]
    assert size_of({**short, "method": "cngzsl"})[1] == "settings published for FLO"


def test_sentences_and_attributes_of_cub_have_settings_of_their_own():
    budget = replace(brief(), name="paper")
    sentences = budget.options("sdgzsl", ("CUB, sentence embeddings", "CUB"))
    attributes = budget.options("sdgzsl", ("CUB, attributes", "CUB"))
    assert (sentences, attributes["semantic"]) == (SDGZSL.published["CUB"], 2048)
    assert budget.options("free", ("CUB, attributes", "CUB")) == FREE.published["CUB"]
    for name in ("paper", "reduced", "quick"):
        assert replace(budget, name=name).options("eszsl", ("CUB",)) == {}


def test_what_descriptors_are_is_said_of_known_folders_alone(here):
    data = here.dataset
    assert kind_of(data) == ""
    named = replace(data, provenance=replace(data.provenance, name="AWA2WEB"))
    assert kind_of(named) == "attributes"
    assert inputs_of(named)["descriptors"].startswith("attributes, ")


def test_a_row_knows_its_size_from_its_settings():
    task = {"method": "zlap", "config": Config().to_dict(), "options": {}}
    assert size_of(task) == ("full", "")
    assert size_of({**task, "options": {"steps": 720}})[0] == "full"  # as it is by default
    size, detail = size_of({**task, "options": {"steps": 100, "choices": [50, 100]}})
    assert (size, detail) == (
        "reduced",
        "reduced size: steps 100 (default 720), choices 50/100 (default 240/720)",
    )
    assert size_of({**task, "options": QUICK_OPTIONS["zlap"]}) == ("quick", "")
    quick = brief(name="quick").limited(Config()).to_dict()
    assert size_of({**task, "config": quick, "method": "mlis"}) == ("quick", "")


# --- tables -------------------------------------------------------------------------------------


def test_measured_and_published_stand_beside_each_other_with_their_labels(here, results):
    entries = plan("table3", [MISSING, here], brief(0, 1))
    found = table("table3", entries, store_of(results), brief(0, 1))
    rows = [dict(zip(found.header, line, strict=True)) for line in found.lines]
    ours = [row for row in rows if row[""] == "measured"]
    theirs = [row for row in rows if row[""] == "published"]
    assert [row["method"] for row in ours] == ["ML", "ML+IS", "ML+IS+SFR"]
    assert {row["dataset"] for row in ours} == {"FLO (stand-in)"}
    assert {row["protocol"] for row in ours} == {"H@val"}
    assert {row["runs"] for row in ours} == {"2"}
    assert all(re.fullmatch(r"\d+\.\d ± \d+\.\d", row[m]) for row in ours for m in "USH")
    assert {row["protocol"] for row in theirs} == {"as published"}
    assert len(theirs) == 6  # FLO and CUB
    assert [row["H"] for row in theirs if row["dataset"] == "FLO"] == ["70.1", "69.0", "72.0"]
    (missing,) = [row for row in rows if row[""] == "missing"]
    assert missing["dataset"] == "CUB"
    assert missing["H"] == "–"
    assert missing["note"] == f"{MISSING.problem} ({HOW_TO_GET})"


def test_every_line_names_features_descriptors_and_split(here, tmp_path):
    budget = replace(brief(name="reduced"), methods=("tcn", "eszsl"))
    entries = plan("table2", [replace(here, name="x")], budget)
    (eszsl, tcn) = (entry.tasks[0] for entry in entries)
    inputs = inputs_of(here.dataset)
    store = store_of(tmp_path)
    facts = row().provenance | {"inputs": inputs}
    store.append(row(key=tcn.key, task=tcn.to_dict(), provenance=facts))
    store.append(row(key=eszsl.key, task=eszsl.to_dict()))  # by an earlier version
    full = [
        dict(zip(HEADER, line, strict=True))
        for line in table("table2", entries, store, budget).lines
    ]
    assert [one["size"] for one in full] == ["quick", "quick"]  # of these settings
    for line in full:
        assert [line[name] for name in NAMES_OF_INPUTS] == list(inputs.values())
    assert inputs["split"] == f"own split, {here.dataset.split.fingerprint}"
    assert inputs["features"].endswith("9-d")


def test_a_reduced_line_says_what_was_reduced(here, tmp_path):
    budget = replace(brief(name="reduced"), methods=("tcn",))
    entries = plan("table2", [replace(here, name="x", config=Config())], budget)
    (task,) = entries[0].tasks
    store_of(tmp_path).append(row(key=task.key, task=task.to_dict()))
    found = table("table2", entries, store_of(tmp_path), budget)
    assert "at reduced size" in found.title
    assert any(note.startswith("reduced: smaller networks") for note in found.notes)
    (line,) = (dict(zip(HEADER, line, strict=True)) for line in found.lines)
    assert line["size"] == "reduced"
    assert "steps 2000 (default 50000)" in line["note"]
    (data,) = csv.DictReader(io.StringIO(table_csv(found)))
    assert (data["size"], data["budget"]) == ("reduced", "reduced")


def test_a_reconstruction_stands_beside_the_published_system_under_another_name(here, tmp_path):
    budget = replace(brief(), methods=("li-reconstruction",))
    entries = plan("table2", [replace(here, name="SUN")], budget)
    (task,) = entries[0].tasks
    store_of(tmp_path).append(row(key=task.key, task=task.to_dict()))
    found = table("table2", entries, store_of(tmp_path), budget)
    rows = [dict(zip(HEADER, line, strict=True)) for line in found.lines]
    (ours,) = (one for one in rows if one[""] == "measured")
    assert ours["method"] == "after Li et al. (reconstruction)"
    (theirs,) = (one for one in rows if one["method"] == "Li et al.")
    assert (theirs[""], theirs["U"], theirs["S"]) == ("published", "36.6", "47.6")
    assert "swapped" in theirs["note"]
    assert any("no measurement of that paper's system" in note for note in found.notes)


def test_what_was_not_run_says_so(here, results, tmp_path):
    entries = plan("table3", [here], brief(0, 1, 2))
    found = table("table3", entries, store_of(results), brief(0, 1, 2))
    assert [line[-1] for line in found.lines if line[6] == "measured"] == ["seeds 2 not run"] * 3
    found = table("table3", entries, Store(tmp_path / "none.jsonl"), brief(0, 1, 2))
    assert [line[6] for line in found.lines[3:]] == ["not run"] * 3
    assert [line[4] for line in found.lines[3:]] == ["–"] * 3


@pytest.mark.parametrize("budget", ["paper", "quick"])
def test_every_format_has_every_label(here, results, budget):
    budget = brief(0, 1, name=budget)
    entries = plan("table3", [MISSING, here], brief(0, 1))  # rows of the paper's budget
    found = table("table3", entries, store_of(results), budget)
    for text in (markdown(found), latex(found), table_csv(found)):
        for label in ("H@val", "as published", "measured", "published", "missing", "stand-in"):
            assert label in text
    for text in (markdown(found), latex(found)):
        assert ("quick budget" in text) == budget.quick
    rows = csv.DictReader(io.StringIO(table_csv(found)))
    assert {row["budget"] for row in rows if row["kind"] == "measured"} == {budget.name}


def test_formats_are_well_formed(here, results):
    entries = plan("table3", [replace(MISSING, problem="a|b & 50%_"), here], brief(0, 1))
    found = table("table3", entries, store_of(results), brief(0, 1))
    lines = [line for line in markdown(found).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(found.header) + 1}
    rows = list(csv.DictReader(io.StringIO(table_csv(found))))
    assert len(rows) == len(found.lines)
    body = [line for line in latex(found).splitlines() if line.endswith(r"\\")]
    assert len(body) == len(found.lines) + 1
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(found.header) - 1}
    assert r"a|b \& 50\%\_" in latex(found)


def test_statistics_stand_beside_table_1(here):
    found = table("table1", plan("table1", [MISSING, here], brief()), Store(Path("none")), brief())
    rows = [dict(zip(found.header, line, strict=True)) for line in found.lines]
    assert [(row["dataset"], row[""]) for row in rows] == [
        *(("CUB", "published"), ("CUB", "missing")),
        *(("FLO", "published"), ("FLO (stand-in)", "measured")),
    ]
    assert rows[0]["trainval images"] == "7,057"
    assert rows[3]["classes"] == "9"
    assert rows[3]["note"] == "differs"


# --- figures ------------------------------------------------------------------------------------


def test_figures_say_protocol_and_stand_in_in_every_format(here, results, tmp_path):
    found = figures.curves(plan("figure4", [MISSING, here], brief()), store_of(results))
    assert [curve.label for curve in found] == ["relaxation factor m", "scale factor γ"]
    assert [x for x, _ in found[1].points] == [16, 32, 64, 128, 256, 512]
    svg, png, table = figures.write("figure4", found, brief(), tmp_path)
    text = svg.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    for label in ("H@val", "FLO (stand-in)", "scale factor γ", "1 seed"):
        assert label in text
    assert png.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    assert {row["protocol"] for row in rows} == {"H@val"}
    assert {row["dataset"] for row in rows} == {"FLO (stand-in)"}
    assert len(rows) == 11


def test_no_rows_no_figure(here, tmp_path):
    empty = Store(tmp_path / "none.jsonl")
    assert figures.curves(plan("figure3", [here], brief()), empty) == []
    assert figures.write("figure3", [], brief(), tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()
    assert tables.TITLES.keys() | figures.TITLES.keys() == set(NAMES)
