"""Results on stdout: tables, numbers, summaries over seeds, and the JSON line."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mlis.escape import terminal

SHOWN = 20
"""Of a long list on the screen."""
MEASURES = ("U", "S", "H", "T1", "AUSUC", "overall")


def print_json(values: Mapping[str, Any]) -> None:
    """One line of strict JSON on stdout."""
    print(json.dumps(values, allow_nan=False), flush=True)


def say(*parts: object) -> None:
    """One line on stdout, whatever names are in it."""
    print(terminal(" ".join(map(str, parts))))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, the first to the left, the others to the right.

    >>> print_table([["", "U", "H"], ["ml", "51.2", "60.0"]])
           U     H
    ml  51.2  60.0
    """
    rows = [[terminal(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


def number(value: float | None, digits: int = 1) -> str:
    """Show a measure; a dash where nothing defines it."""
    return "–" if value is None else f"{value:.{digits}f}"


def spread(summary: Mapping[str, Any], name: str) -> str:
    """The mean of a measure over seeds, with its deviation where there are several."""
    mean, std = summary[f"{name}_mean"], summary[f"{name}_std"]
    return number(mean) if std is None else f"{number(mean)} ± {number(std)}"


def report_unread(bad: Sequence[tuple[str, str]], count: int) -> None:
    """On stderr: the photographs, of `count`, that could not be used, and why."""
    if bad:
        print(f"mlis: {len(bad):,} of {count:,} images could not be read:", file=sys.stderr)
    for path, reason in bad[:SHOWN]:
        print(terminal(f"  {path}: {reason}"), file=sys.stderr)
    if len(bad) > SHOWN:
        print(f"  … and {len(bad) - SHOWN:,} more", file=sys.stderr)


def print_summaries(summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """A table with one line per components string, means and deviations over seeds."""
    rows = [["components", *MEASURES, "seconds a seed"]]
    for components, summary in summaries.items():
        seconds = summary["seconds"]
        time = number(sum(seconds) / len(seconds))
        rows.append([components, *(spread(summary, name) for name in MEASURES), time])
    print_table(rows)


def for_json(summary: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    """A summary as it is for several seeds; for one, numbers in place of lists of one.

    >>> for_json({"H": [60.0], "H_mean": 60.0, "H_std": None, "seconds": [3.0]}, seeds=1)
    {'H': 60.0, 'seconds': 3.0}
    """
    if seeds > 1:
        return dict(summary)
    return {name: value[0] for name, value in summary.items() if isinstance(value, list)}


def result_object(
    summaries: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], **facts: Any
) -> dict[str, Any]:
    """What `--json` prints of a run: the last components' measures, and all under `components`.

    `seconds` is the sum over all trainings.
    """
    shown = {name: for_json(summary, len(seeds)) for name, summary in summaries.items()}
    last = list(shown)[-1]
    result = {
        **facts,
        "component": last,
        "seeds": list(seeds),
        **shown[last],
        "seconds": round(sum(sum(s["seconds"]) for s in summaries.values()), 3),
    }
    return result | ({"components": shown} if len(shown) > 1 else {})
