"""The results store: whole rows, each once, whoever writes and whenever it is killed."""

import json
import multiprocessing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from experiment_cases import row
from mlis.errors import DataError
from mlis.experiments.store import PROTOCOLS, Store, parse


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "results.jsonl"


def test_rows_come_back_as_they_were(path):
    assert list(Store(path)) == []
    assert Store(path).append(row("a1"))
    assert Store(path).append(row("b2", H=61.25))
    assert list(Store(path)) == [row("a1"), row("b2", H=61.25)]
    assert Store(path).get("b2") == row("b2", H=61.25)
    assert Store(path).get("c3") is None
    lines = path.read_text().splitlines()
    assert [json.loads(line)["protocol"] for line in lines] == ["H@val", "H@val"]


def test_a_key_is_there_once(path):
    store, other = Store(path), Store(path)
    assert store.append(row("a1", H=50.0))
    assert not other.append(row("a1", H=70.0))
    assert not store.append(row("a1", H=70.0))
    assert [one.test["H"] for one in Store(path)] == [50.0]


@pytest.mark.parametrize("cut", [1, 40, -2])
def test_a_line_cut_short_is_no_row_and_is_removed(path, cut):
    store = Store(path)
    store.append(row("a1"))
    torn = row("b2").to_line()[:cut]
    with path.open("ab") as handle:
        handle.write(torn)
    assert list(Store(path)) == [row("a1")]
    assert path.read_bytes().endswith(torn)  # reading changes nothing
    assert store.append(row("c3"))
    assert list(Store(path)) == [row("a1"), row("c3")]
    assert len(path.read_bytes().splitlines()) == 2


def test_a_whole_row_without_its_newline_is_kept(path):
    store = Store(path)
    store.append(row("a1"))
    with path.open("ab") as handle:
        handle.write(row("b2").to_line().rstrip())
    assert not store.append(row("b2", H=1.0))
    assert store.append(row("c3"))
    assert [one.key for one in Store(path)] == ["a1", "b2", "c3"]
    assert Store(path).get("b2") == row("b2")


def test_a_damaged_line_is_named(path):
    Store(path).append(row("a1"))
    with path.open("ab") as handle:
        handle.write(b'{"key": 3}\n')
    with pytest.raises(DataError, match=r"results.jsonl, line 2: no result row .*missing"):
        list(Store(path))


def test_no_number_without_a_known_protocol():
    assert {row(protocol=label).protocol for label in PROTOCOLS} == set(PROTOCOLS)
    for wrong in ("", "H", "best"):
        with pytest.raises(DataError, match="protocol"):
            row(protocol=wrong)
    without = {name: value for name, value in asdict(row()).items() if name != "protocol"}
    with pytest.raises(ValueError, match="protocol missing"):
        parse(json.dumps(without).encode())


def test_rows_of_another_schema_are_refused(path):
    line = json.dumps({**asdict(row()), "schema": 99}).encode()
    with pytest.raises(DataError, match="schema 99"):
        parse(line)


def test_nan_is_no_number(path):
    with pytest.raises(DataError, match="H: expected a number or nothing, got nan"):
        Store(path).append(row(H=float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        Store(path).append(row(calibration=float("nan")))
    assert list(Store(path)) == []
    assert replace(row(), calibration=1.0) != row()


def test_rows_are_found_by_how_their_keys_begin(path):
    store = Store(path)
    for key in ("abc1", "abd2"):
        store.append(row(key))
    assert store.find("abc").key == "abc1"
    for wrong in ("ab", "x", ""):
        with pytest.raises(DataError, match="one row's key"):
            store.find(wrong)


def _write(path: Path, first: int) -> None:
    store = Store(path)
    for number in range(first, first + 30):
        store.append(row(f"k{number}"))


def test_two_processes_write_one_store(path):
    """They share 15 keys of 30 each."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, first)) for first in (0, 15)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(600)  # on a busy machine too
        assert writer.exitcode == 0
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert sorted(keys, key=lambda key: int(key[1:])) == [f"k{number}" for number in range(45)]
