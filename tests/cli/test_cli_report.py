"""`mlis report` and `mlis map`."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from cli_cases import QUICK, last_json, printed, refused, save_small
from experiment_cases import saved
from report_cases import row, stored, variants


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("results"), [*variants(), *variants(seed=1)])


def test_report_writes_the_page_and_nothing_else(results, tmp_path, capsys):
    before = sorted(results.rglob("*"))
    output = tmp_path / "out" / "page.html"
    out = printed(capsys, "report", results, "-o", output, "--json")
    found = last_json(out)
    assert found["page"] == str(output)
    assert found["bytes"] == output.stat().st_size
    assert found["runs"] == 26
    assert list(output.parent.iterdir()) == [output]
    assert any("/nowhere/birds: expected a dataset folder" in one for one in found["missing"])
    assert out.count("not on the page: ") == len(found["missing"])
    assert sorted(results.rglob("*")) == before  # the store is only read


def test_wrong_use_is_one_line(results, tmp_path, capsys):
    out = ("-o", tmp_path / "page.html")
    assert "no folder" in refused(capsys, "report", tmp_path / "none", *out)
    empty = stored(tmp_path / "empty", [])
    assert "holds no row yet" in refused(capsys, "report", empty, *out)
    (empty / "results.jsonl").write_text('{"key": 3}\n')
    assert "line 1: no result row" in refused(capsys, "report", empty, *out)
    broken = stored(tmp_path / "broken", [row(task={**row().task, "config": {}, "method": 3})])
    assert "task.method is 3" in refused(capsys, "report", broken, *out)
    assert "expected a .html file" in refused(capsys, "report", results, "-o", tmp_path)
    assert "--images" in refused(capsys, "report", results, *out, "--images", tmp_path / "none")
    assert "--data-root" in refused(capsys, "report", results, *out, "--data-root", results / "no")
    assert not (tmp_path / "page.html").exists()


def test_the_map_alone(tmp_path, capsys):
    data = save_small(tmp_path / "data")
    printed(capsys, "fit", data, "-o", tmp_path / "run", *QUICK)
    output = tmp_path / "map.svg"
    found = last_json(printed(capsys, "map", tmp_path / "run", data, "-o", output, "--json"))
    root = ElementTree.fromstring(output.read_text(encoding="utf-8"))
    words = "".join(root.itertext())
    assert "kind 9" in words
    assert f"Recall@1 {found['recall_at_1_refined']:.1f}" in words
    assert f"Recall@1 {found['recall_at_1_raw']:.1f}" in words
    assert "t-SNE" in words
    again = tmp_path / "again.svg"
    printed(capsys, "map", tmp_path / "run", data, "-o", again)
    assert again.read_bytes() == output.read_bytes()


def test_a_map_needs_the_model_s_own_classes(tmp_path, capsys):
    data = save_small(tmp_path / "data")
    printed(capsys, "fit", data, "-o", tmp_path / "run", *QUICK)
    other = saved(tmp_path / "other")
    said = refused(capsys, "map", tmp_path / "run", other, "-o", tmp_path / "map.svg")
    assert "was trained on other classes" in said
    assert "no saved model" in refused(capsys, "map", data, data, "-o", tmp_path / "map.svg")
    assert "expected a .svg file" in refused(capsys, "map", data, data, "-o", tmp_path / "x")
