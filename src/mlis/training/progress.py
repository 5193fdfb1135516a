"""Progress bars of long work: in notebooks, on terminals, elsewhere a line every minute."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

from mlis.escape import terminal
from mlis.training.callbacks import Callback

FIRST_LINE = 10.0  # seconds before the first progress line is logged, if stderr is not a terminal
LINE_EVERY = 60.0  # seconds between two lines
LONG = 10.0  # seconds of trainings that are announced
_LINE = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Bar(tqdm):
    """A tqdm bar that prints lines where there is neither a terminal nor a notebook.

    Args:
        title: what is done.
        total: steps; None if they are not known.
        done: steps that were taken before.
        unit: of a step, with a space before it.
        hidden: show nothing.
    """

    monitor_interval = 0  # no thread that redraws bars
    delay: float

    def __init__(
        self, title: str, total: int | None, done: int, unit: str, *, hidden: bool = False
    ):
        self.as_lines: bool = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        options: dict[str, Any] = {"dynamic_ncols": True}
        if self.as_lines:
            options = {"mininterval": FIRST_LINE, "delay": FIRST_LINE, "bar_format": _LINE}
            options["miniters"] = 1
        super().__init__(
            desc=terminal(title),
            total=total,
            initial=done,
            unit=unit,
            file=sys.stderr,
            disable=hidden,
            **options,
        )

    def display(self, *arguments: Any, **options: Any) -> None:
        """Redraw the bar, or print a line."""
        if self.as_lines:
            print(self, file=sys.stderr, flush=True)
            self.mininterval = LINE_EVERY
        else:
            super().display(*arguments, **options)

    def close(self) -> None:
        """Leave the terminal ready for other lines."""
        if self.as_lines:
            self.delay = math.inf  # tqdm would print the last line again
        super().close()


class ProgressBar(Callback):
    """A bar for each stage of a training, with losses, rate and time left.

    For `callbacks` and `validation_callbacks` of a method's `choose`. A method in closed form has
    no stages, and takes seconds.

    Args:
        title: of the training.
    """

    def __init__(self, title: str = ""):
        self._title: str = title
        self._bar: Bar | None = None

    def on_start(self, stage: str, step: int, total: int) -> None:
        """Show a bar, unless the stage was finished before."""
        self.close()
        if step < total:
            title = f"{self._title}: {stage}" if self._title else stage
            self._bar = Bar(title, total, step, " steps")
            if self._bar.as_lines and step:
                print(f"{terminal(title)} continues after step {step}", file=sys.stderr)

    def on_step(self, stage: str, step: int, total: int, losses: Mapping[str, float]) -> None:
        """Advance it."""
        if (bar := self._bar) is not None:
            shown = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
            bar.set_postfix_str(shown, refresh=False)
            bar.update(step - bar.n)
            if step == total and bar.last_print_n < step:
                bar.refresh()

    def on_end(self, stage: str) -> None:
        """Close it."""
        self.close()

    def on_trained(self, method: str, done: int, total: int, seconds: float) -> None:
        """Say after a method's first split how long the others take at most, if that is long."""
        if done == 1 and (rest := (total - done) * seconds) >= LONG:
            text = f"{method}: split 1 of {total - 1} took {seconds:.0f} s, the rest up to about"
            print(terminal(f"{text} {rest:.0f} s"), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the present bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
