"""Callbacks of a training: progress, and the losses on disk."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from mlis.storage.atomic import naming, strict_json, write_text


class Callback:
    """Is told of the progress of a training; derive from it and override what you need.

    Stages are "generation", "refinement" and "joint".
    """

    def on_start(self, stage: str, step: int, total: int) -> None:
        """Called when a stage begins, after `step` of its `total` steps (0, unless resumed)."""

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        """Called with the losses of a step, every 20 steps and after the last one."""

    def on_end(self, stage: str) -> None:
        """Called when a stage has taken its last step."""

    def on_trained(self, method: str, done: int, total: int, seconds: float) -> None:
        """Called when a method was trained on `done` of its `total` splits, the last in `seconds`.

        The last split is the training on all rows, of which nothing is called.
        """


class LossLog(Callback):
    """Appends losses to `STAGE.jsonl`, one JSON object per line.

    A resumed stage drops the lines of steps that are taken again.

    Args:
        folder: of the files.
        folders: stage → its own folder, for stages that several trainings share.
    """

    def __init__(
        self,
        folder: Path,
        folders: Mapping[str, Path] | None = None,
    ):
        self._folder, self._folders = folder, dict(folders or {})
        self._began = time.monotonic()

    def _path(self, stage: str) -> Path:
        return self._folders.get(stage, self._folder) / f"{stage}.jsonl"

    def on_start(self, stage: str, step: int, total: int) -> None:
        """Keep the lines up to `step`.

        Raises:
            OSError: the folder cannot be written.
        """
        self._began, path = time.monotonic(), self._path(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _keep_lines(path, step)

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        """Append a line.

        Raises:
            OSError: the file cannot be written.
        """
        line = {"step": step, "seconds": round(time.monotonic() - self._began, 3), **losses}
        path = self._path(stage)
        with naming(path), path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


def _keep_lines(path: Path, step: int) -> None:
    """Drop lines of later steps and an incomplete last line."""
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
        write_text(path, after)
