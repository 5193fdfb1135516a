"""Progress of long work on stderr: a bar on a terminal, else a line at first and every minute."""

import math
import sys
from collections.abc import Mapping
from typing import Any, Self

from tqdm import tqdm

from mlis.escape import terminal
from mlis.training.callbacks import Callback

FIRST_LINE = 10.0  # seconds, where there is no terminal; says how long the whole will take
LINE_EVERY = 60.0  # seconds between two lines
_LINE = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Bar(tqdm):
    """A tqdm bar that prints lines where there is no terminal."""

    monitor_interval = 0  # no thread that redraws bars

    def __init__(self, title: str, total: int, done: int, unit: str):
        self.as_lines = not sys.stderr.isatty()
        options: dict[str, Any] = {"dynamic_ncols": True}
        if self.as_lines:
            options = {"mininterval": FIRST_LINE, "delay": FIRST_LINE, "bar_format": _LINE}
            options["miniters"] = 1
        super().__init__(
            desc=terminal(title), total=total, initial=done, unit=unit, file=sys.stderr, **options
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Redraw the bar, or print a line."""
        if self.as_lines:
            print(self, file=sys.stderr, flush=True)
            self.mininterval = LINE_EVERY
        else:
            super().display(msg, pos)

    def close(self) -> None:
        """Leave the terminal ready for other lines."""
        if self.as_lines:
            self.delay = math.inf  # tqdm would print the last line again
        super().close()


class _Owner:
    """Shows one bar at a time, and closes it at the end of a `with` block.

    Args:
        advice: how to continue after Ctrl-C.
    """

    bar: _Bar | None = None

    def __init__(self, advice: str = ""):
        self._advice = advice

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is KeyboardInterrupt and self._advice:
            raise KeyboardInterrupt(self._advice) from None

    def close(self) -> None:
        """Close the present bar."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None


class Progress(_Owner):
    """Gives each training of a run its callback: call it with the training's title."""

    def __call__(self, title: str) -> Callback:
        """The callback of the training of this title."""
        return _Stages(title, self)


class _Stages(Callback):
    """One bar per stage, with losses, rate and time left."""

    def __init__(self, title: str, progress: Progress):
        self._title, self._progress = title, progress

    def on_start(self, stage: str, step: int, total: int) -> None:
        self._progress.close()
        if step < total:  # a stage that was finished before takes no time
            title = f"{self._title}: {stage}"
            self._progress.bar = bar = _Bar(title, total, step, " steps")
            if bar.as_lines and step:
                print(f"{terminal(title)} continues after step {step}", file=sys.stderr)

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        if (bar := self._progress.bar) is not None:
            shown = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
            bar.set_postfix_str(shown, refresh=False)
            bar.update(step - bar.n)
            if step == total and bar.last_print_n < step:
                bar.refresh()

    def on_end(self, stage: str) -> None:
        self._progress.close()


class ImageBar(_Owner):
    """Progress of image features; passed to `mlis.features.images.extract`."""

    def started(self, total: int, known: int) -> None:
        """`known` of `total` images are done; show the bar if there is work left."""
        if known < total:
            self.bar = _Bar("images", total, known, " images")

    def done(self, images: int) -> None:
        """Advance by so many images."""
        if self.bar is not None:
            self.bar.update(images)
