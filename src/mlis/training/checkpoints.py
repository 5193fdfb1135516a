"""Snapshots of a training, so that a killed run continues bit for bit."""

import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mlis.errors import ModelFileError
from mlis.storage.tensors import load_tensors, save_tensors

logger: logging.Logger = logging.getLogger(__name__)

_AFTER = "after-"  # begins the names of tensors that a `SnapshotSeries` kept


class CheckpointStore(Protocol):
    """Keeps the last snapshot of each stage, such as "generation"."""

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
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        shared: Mapping[str, tuple[Path, str]] | None = None,
        every: float = 30.0,
    ):
        self.folder: Path = folder
        self.every: float = every
        self._own, self._shared = (folder, key), dict(shared or {})
        self._last = time.monotonic()

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
        self._last = time.monotonic()
        return found

    def due(self, stage: str, step: int) -> bool:
        """Whether `every` seconds have passed since the last snapshot."""
        return time.monotonic() - self._last >= self.every

    def save(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Write the snapshot to a temporary file, and rename it.

        Raises:
            OSError: the file cannot be written.
        """
        path, key = self._place(stage)
        save_tensors(path, state, {"step": str(step), "key": key})
        self._last = time.monotonic()

    def _place(self, stage: str) -> tuple[Path, str]:
        folder, key = self._shared.get(stage, self._own)
        return folder / f"{stage}.safetensors", key


class SnapshotSeries:
    """Keeps some parts after several numbers of steps: one training, several results.

    A snapshot in `store` has the parts kept so far beside the state.

    Attributes:
        states: number of steps → the parts' tensors.

    Args:
        steps: the numbers of steps; the training ends with the largest.
        parts: names of the parts (:func:`mlis.training.state.pack`) that are kept.
        store: keeps what a killed training continues from, as often as it asks for it.
        key: tells the training from others of the same stage there.
    """

    def __init__(
        self,
        steps: Collection[int],
        parts: Collection[str],
        store: CheckpointStore | None = None,
        key: str = "",
    ):
        self.states: dict[int, dict[str, Tensor]] = {}
        self._steps, self._prefixes = frozenset(steps), tuple(f"{part}." for part in parts)
        self._store, self._key, self._asked = store, key, False

    def load(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Take over the parts that were kept up to the last snapshot, and return it."""
        found = None if self._store is None else self._store.load(self._name(stage))
        if found is None:
            return None
        step, state = found[0], dict[str, Tensor]()
        for name, value in found[1].items():
            if name.startswith(_AFTER):
                number, _, name = name.removeprefix(_AFTER).partition("/")
                self.states.setdefault(int(number), {})[name] = value
            else:
                state[name] = value
        self._keep(step, state)
        return step, state

    def due(self, stage: str, step: int) -> bool:
        """Whether it is one of the numbers of steps, or the store asks for a snapshot."""
        self._asked = self._store is not None and self._store.due(self._name(stage), step)
        return self._asked or step in self._steps

    def save(self, stage: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep copies of the parts; pass the snapshot on if it was asked for, or is the last."""
        if self._store is not None and (self._asked or step == max(self._steps)):
            before = {
                f"{_AFTER}{number}/{name}": value
                for number, kept in self.states.items()
                for name, value in kept.items()
            }
            self._store.save(self._name(stage), step, {**before, **state})
        self._keep(step, state)

    def _keep(self, step: int, state: Mapping[str, Tensor]) -> None:
        if step in self._steps:
            kept = {name: value for name, value in state.items() if name.startswith(self._prefixes)}
            self.states[step] = {name: value.clone() for name, value in kept.items()}

    def _name(self, stage: str) -> str:
        return f"{stage}-{self._key}" if self._key else stage


def _read(path: Path, key: str) -> tuple[int, dict[str, Tensor]]:
    state, metadata = load_tensors(path)
    if metadata.get("key") != key or not metadata.get("step", "").isdecimal():
        raise ModelFileError(f"{path} is a snapshot of other data, settings, seed or code")
    return int(metadata["step"]), state
