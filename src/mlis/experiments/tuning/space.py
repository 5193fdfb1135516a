"""What is searched: for each setting a list of values, or a range of numbers.

A setting that a draw does not use is not drawn: generator steps mean nothing where ridge was drawn,
and a generator with other steps would be trained for nothing.
"""

import functools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from mlis.config import Config, Section, read_toml
from mlis.errors import SettingsError

COLD = "cold"  # of the sections that hold what is drawn instead for a GAN that starts cold
DIGITS = 3  # significant ones of a number out of a range: more is noise in a preset
_RANGE = {"low", "high", "log", "step"}
_DRAWN_FIRST = (  # what the others depend on
    "generation.generator",
    "generation.generator_init",
    "refinement.components",
    "refinement.loss",
)


class Suggests(Protocol):
    """The part of :class:`optuna.trial.Trial` that draws."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number of a range."""
        ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of a range."""
        ...


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched.

    Attributes:
        section, name: of the setting.
        values: to choose among; empty for a range.
        low, high: ends of the range, both included; whole numbers for a whole setting.
        step: between numbers of the range; None: all of them.
        log: draw evenly on a logarithmic axis.
        cold: only for a GAN that starts cold, instead of the other dimension of this setting.
    """

    section: str
    name: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    cold: bool = False

    @property
    def setting(self) -> str:
        """`section.name`."""
        return f"{self.section}.{self.name}"

    @property
    def key(self) -> str:
        """What Optuna calls it."""
        return f"{COLD}.{self.setting}" if self.cold else self.setting

    def draw(self, trial: Suggests) -> Any:
        """A value; a number of a range is rounded to `DIGITS` significant digits."""
        if self.values:
            return trial.suggest_categorical(self.key, self.values)
        low, high = self.low, self.high
        if isinstance(low, int) and isinstance(high, int):
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.key, low, high, step=step, log=self.log)
        found = trial.suggest_float(self.key, low, high, step=self.step, log=self.log)
        return float(f"{found:.{DIGITS}g}")

    def holds(self, value: Any) -> bool:
        """Whether it could draw this value."""
        if self.values:
            return value in self.values
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-9

    def __str__(self) -> str:
        if self.values:
            return ", ".join(map(str, self.values))
        kind = ", logarithmic" if self.log else f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{kind}"


@dataclass(frozen=True)
class Space:
    """All settings that are searched, in the order in which they are drawn."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Space":
        """Check a nested mapping as in `space.toml`.

        Raises:
            SettingsError: an unknown setting, a value out of its range, or nothing to choose.
        """
        values = dict(values)
        cold = values.pop(COLD, {})
        if not isinstance(cold, Mapping):
            raise SettingsError(f"[{COLD}] must hold sections, as [{COLD}.generation] does")
        found = [*_dimensions(values, cold=False), *_dimensions(cold, cold=True)]
        if not found:
            raise SettingsError("the space is empty: name a setting and its values")
        order = {name: place for place, name in enumerate(_DRAWN_FIRST)}
        return cls(tuple(sorted(found, key=lambda one: order.get(one.setting, len(order)))))

    @classmethod
    def read(cls, path: Path | None) -> "Space":
        """The space of a file, or the package's own.

        Raises:
            SettingsError: as of `of`, with the file's name.
        """
        if path is None:
            own = resources.files("mlis.experiments.tuning").joinpath("space.toml")
            return cls.of(tomllib.loads(own.read_text(encoding="utf-8")))
        values = read_toml(path)
        try:
            return cls.of(values)
        except SettingsError as error:
            raise SettingsError(f"space {path}: {error}") from None

    def without(self, settings: Iterable[str]) -> "Space":
        """The space less some settings, which stay as they are.

        Raises:
            SettingsError: nothing is left.
        """
        left = tuple(one for one in self.dimensions if one.setting not in set(settings))
        if not left:
            raise SettingsError("nothing is left to search: every setting of the space is given")
        return Space(left)

    def draw(self, trial: Suggests, base: Config) -> Config:
        """Settings of a trial: `base`, with what is drawn in its place.

        Raises:
            SettingsError: values that do not suit one another.
        """
        config = base
        for one in self.dimensions:
            if self._counts(one, config):
                config = config.replace({one.section: {one.name: one.draw(trial)}})
        return config

    def parameters(self, config: Config) -> dict[str, Any]:
        """The draw that gives `config`, as far as this space can give it, by Optuna's names."""
        counted = [one for one in self.dimensions if self._counts(one, config)]
        values = {
            one.key: (one, getattr(getattr(config, one.section), one.name)) for one in counted
        }
        return {key: value for key, (one, value) in values.items() if one.holds(value)}

    def register(self, trial: Suggests, keys: Iterable[str]) -> None:
        """Draw only these, for a trial whose values are fixed."""
        known = {one.key: one for one in self.dimensions}
        for key in keys:
            known[key].draw(trial)

    def to_dict(self) -> dict[str, str]:
        """Optuna's names and what is drawn for them, in words."""
        return {one.key: str(one) for one in self.dimensions}

    @functools.cached_property
    def _cold(self) -> frozenset[str]:
        return frozenset(one.setting for one in self.dimensions if one.cold)

    def _counts(self, one: Dimension, config: Config) -> bool:
        generation = config.generation
        is_cold = generation.generator == "wgan-gp" and generation.generator_init == "cold"
        if one.cold != (is_cold and one.setting in self._cold):
            return False
        return is_used(one.section, one.name, config)


