"""What all commands share: the parser, its common flags, errors and warnings on stderr."""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mlis.errors import FeatureRangeWarning
from mlis.escape import terminal


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


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """MODEL, which :func:`mlis.io.saved_models.one_model` understands."""
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="saved model, or a run that has one"
    )


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
        "--device", default=default, help="where to compute: auto (default), cpu, cuda or cuda:N"
    )


def complain(problem: object) -> None:
    """One line on stderr."""
    print("mlis: error:", terminal(" ".join(str(problem).split())), file=sys.stderr)


class _Lines(logging.Handler):
    """Log records as lines on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        line = f"mlis: {record.levelname.lower()}: {record.getMessage()}"
        tqdm.write(terminal(line), file=sys.stderr)


@contextmanager
def logs(verbose: bool) -> Iterator[None]:
    """Show the package's warnings, and with `verbose` its reports, while the block runs."""
    logger, handler = logging.getLogger("mlis"), _Lines()
    level, show = logger.level, warnings.showwarning

    def as_line(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, FeatureRangeWarning):
            logger.warning("%s", message)
        else:
            show(message, category, *rest, **more)

    warnings.showwarning = as_line
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        warnings.showwarning = show
        logger.removeHandler(handler)
        logger.setLevel(level)
