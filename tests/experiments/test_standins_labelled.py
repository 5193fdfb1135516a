"""Stand-ins through `mlis reproduce`: the plumbing runs, and every output says what it is.

The numbers are of made-up features and of a few training steps. What is tested is that nobody can
take them for results, whichever file they look at.
"""

import csv
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from cli_cases import last_json, printed
from experiment_cases import saved
from mlis.cli.output import to_toml
from mlis.io.checkpoint import RECORD
from simulated import small, tiny
from standins import write_standin

NAMES = ("table1", "table2", "table3", "table4", "figure3", "figure4")
LABEL, NOTE = "(stand-in)", "stand-in"
MEASURES = ("H@val", "measured")  # what a line that shows a number of ours has


def small_settings(folder: Path) -> Path:
    """A file of settings that train in milliseconds: small networks, few steps."""
    path = folder / "small.toml"
    path.write_text(to_toml(small()), encoding="utf-8")
    return path


def reproduce(capsys, name: str, datasets: str, results: Path, *flags: object) -> str:
    out = printed(
        *(capsys, "reproduce", name, "--datasets", datasets, "-o", results, "--budget", "quick"),
        *("--device", "cpu", "--json", *flags),
    )
    assert last_json(out)["stand_in"] == [Path(one).name for one in datasets.split(",")]
    assert "stand-in, features made up" in out
    return out


def check_outputs(results: Path, datasets: Sequence[str]) -> set[str]:
    """Look at every file; return the kinds that were seen."""
    seen = set()
    for path in sorted(path for path in results.rglob("*") if path.is_file()):
        if path.name == ".mlis.lock" or path.parts[len(results.parts)] == "runs":
            continue
        seen.add(path.suffix)
        CHECKS[path.suffix](path, datasets)
    for record in results.glob(f"runs/*/model/{RECORD}"):  # beside it losses, no measures
        row = json.loads(record.read_text(encoding="utf-8"))
        assert NOTE in json.dumps(row)
        seen.add("model")
    return seen


def check_lines(path: Path, datasets: Sequence[str]) -> None:
    """Markdown and LaTeX: each measured line, and a note below or above."""
    text = path.read_text(encoding="utf-8")
    ours = [line for line in text.splitlines() if re.search(r"[|&] measured [|&]", line)]
    assert ours
    for line in ours:
        assert any(f"{name} {LABEL}" in line for name in datasets), (path, line)
    assert {name for name in datasets for line in ours if line.startswith((f"| {name} ", name))}
    if path.stem != "table1":
        assert "stand-in: features made up" in text
        assert "quick budget" in text


def check_csv(path: Path, datasets: Sequence[str]) -> None:
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    ours = [row for row in rows if row.get("kind", "measured") == "measured"]
    assert {row["dataset"] for row in ours} <= {f"{name} {LABEL}" for name in datasets}
    assert ours
    assert all(row.get("budget", "quick") == "quick" for row in ours)


def check_svg(path: Path, datasets: Sequence[str]) -> None:
    text = path.read_text(encoding="utf-8")
    described = re.search(r"<dc:description>(.*?)</dc:description>", text, re.S)
    assert described is not None
    assert f"{datasets[0]} {LABEL}" in described[1]
    titles = re.findall(r">([^<>]*H@val[^<>]*)<", text)
    assert titles
    assert all(LABEL in title for title in titles)
    assert "quick budget" in text


def check_png(path: Path, datasets: Sequence[str]) -> None:
    with Image.open(path) as image:
        about = image.info
    assert f"{datasets[0]} {LABEL}" in about["Description"]
    assert "quick budget" in about["Title"]


def check_rows(path: Path, datasets: Sequence[str]) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {row["task"]["name"] for row in rows} <= set(datasets)
    for row in rows:
        assert any(note.startswith(NOTE) for note in row["provenance"]["notes"])


CHECKS = {
    **{".md": check_lines, ".tex": check_lines, ".csv": check_csv},
    **{".svg": check_svg, ".png": check_png, ".jsonl": check_rows},
}


def check_screen(out: str, datasets: Sequence[str]) -> None:
    """Each line of a printed table that shows a number of ours."""
    ours = [line for line in out.splitlines() if "measured" in line.split()]
    assert all(any(line.startswith(f"{one} {LABEL}") for one in datasets) for line in ours)


def test_every_output_of_every_experiment_says_stand_in(tmp_path, capsys):
    folder = saved(tmp_path / "CUB", tiny(), notes=("stand-in: features made up",))
    results = tmp_path / "results"
    flags = ("--settings", small_settings(tmp_path))
    for name in NAMES:
        out = reproduce(capsys, name, str(folder), results, *flags)
        check_screen(out, ["CUB"])
        assert ("measured" in out) == name.startswith("table")
    assert check_outputs(results, ["CUB"]) == {*CHECKS, "model"}
    plan = printed(
        *(capsys, "reproduce", "all", "--datasets", folder, "-o", results, "--budget", "quick"),
        *("--device", "cpu", "--dry-run"),
    )
    runs = [line for line in plan.splitlines() if line.startswith("CUB")]
    assert len(runs) > 20
    assert all(line.startswith(f"CUB {LABEL}") for line in runs)
    key = json.loads((results / "results.jsonl").read_text().splitlines()[0])["key"]
    assert "CUB, H@val, stand-in: agrees" in printed(capsys, "rerun", key, "-o", results)


def test_a_number_without_its_label_is_noticed(tmp_path, capsys):
    """The checks above can fail: the same data, not marked."""
    folder, results = saved(tmp_path / "CUB", tiny()), tmp_path / "results"
    for name in ("table3", "figure4"):
        printed(
            *(capsys, "reproduce", name, "--datasets", folder, "-o", results),
            *("--budget", "quick", "--device", "cpu", "--settings", small_settings(tmp_path)),
        )
    unmarked = [*results.glob("tables/table*"), *results.glob("figures/figure*")]
    assert {path.suffix for path in unmarked} > {".md", ".svg"}
    for path in (*unmarked, results / "results.jsonl"):
        with pytest.raises(AssertionError):
            CHECKS[path.suffix](path, ["CUB"])


@pytest.mark.slow
def test_stand_ins_of_the_benchmarks_at_full_size(tmp_path, xlsa17, capsys):
    """Official splits and descriptors, features of the published size; takes minutes."""
    folders = {"CUB": "CUB", "AWA2": "AWA2", "SUN": "SUN", "aPY": "APY"}
    for folder in folders.values():
        write_standin(tmp_path / "data", folder, xlsa17, feature_size=2048)
    results, root = tmp_path / "results", ("--data-root", tmp_path / "data")
    for name in NAMES:
        wanted = ["CUB", "AWA2"] if name in ("table4", "figure3", "figure4") else list(folders)
        began = time.perf_counter()
        check_screen(reproduce(capsys, name, ",".join(wanted), results, *root), wanted)
        with capsys.disabled():
            print(f"{name}: {time.perf_counter() - began:.0f} s")
    assert check_outputs(results, list(folders)) == {*CHECKS, "model"}
