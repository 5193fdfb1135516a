"""Snapshots and losses on disk, so that a killed run continues bit for bit.

A stage's folder holds `STAGE.safetensors` (the last snapshot) and `STAGE.jsonl` (losses, one JSON
object a line). Generation is kept beside the components that share it: the ablation ML, ML+IS,
ML+IS+SFR trains one generator a seed.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from mlis.errors import ModelFileError
from mlis.storage.atomic import atomic_write, naming, strict_json
from mlis.storage.tensors import load_tensors, save_tensors
from mlis.training.loop import Monitor


class FolderMonitor(Monitor):
    """Keeps snapshots and losses of one training in a folder.

    Args:
        folder: of the stages of this training.
        key: hash of everything that the training depends on; a snapshot of another key is an error.
        shared: stage name → (folder, key), for stages that several trainings share.
        every: seconds between snapshots. When they are taken does not change the result.
        listener: hears every report too (a progress bar).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        shared: Mapping[str, tuple[Path, str]] | None = None,
        every: float = 30.0,
        listener: Monitor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._own = (folder, key)
        self._shared = dict(shared or {})
        self.every = every
        self.clock = clock
        self._listener = listener or Monitor()
        self._last = clock()
        self._began: dict[str, float] = {}

    def _place(self, stage: str) -> tuple[Path, str]:
        return self._shared.get(stage, self._own)

    def _file(self, stage: str, kind: str) -> Path:
        return self._place(stage)[0] / f"{stage}.{kind}"

    def holds(self, stage: str) -> bool:
        """Whether there is a snapshot of a stage."""
        return self._file(stage, "safetensors").exists()

    def restore(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Load the last snapshot; drop the loss lines that were written after it."""
        folder, key = self._place(stage)
        folder.mkdir(parents=True, exist_ok=True)
        self._began[stage] = self._last = self.clock()
        if not self.holds(stage):
            self._file(stage, "jsonl").unlink(missing_ok=True)
            return None
        path = self._file(stage, "safetensors")
        state, metadata = load_tensors(path)
        if metadata.get("key") != key:
            raise ModelFileError(
                f"{path} was made with other settings, data or seed than this run: use another "
                "run folder, or delete that file to train the stage again"
            )
        step = _steps(path, metadata)
        _keep_lines(self._file(stage, "jsonl"), step)
        self._began[stage] = self._last = self.clock()
        return step, state

    def forget(self, stage: str) -> None:
        """Delete what is kept of a stage."""
        for kind in ("safetensors", "jsonl"):
            self._file(stage, kind).unlink(missing_ok=True)

    def follow(self, stage: str, keeper: "FolderMonitor") -> None:
        """Keep only the losses of a stage whose snapshots another monitor keeps, from here on."""
        self._began[stage] = keeper._began[stage]
        self._place(stage)[0].mkdir(parents=True, exist_ok=True)
        source, target = keeper._file(stage, "jsonl"), self._file(stage, "jsonl")
        with atomic_write(target) as temporary:
            temporary.write_bytes(source.read_bytes() if source.exists() else b"")

    def started(self, stage: str, step: int, total: int) -> None:
        """Pass it on."""
        self._listener.started(stage, step, total)

    def report(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        """Append the losses as one JSON line, with seconds since this process began the stage."""
        seconds = round(self.clock() - self._began[stage], 3)
        line = {"step": step, "seconds": seconds, **values}
        path = self._file(stage, "jsonl")
        with naming(path), path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        self._listener.report(stage, step, total, values)

    def wants_snapshot(self, stage: str, step: int) -> bool:
        """Whether `every` seconds have passed since the last one."""
        return self.clock() - self._last >= self.every

    def snapshot(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Replace the stage's snapshot."""
        metadata = {"step": str(step), "key": self._place(stage)[1]}
        save_tensors(self._file(stage, "safetensors"), state, metadata)
        self._last = self.clock()

    def finished(self, stage: str) -> None:
        """Pass it on."""
        self._listener.finished(stage)


def _steps(path: Path, metadata: Mapping[str, str]) -> int:
    """Steps taken."""
    try:
        step = int(metadata["step"])
        if step < 0:
            raise ValueError("not a number of steps")
        return step
    except (KeyError, ValueError):
        raise ModelFileError(
            f"{path} is no snapshot of this version of mlis: delete it to train the stage again"
        ) from None


def _keep_lines(path: Path, step: int) -> None:
    """Drop lines of later steps and a last line that was cut short."""
    if not path.exists():
        return
    kept: list[str] = []
    before = path.read_text(encoding="utf-8", errors="replace")
    for line in before.splitlines():
        try:
            if strict_json(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            break
    after = "".join(f"{line}\n" for line in kept)
    if after != before:
        with atomic_write(path) as temporary:
            temporary.write_text(after, encoding="utf-8")
