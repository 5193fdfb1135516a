"""From rows to series, studies and the lines of tables: by settings alone, each with its labels."""

import json

import pytest

from mlis.config import Config
from mlis.errors import DataError
from mlis.experiments.budget import Budget, within_quick
from mlis.experiments.report.content import blocks
from mlis.experiments.report.series import read_rows
from mlis.experiments.store import TEST_BEST
from mlis.storage.atomic import CHECK
from report_cases import row, series, stored, studies, variants

# --- reading ------------------------------------------------------------------------------------


def test_other_settings_protocols_data_and_products_are_other_series(tmp_path):
    other = row().provenance | {"product_dtype": "bfloat16"}
    rows = [
        row(),
        row(settings={"refinement": {"gamma": 3.0}}),
        row(protocol=TEST_BEST),
        row(name="fish"),
        row(method="eszsl"),
        row(provenance=other, again=1),
    ]
    assert len(series(tmp_path, rows)) == 6


def test_of_two_rows_of_a_seed_the_last_counts_and_it_is_said(tmp_path):
    (study,) = studies(tmp_path, [row(0, H=40.0), row(0, H=60.0, again=1)])
    assert study.main.summary["H"] == [60.0]
    (block, *_) = blocks("table2", [study])
    assert block.lines[0].note == "1 rows of earlier code left out"


def test_what_is_no_store_is_an_error_that_says_so(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*none: expected what `mlis reproduce"):
        read_rows(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no results\.jsonl"):
        read_rows(tmp_path)
    with pytest.raises(DataError, match="holds no row yet"):
        read_rows(stored(tmp_path, []))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("task", "config"), None, "task.config is None"),
        (("task", "config", "refinement", "gamma"), "x", "task.config is of another version"),
        (("task", "method"), "gone", "task.method is 'gone', which this version does not have"),
        (("task", "seed"), "0", "task.seed is '0'"),
        (("test", "H"), 101.0, "test.H: expected per cent, got 101.0"),
        (("test", "per_class"), [1], "test.per_class"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, place, value, said):
    values = json.loads(row().to_line())
    values.pop(CHECK)  # as rows of older versions, which nothing else guards
    *path, last = place
    inner = values
    for name in path:
        inner = inner[name]
    inner[last] = value
    stored(tmp_path, [row(1)])
    with (tmp_path / "results.jsonl").open("a") as handle:
        handle.write(json.dumps(values) + "\n")
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path)
    assert said in str(caught.value)
    assert f"row {values['key'][:16]}" in str(caught.value)


# --- studies ------------------------------------------------------------------------------------


def test_every_series_finds_its_tables_and_figures(tmp_path):
    (study,) = studies(tmp_path, [*variants(), row(method="eszsl"), row(method="raw")])
    assert study.settings["refinement"]["components"] == "ml+is+sfr"
    labels = {
        name: [place.label for place in study.places(name)]
        for name in ("table2", "table3", "table4")
    }
    assert labels["table2"] == ["ESZSL", "raw softmax (f-CLSWGAN)", "MLIS"]
    assert labels["table3"] == ["ML", "ML+IS", "ML+IS+SFR"]
    assert labels["table4"] == ["circle", "circle+IS", "contrastive+IS", "multi-similarity+IS"]
    places = [(place.label.split(",")[-1], place.x) for place in study.places("figure3")]
    assert places == [
        *((" stage 1", 0.0), (" stage 1", 5.0), (" stage 1", 10.0)),
        *((" stage 2", 10.0), (" stage 2", 300.0), (" stage 2", 1000.0)),
    ]
    places = [place.x for place in study.places("figure4")]
    assert places == [0.0, 0.5, 16.0, 64.0]  # the base is no point of the paper
    assert study.others == []


def test_a_base_is_what_most_series_share(tmp_path):
    """Tuned values are the base of both sweeps; another loss may be the base, too."""
    tuned = {"margin": 0.1, "gamma": 58.7, "loss": "triplet"}
    sweeps = [{"margin": m} for m in (0.0, 0.5)] + [{"gamma": g} for g in (16.0, 64.0)]
    rows = [row(settings={"refinement": {**tuned, **one}}) for one in ({}, *sweeps)]
    (study,) = studies(tmp_path, rows)
    assert [(p.label, p.x) for p in study.places("table2")] == [("MLIS", None)]
    assert study.main.config["refinement"]["gamma"] == 58.7
    assert study.others == []


@pytest.mark.parametrize("part", [slice(0, 3), slice(3, 5), slice(5, 7), slice(9, 13)])
def test_a_part_of_the_runs_is_placed_too(tmp_path, part):
    """Only table 3, a part of table 4, one sweep: the base need not have been run."""
    found = studies(tmp_path, variants()[part])
    assert len(found) == 1
    assert found[0].others == []


def test_labels_tell_stand_ins_quick_budgets_and_data_of_one_name_apart(tmp_path):
    quick = Budget("quick").limited(Config()).to_dict()
    assert within_quick(quick)
    assert not within_quick(Config().to_dict())
    task = row().task
    other = row(again=1)
    other = row(task={**other.task, "data_sha256": "f" * 64}, again=1)
    found = studies(
        tmp_path,
        [row(), row(name="FLO", notes=("stand-in: made up",), settings=quick), other],
    )
    assert [study.label for study in found] == [
        f"birds, data {task['data_sha256'][:8]}",
        "FLO (stand-in) [quick budget]",
        "birds, data ffffffff",
    ]


# --- lines --------------------------------------------------------------------------------------


def test_protocols_are_lines_of_their_own_and_published_figures_stand_beside(tmp_path):
    rows = [row(s, name="FLO") for s in (0, 1)] + [row(0, H=70.0, name="FLO", protocol=TEST_BEST)]
    measured, published = blocks("table2", studies(tmp_path, rows))
    assert [(line.method, line.protocol, line.runs) for line in measured.lines] == [
        ("MLIS", "H@val", 2),
        ("MLIS", TEST_BEST, 1),
    ]
    assert measured.lines[1].note == "seeds 1 not run"
    assert {line.protocol for line in published.lines} == {"as published"}
    assert {line.budget for line in measured.lines} == {"paper"}
    assert published.title == "FLO, as published"
