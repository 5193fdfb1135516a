"""Progress of an extraction of features."""

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_EVERY = 60.0  # seconds between two lines where there is no terminal


class ImageBar:
    """Progress of an extraction on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, title: str):
        self._title = title
        self._bar: tqdm | None = None
        self._count = self._total = self._known = 0
        self._began = self._last = time.monotonic()

    def started(self, total: int, known: int) -> None:
        """Show the bar where there is work."""
        from tqdm import tqdm

        self._count, self._total, self._known = known, total, known
        if sys.stderr.isatty() and known < total:
            self._bar = tqdm(
                desc=self._title,
                total=total,
                initial=known,
                unit=" images",
                dynamic_ncols=True,
                file=sys.stderr,
            )
        elif known < total:
            print(f"{self._title}: {total:,}, of which {known:,} are known", file=sys.stderr)

    def done(self, images: int) -> None:
        """Move on."""
        self._count += images
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(images)
        elif now - self._last >= LINE_EVERY:
            from tqdm import tqdm

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
