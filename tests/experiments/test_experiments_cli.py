"""`mlis reproduce` and `mlis rerun`: one command, nothing twice, killed and continued."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_cases import last_json, one_line_error, printed, refused, save_small
from mlis.cli import main
from mlis.cli.output import to_toml
from mlis.data.io.benchmarks import TABLE_1, Counts
from mlis.data.io.xlsa17 import load_pair
from mlis.methods.registry import METHODS
from simulated import small
from standins import tiny_benchmark, write_mat


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("data") / "birds")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text(to_toml(small(classification={"max_iterations": 300})), encoding="utf-8")
    return path


def command(name: str, data: Path, settings: Path, results: Path, *flags: str) -> list[str]:
    common = ("--device", "cpu", "--json", "--settings", str(settings))
    return ["reproduce", name, "--datasets", str(data), "-o", str(results), *common, *flags]


def rows(results: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, (results / "results.jsonl").read_text().splitlines()))


def keys(results: Path) -> list[str]:
    return [row["key"] for row in rows(results)]


def test_one_command_again_and_more(data, settings, tmp_path, capsys):
    results = tmp_path / "results"
    found = last_json(printed(capsys, *command("table3", data, settings, results, "--seeds", "0")))
    assert (found["runs"], found["run_now"], found["failed"]) == (3, 3, {})
    assert found["protocol"] == "H@val"
    assert found["files"] == [str(results / "tables" / f"table3.{s}") for s in ("md", "csv", "tex")]
    assert "| birds | ML+IS |" in (results / "tables" / "table3.md").read_text(encoding="utf-8")

    found = last_json(printed(capsys, *command("table3", data, settings, results, "--seeds", "0")))
    assert (found["runs"], found["run_now"]) == (3, 0)
    flags = ("--seeds", "0-1", "--dry-run")
    outlook = last_json(printed(capsys, *command("table4", data, settings, results, *flags)))
    states = [(run["run"], run["state"]) for run in outlook["runs"]]
    assert states[:4] == [
        *(("birds, circle, seed 0", "done"), ("birds, circle, seed 1", "to do")),
        *(("birds, circle+IS, seed 0", "done"), ("birds, circle+IS, seed 1", "to do")),
    ]
    reuses = {run["run"]: run["reuses"] for run in outlook["runs"]}
    assert reuses["birds, contrastive, seed 0"] == "generator in the cache"
    assert reuses["birds, circle, seed 1"] == ""
    assert reuses["birds, contrastive, seed 1"] == "generator of a run before it"
    seconds = {run["run"]: run["seconds"] for run in outlook["runs"]}
    assert seconds["birds, circle, seed 1"] > 0
    assert seconds["birds, circle, seed 0"] == 0
    assert seconds["birds, contrastive, seed 0"] is None  # never run: unknown, not guessed
    assert outlook["unknown"] == 8
    assert len(keys(results)) == 3


def planned(capsys, data: Path, settings: Path, results: Path, *flags: str) -> list[str]:
    call = command("table2", data, settings, results, "--seeds", "0", "--dry-run", *flags)
    return [run["run"] for run in last_json(printed(capsys, *call))["runs"]]


def test_methods_of_table_2(data, settings, tmp_path, capsys):
    results = tmp_path / "results"
    usual = planned(capsys, data, settings, results)
    assert "birds, TCN, seed 0" not in usual
    assert {"birds, MLIS, seed 0", "birds, ESZSL, seed 0"} <= set(usual)
    every = planned(capsys, data, settings, results, "--methods", "all")
    assert set(usual) < set(every)
    assert len(every) == len(METHODS) - 1  # features and descriptors are of two models
    two = planned(capsys, data, settings, results, "--methods", "mlis,tcn")
    assert two == ["birds, TCN, seed 0", "birds, MLIS, seed 0"]
    call = command("table2", data, settings, results, "--methods", "eszsl,esszl")
    assert main(call) == 2
    said = one_line_error(capsys.readouterr().err)
    assert "'esszl'" in said
    assert "eszsl" in said
    assert not results.exists()


def test_a_table_of_chosen_methods_is_continued_with_more(data, settings, tmp_path, capsys):
    """Size, features, descriptors and split stand in each line; nothing is run twice."""
    results = tmp_path / "results"
    flags = ("--seeds", "0", "--budget", "quick")
    call = command("table2", data, settings, results, *flags, "--methods", "eszsl")
    assert last_json(printed(capsys, *call))["run_now"] == 1
    call = command("table2", data, settings, results, *flags, "--methods", "tcn,eszsl")
    assert last_json(printed(capsys, *call))["run_now"] == 1
    text = (results / "tables" / "table2.md").read_text(encoding="utf-8")
    for name in ("TCN", "ESZSL"):
        assert "| H@val | quick |" in line_with(text, "birds", name)
        assert "own split, " in line_with(text, "birds", name)
    row = json.loads((results / "results.jsonl").read_text().splitlines()[0])
    assert row["provenance"]["inputs"].keys() == {"features", "descriptors", "split"}


def test_a_row_is_run_again(data, settings, tmp_path, capsys):
    results = tmp_path / "results"
    printed(capsys, *command("table3", data, settings, results, "--seeds", "3"))
    key = keys(results)[1]
    found = last_json(printed(capsys, "rerun", key[:10], "-o", results, "--json"))
    assert found["row"] == key
    assert found["protocol"] == "H@val"
    assert found["agrees"]
    assert found["same_bits"]
    assert len(keys(results)) == 3

    lines = (results / "results.jsonl").read_text().splitlines()
    row = json.loads(lines[1])
    row["test"]["U"] += 7.0
    del row["check"]  # what was changed by hand has no check digits that fit
    (results / "results.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["rerun", key[:10], "-o", str(results), "--json"]) == 1
    assert not last_json(capsys.readouterr().out)["agrees"]
    assert "one row's key" in refused(capsys, "rerun", "zz", "-o", results)


def test_wrong_use_is_one_line(data, settings, tmp_path, capsys):
    out = ("-o", tmp_path / "results")
    for flags, said in (
        (("table9",), "invalid choice: 'table9'"),
        (("table3", "--seeds", "4-1"), "expected seeds such as 0-4"),
        (("table3", "--jobs", "0"), "expected a whole number"),
        (("table3", "--datasets", "FLO,,CUB"), "expected names"),
    ):
        assert main(["reproduce", *map(str, (*flags, *out))]) == 2
        assert said in one_line_error(capsys.readouterr().err)
    assert "no folder CUB" in refused(capsys, "reproduce", "table3", *out, "--data-root", tmp_path)
    assert "FLOW" in refused(capsys, "reproduce", "table3", *out, "--datasets", "FLOW")
    twice = ("--datasets", f"{data},{save_small(tmp_path / 'birds')}")
    assert "two called birds" in refused(capsys, "reproduce", "table3", *out, *twice)
    assert not (tmp_path / "results").exists()


def test_missing_benchmarks_are_lines_and_the_others_run(data, settings, tmp_path, capsys):
    results = tmp_path / "results"
    flags = ("--datasets", f"CUB,{data}", "--data-root", str(tmp_path), "--seeds", "0")
    found = last_json(printed(capsys, *command("table3", data, settings, results, *flags)))
    assert "no folder CUB" in found["missing"]["CUB"]
    assert found["run_now"] == 3
    text = (results / "tables" / "table3.md").read_text(encoding="utf-8")
    assert "xlsa17.zip" in line_with(text, "CUB", "missing")
    assert "H@val" in line_with(text, "birds", "measured")


def test_table2_takes_every_descriptor_that_a_benchmark_has(tmp_path, monkeypatch, capsys):
    features, sentences = tiny_benchmark()
    attributes = {**sentences, "att": np.asarray(sentences["att"])[:4]}
    folder = tmp_path / "data" / "CUB"
    folder.mkdir(parents=True)
    files = {"res101": features, "sent_splits": sentences, "att_splits": attributes}
    paths = [folder / f"{name}.mat" for name in files]
    for path, fields in zip(paths, files.values(), strict=True):
        write_mat(path, fields)
    monkeypatch.setitem(TABLE_1, "CUB", Counts.of(load_pair(*paths[:2], name="CUB")))
    noisy = tmp_path / "noise.toml"
    noisy.write_text("generation.noise = 6\n", encoding="utf-8")
    flags = ("--data-root", str(tmp_path / "data"), "--datasets", "CUB", "--seeds", "0")
    flags += ("--settings", str(noisy), "-o", str(tmp_path / "results"), "--json")
    found = last_json(printed(capsys, "reproduce", "table2", "--methods", "eszsl", *flags))
    assert (found["runs"], found["failed"]) == (2, {})
    text = (tmp_path / "results" / "tables" / "table2.md").read_text(encoding="utf-8")
    assert "sent_splits.mat:att, 6-d" in line_with(text, "CUB, sentence embeddings", "measured")
    assert "att_splits.mat:att, 4-d" in line_with(text, "CUB, attributes", "measured")
    assert len([line for line in text.splitlines() if "DPCN" in line]) == 1  # published lines, once
    noise = {row["task"]["config"]["generation"]["noise"] for row in rows(tmp_path / "results")}
    assert noise == {6, 4}  # as long as the descriptors
    again = last_json(printed(capsys, "reproduce", "table3", *flags, "--dry-run"))
    assert len(again["runs"]) == 3  # of the default descriptors alone
    (folder / "att_splits.mat").write_bytes(b"damaged")
    assert main(["reproduce", "table2", "--methods", "eszsl", *flags]) == 0
    text = (tmp_path / "results" / "tables" / "table2.md").read_text(encoding="utf-8")
    assert line_with(text, "CUB, att_splits.mat", "missing")


def line_with(text: str, *words: str) -> str:
    """The first line of a table that has all of these words."""
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_runs_that_fail_are_named_and_the_exit_code_says_so(data, settings, tmp_path, capsys):
    bad = tmp_path / "bad.toml"
    bad.write_text(to_toml(small(refinement={"learning_rate": 1e30})), encoding="utf-8")
    results = tmp_path / "results"
    assert main(command("table3", data, bad, results, "--seeds", "0")) == 1
    found = last_json(capsys.readouterr().out)
    assert list(found["failed"]) == [f"birds, {c}, seed 0" for c in ("ML", "ML+IS", "ML+IS+SFR")]
    assert "not run" in (results / "tables" / "table3.md").read_text(encoding="utf-8")
