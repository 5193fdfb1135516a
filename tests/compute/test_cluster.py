"""What both engines do with a cluster's answers, in this process; test_ray.py has real nodes."""

import shutil
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pretend_ray
from cli_cases import one_line_error, refused
from experiment_cases import config, numbers, saved, task
from mlis.cli import main
from mlis.compute import ray_cluster as spreading
from mlis.compute.ray_cluster import Cluster, Pool, connected
from mlis.data.io.feature_folder import read_feature_folder
from mlis.errors import DataError, SettingsError
from mlis.experiments.engine import LocalEngine, record_of
from mlis.experiments.ray_engine import RayEngine
from mlis.experiments.ray_worker import work
from mlis.features.backbones.base import BackboneSpec
from mlis.features.images import ray_shards
from mlis.features.images.extract import extract_folder
from mlis.features.images.files import find_images
from pretend_ray import PretendRay, echo
from simulated import tiny

# --- jobs ---------------------------------------------------------------------------------------


def test_jobs_are_put_off_taken_up_again_and_added():
    pool, jobs, tries = Pool(PretendRay(), Cluster()), deque([1, 2, 3]), [0]

    def begin(job: int) -> Any | None:
        tries[0] += 1
        return None if job == 2 and tries[0] < 5 else pool.submit(echo, job)

    def end(job: int, result: Any) -> list[int]:
        if job == 3:
            jobs.append(30)
        return [result]

    assert sorted(pool.spread(jobs, begin, end)) == [1, 2, 3, 30]


def test_what_is_finished_is_handed_over_when_the_consumer_leaves():
    ray = PretendRay(cores=8)
    pool, ended = Pool(ray, Cluster()), []

    def end(job: Any, result: Any) -> list[Any]:
        ended.append(job)
        return [result]

    found = pool.spread(deque([1, "slow", 2]), lambda job: pool.submit(echo, job), end)
    next(found)
    found.close()
    assert set(ended) == {1, 2}
    assert ray.cancelled == ["slow"]


def test_a_job_that_ray_gives_up_is_a_result_and_a_mistake_is_an_error():
    pool = Pool(PretendRay(deaths=1), Cluster())
    (result,) = pool.spread(deque([1]), lambda job: pool.submit(echo, job), lambda *a: [a[1]])
    assert pool.is_failure(result)
    mistakes = deque([KeyError("x")])
    with pytest.raises(KeyError):
        list(pool.spread(mistakes, lambda job: pool.submit(echo, job), lambda *a: [a[1]]))


