"""Stand-ins in the exact format of the benchmarks whose features are not here: load to predict.

The split and descriptor files are the real ones, the features are made. What is shown is that
sizes, formats and protocol fit; no figure from here says anything about the benchmark.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from mlis.cli import main
from standins import write_standin

SHORT = [
    "--generation-steps=2",
    "--generation-hidden=16",
    "--batch-size=16",
    "--noise=8",
    "--refinement-steps=2",
    "--refinement-hidden=16",
    "--classes-per-batch=16",
    "--classification-synthetic-per-unseen=5",
    "--max-iterations=5",
]


def go(tmp_path: Path, xlsa17: Path, capsys, folder: str, name: str, flags: list[str], **made):
    write_standin(tmp_path, folder, xlsa17, **made)
    run = tmp_path / "run"
    data = [name, "--data-root", str(tmp_path)]
    assert main(["data", "info", *data]) == 0
    assert main(["fit", *data, "-o", str(run), "--device", "cpu", "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"U", "S", "H", "T1", "protocol", "seconds"} <= found.keys()
    assert found["protocol"] == "H@val"

    model = run / "seed-0" / "ml+is+sfr" / "model"
    assert main(["evaluate", str(model), *data, "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["H"] == pytest.approx(found["H"])

    size = made["feature_size"]
    np.save(tmp_path / "new.npy", np.random.default_rng(0).random((3, size), dtype=np.float32))
    out = tmp_path / "out.jsonl"
    assert main(["predict", str(model), str(tmp_path / "new.npy"), "-o", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 3


CASES = [("CUB", "cub"), ("AWA2", "awa2"), ("SUN", "SUN"), ("APY", "aPY")]


@pytest.mark.parametrize(("folder", "name"), [CASES[-1]])  # all others at full size
def test_load_fit_evaluate_predict(folder, name, tmp_path, xlsa17, capsys):
    go(tmp_path, xlsa17, capsys, folder, name, SHORT, feature_size=16, image_files=False)


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "name"), CASES)
def test_the_same_at_full_size(folder, name, tmp_path, xlsa17, capsys):
    flags = ["--generation-steps=5", "--refinement-steps=5", "--max-iterations=5"]
    go(tmp_path, xlsa17, capsys, folder, name, flags, feature_size=2048)
