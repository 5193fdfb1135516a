"""The search space: a TOML file that gives each searched setting an Optuna distribution.

A list holds the values to choose among, `{ low, high, step, log }` is a range. Settings that a
draw does not use are not drawn: a generator with other steps would be trained for nothing where
ridge was drawn.
"""

import contextlib
import tomllib
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from mlis.config import Config, read_toml
from mlis.errors import SettingsError

COLD = "cold."  # prefix of what is drawn instead where the GAN starts cold
_DRAWN_FIRST = (  # what the others depend on
    "generation.generator",
    "generation.generator_init",
    "refinement.components",
    "refinement.loss",
)
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]  # by `section.name` or `cold.section.name`, in order of drawing


def read_space(path: Path | None) -> Space:
    """The space of a file, or the default one.

    Raises:
        SettingsError: an unknown setting, a value out of its range, or nothing to choose.
    """
    if path is None:
        own = resources.files("mlis.experiments.tuning").joinpath("space.toml")
        return parse_space(tomllib.loads(own.read_text(encoding="utf-8")))
    values = read_toml(path)
    try:
        return parse_space(values)
    except SettingsError as error:
        raise SettingsError(f"space {path}: {error}") from None


def parse_space(values: Mapping[str, Any]) -> Space:
    """Check a nested mapping such as that of `space.toml`; errors as of :func:`read_space`."""
    values = dict(values)
    cold = values.pop("cold", {})
    if not isinstance(cold, Mapping):
        raise SettingsError(f"cold: expected sections, such as [cold.generation], got {cold!r}")
    space: Space = {}
    for prefix, sections in (("", values), (COLD, cold)):
        for section, settings in sections.items():
            if not isinstance(settings, Mapping):
                raise SettingsError(
                    f"{prefix}{section}: expected a section, such as [refinement], got {settings!r}"
                )
            Config().check({section: {}})
            for name, wanted in settings.items():
                space[f"{prefix}{section}.{name}"] = _distribution(section, name, wanted)
    if not space:
        raise SettingsError("the space is empty: name a setting and its values")
    first = [key for name in _DRAWN_FIRST for key in (name, COLD + name) if key in space]
    return {key: space[key] for key in dict.fromkeys([*first, *space])}


def _distribution(section: str, name: str, wanted: Any) -> Distribution:
    def checked(value: Any) -> Any:
        return getattr(getattr(Config(), section).replace({name: value}), name)

    where = f"{section}.{name}"
    if not isinstance(wanted, Mapping):
        values = [checked(value) for value in (wanted if isinstance(wanted, list) else [wanted])]
        if not values or len(set(values)) < len(values):
            raise SettingsError(f"{where}: expected one or more different values, got {wanted!r}")
        return CategoricalDistribution(values)
    try:
        ends = {end: checked(wanted[end]) for end in ("low", "high")}
        if not isinstance(wanted.get("log", False), bool):
            raise TypeError("log must be true or false")
        kind = IntDistribution if isinstance(ends["low"], int) else FloatDistribution
        if kind is IntDistribution and not isinstance(wanted.get("step", 1), int):
            raise TypeError("step must be a whole number")
        with warnings.catch_warnings(action="error"):  # Optuna lowers a `high` that no step meets
            return kind(**{**wanted, **ends})
    except (KeyError, TypeError, ArithmeticError, UserWarning, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"{where}: expected a list of values, or a range {{ low, high }} with step = N or "
            f"log = true, got {dict(wanted)} ({error})"
        ) from None


def suggest(trial: Trial, space: Space, base: Config) -> Config:
    """Settings of a trial: `base`, with what is drawn in its place.

    Raises:
        SettingsError: drawn values that cannot be combined.
    """
    config = base
    for key, one in space.items():
        if _is_drawn(key, space, config):
            section, name = key.removeprefix(COLD).split(".")
            config = config.replace({section: {name: suggest_one(trial, key, one)}})
    return config


def suggest_one(trial: Trial, key: str, one: Distribution) -> Any:
    """A value; a fractional number has three digits, as more would be noise in a settings file."""
    if isinstance(one, CategoricalDistribution):
        return trial.suggest_categorical(key, one.choices)
    if isinstance(one, IntDistribution):
        return trial.suggest_int(key, one.low, one.high, step=one.step, log=one.log)
    return float(f"{trial.suggest_float(key, one.low, one.high, step=one.step, log=one.log):.3g}")


def parameters(space: Space, config: Config) -> dict[str, Any]:
    """What would have to be drawn for `config`, without the values that `space` cannot give."""
    found = {}
    for key in [key for key in space if _is_drawn(key, space, config)]:
        fixed = {key: value_of(key, config)}
        with contextlib.suppress(ValueError, TypeError):  # a value that the distribution lacks
            create_trial(value=0.0, params=fixed, distributions={key: space[key]})
            found |= fixed
    return found


def value_of(key: str, config: Config) -> Any:
    """The value that a setting has in `config`."""
    section, name = key.removeprefix(COLD).split(".")
    return getattr(getattr(config, section), name)


def described(one: Distribution) -> str:
    """A distribution in words."""
    if isinstance(one, CategoricalDistribution):
        return ", ".join(map(str, one.choices))
    kind = ", logarithmic" if one.log else f" in steps of {one.step:g}" if one.step else ""
    return f"{one.low:g} to {one.high:g}{kind}"


def _is_drawn(key: str, space: Space, config: Config) -> bool:
    generation = config.generation
    is_cold = generation.generator == "wgan-gp" and generation.generator_init == "cold"
    if key.startswith(COLD) != (is_cold and COLD + key.removeprefix(COLD) in space):
        return False
    return is_used(key.removeprefix(COLD), config)


def is_used(setting: str, config: Config) -> bool:
    """Whether a training with `config` depends on a setting, named by `section.name`.

    >>> ridge = Config().replace({"generation": {"generator": "ridge"}})
    >>> is_used("generation.steps", ridge), is_used("generation.ridge_lambda", ridge)
    (False, True)
    """
    section, name = setting.split(".")
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
