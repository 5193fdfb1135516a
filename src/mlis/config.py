"""All settings of a run, together.

A :class:`Config` has one section per stage (:mod:`mlis.settings`). It is built from defaults, a
preset, a TOML file and flags, in that order (:func:`resolve`), checked field by field, and saved as
JSON with every run.
"""

import dataclasses
import hashlib
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from mlis.errors import SettingsError
from mlis.section import Section
from mlis.settings import Classification, Generation, Preprocessing, Refinement

__all__ = [
    "Classification",
    "Config",
    "Generation",
    "Preprocessing",
    "Refinement",
    "hash_of",
    "read_toml",
    "resolve",
]


@dataclass(frozen=True)
class Config:
    """Every setting of a run, one section per stage."""

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    generation: Generation = field(default_factory=Generation)
    refinement: Refinement = field(default_factory=Refinement)
    classification: Classification = field(default_factory=Classification)
    precision: Literal["auto", "float32", "float64", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name != "precision" and type(getattr(self, f.name)) is not f.type:
                raise SettingsError(f"Config.{f.name} must be a {f.name.title()} section")
        _choice("precision", Config, self.precision)
        r = self.refinement
        if "is" in r.switches and "ml" not in r.switches:
            raise SettingsError("refinement.components: `is` needs `ml`")
        if r.generator_feedback > 0 and (r.schedule != "joint" or "sfr" not in r.switches):
            raise SettingsError(
                "refinement.generator_feedback > 0 trains the generator through the encoder's "
                "cross-entropy: it needs schedule='joint' and components with `sfr`"
            )
        if r.schedule == "joint" and self.generation.generator != "wgan-gp":
            raise SettingsError(
                "refinement.schedule='joint' alternates with steps of the WGAN-GP, which the "
                f"{self.generation.generator} generator does not have: use schedule='sequential'"
            )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, ready for JSON or TOML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Build from a nested dictionary; unknown names are errors."""
        return cls().replace(values)

    def replace(self, values: Mapping[str, Any]) -> "Config":
        """Return a copy with the given nested values changed.

        >>> Config().replace({"generation": {"steps": 10}}).generation.steps
        10
        """
        return dataclasses.replace(self, **self._changes(values))

    def check(self, values: Mapping[str, Any]) -> None:
        """Check names, types and ranges of nested values, not whether they suit one another.

        Raises:
            SettingsError: an unknown name, or a value of another type or out of range.
        """
        self._changes(values)

    def _changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # a file may hold anything
        if not isinstance(values, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"settings: expected names and sections, but got {values!r:.60}")
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if name == "precision":
                _choice("precision", Config, value)
                changes[name] = value
                continue
            section = getattr(self, name, None)
            if not isinstance(section, Section) or not isinstance(value, Mapping):
                raise SettingsError(
                    f"unknown settings section {name!r}: expected one of "
                    f"{', '.join(f.name for f in fields(self))}"
                )
            changes[name] = section.replace(cast(Mapping[str, Any], value))
        return changes

    @property
    def sha256(self) -> str:
        """Hash of all settings, for cache keys and result rows."""
        return hash_of(self.to_dict())


def _choice(name: str, owner: type, value: Any) -> None:
    choices = typing.get_args(typing.get_type_hints(owner)[name])
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, but got {value!r}")


def hash_of(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a settings file; errors name the file and what is wrong with it."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"settings file {path} does not exist") from None
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # also numbers of thousands of digits, and other encodings
        raise SettingsError(f"settings file {path} is not valid TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"settings file {path} is not valid TOML: it nests too deep") from None


def resolve(*layers: Mapping[str, Any]) -> Config:
    """Apply nested dictionaries on top of the defaults, the last one winning.

    Only what they come to together must be consistent: a flag may undo what a preset chose.

    >>> layers = {"refinement": {"schedule": "joint"}}, {"generation": {"generator": "ridge"}}
    >>> resolve(*layers, {"refinement": {"schedule": "sequential"}}).generation.generator
    'ridge'
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        Config().check(layer)
        for name, value in layer.items():
            section = isinstance(value, Mapping)
            merged[name] = {**merged.get(name, {}), **value} if section else value
    return Config().replace(merged)
