"""Every setting has a flag; defaults < preset < settings file < flags; TOML out and in again."""

import dataclasses
import tomllib
import typing

import pytest

from cli_cases import one_line_error
from mlis import presets
from mlis.cli import main
from mlis.cli.arguments import sections, setting_flag
from mlis.cli.output import to_toml
from mlis.config import Config, resolve

FIELDS = [(section, f) for section, _, fs in sections() for f in fs]


def dry_run(capsys, *arguments) -> dict:
    """The settings that a fit with these arguments would have."""
    assert main(["fit", *map(str, arguments), "--dry-run"]) == 0
    return tomllib.loads(capsys.readouterr().out)


def another_value(f: dataclasses.Field):
    """A value that is allowed and not the default."""
    kinds = (f.type,) if typing.get_origin(f.type) is typing.Literal else typing.get_args(f.type)
    for kind in kinds or (f.type,):
        if typing.get_origin(kind) is typing.Literal:
            return next(choice for choice in typing.get_args(kind) if choice != f.default)
        if kind is int:
            return f.default + 1
        if kind is float:
            return 0.5 if isinstance(f.default, str) else f.default * 0.5 + 0.1
    return "contrastive"


@pytest.mark.parametrize(
    ("section", "f"), FIELDS, ids=[f"{section}.{f.name}" for section, f in FIELDS]
)
def test_every_setting_has_a_flag(section, f, capsys):
    value = another_value(f)
    # this one setting makes sense in the joint schedule only
    context = ["--schedule", "joint"] if f.name == "generator_feedback" else []
    settings = dry_run(capsys, setting_flag(section, f.name), value, *context)
    assert settings[section][f.name] == value != f.default


def test_every_flag_is_explained(capsys):
    assert main(["fit", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for section, f in FIELDS:
        assert setting_flag(section, f.name) in text
        assert " ".join(f.metadata["help"].split()) in text.replace("- ", "-")
        assert f"(default: {f.default})" in text


def test_each_layer_overrides_those_before(capsys, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[generation]\nsteps = 7\nnoise = 8\n[refinement]\ncomponents = 'ml'\n")
    settings = dry_run(capsys, "AWA2", "--settings", file, "--noise", 9)
    preset = presets.load("awa2")["generation"]
    assert settings["generation"]["learning_rate"] == preset["learning_rate"]
    assert settings["generation"]["steps"] == 7 != preset["steps"]
    assert settings["generation"]["noise"] == 9
    assert settings["generation"]["hidden"] == Config().generation.hidden
    assert settings["refinement"]["components"] == "ml"


def test_a_flag_may_undo_what_a_file_chose(capsys, tmp_path):
    file = tmp_path / "joint.toml"
    file.write_text("[refinement]\nschedule = 'joint'\n")
    arguments = ["--settings", file, "--generator", "ridge"]
    assert main(["fit", *map(str, arguments), "--dry-run"]) == 2
    assert "which the ridge generator does not have" in one_line_error(capsys.readouterr().err)
    settings = dry_run(capsys, *arguments, "--schedule", "sequential")
    assert settings["generation"]["generator"] == "ridge"


def test_preset_is_the_benchmarks_own_unless_named(capsys):
    own = dry_run(capsys, "sun")
    assert own["generation"]["steps"] == presets.load("sun")["generation"]["steps"]
    assert dry_run(capsys, "any", "--preset", "SUN") == own
    assert dry_run(capsys, "sun", "--preset", "none") == Config().to_dict()
    assert dry_run(capsys, "some/folder") == Config().to_dict()


def test_dry_run_is_a_settings_file(capsys, tmp_path):
    arguments = ["fit", "FLO", "--loss", 'a"b\\c:\x7fd', "--calibration", "1e-7"]
    assert main([*arguments, "--dry-run"]) == 0
    file = tmp_path / "all.toml"
    file.write_text(printed := capsys.readouterr().out, encoding="utf-8")
    assert main(["fit", "FLO", "--preset", "none", "--settings", str(file), "--dry-run"]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[1:] == printed.splitlines()[1:]  # the first line names the preset
    config = resolve(tomllib.loads(printed))
    assert config.refinement.loss == 'a"b\\c:\x7fd'
    assert resolve(tomllib.loads(to_toml(config))) == config


def test_dry_run_writes_and_reads_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "FLO", "--data-root", "absent", "-o", "run", "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[generation", "not valid TOML"),
        ("[generation]\nstepz = 3", "unknown setting generation.stepz"),
        ("[generaton]\nsteps = 3", "unknown settings section 'generaton'"),
        ("[generation]\nsteps = 3.5", "generation.steps must be a whole number, but got 3.5"),
        ("precision = 'half'", "precision must be 'auto'"),
    ],
)
def test_faults_of_a_settings_file(text, said, capsys, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(text)
    assert main(["fit", "FLO", "--settings", str(file), "--dry-run"]) == 2
    line = one_line_error(capsys.readouterr().err)
    assert said in line
    assert str(file) in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gamma", "big"], "--gamma: invalid float value: 'big'"),
        (["--gamma", "-1"], "refinement.gamma must be at least"),
        (["--schedule", "random"], "invalid choice: 'random'"),
        (["--components", "is,ml"], "refinement.components must be"),
        (["--calibration", "test"], "classification.calibration must be h, seen-loss=P"),
        (["--gam", "3"], "unrecognized arguments: --gam"),
        (["--settings", "absent.toml"], "settings file absent.toml does not exist"),
    ],
)
def test_faults_of_flags(arguments, said, capsys):
    assert main(["fit", "FLO", *arguments, "--dry-run"]) == 2
    assert said in one_line_error(capsys.readouterr().err)
