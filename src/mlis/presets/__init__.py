"""Presets: settings per benchmark, one TOML file each, in the layout of `--settings` files.

Each file's first comment says what its values are: starting points, or chosen on validation.
"""

import tomllib
from importlib import resources
from typing import Any

from mlis.errors import SettingsError


def names() -> tuple[str, ...]:
    """Names of all presets.

    >>> names()
    ('apy', 'awa1', 'awa2', 'cub', 'flo', 'letters', 'sun')
    """
    files = [path.name for path in resources.files(__name__).iterdir()]
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def load(name: str) -> dict[str, Any]:
    """Settings of a preset (in any case), nested as in `Config.to_dict`; of "none", nothing.

    Raises:
        SettingsError: there is no such preset.
    """
    known = name.casefold()
    if known == "none":
        return {}
    if known not in names():
        raise SettingsError(
            f"unknown preset {name!r}: expected none or one of {', '.join(names())}"
        )
    text = resources.files(__name__).joinpath(f"{known}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def own_preset(dataset: str) -> str:
    """Name of the preset of a dataset's name; "none" where it has none.

    >>> own_preset("FLO"), own_preset("my/folder")
    ('flo', 'none')
    """
    return dataset.casefold() if dataset.casefold() in names() else "none"
