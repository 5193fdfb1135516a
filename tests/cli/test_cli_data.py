"""`mlis data info`, `mlis data convert` and `mlis demo`."""

import sys
from types import ModuleType

import pytest

from cli_cases import last_json, printed, refused, save_small, small_dataset
from mlis.cli import main
from mlis.data.io.folder import load_folder
from standins import write_tiny


def test_info_of_a_folder(tmp_path, capsys):
    folder = save_small(tmp_path / "data")
    data = small_dataset()
    out = printed(capsys, "data", "info", folder, "--json")
    assert out.startswith("small\n")
    assert f"SHA-256      {data.sha256}" in out.splitlines()
    info = last_json(out)
    assert info["table_1"]["classes"] == 12
    assert info["sha256"] == data.sha256
    assert info["feature_size"] == 16


def test_info_of_a_benchmark(xlsa17, capsys):
    place = ("--data-root", xlsa17, "--features", "efficientnet_lite2.mat")
    info = last_json(printed(capsys, "data", "info", "flo", *place, "--json"))
    assert info["table_1"] == {
        "classes": 102,
        "seen": 82,
        "unseen": 20,
        "trainval_images": 5631,
        "test_seen_images": 1403,
        "test_unseen_images": 1155,
    }


def test_convert_a_pair_and_use_the_folder(tmp_path, capsys):
    features, split = write_tiny(tmp_path / "files")
    pair = ("--features", features, "--split", split)
    out = printed(capsys, "data", "convert", *pair, "-o", tmp_path / "data")
    data = load_folder(tmp_path / "data")
    assert data.sha256 in out
    assert data.class_names[0] == "class+a"
    direct = last_json(printed(capsys, "data", "info", *pair, "--json"))
    assert last_json(printed(capsys, "data", "info", tmp_path / "data", "--json")) == direct


def test_descriptors_can_be_chosen(tmp_path, capsys):
    features, split = write_tiny(tmp_path / "files")
    pair = ("--features", features, "--split", split)
    printed(capsys, "data", "convert", *pair, "-o", tmp_path / "att")
    original = ("--descriptors", "original_att")
    printed(capsys, "data", "convert", *pair, *original, "--no-cache", "-o", tmp_path / "original")
    norms = [(load_folder(tmp_path / d).descriptors ** 2).sum(1) for d in ("att", "original")]
    assert norms[0] == pytest.approx(1, abs=1e-6)
    assert norms[1].min() > 100
    assert "expected descriptors 'words'" in refused(
        capsys, "data", "info", *pair, "--descriptors", "words"
    )


def test_convert_replaces_only_when_told_to(tmp_path, capsys):
    one, two = save_small(tmp_path / "one"), save_small(tmp_path / "two", seed=1)
    before = load_folder(two).sha256
    assert "--force" in refused(capsys, "data", "convert", one, "-o", two)
    assert load_folder(two).sha256 == before
    printed(capsys, "data", "convert", one, "-o", two, "--force")
    assert load_folder(two).sha256 == load_folder(one).sha256 != before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["letters", "--data-root", "x"], "--data-root: not allowed with letters"),
        (["letters", "--test-fraction", "0.3"], "takes --split-seed"),
        (["DATA", "--split-seed", "1"], "takes none of these options"),
        (["FLO", "--data-root", "x", "--labels", "y"], "--labels: not allowed with FLO"),
        (
            ["--features", "x.csv", "--classes", "y.csv", "--split", "z.mat"],
            "not allowed with tables",
        ),
        (["--features", "x.csv"], "--features with --split or --classes"),
    ],
)
def test_options_that_would_be_ignored_are_errors(flags, said, tmp_path, capsys):
    folder = save_small(tmp_path / "data")
    flags = [folder if flag == "DATA" else flag for flag in flags]
    assert said in refused(capsys, "data", "info", *flags)


@pytest.fixture
def demo(monkeypatch):
    """A demonstration that trains nothing; it gives the calls it got."""
    calls = []

    def run_demo(folder, *, seed, device, progress):
        calls.append((folder, seed, device))
        callback = progress("mlis")
        callback.on_start("refinement", 0, 20)
        callback.on_step("refinement", 20, 20, {"metric": 1.5})
        measures = {"U": 55.5, "S": 60.0, "H": 57.7, "T1": 70.0}
        baselines = {"chance": {"U": 0.5, "S": 0.4, "H": 0.4, "T1": None}}
        facts = {"protocol": "H@val", "seconds": 1.5, "page": folder / "index.html"}
        return {**measures, **facts, "baselines": baselines}

    module = ModuleType("mlis.demo")
    module.run_demo = run_demo
    monkeypatch.setitem(sys.modules, "mlis.demo", module)
    return calls


def test_demo_prints_a_table_and_json(demo, tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path), "--seed", "3", "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "mlis: refinement 20/20" in err
    assert demo == [(tmp_path, 3, "cpu")]
    lines = out.splitlines()
    assert lines[1].split() == ["chance", "0.5", "0.4", "0.4", "–"]
    assert lines[2].split() == ["mlis", "55.5", "60.0", "57.7", "70.0"]
    result = last_json(out)
    assert result["H"] == 57.7
    assert result["protocol"] == "H@val"
    assert result["page"] == str(tmp_path / "index.html")


@pytest.mark.parametrize("more", [(), ("--classes", "classes.csv")])
def test_a_folder_of_photographs_is_no_dataset_yet(more, tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "zebra").mkdir(parents=True)
    assert f"mlis data build --images {folder}" in refused(capsys, "check", folder, *more)


@pytest.mark.parametrize(
    "words", [("predict", "MODEL", ""), ("evaluate", "MODEL", ""), ("data", "info", "")]
)
def test_an_unset_variable_is_not_the_current_folder(words, capsys):
    assert main([*words]) == 2
    assert "empty" in capsys.readouterr().err
