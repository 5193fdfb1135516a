"""The size of an experiment: the paper's settings; reduced, which rows say; or a smoke test."""

import tomllib
from collections.abc import Mapping, Sequence
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
SAMPLES = "synthetic_per_unseen"  # of the shared settings, where it stands among published options


@dataclass(frozen=True)
class Budget:
    """How much is spent.

    Attributes:
        name: "paper", the settings that a system's authors published for the benchmark, else its
            defaults; "reduced", the systems of `REDUCED_OPTIONS` smaller and shorter, all others
            with their defaults; or "quick", to see that everything runs.
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

    def options(self, method: str, benchmark: Sequence[str] = ()) -> Mapping[str, Any]:
        """A method's own settings, where they are not its defaults, as `Method.published` has them.

        Args:
            method: its name.
            benchmark: names under which they may be published; the first that is there counts.
        """
        if self.name == "paper":
            published = METHODS[method].published
            return next((published[name] for name in benchmark if name in published), {})
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
    """At which size a task (`Task.to_dict`) runs, and details.

    `FULL` is that of a method's defaults, or what its authors published; the details say for which
    benchmark, or that the defaults are shorter. Both follow from the settings in the task, so that
    a row cannot lose its label.

    >>> size_of({"method": "cada-vae", "config": Config().to_dict(), "options": {"epochs": 60}})
    ('reduced', 'reduced size: epochs 60 (default 100)')
    >>> size_of({"method": "dazle", "config": Config().to_dict(), "options": {}, "name": "AWA2"})
    ('full', 'shorter than published: 3000 steps of 9400 (AWA2)')
    """
    method, options = task["method"], dict(task.get("options") or {})
    if within_quick(task["config"]) or (options and options == QUICK_OPTIONS.get(method)):
        return QUICK_SIZE, ""
    usual = METHODS[method]().options
    if known := _published(task, usual, options):
        return FULL, known
    changed = [
        f"{name} {_shown(value)} (default {_shown(usual[name])})"
        for name, value in options.items()
        if name in usual and _shown(value) != _shown(usual[name])
    ]
    if changed:
        return REDUCED, f"reduced size: {', '.join(changed)}"
    return FULL, _shorter(task, usual)


def _published(
    task: Mapping[str, Any], usual: Mapping[str, Any], options: Mapping[str, Any]
) -> str:
    """For which benchmark settings were published; of several the task's own, else the first."""
    samples, found = task["config"]["classification"][SAMPLES], []
    for name, published in METHODS[task["method"]].published.items():
        known, own = ({SAMPLES: samples, **usual, **one} for one in (published, options))
        differ = {one for one in known if _shown(known[one]) != _shown(own[one])}
        if differ <= {SAMPLES}:
            less = f", but {samples} synthetic samples per unseen class" if differ else ""
            text = f"settings published for {name}{less}"
            found.append((bool(differ), name.partition(",")[0] != task.get("name"), text))
    return min(found, key=lambda one: one[:2])[-1] if found else ""


def _shorter(task: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """That the defaults are shorter than what was published for the benchmark, or for any."""
    known = METHODS[task["method"]].published
    lengths = {name: one["steps"] for name, one in known.items() if "steps" in one}
    if not lengths:
        return ""
    name = str(task.get("name"))
    if name not in lengths:
        name = min(lengths, key=lengths.__getitem__)
    if usual["steps"] >= lengths[name]:
        return ""
    return f"shorter than published: {usual['steps']} steps of {lengths[name]} ({name})"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):  # JSON has lists where settings have tuples
        return "/".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
