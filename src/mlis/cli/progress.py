"""Progress of long work on stderr: bars that are closed at the end, and advice after Ctrl-C."""

from typing import Self

from mlis.training.progress import Bar, ProgressBar


class _Owner:
    """Closes its bars at the end of a `with` block.

    Args:
        advice: how to continue after Ctrl-C.
    """

    def __init__(self, advice: str = ""):
        self._advice = advice
        self._bars: list[Bar | ProgressBar] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for bar in self._bars:
            bar.close()
        if kind is KeyboardInterrupt and self._advice:
            raise KeyboardInterrupt(self._advice) from None


class Progress(_Owner):
    """Gives each training of a run its callback: call it with the training's title."""

    def __call__(self, title: str) -> ProgressBar:
        """The callback of the training of this title."""
        bar = ProgressBar(title)
        self._bars.append(bar)
        return bar


class ImageBar(_Owner):
    """Progress of image features; passed to `mlis.features.images.extract`."""

    _bar: Bar | None = None

    def started(self, total: int, known: int) -> None:
        """`known` of `total` images are done; show the bar if there is work left."""
        if known < total:
            self._bar = Bar("images", total, known, " images")
            self._bars.append(self._bar)

    def done(self, images: int) -> None:
        """Advance by so many images."""
        if self._bar is not None:
            self._bar.update(images)
