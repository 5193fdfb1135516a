"""Snapshots of a training, so that a killed run continues bit for bit."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mlis.errors import ModelFileError
from mlis.storage.tensors import load_tensors, save_tensors

logger: logging.Logger = logging.getLogger(__name__)


class CheckpointStore(Protocol):
    """Keeps the last snapshot of each stage: "generation", "refinement" or "joint"."""

    def load(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Return the last snapshot as (steps taken, state); None where there is none."""
        ...

    def due(self, stage: str, step: int) -> bool:
        """Whether to save a snapshot after this step; the last step is always saved."""
        ...

    def save(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Replace the snapshot. `state` is only valid during the call."""
        ...


class CheckpointFolder:
    """Snapshots in files `STAGE.safetensors`.

    Attributes:
        folder, every: as given.

    Args:
        folder: of the files.
        key: hash of everything that the training depends on; snapshots with another key are not
            used.
        shared: stage → (folder, key), for stages that several trainings share: ML, ML+IS and
            ML+IS+SFR train one generator per seed.
        every: seconds between snapshots, which do not change the result.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        shared: Mapping[str, tuple[Path, str]] | None = None,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder: Path = folder
        self.every: float = every
        self._own, self._shared = (folder, key), dict(shared or {})
        self._clock = clock
        self._last = clock()

    def load(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Load a snapshot; a damaged one, or one with another key, is ignored with a warning.

        Raises:
            OSError: the folder cannot be made.
        """
        path, key = self._place(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = None
        if path.exists():
            try:
                found = _read(path, key)
            except ModelFileError as error:
                logger.warning("%s is trained again from its first step: %s", stage, error)
        self._last = self._clock()
        return found

    def due(self, stage: str, step: int) -> bool:
        """Whether `every` seconds have passed since the last snapshot."""
        return self._clock() - self._last >= self.every

    def save(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Write the snapshot to a temporary file, and rename it.

        Raises:
            OSError: the file cannot be written.
        """
        path, key = self._place(stage)
        save_tensors(path, state, {"step": str(step), "key": key})
        self._last = self._clock()

    def _place(self, stage: str) -> tuple[Path, str]:
        folder, key = self._shared.get(stage, self._own)
        return folder / f"{stage}.safetensors", key


class SnapshotSeries:
    """Keeps some parts after several numbers of steps, in memory: one training, several results.

    Attributes:
        states: number of steps → the parts' tensors.

    Args:
        steps: the numbers of steps.
        parts: names of the parts (:func:`mlis.training.state.pack`) that are kept.
    """

    def __init__(self, steps: Collection[int], parts: Collection[str]):
        self.states: dict[int, dict[str, Tensor]] = {}
        self._steps, self._prefixes = frozenset(steps), tuple(f"{part}." for part in parts)

    def load(self, stage: str) -> None:
        """There is none to continue from."""
        return

    def due(self, stage: str, step: int) -> bool:
        """Whether it is one of the numbers of steps."""
        return step in self._steps

    def save(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep copies of the parts."""
        kept = {name: value for name, value in state.items() if name.startswith(self._prefixes)}
        self.states[step] = {name: value.clone() for name, value in kept.items()}


def _read(path: Path, key: str) -> tuple[int, dict[str, Tensor]]:
    state, metadata = load_tensors(path)
    if metadata.get("key") != key or not metadata.get("step", "").isdecimal():
        raise ModelFileError(f"{path} is a snapshot of other data, settings, seed or code")
    return int(metadata["step"]), state
