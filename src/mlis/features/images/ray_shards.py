"""Extraction on many machines with Ray: `mlis features images --engine ray`.

Each shard is a task. A worker opens the images at their paths if size and modification time are as
on the driver; otherwise the driver reads the files and sends their bytes. The worker loads the same
backbone by name, and fails if weights, precision or batch size differ from the driver's. Shards are
written by the driver only, to the usual store (:mod:`mlis.features.images.shards`), so that either
engine can resume the work of the other.

Rows are bit-identical to those of one machine with the same number of threads (`cores`), CPU model
and versions, except for images whose content occurs in several shards: the kept row depends on the
order in which the shards finish.
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
from mlis.features.backbones import Backbone, load_backbone
from mlis.features.backbones.base import BackboneSpec, grid_of
from mlis.features.decode import ImageError, read_file
from mlis.features.images.files import Bad, ImageFile
from mlis.features.images.shards import Keep, Shard, Stamp, compute_shard

logger: logging.Logger = logging.getLogger(__name__)

Part = Sequence[ImageFile]
_Stat = tuple[int, int] | None  # size and modification time; None if there is no such file


@dataclass(frozen=True)
class Model:
    """A backbone that must be the same on all machines.

    Attributes:
        identity: of the backbone.
        device, precision: for :func:`mlis.features.backbones.load_backbone`.
        batch: images per batch, which may affect the last bits.
    """

    identity: BackboneSpec
    device: str
    precision: str
    batch: int

    @classmethod
    def of(cls, backbone: Backbone, device: str) -> "Model":
        """The specification of a loaded backbone."""
        return cls(backbone.identity, device, backbone.precision, backbone.batch)


@dataclass(frozen=True)
class RayShards:
    """Computes shards on a cluster: the `compute` of `mlis.features.images.extract.extract`.

    Attributes:
        cluster: address and resources.
        model: of the driver.
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
        """Compute all parts.

        Raises:
            SettingsError: see :func:`mlis.compute.ray_cluster.connected`; or a worker loaded
                another model.
            DataError: shards failed after all retries; the others are kept.
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
                f"{len(driver.lost)} shards failed, all others are kept: {driver.lost[0]}. Run "
                "the same command again to resume."
            )


@dataclass(frozen=True)
class _Job:
    """A shard; `send` is True if its files are sent to the worker."""

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
            seen = [_stat(image.source) for image in job.part]
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
        if result is None:  # the files are not on the worker
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


def _stat(path: Path) -> _Stat:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


# --- on a worker --------------------------------------------------------------------------------


def work(
    paths: Sequence[tuple[str, str]],
    seen: Sequence[_Stat],
    contents: Any | None,
    model: Model,
    known: Any,
    threads: int,
) -> tuple[Shard, list[Bad]] | None:
    """Compute one shard; returns None if the files differ from those on the driver.

    Args:
        paths: of each image, relative to the root, and to open.
        seen: size and time of each file on the driver; ignored with `contents`.
        contents: reference of path → bytes, if they were sent.
        model: to load.
        known: reference of the hashes with rows.
        threads: that decode.

    Raises:
        SettingsError: the model loaded here by that name differs from the driver's.
    """
    images = [ImageFile(path, Path(source)) for path, source in paths]
    if contents is None:
        if [_stat(image.source) for image in images] != list(seen):
            return None
        return compute_shard(images, _loaded(model), _hashes(known), workers=threads)
    with TemporaryDirectory(prefix="mlis-") as folder:
        images = []
        for number, (path, content) in enumerate(fetch(contents).items()):
            place = Path(folder) / str(number)
            place.write_bytes(content)
            images.append(ImageFile(path, place))
        return compute_shard(images, _loaded(model), _hashes(known), workers=threads)


@functools.lru_cache(maxsize=1)
def _hashes(reference: Any) -> frozenset[str]:
    return fetch(reference)


@functools.lru_cache(maxsize=1)
def _loaded(model: Model) -> Backbone:
    one = model.identity
    backbone = load_backbone(
        one.name,
        device=model.device,
        precision=model.precision,
        views=one.views,
        grid=grid_of(one.to_dict()),
    )
    found = Model.of(backbone, model.device)
    if model.device == "cuda":  # the batch depends on the free memory of each GPU
        found = replace(found, batch=model.batch)
    if found != model:
        raise SettingsError(
            f"backbone on a worker: expected {model}, as on the driver, got {found}. Install the "
            "same weights and versions on all machines"
        )
    return backbone
