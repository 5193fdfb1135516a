"""What all commands share: the parser, logging, tables and the JSON line."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.cluster import Cluster

MEASURES = ("U", "S", "H", "T1", "AUSUC", "overall")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written; `-o, --output FILE` and not `-o FILE, --output FILE`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line and takes no abbreviated flag."""

    def __init__(self, *args: Any, **kwargs: Any):
        options = {"allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(*args, **{**options, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to read more; exit with 2."""
        complain(f"{message} (see `{self.prog} --help`)")
        raise SystemExit(2)


def add_common_flags(parser: argparse._ActionsContainer, *, with_json: bool) -> None:
    """`-v`, and `--json` where the command has a result to print."""
    if with_json:
        parser.add_argument(
            "--json", action="store_true", help="print the result as one JSON object, last line"
        )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")


def add_device_flag(parser: argparse._ActionsContainer, default: str | None = "auto") -> None:
    """`--device`; not restricted to choices, as `cuda:1` is one."""
    parser.add_argument(
        "--device", default=default, help="auto (default), cpu or cuda, where to compute"
    )


def add_engine_flags(parser: argparse._ActionsContainer, what: str) -> None:
    """`--engine` and what belongs to `ray`; `what` is done by each task."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: spread over the machines of a Ray cluster (extra `ray`)",
    )
    ray_only: dict[str, Any] = {"default": argparse.SUPPRESS}
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="ray: of the cluster, or auto on one of its machines (default: this machine alone)",
        **ray_only,
    )
    parser.add_argument(
        "--cores", type=int, metavar="N", help=f"ray: cores of each {what} (default: 1)", **ray_only
    )
    parser.add_argument(
        "--gpus",
        type=float,
        metavar="X",
        help=f"ray: GPUs of each {what}, perhaps a share (default: 1 where --device comes to cuda)",
        **ray_only,
    )


def cluster_of(args: argparse.Namespace) -> "Cluster | None":
    """What the flags of `add_engine_flags` ask for; None: this machine, without Ray.

    Raises:
        SettingsError: a flag of another engine is given, or a number is out of range.
    """
    from mlis.cluster import Cluster

    given = {name: v for name, v in vars(args).items() if name in ("address", "cores", "gpus")}
    if args.engine == "local":
        if given:
            raise SettingsError(f"--{next(iter(given))} has no meaning without --engine ray")
        return None
    if ":" in args.device:
        raise SettingsError(f"--device {args.device}: Ray chooses which GPU; say cuda")
    if "gpus" not in given:
        from mlis.compute import Arithmetic

        given["gpus"] = float(Arithmetic.of("float32", args.device).device.type == "cuda")
    return Cluster(**given)


def complain(problem: object) -> None:
    """One line on stderr."""
    print("mlis: error:", " ".join(str(problem).split()), file=sys.stderr)


class _Lines(logging.Handler):
    """Log records as lines on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"mlis: {record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


@contextmanager
def logs(verbose: bool) -> Iterator[None]:
    """Show the package's warnings, and with `verbose` its reports, while the block runs."""
    logger, handler = logging.getLogger("mlis"), _Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def print_json(values: Mapping[str, Any]) -> None:
    """One line of strict JSON on stdout."""
    print(json.dumps(values, allow_nan=False), flush=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, the first to the left, the others to the right.

    >>> print_table([["", "U", "H"], ["ml", "51.2", "60.0"]])
           U     H
    ml  51.2  60.0
    """
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


def printable(name: str) -> str:
    r"""A name on one line, whatever is in it; files have it as it is.

    >>> print(printable("a\nb"))
    a\nb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


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
