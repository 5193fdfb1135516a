"""Writes the files beside it with the installed version: `python tests/data/v0.1.0/make.py`.

They were written once, by version 0.1.0, and are not to be written again: later versions must read
them and give the same numbers, or refuse them by their format. A version with other formats gets a
folder of its own.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mlis.checkpoint import load_model
from mlis.data.feature_folder import ImageFeatures, write_feature_folder

import mlis
from experiment_cases import config, task
from mlis.experiments.engine import LocalEngine
from mlis.runs import RunPlan, begin, execute
from simulated import tiny

HERE = Path(__file__).resolve().parent
COMPONENTS = "ml+is+sfr"


def main() -> None:
    torch.set_num_threads(1)
    data = tiny()
    data.save(HERE / "dataset")
    _run(HERE / "run")
    model = load_model(HERE / "run" / "seed-1" / COMPONENTS / "model")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        data.save(results / "dataset")
        (outcome,) = LocalEngine(models_of=()).run([task(results / "dataset")], results)
        assert outcome.row is not None, outcome.problem
        line = (results / "results.jsonl").read_text()
        place = json.dumps(str(results / "dataset"))
        assert place in line
    _features(HERE / "features")
    (HERE / "results.jsonl").write_bytes(_row(outcome.row))
    expected = {
        "mlis": mlis.__version__,
        "data_sha256": data.sha256,
        "scores": model.scores(data.features[:6]).tolist(),
        "predicted": model.predict(data.features).tolist(),
        "test": {name: outcome.row.test[name] for name in ("U", "S", "H")},
    }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def _run(folder: Path) -> None:
    """A finished run without its snapshots and losses."""
    plan = RunPlan({"name_or_path": "dataset"}, tiny().sha256, config(), seeds=(1,), device="cpu")
    begin(folder, plan)
    execute(folder, plan, tiny(), reuse=False)
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in KEPT:
            path.unlink()
    shutil.rmtree(folder / "seed-1" / COMPONENTS / "validation")
    shutil.rmtree(folder / "seed-1" / "validation")


KEPT = ("run.json", "result.json", "results.json", "model.json", "model.safetensors")


def _features(folder: Path) -> None:
    """Features of images, as `mlis features images` leaves them."""
    data = tiny()
    count = 12
    names = tuple(data.class_names[label] for label in data.labels[:count])
    paths = tuple(f"{name}/{i}.jpg" for i, name in enumerate(names))
    folder.mkdir(exist_ok=True)
    hashes = tuple(f"{i:064x}" for i in range(count))
    write_feature_folder(
        ImageFeatures(data.features[:count], paths, names, None, hashes, {"name": "x"}, "/photos"),
        folder,
    )


def _row(row) -> bytes:
    """The row as if its dataset had been named by a relative path."""
    import dataclasses

    return dataclasses.replace(
        row, task={**row.task, "dataset": {"name_or_path": "dataset"}}
    ).to_line()


if __name__ == "__main__":
    main()
