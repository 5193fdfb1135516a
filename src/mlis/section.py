"""What a section of the settings is made of: fields that know their meaning, type and range.

A section is a frozen dataclass below :class:`Section` whose fields are declared by
:func:`setting`; it cannot be built with a value of another type or out of range.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any, Literal, Self

from mlis.errors import SettingsError

_MOST_BITS = 53  # of a whole number; JSON readers keep no more


def setting(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Declare one setting: its default, what it means, and the inclusive range of a number."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclasses.dataclass(frozen=True)
class Section:
    """Checks every field of a settings section against its annotation and range."""

    def __post_init__(self) -> None:
        for f in fields(self):
            where = f"{type(self).__name__.lower()}.{f.name}"
            object.__setattr__(self, f.name, _checked(where, f, getattr(self, f.name)))

    def replace(self, values: Mapping[str, Any]) -> Self:
        """Return a copy with the given values changed.

        Raises:
            SettingsError: an unknown name, or a value of another type or out of range.
        """
        known = [f.name for f in fields(self)]
        for key in values:
            if key not in known:
                raise SettingsError(
                    f"unknown setting {type(self).__name__.lower()}.{key}: expected one of "
                    f"{', '.join(known)}"
                )
        return dataclasses.replace(self, **values)


def _checked(where: str, f: dataclasses.Field[Any], value: Any) -> Any:
    """Return `value` in the field's type, or raise a SettingsError that says what was expected."""
    kinds = typing.get_args(f.type) if typing.get_origin(f.type) is not Literal else (f.type,)
    for kind in kinds or (f.type,):
        if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
            return value
        if kind is str and isinstance(value, str):
            return value
        if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
            return _in_range(where, f, int(value))
        if kind is float and isinstance(value, Real) and not isinstance(value, bool):
            return _in_range(where, f, _as_float(value))
    raise SettingsError(f"{where} must be {_expected(f)}, but got {value!r}")


def _as_float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of 400 digits
        return math.inf


def _in_range(where: str, f: dataclasses.Field[Any], value: float) -> float:
    low, high = f.metadata.get("low"), f.metadata.get("high")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise SettingsError(
            f"{where} must be below 2**{_MOST_BITS}, but got a number of {value.bit_length()} bits"
        )
    outside = (low is not None and value < low) or (high is not None and value > high)
    if outside or not math.isfinite(value):
        bounds = "finite" if low is None else f"at least {low}"
        bounds = bounds if high is None else f"between {low} and {high}"
        raise SettingsError(f"{where} must be {bounds}, but got {value}")
    return value


def _expected(f: dataclasses.Field[Any]) -> str:
    names = {int: "a whole number", float: "a number", str: "a string"}
    kinds = (f.type,) if typing.get_origin(f.type) is Literal else typing.get_args(f.type)
    parts: list[str] = []
    for kind in kinds or (f.type,):
        if typing.get_origin(kind) is Literal:
            parts += [repr(choice) for choice in typing.get_args(kind)]
        else:
            parts.append(names[typing.cast(type, kind)])
    return " or ".join(parts)
