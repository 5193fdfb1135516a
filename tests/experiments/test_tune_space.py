"""The space of a search: what a space file may hold, and what is drawn from it."""

from pathlib import Path
from typing import Any

import pytest

from mlis.config import Config
from mlis.errors import SettingsError

pytest.importorskip("optuna")

from mlis.experiments.tuning.space import is_used, parameters, parse_space, read_space, suggest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


class Last:
    """Draws the last value, or the upper end; remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name, choices):
        self.asked[name] = tuple(choices)
        return choices[-1]

    def suggest_int(self, name, low, high, *, step=1, log=False):
        self.asked[name] = (low, high, step, log)
        return high

    def suggest_float(self, name, low, high, *, step=None, log=False):
        self.asked[name] = (low, high, step, log)
        return high


def drawn(values: dict[str, Any], **base: Any) -> tuple[Config, dict[str, Any]]:
    trial = Last()
    config = suggest(trial, parse_space(values), Config().replace(base))  # pyright: ignore
    return config, trial.asked


def test_values_and_ranges_are_drawn_in_the_setting_s_own_type():
    config, asked = drawn(
        {
            "refinement": {
                "gamma": {"low": 8, "high": 80, "log": True},
                "steps": {"low": 100, "high": 300, "step": 100},
                "margin": [0, 1],
            }
        }
    )
    assert asked == {
        "refinement.gamma": (8.0, 80.0, None, True),
        "refinement.steps": (100, 300, 100, False),
        "refinement.margin": (0.0, 1.0),
    }
    assert (config.refinement.gamma, config.refinement.steps) == (80.0, 300)


def test_what_a_draw_does_not_use_is_not_drawn():
    values: dict[str, Any] = {
        "refinement": {"gamma": [8, 16], "cross_entropy_weight": [1, 2], "components": ["ml"]},
        "generation": {
            **{"steps": [5, 6], "ridge_lambda": [0.1, 0.2], "generator": ["wgan-gp", "ridge"]},
            "generator_init": ["ridge", "cold"],
        },
    }
    _, asked = drawn(values)
    assert list(asked) == [  # what others depend on first
        *("generation.generator", "refinement.components"),
        *("refinement.gamma", "generation.ridge_lambda"),
    ]
    values["generation"]["generator"] = ["ridge", "wgan-gp"]
    _, asked = drawn(values)
    assert "generation.steps" in asked
    assert "generation.ridge_lambda" not in asked  # a cold start looks at no ridge
    nothing = Config().replace({"refinement": {"components": "none"}})
    assert not is_used("refinement.steps", nothing)
    assert is_used("classification.synthetic_per_unseen", nothing)


def test_a_cold_start_has_values_of_its_own():
    values = {
        "generation": {"steps": [50, 100], "generator_init": ["ridge", "cold"]},
        "cold": {"generation": {"steps": [2000, 3000]}},
    }
    config, asked = drawn(values)
    assert config.generation.steps == 3000
    assert "generation.steps" not in asked
    values["generation"]["generator_init"] = ["cold", "ridge"]
    config, asked = drawn(values)
    assert config.generation.steps == 100
    assert "cold.generation.steps" not in asked


def test_settings_as_parameters_without_what_the_space_cannot_give():
    space = parse_space(
        {"refinement": {"gamma": {"low": 8, "high": 60}, "margin": [0.25, 0.5], "steps": [600]}}
    )
    base = Config().replace({"refinement": {"margin": 0.25, "gamma": 80.0, "steps": 600}})
    assert parameters(space, base) == {"refinement.margin": 0.25, "refinement.steps": 600}
    stepped = parse_space({"refinement": {"margin": {"low": 0.1, "high": 0.4, "step": 0.1}}})
    assert parameters(stepped, base) == {}
    assert parameters(stepped, Config().replace({"refinement": {"margin": 0.3}})) != {}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "the space is empty"),
        ({"refinement": {"gama": [1]}}, "unknown setting refinement.gama"),
        ({"refining": {"gamma": [1]}}, "unknown settings section 'refining'"),
        ({"refinement": 3}, "refinement: expected a section"),
        ({"cold": [1]}, "cold: expected sections"),
        ({"cold": {"generation": {"stepz": [1]}}}, "unknown setting generation.stepz"),
        ({"refinement": {"gamma": []}}, "refinement.gamma: .* different values"),
        ({"refinement": {"gamma": [-1]}}, "refinement.gamma must be at least"),
        ({"refinement": {"gamma": {"low": 8}}}, "refinement.gamma: .*'high'"),
        ({"refinement": {"gamma": {"low": 8, "high": 9, "lgo": True}}}, "refinement.gamma: .*lgo"),
        ({"refinement": {"gamma": {"low": 9, "high": 8}}}, r"refinement.gamma: .*low"),
        ({"refinement": {"gamma": {"low": 1, "high": 8, "step": 0.5, "log": True}}}, "step.*log"),
        ({"refinement": {"steps": {"low": 1, "high": 8, "step": 3}}}, "refinement.steps: .*step"),
        ({"refinement": {"steps": {"low": 1.5, "high": 8}}}, "refinement.steps must be a whole"),
        (
            {"generation": {"generator": {"low": "ridge", "high": "wgan-gp"}}},
            "generation.generator",
        ),
    ],
)
def test_wrong_spaces_are_refused(values, said):
    with pytest.raises(SettingsError, match=said):
        parse_space(values)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text("[refinement]\ngama = [1]\n")
    with pytest.raises(SettingsError, match=r"space .*space.toml: unknown setting"):
        read_space(path)
    with pytest.raises(SettingsError, match="does not exist"):
        read_space(tmp_path / "none.toml")


@pytest.mark.parametrize("path", [None, *BENCHMARKS.glob("space-*.toml")], ids=str)
def test_the_shipped_spaces_give_settings_that_suit_one_another(path):
    space = read_space(path)
    for first in (True, False):
        trial = Last()
        if first:
            trial.suggest_categorical = lambda name, choices: choices[0]  # pyright: ignore
        config = suggest(trial, space, Config())  # pyright: ignore
        assert config != Config()
        assert len(parameters(space, config)) >= 5
