"""Progress of long work on stderr: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Mapping
from typing import NoReturn

from tqdm import tqdm

from mlis.escape import terminal
from mlis.training.callbacks import Callback

LINE_EVERY = 60.0  # seconds between two lines where there is no terminal
_LINE = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Progress:
    """Makes the callback of each training of a run; call it with the training's title."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def __call__(self, title: str) -> Callback:
        """Return the callback that shows the training of this title."""
        title = terminal(title)
        return _Lines(title) if not sys.stderr.isatty() else _Bars(title, self)

    def show(self, bar: "tqdm[NoReturn] | None") -> None:
        """Close the bar that is shown, and keep this one to be closed."""
        if self._bar is not None:
            self._bar.close()
        self._bar = bar

    def close(self) -> None:
        """Leave the terminal ready for other lines."""
        self.show(None)


class _Bars(Callback):
    """One bar a stage: losses, rate, time left."""

    def __init__(self, title: str, progress: Progress):
        self._title, self._progress = title, progress
        self._bar: tqdm[NoReturn] | None = None

    def on_start(self, stage: str, step: int, total: int) -> None:
        if step < total:  # a stage that was finished before takes no time and needs no bar
            self._bar = tqdm(
                desc=f"{self._title}: {stage}",
                total=total,
                initial=step,
                unit=" steps",
                dynamic_ncols=True,
                file=sys.stderr,
            )
            self._progress.show(self._bar)

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_losses(losses), refresh=False)
            self._bar.update(step - self._bar.n)

    def on_end(self, stage: str) -> None:
        self._progress.show(None)
        self._bar = None


class _Lines(Callback):
    """The same as lines: when a stage begins, every minute, and when it ends."""

    def __init__(self, title: str):
        self._title = title
        self._initial, self._began, self._last = 0, 0.0, 0.0

    def on_start(self, stage: str, step: int, total: int) -> None:
        self._initial = step
        self._began = self._last = time.monotonic()
        if 0 < step < total:
            print(f"{self._title}: {stage} continues after step {step}", file=sys.stderr)

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        now = time.monotonic()
        if step < total and now - self._last < LINE_EVERY:
            return
        self._last = now
        line = tqdm.format_meter(
            step,
            total,
            now - self._began,
            prefix=f"{self._title}: {stage}",
            initial=self._initial,
            unit=" steps",
            postfix=_losses(losses),
            bar_format=_LINE,
        )
        print(line, file=sys.stderr, flush=True)


def _losses(losses: Mapping[str, float]) -> str:
    """Show "metric 0.3, norm 5.2"."""
    return ", ".join(f"{name} {value:.3g}" for name, value in losses.items())


class ImageBar:
    """Progress of image features."""

    def __init__(self, title: str):
        self._title = title
        self._bar: tqdm[NoReturn] | None = None
        self._count = self._total = self._known = 0
        self._began = self._last = time.monotonic()

    def started(self, total: int, known: int) -> None:
        """`known` of `total` images are done; show the bar where there is work left."""
        self._count, self._total, self._known = known, total, known
        self._began = self._last = time.monotonic()
        if sys.stderr.isatty() and known < total:
            self._bar = tqdm(
                desc=self._title,
                total=total,
                initial=known,
                unit=" images",
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def done(self, images: int) -> None:
        """Move on."""
        self._count += images
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(images)
        elif now - self._last >= LINE_EVERY:
            self._last = now
            line = tqdm.format_meter(
                self._count,
                self._total,
                now - self._began,
                prefix=self._title,
                initial=self._known,
                unit=" images",
                bar_format="{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]",
            )
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal ready for other lines."""
        if self._bar is not None:
            self._bar.close()
