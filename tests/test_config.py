"""Settings: every field is checked, layers merge, nothing depends on order or number type."""

import dataclasses
import json
import math

import pytest

from mlis.config import (
    Classification,
    Config,
    Generation,
    Preprocessing,
    Refinement,
    hash_of,
    read_toml,
    resolve,
)
from mlis.errors import SettingsError

SECTIONS = {
    "preprocessing": Preprocessing,
    "generation": Generation,
    "refinement": Refinement,
    "classification": Classification,
}
NUMBERS = [
    (name, field)
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
    if field.type in (int, float)
]


def test_defaults_are_valid_and_every_setting_says_what_it_is():
    config = Config()
    for name, section in SECTIONS.items():
        assert isinstance(getattr(config, name), section)
        for field in dataclasses.fields(section):
            assert field.metadata["help"], field.name


@pytest.mark.parametrize(("name", "field"), NUMBERS, ids=lambda v: getattr(v, "name", v))
def test_numbers_are_checked(name, field):
    section = SECTIONS[name]
    where = f"{name}.{field.name}"
    for bad in ("3", None, True, [1], math.nan, math.inf):
        with pytest.raises(SettingsError, match=where):
            section(**{field.name: bad})
    low, high = field.metadata["low"], field.metadata["high"]
    if low is not None:
        assert getattr(section(**{field.name: low}), field.name) == low
        with pytest.raises(SettingsError, match=f"{where} must be .*{low}"):
            section(**{field.name: low - 1})
    if high is not None:
        with pytest.raises(SettingsError, match=f"between {low} and {high}, but got"):
            section(**{field.name: high + 1})
    if field.type is int:
        with pytest.raises(SettingsError, match=f"{where} must be a whole number, but got 2.5"):
            section(**{field.name: 2.5})


def test_choices_are_checked():
    with pytest.raises(
        SettingsError, match=r"generation\.generator must be 'wgan-gp' or 'ridge' or 'f-vaegan'"
    ):
        Generation(generator="gan")
    with pytest.raises(SettingsError, match=r"refinement\.components must be 'ml\+is\+sfr' or"):
        Refinement(components="is")
    with pytest.raises(SettingsError, match="precision must be 'auto' or 'float32'"):
        Config(precision="float16")
    with pytest.raises(SettingsError, match=r"refinement\.loss must be a string, but got 3"):
        Refinement(loss=3)


def test_calibration_is_a_number_or_a_choice():
    """ "h" is "validation", so that settings of either kind are the same."""
    for given, expected in (("h", "validation"), ("validation", "validation"), (-2, -2.0)):
        assert Classification(calibration=given).calibration == expected
    for given in ("seen-loss=5", "seen-loss=5.0"):
        assert Classification(calibration=given).calibration == "seen-loss=5"
    assert Config.from_dict({"classification": {"calibration": "h"}}) == Config()
    for bad in ("validatoin", "seen-loss=101", "seen-loss=", "seen-loss=-1", "seen-loss=nan", 1e31):
        with pytest.raises(SettingsError, match=r"calibration must be h, seen-loss=P .*, but got"):
            Classification(calibration=bad)
    for bad in (None, True):
        with pytest.raises(SettingsError, match=f"calibration must be a number .*, but got {bad}"):
            Classification(calibration=bad)
    for bad in (math.inf, math.nan):
        with pytest.raises(SettingsError, match=r"calibration must be finite, but got"):
            Classification(calibration=bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"refinement": {"schedule": "joint"}, "generation": {"generator": "ridge"}},
            "ridge generator does not have: use schedule='sequential'",
        ),
        ({"refinement": {"generator_feedback": 1.0}}, "needs schedule='joint'"),
        (
            {"refinement": {"generator_feedback": 1, "schedule": "joint", "components": "ml"}},
            "components with `sfr`",
        ),
    ],
)
def test_settings_that_do_not_suit_one_another(changes, message):
    with pytest.raises(SettingsError, match=message):
        Config().replace(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generatoin": {"steps": 1}}, "unknown settings section 'generatoin': expected one of"),
        ({"generation": {"step": 1}}, r"unknown setting generation\.step: expected one of .*steps"),
        ({"generation": 3}, "unknown settings section 'generation'|must be"),
        ({"sha256": {"steps": 1}}, "unknown settings section 'sha256'"),
        ({"precision": "half"}, "precision must be 'auto'"),
    ],
)
def test_unknown_names(changes, message):
    for build in (Config().replace, Config.from_dict, resolve, Config().check):
        with pytest.raises(SettingsError, match=message):
            build(changes)


def test_dictionary_round_trip_through_json():
    config = Config(precision="float32").replace(
        {"generation": {"steps": 7}, "classification": {"calibration": "validation"}}
    )
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.sha256 == config.sha256


def test_the_last_layer_wins_setting_by_setting():
    config = resolve(
        {"generation": {"steps": 1, "noise": 2}, "precision": "float32"},
        {"generation": {"steps": 3}},
        {},
        {"precision": "float64"},
    )
    assert (config.generation.steps, config.generation.noise) == (3, 2)
    assert config.precision == "float64"


def test_the_hash_names_the_settings_not_how_they_were_written():
    one = resolve({"refinement": {"gamma": 16, "margin": 0}})
    two = resolve({"refinement": {"margin": 0.0}}, {"refinement": {"gamma": 16.0}})
    assert one.sha256 == two.sha256
    assert one.sha256 != resolve({"refinement": {"gamma": 17}}).sha256
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})


def test_toml(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('precision = "float32"\n[generation]\nsteps = 12\nlearning_rate = 1\n')
    config = resolve(read_toml(path))
    assert config.generation.steps == 12
    assert config.generation.learning_rate == 1.0
    path.write_text("[generation\nsteps = 12")
    with pytest.raises(SettingsError, match=r"settings\.toml is not valid TOML"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not valid TOML"):
        read_toml(path)
    with pytest.raises(SettingsError, match=r"missing\.toml does not exist"):
        read_toml(tmp_path / "missing.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_toml(tmp_path)
