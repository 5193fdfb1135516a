"""Extraction on many machines, by Ray: `mlis features images --engine ray`.

Each shard is a task. A worker reads the images at their own paths where it finds them there, of the
size and modification time that the driver sees; otherwise the driver reads the files and sends
their bytes. It loads the same model by name, and refuses where weights, precision or batch size are
not those of the driver. Shards are written by the driver alone, as they arrive, into the same
store as ever (:mod:`mlis.features.images.shards`), so that either engine goes on where the other
stopped.

Rows are bit for bit those of one machine with as many threads (`cores`), the same CPU model and
versions, but for images whose very content is in several shards: which of their equal-looking rows
is kept depends on which shard came last, and a batch that holds one is composed otherwise.
"""

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlis.compute.ray_cluster import Cluster, Pool, connected, fetch
from mlis.errors import DataError, SettingsError
from mlis.features.backbones.base import Backbone, load_backbone
from mlis.features.images.decode import ImageError, read_file
from mlis.features.images.extract_shards import Keep, extract_shard
from mlis.features.images.shards import Shard, Stamp
from mlis.features.images.walk import Bad, ImageFile

logger: logging.Logger = logging.getLogger(__name__)

Part = Sequence[ImageFile]
_Sight = tuple[int, int] | None  # size and modification time of a file; None: not there


@dataclass(frozen=True)
class Model:
    """An image model as every machine must have it.

    Attributes:
        name, device, precision: for :func:`mlis.features.backbones.base.load_backbone`.
        fingerprint: of weights and preprocessing.
        batch: images it is handed at once, on which the last bits may depend.
    """

    name: str
    device: str
    precision: str
    fingerprint: str
    batch: int

    @classmethod
    def of(cls, backbone: Backbone, device: str) -> "Model":
        """The one that is loaded here, on a kind of device."""
        identity = backbone.identity
        return cls(identity.name, device, backbone.precision, identity.fingerprint, backbone.batch)


@dataclass(frozen=True)
class RayShards:
    """Computes shards on a cluster: the `compute` of `mlis.features.images.extract.extract`.

    Attributes:
        cluster: where, and with which resources.
        model: the driver's.
    """

    cluster: Cluster
    model: Model

    def __call__(
        self,
        parts: Sequence[Part],
        known: Collection[str],
        keep: Keep,
        done: Callable[[int], None],
    ) -> None:
        """Compute parts; `keep` and `done` hear of each.

        Raises:
            SettingsError: see :func:`mlis.compute.ray_cluster.connected`; or a worker has another
            model. DataError: Ray gave a shard up, after its retries; all others are kept first.
        """
        if not parts:
            return
        with connected(self.cluster) as pool:
            driver = _Driver(pool, self, pool.put(frozenset(known)), keep)
            jobs = deque(_Job(tuple(part)) for part in parts)
            for images in pool.spread(jobs, driver.begin, functools.partial(driver.end, jobs)):
                done(images)
        if driver.lost:
            raise DataError(
                f"{len(driver.lost)} shards were given up by Ray, all others are kept: "
                f"{driver.lost[0]}. The same command goes on behind them"
            )


@dataclass(frozen=True)
class _Job:
    """A shard; `send`: whether the workers do not have its files."""

    part: tuple[ImageFile, ...]
    send: bool = False


class _Driver:
    def __init__(self, pool: Pool, engine: RayShards, known: Any, keep: Keep):
        self._pool, self._engine, self._known, self._keep = pool, engine, known, keep
        self._sent: dict[_Job, tuple[dict[str, Stamp | None], list[Bad]]] = {}
        self.lost: list[str] = []

    def begin(self, job: _Job) -> Any:
        paths = [(image.path, os.fspath(image.source)) for image in job.part]
        rest = (self._engine.model, self._known, self._engine.cluster.cores)
        if not job.send:
            seen = [_sight(image.source) for image in job.part]
            return self._pool.submit(work, paths, seen, None, *rest)
        contents, stamps, bad, now = {}, {}, [], time.time_ns()
        for image in job.part:
            try:
                file = read_file(image.source, now)
                contents[image.path], stamps[image.path] = file.data, file.stamp
            except ImageError as error:
                bad.append(Bad(image.path, str(error)))
        self._sent[job] = stamps, bad
        return self._pool.submit(work, paths, [], self._pool.put(contents), *rest)

    def end(self, jobs: deque[_Job], job: _Job, result: Any) -> Iterator[int]:
        if result is None:  # the worker does not have the files
            jobs.appendleft(replace(job, send=True))
            return
        if self._pool.is_failure(result):
            reason = str(result).strip().partition("\n")[0]
            self.lost.append(f"{type(result).__name__}: {reason}")
            return
        shard, bad = result
        if job.send:
            stamps, refused = self._sent.pop(job, ({}, []))
            files = tuple(replace(file, stamp=stamps.get(file.path)) for file in shard.files)
            shard, bad = replace(shard, files=files), [*bad, *refused]
        self._keep(shard, bad)
        yield len(job.part)


def _sight(path: Path) -> _Sight:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


# --- on a worker --------------------------------------------------------------------------------


def work(
    paths: Sequence[tuple[str, str]],
    seen: Sequence[_Sight],
    contents: Any | None,
    model: Model,
    known: Any,
    threads: int,
) -> tuple[Shard, list[Bad]] | None:
    """One shard; None where the files are not here as the driver sees them.

    Args:
        paths: of each image below its root, and to open.
        seen: size and time of each file on the driver; not used with `contents`.
        contents: reference of path → bytes, where they were sent.
        model: what to load.
        known: reference of the hashes whose rows exist.
        threads: that decode.

    Raises:
        SettingsError: the model that is loaded here by that name is another one.
    """
    images = [ImageFile(path, Path(source)) for path, source in paths]
    if contents is None:
        if [_sight(image.source) for image in images] != list(seen):
            return None
        return extract_shard(images, _loaded(model), _hashes(known), workers=threads)
    with TemporaryDirectory(prefix="mlis-") as folder:
        images = []
        for number, (path, content) in enumerate(fetch(contents).items()):
            place = Path(folder) / str(number)
            place.write_bytes(content)
            images.append(ImageFile(path, place))
        return extract_shard(images, _loaded(model), _hashes(known), workers=threads)


@functools.lru_cache(maxsize=1)
def _hashes(reference: Any) -> frozenset[str]:
    return fetch(reference)


@functools.lru_cache(maxsize=1)
def _loaded(model: Model) -> Backbone:
    backbone = load_backbone(model.name, device=model.device, precision=model.precision)
    found = Model.of(backbone, model.device)
    if model.device == "cuda":  # chosen by the free memory of each GPU; no bits are promised there
        found = replace(found, batch=model.batch)
    if found != model:
        raise SettingsError(
            f"a worker loads another model than the machine that asked: expected {model}, but got "
            f"{found}: install the same weights and versions on all machines"
        )
    return backbone
