"""Write docs/settings.md from the settings' own declarations: `python tools/settings_page.py`."""

import dataclasses
import typing
from pathlib import Path
from typing import Any, Literal

from mlis import presets
from mlis.config import Config, Section

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

HEAD = """\
# Every setting

<!-- Written by `python tools/settings_page.py`; edit src/mlis/config.py instead. -->

A setting is given in Python as `Config.from_dict({"generation": {"steps": 200}})`, in a TOML file
as `steps = 200` below `[generation]` (`mlis fit --settings FILE.toml`), or as a flag of `mlis fit`:
`--gamma 16`, with the section in front where several have a setting of that name
(`--generation-steps 200`); `mlis fit --help` lists all. Flags override the file, which overrides
the benchmark's preset, which overrides defaults. An unknown name, another type or a number out of
range is an error that says what was expected.

`precision` belongs to no section. `"auto"` (default) uses bfloat16 matrix products where the
hardware does them faster than float32 (reported by the CPU, and measured once per process), and
float32 for everything else; on other hardware it is `"float32"`. `"float32"`, `"float64"` and
`"bfloat16"` select one explicitly.
"""

PRESETS = """\
## Presets

What `mlis fit NAME` changes in the defaults for a benchmark; the files in `src/mlis/presets` give
the reasons.
"""


def kind(field: dataclasses.Field[Any]) -> str:
    """Choices, or the type and its range, as a table cell."""
    parts = (field.type,) if typing.get_origin(field.type) is Literal else ()
    parts = parts or typing.get_args(field.type) or (field.type,)
    names = {int: "whole number", float: "number", str: "text"}
    words: list[str] = []
    for part in parts:
        if typing.get_origin(part) is Literal:
            words += [f"`{choice}`" for choice in typing.get_args(part)]
        else:
            words.append(names[typing.cast(type, part)])
    low, high = field.metadata["low"], field.metadata["high"]
    bounds = "" if low is None else f" ≥ {low:g}" if high is None else f", {low:g} to {high:g}"
    return ", ".join(words) + bounds


def table(section: type[Section]) -> str:
    """One row per setting."""
    lines = ["| setting | default | values | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(section):
        meaning = field.metadata["help"].replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{field.default}` | {kind(field)} | {meaning} |")
    return "\n".join(lines)


def preset(name: str) -> str:
    """What a preset changes, as a table row."""
    changed = [
        f"`{section}.{key} = {value}`"
        for section, values in presets.load(name).items()
        for key, value in values.items()
    ]
    return f"| `{name}` | {', '.join(changed)} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for field in dataclasses.fields(Config):
        section = field.type
        if isinstance(section, type) and issubclass(section, Section):
            parts.append(f"## {field.name}\n\n{section.__doc__}\n\n{table(section)}\n")
    rows = "\n".join(preset(name) for name in presets.names())
    parts.append(f"{PRESETS}\n| preset | changes |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