def test_without_ray_the_error_names_the_extra(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(spreading.importlib, "import_module", missing)
    with pytest.raises(SettingsError, match=r"pip install 'mlis\[ray\]'"), connected(Cluster()):
        pass


# --- runs ---------------------------------------------------------------------------------------


# closed forms, with a generator, with an encoder, of snapshots of one training, of many methods
KINDS = ("eszsl", "gaussian", "raw", "cegzsl", "sdgzsl", "auto")


def test_runs_give_the_rows_losses_and_models_of_this_machine(tmp_path, monkeypatch):
    """Data at their path, and data that the driver alone has; runs that share their encoder."""
    there, gone = saved(tmp_path / "there"), saved(tmp_path / "gone", tiny(1))
    shared = {"calibration": "validation"}
    counts = [config(classification={**shared, "synthetic_per_unseen": n}) for n in (3, 7)]
    tasks = [
        *(task(there, settings=settings, seed=0) for settings in counts),
        *(task(there, one, seed=0) for one in KINDS),
        *(task(gone, data=tiny(1), seed=seed) for seed in (0, 7)),
        task(there, settings=config(refinement={"learning_rate": 1e30}), seed=8),
    ]
    local = list(LocalEngine().run(tasks, tmp_path / "local"))
    expected = {one.task.key: one for one in local}
    shutil.rmtree(Path(spreading.os.environ["MLIS_CACHE"]) / "generators")
    ray = pretend_ray.use(monkeypatch)
    hide_from_workers(monkeypatch, ray, gone)
    results = tmp_path / "results"
    found = list(RayEngine().run(tasks, results))
    assert sorted(one.task.key for one in found) == sorted(expected)
    assert len((results / "results.jsonl").read_text().splitlines()) == len(tasks) - 1
    for one in found:
        other = expected[one.task.key]
        if other.row is None:
            assert (one.row, one.problem) == (None, other.problem)
            continue
        assert numbers(one.row) == numbers(other.row)
        ours, theirs = (record_of(p, one.task.key) for p in (results, tmp_path / "local"))
        files = [sorted(p.relative_to(f) for p in f.rglob("*.*")) for f in (ours, theirs)]
        assert files[0] == files[1]
        weights = Path("model") / "model.safetensors"
        if (theirs / weights).exists():
            assert (ours / weights).read_bytes() == (theirs / weights).read_bytes()
    assert [one.sha256 for one in ray.sent] == [tiny(1).sha256]  # once, and only what was missing
    assert len({one.stem for one in tasks}) + 2 == ray.calls  # of one encoder together; two sent
    assert [path.name for path in (results / "work").iterdir()] == [tasks[-1].stem[:16]]


def hide_from_workers(patch: pytest.MonkeyPatch, ray: PretendRay, folder: Path) -> None:
    """The driver has read the data, which then are at no path any more."""
    from mlis.data import load_dataset
    from mlis.experiments import ray_engine
    from mlis.experiments.tasks import load_data

    data = load_dataset(folder)
    shutil.rmtree(folder)

    def load(one: Any) -> Any:
        if ray.working or one.dataset != {"name_or_path": str(folder)}:
            return load_data(one)
        return data

    patch.setattr(ray_engine, "load_data", load)


def test_data_that_nobody_has_are_a_problem_of_those_runs(tmp_path, monkeypatch):
    pretend_ray.use(monkeypatch)
    gone = task(saved(tmp_path / "data"), dataset={"name_or_path": str(tmp_path / "no")})
    fine = task(tmp_path / "data", "eszsl")
    found = {one.task.key: one for one in RayEngine().run([gone, fine], tmp_path / "results")}
    assert found[fine.key].row is not None
    assert "expected a dataset folder" in found[gone.key].problem


def test_runs_that_ray_gives_up_do_not_stop_the_others_and_are_done_next_time(
    tmp_path, monkeypatch
):
    folder, results = saved(tmp_path / "data"), tmp_path / "results"
    tasks = [task(folder, "eszsl", seed=seed) for seed in range(3)]
    pretend_ray.use(monkeypatch, deaths=1)
    found = list(RayEngine().run(tasks, results))
    assert [one.row is None for one in found] == [True, False, False]
    assert found[0].problem == "Ray gave it up (RayError): node died"
    assert all(one.row for one in RayEngine().run(tasks, results))
    assert len((results / "results.jsonl").read_text().splitlines()) == 3


def test_a_worker_that_computes_otherwise_refuses(tmp_path, monkeypatch):
    pretend_ray.use(monkeypatch)
    one = task(saved(tmp_path / "data"))
    elsewhere = replace(one, config=one.config.replace({"precision": "float64"}))
    found = work([(one.to_dict(), elsewhere.key, False)], None, "mlis-test", 30.0)
    assert isinstance(found, list)
    assert found[0].line is None
    assert "another precision" in found[0].problem


# --- images -------------------------------------------------------------------------------------


class Colours:
    """A backbone whose features are the mean colours of an image."""

    batch, enough, precision, on_cpu = 3, None, "float32", True
    identity = BackboneSpec("colours", "one", "mean", "none", 3)

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((1, 1), Image.Resampling.BOX))

    def __call__(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs).reshape(len(inputs), -1).astype(np.float32)


