"""The demo: measures, baselines, and a page that stands on its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlis import presets
from mlis.config import Config, resolve
from mlis.data.letters.alphabet import common_letters, covered_letters
from mlis.data.letters.dataset import LetterData, Rendering, load_letters
from mlis.demo import run_demo
from page_cases import Reader, check_self_contained

TINY = {
    "generation": {"generator": "ridge"},
    "refinement": {
        "hidden": 64,
        "steps": 30,
        "classes_per_batch": 12,
        "samples_per_class": 4,
        "learning_rate": 1e-3,
        "cross_entropy_weight": 30.0,
        "semantic_scale": 10.0,  # at 1 the refined features shrink to nothing beside it
    },
    "classification": {
        "synthetic_per_unseen": 10,
        "max_iterations": 30,
        "tolerance": 1e-3,
        "calibration": "validation",
    },
    "precision": "float32",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two threads are many times slower than one at these sizes when another process computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> LetterData:
    letters = [x for x in covered_letters() if x.case == "small" and x.base in "AEOU"]
    return load_letters(
        rendering=Rendering(per_face=1, size=32, font_size=20, cells=4),
        letters=common_letters(letters),
    )


@pytest.fixture(scope="module")
def config() -> Config:
    return resolve(TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "new" / "out"


@pytest.fixture(scope="module")
def result(folder: Path, data: LetterData, config: Config) -> dict:
    return run_demo(folder, config=config, data=data, device="cpu")


@pytest.fixture(scope="module")
def page(result: dict) -> str:
    return Path(result["page"]).read_text(encoding="utf-8")


# --- the numbers ------------------------------------------------------------------------------


def test_the_result_is_complete_and_saved(result: dict, folder: Path):
    assert set(result) >= {"U", "S", "H", "T1", "protocol", "seconds", "baselines", "page"}
    assert result["protocol"] == "H@val"
    assert result["seconds"] > 0
    assert list(result["baselines"]) == ["chance", "ridge prototypes", "raw-feature softmax"]
    for measures in (result, *result["baselines"].values()):
        assert all(0 <= measures[name] <= 100 for name in ("U", "S", "H", "T1"))
        u, s = measures["U"], measures["S"]
        assert measures["H"] == pytest.approx(2 * u * s / (u + s) if u + s else 0)
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == result
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "result.json"]


def test_it_recognises_letters_never_seen(result: dict):
    """Two dozen letters, a third of chance's distance would do; a broken stage is at chance."""
    assert result["U"] > 5 * result["baselines"]["chance"]["U"]
    assert result["S"] > 5 * result["baselines"]["chance"]["S"]
    assert result["baselines"]["ridge prototypes"]["T1"] > result["baselines"]["chance"]["T1"] * 2


def test_without_data_and_settings_it_takes_the_letters_and_their_preset(
    tmp_path: Path, data: LetterData, config: Config, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr("mlis.demo.run.load_letters", lambda: data)
    monkeypatch.setattr("mlis.demo.run.presets.load", lambda name: asked.append(name) or TINY)
    titles = []

    def progress(title: str):
        from mlis.training.callbacks import Callback

        titles.append(title)
        return Callback()

    run_demo(tmp_path, device="cpu", progress=progress)
    assert asked == ["letters"]
    assert len(titles) == len(set(titles)) == 4  # two trainings, each with validation held out


def test_the_preset_resolves_and_calibrates_on_validation():
    preset = resolve(presets.load("letters"))
    assert preset.classification.calibration == "validation"
    assert preset.refinement.components == "ml+is+sfr"


def test_threads_are_told_to_wait_quietly_before_torch_is_imported():
    """Spinning threads made the demo four times as long beside another busy process."""
    code = (
        "import os, sys, mlis.cli\n"
        "assert 'torch' not in sys.modules\n"
        "mlis.cli.main(['--version'])\n"
        "assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=600)


# --- baselines --------------------------------------------------------------------------------


# --- the page ---------------------------------------------------------------------------------


def test_the_page_stands_alone(page: str):
    check_self_contained(page)


def test_the_page_says_what_was_measured(page: str, result: dict, data: LetterData):
    reader = Reader(page)
    methods = {**result["baselines"], "mlis": result}
    rows = [
        row for row in reader.rows if row[0].split(" ")[0] in {m.split(" ")[0] for m in methods}
    ]
    for (name, measures), row in zip(methods.items(), rows[-4:], strict=True):
        assert row[0].startswith(name)
        assert row[1:] == [f"{measures[measure]:.1f}" for measure in ("U", "S", "H", "T1")]
    assert "Protocol H@val, one training run" in reader.text
    assert result["provenance"]["data_sha256"][:16] in reader.text
    letters = [row for row in reader.rows if row[1] in ("seen", "never seen")]
    assert len(letters) == len(data.letters)
    unseen = [row[0].split(" ", 1)[1] for row in letters if row[1] == "never seen"]
    assert unseen == [data.letters[c].description for c in data.dataset.unseen_classes]
    assert not re.search(r"\bnan\b|None|\{|\}", reader.text)


def test_answers_on_the_page_are_the_recognizer_s(page: str):
    tiles = re.findall(r'<li class="(ok|no)">(.*?)</li>', page)
    said = int(re.search(r"(\d+) of \d+ are correct", " ".join(page.split()))[1])
    assert 0 < said < len(tiles)  # else one of the two kinds is not looked at
    assert said == sum(state == "ok" for state, _ in tiles)
    for state, tile in tiles:
        letter = re.search(r'alt="([^"]+)"', tile)[1]
        answer = re.search(r'class="say"><span title="([^"]+)"', tile)[1]
        assert (answer == letter) == (state == "ok")
