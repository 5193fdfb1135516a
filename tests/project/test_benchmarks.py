"""Every benchmark, made small: it runs, counts what it says it counts, and writes its figures."""

import json
import math
import shlex
import sys
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from cli_cases import QUICK

pytest.importorskip("pytorch_metric_learning")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import end_to_end
import extraction
import growth
import loading
import stage_two
import steps
from products import of_steps
from shapes import SHAPES, settings, tensors

from mlis.compute.precision import Precision

CASES = ["critic step", "generator step", "encoder step", "stage-1 step"]
FACTS = {"machine", "cpu_flags", "cores", "threads", "torch", "mlis", "date", "command", "rows"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


def run(module, tmp_path: Path, *arguments: str) -> dict:
    """What the script wrote; its table can be made of it."""
    output = tmp_path / "out.json"
    module.main([*arguments, "-o", str(output)])
    found = json.loads(output.read_text())
    assert found.keys() >= FACTS
    if found["rows"]:
        lines = module.table(found["rows"]).splitlines()
        assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    return found


def test_steps_are_timed_beside_the_textbook_and_the_products(tmp_path):
    options = ("--shapes", "tiny", "--precision", "float32", "--repeats", "2", "--profile")
    rows = run(steps, tmp_path, *options)["rows"]
    assert [row["case"] for row in rows] == [*CASES, "inference"]
    for row in rows:
        assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["products_share"] == pytest.approx(row["products_ms"] / row["ours_ms"])
        assert row["products_gflops"] > 0
    assert rows[4]["images_per_s"] > 0
    assert sum(rows[3]["breakdown"].values()) == pytest.approx(1)
    assert rows[3]["breakdown"]["products"] > 0


@pytest.mark.parametrize("batch", [8, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_products_listed_are_those_that_a_step_does(case, batch):
    """Six seen classes: more and fewer than samples in a batch."""
    precision = Precision.of("float32", "cpu")
    config = settings("tiny").replace({"generation": {"batch_size": batch}})
    stage = steps.StageOne(tensors(SHAPES["tiny"], precision), config, precision)
    step = {
        "critic step": stage.critic_step,
        "generator step": stage.generator_step,
        "encoder step": stage.refinement.step,
        "stage-1 step": stage.step,
    }[case]
    with FlopCounterMode(display=False) as counter:
        step()
    listed = of_steps(SHAPES["tiny"], config, precision)[case]
    assert sum(product.operations for product in listed) == counter.get_total_flops()


def test_stage_two_and_scikit_learn_reach_the_same_objective(tmp_path):
    options = ("--shapes", "tiny", "--repeats", "2", "--patience", "1")
    (row,) = run(stage_two, tmp_path, *options)["rows"]
    assert row["sklearn_objective"] == pytest.approx(row["objective"], rel=1e-3)
    assert row["objective"] < 0.5 < math.log(8)  # at zero
    assert row["textbook"]["reached"] == (
        row["textbook"]["objective"] <= row["objective"] * (1 + row["tolerance"])
    )


@pytest.mark.slow
def test_extraction_is_timed_beside_the_bare_model(tmp_path):
    options = ("--backbone", "efficientnet-lite0", "--precision", "float32")
    (row,) = run(extraction, tmp_path, *options, "--images", "3", "--repeats", "2")["rows"]
    assert (row["images"], row["batch"]) == (3, 8)
    assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
    assert min(row["extraction"], row["one_by_one"], row["side_by_side"]) > 0


@pytest.mark.slow
def test_growth_is_measured_along_three_axes(tmp_path):
    sizes = ("--batch", "4,8", "--classes", "8,16,2000", "--descriptor", "4,8", "--repeats", "1")
    found = run(growth, tmp_path, "--base", "tiny", *sizes)
    assert [(row["axis"], row["value"]) for row in found["rows"]] == [
        *(("batch", 4), ("batch", 8), ("classes", 8), ("classes", 16), ("classes", 2000)),
        *(("descriptor", 4), ("descriptor", 8)),
    ]
    assert [row["axis"] for row in found["verdicts"]] == ["batch", "classes", "descriptor"]


@linux
@pytest.mark.slow
def test_loading_opens_the_same_file_in_three_ways(tmp_path):
    small = ("--rows", "400", "--features", "16", "--repeats", "1", "--folder", str(tmp_path))
    rows = run(loading, tmp_path, *small)["rows"]
    kinds = {row["case"]: row["kind"] for row in rows}
    assert kinds == {"first": "memmap", "cached": "memmap", "textbook": "ndarray"}
    for row in rows:
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row["MiB_before"] <= row["MiB_peak"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.slow
def test_end_to_end_trains_and_tests(tmp_path, small_folder):
    (row,) = run(end_to_end, tmp_path, str(small_folder), f"--flags={shlex.join(QUICK)}")["rows"]
    assert row["seconds"] > row["fit_seconds"] > 0
    assert 0 < row["H"] <= 100
