"""The command line of `mlis`: one module per command, and four that they share.

Exit codes: 0 done, 2 wrong input or usage (one line on stderr says what), 1 anything else,
130 interrupted. Heavy modules are imported inside the commands, so that `--help` is quick.
"""

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

import mlis
from mlis.cli import (
    adapt,
    add_images,
    calibrate,
    check,
    classes,
    compare,
    data,
    demo,
    describe,
    evaluate,
    export,
    features,
    fit,
    predict,
    report,
    reproduce,
    rerun,
    serve,
    tune,
)
from mlis.cli.arguments import Parser
from mlis.cli.output import complain, logs
from mlis.compute.memory import is_shortage
from mlis.errors import MlisError

COMMANDS = (
    *(fit, evaluate, predict, serve, classes, add_images, adapt, calibrate, export),
    *(features, describe, data, check, compare, demo, reproduce, rerun, report, tune),
)
DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `run`, a function of the parsed arguments."""
    parser = Parser(
        prog="mlis",
        description="Generalized zero-shot recognition: train on images of some classes and a "
        "description\nof every class, recognise them all.",
        epilog="`mlis COMMAND --help` says more. Exit codes: 0 done, 2 wrong input or usage,\n"
        "1 anything else, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"mlis {mlis.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    # Threads that busy-wait made training 5 to 10 times slower beside another busy process
    # (2 cores, measured). OpenMP reads this when PyTorch is first imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # a character that cannot be encoded becomes "?"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        _silence_stdout()
        return FAILED


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, or wrong usage
        return stop.code if isinstance(stop.code, int) else DONE
    try:
        with logs(args.verbose):
            return args.run(args) or DONE
    except MlisError as error:
        complain(error)
        return WRONG
    except KeyboardInterrupt as stop:  # its text, if any, says how to continue
        print(f"\nmlis: {'; '.join(['interrupted', *map(str, stop.args)])}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:  # disk full, no permission: the message says all there is to say
        named = error.filename is not None and error.strerror
        complain(f"{error.filename}: {error.strerror}" if named else error)
        return FAILED
    except Exception as error:
        if is_shortage(error):  # where no stage says which setting to lower
            complain(f"out of memory ({error}). Use less data at once, or a larger machine.")
            return FAILED
        traceback.print_exc()
        complain(
            f"{type(error).__name__}: this is a bug. Please report it with the traceback above."
        )
        return FAILED


def _silence_stdout() -> None:
    """Keep Python from complaining at exit that it cannot flush a closed pipe."""
    with contextlib.suppress(OSError, ValueError):  # stdout is not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
