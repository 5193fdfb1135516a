"""A run's folder: what is kept and what is not."""

from mlis.config import Config
from mlis.io.run_plan import RunPlan
from mlis.runs.run import begin, execute
from mlis.training.callbacks import Callback
from simulated import tiny


def test_snapshots_of_a_finished_training_are_removed(tmp_path):
    data, config = tiny(), Config().replace({"precision": "float32"})
    plan = RunPlan(
        dataset={},
        data_sha256=data.sha256,
        config=config,
        seeds=(0,),
        components=("ml+is+sfr",),
        device="cpu",
        method="sje",
        options={"steps": 8, "choices": [4, 8], "batch_size": 16},
    )
    begin(tmp_path, plan)
    kept = []

    class Looking(Callback):
        def on_end(self, stage: str) -> None:
            kept.extend(path.name for path in tmp_path.rglob("sje-*.safetensors"))

    execute(tmp_path, plan, data, listen=lambda _: Looking(), snapshot_every=0)
    assert kept  # there were some
    left = [path for path in tmp_path.rglob("*.safetensors") if path.parent.name != "model"]
    assert not left
