"""The size of an experiment: the paper's settings; reduced, which rows say; or a smoke test."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mlis.config import Config
from mlis.experiments.tasks import USUAL
from mlis.methods.registry import METHODS
from mlis.provenance import PROTOCOL

_SIZES = tomllib.loads(
    resources.files("mlis.experiments").joinpath("budget.toml").read_text(encoding="utf-8")
)
QUICK: dict[str, dict[str, int]] = _SIZES["quick"]["limits"]
QUICK_OPTIONS: dict[str, dict[str, Any]] = _SIZES["quick"]["options"]
REDUCED_OPTIONS: dict[str, dict[str, Any]] = _SIZES["reduced"]["options"]
FULL, REDUCED, QUICK_SIZE = "full", "reduced", "quick"


@dataclass(frozen=True)
class Budget:
    """How much is spent.

    Attributes:
        name: "paper", settings as they are; "reduced", the systems of `REDUCED_OPTIONS` smaller and
            shorter; or "quick", to see that everything runs.
        seeds: of each line of a table and each point of a curve.
        device: "auto", "cpu", "cuda", …
        protocols: H@val, and what is measured beside it.
        methods: of table 2.
    """

    name: str = "paper"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    device: str = "auto"
    protocols: tuple[str, ...] = (PROTOCOL,)
    methods: tuple[str, ...] = USUAL

    @property
    def quick(self) -> bool:
        """Whether figures mean nothing."""
        return self.name == "quick"

    def options(self, method: str) -> Mapping[str, Any]:
        """A method's own settings, where they are not its defaults."""
        known = {"quick": QUICK_OPTIONS, "reduced": REDUCED_OPTIONS}.get(self.name, {})
        return known.get(method, {})

    def limited(self, config: Config) -> Config:
        """Settings, cut down where the budget is quick."""
        if not self.quick:
            return config
        sections = config.to_dict()
        least = {
            section: {name: min(sections[section][name], most) for name, most in limits.items()}
            for section, limits in QUICK.items()
        }
        least["classification"]["tolerance"] = 0.01
        return config.replace(least)


def within_quick(config: Mapping[str, Any]) -> bool:
    """Whether settings (`Config.to_dict`) train no longer than the quick budget does.

    Rows do not say what was spent on them; stage 2 is left out, as figures sweep it.
    """
    return all(
        config[section][name] <= most
        for section in ("generation", "refinement")
        for name, most in QUICK[section].items()
    )


def size_of(task: Mapping[str, Any]) -> tuple[str, str]:
    """At which size a task (`Task.to_dict`) runs, `FULL` being a method's defaults; and details.

    Both follow from the settings in the task, so that a row cannot lose its label.

    >>> size_of({"method": "cada-vae", "config": Config().to_dict(), "options": {"epochs": 60}})
    ('reduced', 'reduced size: epochs 60 (default 100)')
    """
    method, options = task["method"], dict(task.get("options") or {})
    if within_quick(task["config"]) or (options and options == QUICK_OPTIONS.get(method)):
        return QUICK_SIZE, ""
    usual = METHODS[method]().options
    changed = [
        f"{name} {_shown(value)} (default {_shown(usual[name])})"
        for name, value in options.items()
        if name in usual and _shown(value) != _shown(usual[name])
    ]
    return (REDUCED, f"reduced size: {', '.join(changed)}") if changed else (FULL, "")


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):  # JSON has lists where settings have tuples
        return "/".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
