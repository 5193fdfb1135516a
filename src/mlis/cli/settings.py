"""Settings on the command line: a flag for every field of `Config`, presets, TOML in and out."""

import argparse
import dataclasses
import json
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mlis import presets
from mlis.config import Config, read_toml, resolve
from mlis.errors import SettingsError

COMPONENTS = "refinement.components"


def sections() -> Iterator[tuple[str, type[Any], tuple[dataclasses.Field[Any], ...]]]:
    """The sections of `Config`: name, class, fields."""
    for f in dataclasses.fields(Config):
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            yield f.name, f.type, dataclasses.fields(f.type)


def option_strings(section: str, field: str) -> list[str]:
    """`--SECTION-FIELD`, and `--FIELD` where no other section has a field of that name."""
    uses = Counter(f.name for _, _, section_fields in sections() for f in section_fields)
    names = [f"{section}-{field}", *([field] if uses[field] == 1 else [])]
    return [f"--{name.replace('_', '-')}" for name in names]


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--preset`, `--settings` and a flag for every setting, grouped by section."""
    group = parser.add_argument_group(
        "settings", "What is not given comes from the settings file, else the preset, else default."
    )
    group.add_argument(
        "--preset",
        metavar="NAME",
        help=f"none, {', '.join(presets.names())} (default: DATASET's own, if it has one)",
    )
    group.add_argument("--settings", metavar="FILE.toml", type=Path, help="settings file")
    precision = typing.get_args(typing.get_type_hints(Config)["precision"])
    group.add_argument(
        "--precision",
        choices=precision,
        default=argparse.SUPPRESS,
        help="of large matrix products (default: auto: bfloat16 where it is faster, else float32)",
    )
    for section, owner, section_fields in sections():
        group = parser.add_argument_group(section, (owner.__doc__ or "").splitlines()[0])
        for f in section_fields:
            _add_flag(group, section, f)


def _add_flag(group: argparse._ArgumentGroup, section: str, f: dataclasses.Field[Any]) -> None:
    dest = f"{section}.{f.name}"
    help_text = f"{f.metadata['help']} (default: {f.default})".replace("%", "%%")
    options: dict[str, Any] = {}
    if dest == COMPONENTS:
        choices = ", ".join(typing.get_args(f.type))
        options = {"type": _split_list, "metavar": "A[,B…]"}
        help_text = f"one, or several to compare, of {choices}; {help_text}"
    elif typing.get_origin(f.type) is Literal:
        options = {"choices": typing.get_args(f.type)}
    elif f.type in (int, float):
        options = {"type": f.type, "metavar": "N" if f.type is int else "X"}
    elif f.type is str:
        options = {"metavar": "NAME"}
    else:  # a number or a word, such as calibration
        options = {"type": _number_or_word, "metavar": "X"}
    # SUPPRESS: what is not given is absent, so that it does not hide preset and settings file
    group.add_argument(
        *option_strings(section, f.name),
        dest=dest,
        default=argparse.SUPPRESS,
        help=help_text,
        **options,
    )


def _split_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags, nested as in `Config.to_dict`."""
    known = {f"{section}.{f.name}" for section, _, fs in sections() for f in fs}
    given: dict[str, Any] = {}
    for dest, value in vars(args).items():
        if dest == "precision":
            given[dest] = value
        elif dest in known:
            section, name = dest.split(".")
            given.setdefault(section, {})[name] = value
    return given


def resolve_settings(args: argparse.Namespace) -> tuple[Config, tuple[str, ...], str]:
    """Settings, components to train, and the name of the preset that they began with.

    Raises:
        SettingsError: an unknown preset or setting, a value out of range, an unreadable file.
    """
    preset = args.preset or presets.own_preset(args.dataset or "")
    layers = [presets.load(preset)]
    if args.settings is not None:
        layers.append(read_toml(args.settings))
        try:
            Config().check(layers[-1])
        except SettingsError as error:
            raise SettingsError(f"settings file {args.settings}: {error}") from None
    flags = given_settings(args)
    components: tuple[str, ...] = flags.get("refinement", {}).pop("components", ())
    if components:  # the settings themselves hold one: the last, as in the table's bottom line
        flags["refinement"]["components"] = components[-1]
    config = resolve(*layers, flags)
    for name in components:
        config.replace({"refinement": {"components": name}})
    return config, components or (config.refinement.components,), preset


def to_toml(config: Config) -> str:
    """All settings as TOML that `--settings` takes, each with what it means.

    >>> import tomllib
    >>> Config.from_dict(tomllib.loads(to_toml(Config()))) == Config()
    True
    """
    lines = [f"precision = {_toml_value(config.precision)}"]
    for section, _, section_fields in sections():
        lines += ["", f"[{section}]"]
        for f in section_fields:
            value = _toml_value(getattr(getattr(config, section), f.name))
            lines.append(f"{f.name} = {value}  # {f.metadata['help']}")
    return "\n".join(lines) + "\n"


def _toml_value(value: str | int | float) -> str:
    """JSON's strings are TOML's, but for the delete character; so are finite numbers."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