MODEL = ray_shards.Model.of(Colours(), "cpu")


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Twelve images in two folders, one of them twice, and a file that is none."""
    monkeypatch.setattr(ray_shards, "load_backbone", lambda *_, **__: Colours())
    ray_shards._loaded.cache_clear()
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for i in range(12):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(path)
    shutil.copy(root / "a" / "0.png", root / "b" / "copy.png")
    (root / "a" / "broken.jpg").write_bytes(b"no image")
    yield root
    ray_shards._loaded.cache_clear()


def extract(pictures: Path, folder: Path, compute: Any = None) -> Any:
    found = find_images(pictures)
    return extract_folder(found, Colours(), folder, shard_images=3, compute=compute)


def test_shards_of_workers_are_those_of_this_machine(pictures, tmp_path, monkeypatch):
    """Half of the files are where the workers look, the others are sent."""
    ray = pretend_ray.use(monkeypatch)
    stat = ray_shards._stat

    def elsewhere(path: Path) -> Any:
        return None if ray.working and path.parent.name == "b" else stat(path)

    monkeypatch.setattr(ray_shards, "_stat", elsewhere)
    here = extract(pictures, tmp_path / "here")
    there = extract(pictures, tmp_path / "there", ray_shards.RayShards(Cluster(), MODEL))
    assert len(ray.sent) > 1
    assert there.bad == here.bad
    assert there.images.paths == here.images.paths
    assert there.images.hashes == here.images.hashes
    assert np.array_equal(there.images.features, here.images.features)
    again = extract(pictures, tmp_path / "there")
    assert again.computed == 0
    folders = [read_feature_folder(tmp_path / name).features for name in ("here", "there")]
    assert np.array_equal(*folders)


def test_shards_that_are_given_up_are_done_by_the_next_command(pictures, tmp_path, monkeypatch):
    ray = pretend_ray.use(monkeypatch, deaths=1)
    compute = ray_shards.RayShards(Cluster(), MODEL)
    with pytest.raises(DataError, match="1 shards failed, all others are kept"):
        extract(pictures, tmp_path / "out", compute)
    assert ray.calls == 5
    # of three images of that shard, one has a copy in another one
    assert extract(pictures, tmp_path / "out", compute).computed == 2


# --- the command line ---------------------------------------------------------------------------


def test_wrong_use_is_one_line(tmp_path, capsys):
    data, out = saved(tmp_path / "data"), ("-o", tmp_path / "out")
    experiment = ("reproduce", "table3", "--datasets", data, *out)
    images = ("features", "images", tmp_path, "-o", "out")
    for command in (experiment, images):
        assert "--cores: not allowed without" in refused(capsys, *command, "--cores", "2")
        for flags, problem in (
            (("--cores", "0"), "expected cores ≥ 1"),
            (("--device", "cuda:1"), "Ray chooses which GPU"),
        ):
            assert problem in refused(capsys, *command, "--engine", "ray", *flags)
    said = refused(capsys, *experiment, "--engine", "ray", "--jobs", "2")
    assert "--jobs: not allowed" in said
    assert "--cores" in refused(capsys, *images, "--engine", "ray", "--workers", "2")
    assert main(["reproduce", "table3", "-o", "x", "--engine", "dask"]) == 2
    assert "invalid choice: 'dask'" in one_line_error(capsys.readouterr().err)


def test_the_command_line_uses_the_cluster(tmp_path, monkeypatch, capsys):
    ray = pretend_ray.use(monkeypatch)
    data, out = saved(tmp_path / "data"), ("-o", tmp_path / "out")
    command = ("reproduce", "table3", "--datasets", data, *out, "--budget", "quick")
    assert main([*map(str, command), "--engine", "ray", "--device", "cpu"]) == 0
    assert ray.calls == 3
    assert "| data | ML+IS |" in (tmp_path / "out" / "tables" / "table3.md").read_text("utf-8")
