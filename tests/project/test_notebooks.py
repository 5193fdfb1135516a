"""The notebooks of `examples` run, cell by cell in one process, and hold what they show."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import notebook as tool  # noqa: E402

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def kinds(outputs: list[dict]) -> list[set[str]]:
    """Media types of each output; numbers and pictures may differ between machines."""
    return [set(one.get("data", {"stdout": ""})) for one in outputs]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_its_outputs_are_stored(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    results = list(tool.run(notebook))
    assert len(results) >= 3
    for number, (cell, outputs) in enumerate(results, 1):
        assert cell["execution_count"] == number
        assert kinds(cell["outputs"]) == kinds(outputs), f"run tools/notebook.py {path.name}"
    values = [one["data"] for _, outputs in results for one in outputs if "data" in one]
    shown = "".join("".join(value["text/plain"]) for value in values)
    assert float(re.findall(r"[( ]H=([\d.]+)", shown)[0]) > 60  # chance is far below 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links_of_a_notebook_lead_somewhere(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
