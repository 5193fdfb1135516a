"""Output of commands: tables, JSON, errors, logs, checks of `-o`."""

import contextlib
import dataclasses
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mlis.config import Config
from mlis.errors import FeatureRangeWarning, SettingsError
from mlis.escape import terminal

SHOWN = 20
"""Lines of a long list on the screen."""
MEASURES = ("U", "S", "H", "T1", "AUSUC", "overall")

# stdout


def say(*parts: object) -> None:
    """One line on stdout; control characters, which names may contain, are escaped."""
    print(terminal(" ".join(map(str, parts))))


def print_json(values: Mapping[str, Any]) -> None:
    """One line of strict JSON on stdout."""
    print(json.dumps(values, allow_nan=False), flush=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, the first left-aligned, the others right-aligned.

    >>> print_table([["", "U", "H"], ["ml", "51.2", "60.0"]])
           U     H
    ml  51.2  60.0
    """
    rows = [[terminal(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


def print_list(title: str, lines: Sequence[str], *, to_stderr: bool = False) -> None:
    """A title and the first lines of a list; nothing if the list is empty."""
    out = sys.stderr if to_stderr else sys.stdout
    if lines:
        print(terminal(title), file=out)
    for line in lines[:SHOWN]:
        print(terminal(f"  {line}"), file=out)
    if len(lines) > SHOWN:
        print(f"  … and {len(lines) - SHOWN:,} more", file=out)


def report_unread(unread: Sequence[str], count: int) -> None:
    """List on stderr the images, of `count`, that could not be used, and why."""
    title = f"mlis: {len(unread):,} of {counted(count, 'image')} could not be read:"
    print_list(title, unread, to_stderr=True)


def counted(count: int, one: str, many: str = "") -> str:
    """A number and what is counted.

    >>> counted(1, "class", "classes"), counted(2_000, "image")
    ('1 class', '2,000 images')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def number(value: float | None, digits: int = 1) -> str:
    """A measure as text; a dash if it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def print_summaries(summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """A table with one line per components, means and standard deviations over seeds."""
    rows = [["components", *MEASURES, "seconds per seed"]]
    for components, summary in summaries.items():
        cells = [components]
        for name in MEASURES:
            mean, std = summary[f"{name}_mean"], summary[f"{name}_std"]
            cells.append(number(mean) if std is None else f"{number(mean)} ± {number(std)}")
        seconds = summary["seconds"]
        rows.append([*cells, number(sum(seconds) / len(seconds))])
    print_table(rows)


def result_object(
    summaries: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], **metadata: Any
) -> dict[str, Any]:
    """The `--json` object of a run: the last components' measures, and all under `components`.

    `seconds` is the sum over all trainings. One seed: numbers in place of lists of one.

    >>> result_object({"ml": {"H": [60.0], "H_mean": 60.0, "H_std": None, "seconds": [3.0]}}, [0])
    {'component': 'ml', 'seeds': [0], 'H': 60.0, 'seconds': 3.0}
    """
    shown = {name: dict(summary) for name, summary in summaries.items()}
    if len(seeds) <= 1:
        for name, summary in shown.items():
            shown[name] = {k: value[0] for k, value in summary.items() if isinstance(value, list)}
    last = list(shown)[-1]
    seconds = round(sum(sum(summary["seconds"]) for summary in summaries.values()), 3)
    result = {**metadata, "component": last, "seeds": list(seeds), **shown[last]}
    return {**result, "seconds": seconds, **({"components": shown} if len(shown) > 1 else {})}


def to_toml(config: Config) -> str:
    """All settings as TOML for `--settings`, each with its meaning.

    >>> import tomllib
    >>> Config.from_dict(tomllib.loads(to_toml(Config()))) == Config()
    True
    """
    lines = [f"precision = {_toml_value(config.precision)}"]
    for section, values in config.to_dict().items():
        if section == "precision":
            continue
        lines += ["", f"[{section}]"]
        for f in dataclasses.fields(getattr(config, section)):
            lines.append(f"{f.name} = {_toml_value(values[f.name])}  # {f.metadata['help']}")
    return "\n".join(lines) + "\n"


def _toml_value(value: str | int | float) -> str:
    """JSON's strings are TOML's, except for the delete character; so are finite numbers."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


# stderr


def complain(problem: object) -> None:
    """One error line on stderr."""
    print("mlis: error:", terminal(" ".join(str(problem).split())), file=sys.stderr)


class _Lines(logging.Handler):
    """Log records as lines on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        line = f"mlis: {record.levelname.lower()}: {record.getMessage()}"
        tqdm.write(terminal(line), file=sys.stderr)


@contextmanager
def logs(verbose: bool) -> Iterator[None]:
    """Show the package's warnings, and with `verbose` its log, while the block runs."""
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


# -o


def check_file(path: Path, *suffixes: str, new_folder: bool = False) -> None:
    """Refuse, before any work is done, what cannot be the name of a file of these suffixes.

    Raises:
        SettingsError: another suffix, a folder, or a file in a folder that does not exist (unless
            that folder is to be created).
    """
    if suffixes and path.suffix.casefold() not in suffixes:
        raise SettingsError(
            f"-o {path}: expected a {' or '.join(suffixes)} file, got "
            f"{path.suffix or 'no suffix'}. Name such a file."
        )
    if path.is_dir():
        raise SettingsError(f"-o {path}: expected a file, got a folder. Name a file in it.")
    if not new_folder and not path.absolute().parent.is_dir():
        raise SettingsError(f"-o {path}: no folder {path.parent}. Name a file in one that exists.")


def check_folder(output: Path) -> None:
    """Refuse, before any work is done, what is not a folder that can be written.

    Raises:
        SettingsError: a file, or a folder without permission.
    """
    missing: list[Path] = []
    try:
        if output.exists() and not output.is_dir():
            raise SettingsError(f"-o {output}: is a file. Name a folder.")
        missing = [path for path in (output, *output.parents) if not path.exists()]
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise SettingsError(
            f"-o {output}: cannot be written ({error.strerror}). Choose another folder."
        ) from None
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def check_replaceable(output: Path, what: str, *, there: bool, force: bool) -> None:
    """Refuse to overwrite what is `there` without --force.

    Raises:
        SettingsError: names the folder.
    """
    if there and not force:
        raise SettingsError(
            f"-o {output}: contains {what}. Choose another folder, or replace it with --force."
        )
