"""Names made to harm, from a trained model to the terminal, CSV, JSON lines, cards and pages."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from mlis import escape
from mlis.cli import main
from mlis.data.dataset import Provenance
from mlis.data.io.csv_file import write_csv
from mlis.data.io.folder import save_dataset
from mlis.experiments.table_files import Table, latex, markdown, table_csv
from mlis.incremental import rename_classes
from mlis.io.checkpoint import save_model
from mlis.io.model_card import model_card
from mlis.pipeline import fit
from simulated import small, tiny

NAMES = (
    "\x1b[2J\x1b]0;owned\x07clear",
    "two\nlines: 99% right",
    '=HYPERLINK("http://example.org")',
    "+1+cmd|' /C calc'!A0",
    "-cmd()",
    "@SUM(A1)",
    "\tx",
    "<script>alert(1)</script> | *b* [l](javascript:x)",
    "\u202eright to left \x9b2J",
)
DATA = dataclasses.replace(tiny(), class_names=NAMES, provenance=Provenance("\x1b[31mdata\n# x"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    recognizer = fit(DATA.for_training(), small(), device="cpu").recognizer
    save_model(recognizer, folder / "model")
    save_dataset(DATA, folder / "data")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "MODEL", "DATA", "--per-class", "--confusions", "9", "--json"],
        ["classes", "MODEL", "--json"],
        ["data", "info", "DATA", "--json"],
        ["remove-classes", "MODEL", NAMES[0], NAMES[1], "-o", "OUT"],
        ["rename-classes", "MODEL", NAMES[0], "plain", "-o", "OUT"],
        ["predict", "MODEL", "DATA"],
        ["predict", "MODEL", "DATA", "--format", "jsonl"],
        ["remove-classes", "MODEL", "\x1b[2J", "-o", "OUT"],
    ],
    ids=" ".join,
)
def test_nothing_but_text_reaches_the_terminal(model, command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    given = {"MODEL": model / "model", "DATA": model / "data", "OUT": tmp_path / "o"}
    code = main([str(given.get(word, word)) for word in command])
    assert code == (2 if "\x1b[2J" in command else 0)
    captured = capsys.readouterr()
    for line in [*captured.out.split("\n"), *captured.err.split("\n")]:
        assert line.isprintable(), line
        assert not line.startswith("lines: 99% right")


def test_csv_of_predictions_has_no_formula_and_json_lines_have_the_names(model, capsys):
    given = ["predict", str(model / "model"), str(model / "data"), "--top-k", "9"]
    assert main(given) == 0
    table = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    cells = {cell for row in table[1:] for cell in row}
    assert '\'=HYPERLINK("http://example.org")' in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "-cmd", "\t"))]
    assert main([*given, "--format", "jsonl"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert {one["class"] for one in first["predictions"]} == set(NAMES)


def test_numbers_stay_numbers():
    for value in (-1.5, np.float64(-2), 3, None, "-1.5", "+2e-3", "-inf", "blue jay", "a=b"):
        assert escape.csv_cell(value) is value
    assert escape.csv_cell("-") == "'-"


def test_lists_for_people_and_tables(tmp_path):
    write_csv(tmp_path / "bad.csv", ("path", "reason"), [("=a.jpg", "\x1b[1m")])
    assert (tmp_path / "bad.csv").read_text() == "path,reason\n'=a.jpg,\x1b[1m\n"
    line = {"dataset": "=a", "H": -1.5}
    table = Table("t", ("dataset", "H"), (("<b>|*x*", "1"),), (line,), ("a\nb <i>",))
    assert "'=a,-1.5" in table_csv(table)
    assert "| &lt;b&gt;\\|\\*x\\* | 1 |" in markdown(table)
    assert "- a b &lt;i&gt;" in markdown(table)
    assert "\n% a b <i>\n" in latex(table)


def test_a_model_card_shows_names_as_they_are(model):
    recognizer = fit(DATA.for_training(), small(), device="cpu").recognizer
    record = {"provenance": {"data": NAMES[7], "notes": [NAMES[0]], "versions": {"<b>": "<i>"}}}
    card = model_card(recognizer, record=record)
    card += model_card(rename_classes(recognizer, {NAMES[0]: "<img src=x>"}))
    assert "<script" not in card
    assert "<img" not in card
    assert "<b>" not in card
    assert "[l](" not in card
    assert all(line.isprintable() for line in card.split("\n"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\*b\\*" in card
