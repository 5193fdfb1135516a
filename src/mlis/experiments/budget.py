"""The size of an experiment: the paper's settings; reduced, which rows say; or a smoke test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlis.config import Config
from mlis.experiments.tasks import USUAL
from mlis.methods.registry import METHODS
from mlis.provenance import PROTOCOL

# upper limits of the quick budget: seconds per run, figures that mean nothing
QUICK: dict[str, dict[str, int]] = {
    "generation": {"steps": 10, "critic_steps": 2, "hidden": 64, "noise": 32, "batch_size": 32},
    "refinement": {"steps": 10, "hidden": 64, "classes_per_batch": 16, "samples_per_class": 4},
    "classification": {"synthetic_per_unseen": 10, "synthetic_per_seen": 10, "max_iterations": 50},
}
QUICK_OPTIONS: dict[str, dict[str, Any]] = {
    "sje": {"steps": 10, "choices": [5, 10]},
    "vgse": {"steps": 10, "choices": [5, 10]},
    "vgse-patches": {
        **{"steps": 10, "choices": [5, 10], "clusters": 8, "cluster_steps": 5, "cluster_batch": 16},
    },
    "dazle": {"steps": 10, "choices": [5, 10], "batch_size": 32},
    "dvbe": {
        **{"steps": 10, "choices": [5, 10], "batch_size": 32},
        **{"channels": 8, "gate_hidden": 4, "width": 16, "hidden": 16},
    },
    "cngzsl": {"steps": 10, "choices": [5, 10], "batch_size": 32, "hidden": 32},
    "zicldm": {
        **{"steps": 10, "choices": [5, 10], "batch_size": 32},
        **{"common": 32, "hidden": 32, "relation": 16},
    },
    "zlap": {"steps": 10, "choices": [5, 10], "batch_size": 32, "hidden": 32},
    "cegzsl": {
        **{"steps": 10, "choices": [5, 10], "batch_size": 64},
        **{"embedding": 64, "projection": 32, "hidden": 64},
    },
    "cada-vae": {
        **{"epochs": 1, "batch_size": 64, "latent": 8, "seen_latents": 10, "unseen_latents": 10},
        **{"visual_encoder": 32, "visual_decoder": 32},
        **{"semantic_encoder": 32, "semantic_decoder": 32},
    },
    "hsva": {
        **{"epochs": 1, "batch_size": 64, "latent": 8, "seen_latents": 10, "unseen_latents": 10},
        **{"hidden": 32, "structure": 16, "classifier_hidden": 8, "projections": 4},
    },
    "tcn": {"steps": 8, "batch_size": 16, "hidden": 16, "relation_hidden": 16},
    "sdgzsl": {
        **{"steps": 8, "batch_size": 16, "hidden": 16, "code": 8, "latent": 4, "semantic": 8},
    },
    "lisgan": {
        **{"steps": 4, "batch_size": 32, "hidden": 32, "noise": 16, "critic_steps": 2},
        **{"class_samples": 2},
    },
    **{
        name: {
            **{"steps": 4, "batch_size": 32, "hidden": 32, "critic_hidden": 32, "noise": 16},
            **{"critic_steps": 2},
        }
        for name in ("f-vaegan", "tf-vaegan", "free", "gcm-cf")
    },
}

# Systems that take hours to days at their default lengths, cut down to minutes of a core: larger
# batches and step sizes, narrower networks, fewer steps. Sized by time, never by a result.
_NARROW: dict[str, Any] = {"batch_size": 256, "hidden": 1024, "noise": 128}
REDUCED_OPTIONS: dict[str, dict[str, Any]] = {
    "cada-vae": {"epochs": 60, "batch_size": 500, "learning_rate": 1e-3},
    "hsva": {
        **{"epochs": 60, "batch_size": 500, "hidden": 512, "structure": 256, "learning_rate": 1e-3},
        "classifier_hidden": 256,
    },
    "sdgzsl": {"steps": 600, "batch_size": 128, "hidden": 1024, "learning_rate": 5e-4},
    "tcn": {"steps": 2000, "hidden": 512, "relation_hidden": 256, "learning_rate": 1e-4},
    "lisgan": {**_NARROW, "steps": 600, "class_samples": 4, "learning_rate": 5e-4},
    "f-vaegan": {**_NARROW, "steps": 600, "critic_hidden": 1024},
    "tf-vaegan": {
        **{**_NARROW, "steps": 700, "critic_hidden": 1024, "critic_steps": 2},
        **{"learning_rate": 5e-4, "decoder_rate": 5e-4, "feedback_rate": 1e-4},
    },
    "free": {
        **{**_NARROW, "steps": 600, "critic_hidden": 1024, "critic_steps": 2},
        **{"learning_rate": 5e-4, "refinement_rate": 5e-4},
    },
    "gcm-cf": {
        **{**_NARROW, "steps": 600, "critic_hidden": 1024, "critic_steps": 2, "batch_size": 64},
        **{"learning_rate": 5e-4, "decoder_rate": 5e-4, "feedback_rate": 1e-4, "kl_warm_up": 5},
        **{"counterfactuals": 7, "gate_samples": 3},
    },
}
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