def is_used(section: str, name: str, config: Config) -> bool:
    """Whether a run with these settings looks at this one.

    >>> ridge = Config().replace({"generation": {"generator": "ridge"}})
    >>> is_used("generation", "steps", ridge), is_used("generation", "ridge_lambda", ridge)
    (False, True)
    """
    gan = config.generation.generator == "wgan-gp"
    switches, loss = config.refinement.switches, config.refinement.loss
    if section == "generation" and name != "generator":
        if name.startswith("ridge_"):
            return not (gan and config.generation.generator_init == "cold")
        return gan
    if section != "refinement" or name == "components":
        return True
    if name in ("gamma", "margin"):
        return "ml" in switches and loss.startswith("circle")
    needs = {"loss": "ml", "semantic_scale": "is", "visual_norm": "is"}
    needs |= dict.fromkeys(("cross_entropy_weight", "synthetic_per_unseen"), "sfr")
    return needs[name] in switches if name in needs else bool(switches)


def _dimensions(values: Mapping[str, Any], cold: bool) -> Iterable[Dimension]:
    for section, settings in values.items():
        if not isinstance(settings, Mapping) or not isinstance(
            getattr(Config(), section, None), Section
        ):
            Config().check({section: {}})  # says which sections there are
            raise SettingsError(f"{section} must be a section, such as [refinement]")
        for name, wanted in settings.items():
            yield _dimension(section, name, wanted, cold)


def _dimension(section: str, name: str, wanted: Any, cold: bool) -> Dimension:
    def checked(value: Any) -> Any:
        return getattr(getattr(Config().replace({section: {name: value}}), section), name)

    where = f"{section}.{name}"
    if isinstance(wanted, Mapping):
        return _range(section, name, {**wanted}, cold, checked)
    values = tuple(checked(value) for value in (wanted if isinstance(wanted, list) else [wanted]))
    if not values or len(set(values)) < len(values):
        raise SettingsError(f"{where}: expected values, none of them twice, but got {wanted!r}")
    return Dimension(section, name, values, cold=cold)


def _range(section: str, name: str, wanted: dict[str, Any], cold: bool, checked: Any) -> Dimension:
    where = f"{section}.{name}"
    if not {"low", "high"} <= wanted.keys() <= _RANGE:
        raise SettingsError(
            f"{where}: expected a list of values, or low and high with step or log = true, but got "
            f"{', '.join(wanted) or 'nothing'}"
        )
    low, high, step = checked(wanted["low"]), checked(wanted["high"]), wanted.get("step")
    log = wanted.get("log", False)
    whole = isinstance(low, int)
    if not isinstance(low, int | float):
        raise SettingsError(f"{where} is no number: give a list of values")
    if low >= high or not isinstance(log, bool) or (log and (step is not None or low <= 0)):
        raise SettingsError(
            f"{where}: expected low < high, and with log = true low > 0 and no step, but got "
            f"{wanted}"
        )
    if step is not None:
        right = isinstance(step, int if whole else int | float) and not isinstance(step, bool)
        steps = (high - low) / step if right and step > 0 else 0.5
        if abs(steps - round(steps)) > 1e-9:
            raise SettingsError(f"{where}: expected high to be a number of steps above low")
    return Dimension(section, name, (), low, high, step, log, cold)
