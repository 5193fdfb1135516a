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
from mlis.files import atomic_write
from mlis.tensorfile import load_tensors, save_tensors
from mlis.training import Monitor


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
        self._every = every
        self._listener = listener or Monitor()
        self._clock = clock
        self._last = self._started = clock()

    def _place(self, stage: str) -> tuple[Path, str]:
        return self._shared.get(stage, self._own)

    def restore(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Load the last snapshot; drop the loss lines that were written after it."""
        folder, key = self._place(stage)
        folder.mkdir(parents=True, exist_ok=True)
        self._last = self._clock()
        path = folder / f"{stage}.safetensors"
        if not path.exists():
            (folder / f"{stage}.jsonl").unlink(missing_ok=True)
            return None
        state, metadata = load_tensors(path)
        if metadata.get("key") != key:
            raise ModelFileError(
                f"{path} was made with other settings, data or seed than this run: use another "
                "run folder, or delete that file to train the stage again"
            )
        step = int(metadata["step"])
        _keep_lines(folder / f"{stage}.jsonl", step)
        return step, state

    def started(self, stage: str, step: int, total: int) -> None:
        """Pass it on."""
        self._listener.started(stage, step, total)

    def report(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        """Append the losses as one JSON line."""
        folder, _ = self._place(stage)
        line = {"step": step, "seconds": round(self._clock() - self._started, 3), **values}
        with (folder / f"{stage}.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        self._listener.report(stage, step, total, values)

    def wants_snapshot(self, stage: str, step: int) -> bool:
        """Whether `every` seconds have passed since the last one."""
        return self._clock() - self._last >= self._every

    def snapshot(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Replace the stage's snapshot."""
        folder, key = self._place(stage)
        save_tensors(folder / f"{stage}.safetensors", state, {"step": str(step), "key": key})
        self._last = self._clock()

    def finished(self, stage: str) -> None:
        """Pass it on."""
        self._listener.finished(stage)


def _keep_lines(path: Path, step: int) -> None:
    """Drop lines of later steps and a last line that was cut short."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            break
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
