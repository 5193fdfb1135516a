"""The demo: measures, baselines, and a page that stands on its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from mlis import presets
from mlis.config import Config, resolve
from mlis.data.letters.alphabet import Letter, common_letters, covered_letters
from mlis.data.letters.render import LetterData, Rendering, load_letters
from mlis.demo import run_demo
from mlis.demo.findings import chance
from mlis.demo.glyphs import describe, symbols
from mlis.demo.pictures import _difference, shot
from mlis.methods.prototype import RidgePrototype
from page_cases import Reader

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


def test_the_same_seed_gives_the_same_numbers(
    tmp_path: Path, result: dict, data: LetterData, config: Config
):
    again = run_demo(tmp_path, config=config, data=data, device="cpu")
    for name in ("U", "S", "H", "T1", "baselines"):
        assert again[name] == result[name]


def test_without_data_and_settings_it_takes_the_letters_and_their_preset(
    tmp_path: Path, data: LetterData, config: Config, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr("mlis.demo.run.load_letters", lambda: data)
    monkeypatch.setattr("mlis.demo.run.presets.load", lambda name: asked.append(name) or TINY)
    titles = []

    def progress(title: str):
        from mlis.training.loop import Monitor

        titles.append(title)
        return Monitor()

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
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


# --- baselines --------------------------------------------------------------------------------


def test_chance_is_what_random_answers_get():
    mask = np.array([True] * 6 + [False] * 4)
    answers = np.random.default_rng(0).integers(0, 10, 200_000)
    assert 100 * (answers == 8).mean() == pytest.approx(chance(mask)["U"], abs=0.5)
    assert chance(mask)["T1"] == 25


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_prototypes_agree_with_scikit_learn(data: LetterData, config: Config, kernel: str):
    training = data.dataset.for_training()
    changes = {
        "preprocessing": {"feature_scaling": "none"},
        "generation": {"ridge_kernel": kernel, "ridge_lambda": 0.3},
    }
    fitted = RidgePrototype(config.replace(changes)).fit(training, device="cpu")
    seen = data.dataset.seen_classes
    means = np.stack([training.features[training.labels == c].mean(0) for c in seen])
    units = training.descriptors / np.linalg.norm(training.descriptors, axis=1, keepdims=True)
    gaps = np.linalg.norm(units[seen][:, None] - units[seen][None], axis=2)
    gaps = np.sort(gaps[np.triu_indices(len(seen), 1)])
    width = gaps[gaps > 0][(np.count_nonzero(gaps) - 1) // 2]
    model = KernelRidge(alpha=0.3, kernel=kernel, gamma=0.5 / width**2)
    model.fit(units[seen], means - means.mean(0))
    expected = torch.from_numpy(model.predict(units) + means.mean(0)).float()
    expected = torch.nn.functional.normalize(expected, dim=1)
    found = torch.nn.functional.normalize(fitted.prototypes, dim=1)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


# --- the page ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def test_the_page_needs_no_network_and_no_script(page: str, reader: Reader):
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object"}
    assert not re.search(r"https?://|url\(|@import|//[a-z]+\.", page)
    for tag, attributes in reader.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            if value is not None:
                assert value.startswith(("data:image/png;base64,", "#")), (tag, value[:60])


def test_every_reference_leads_to_a_letter(reader: Reader, data: LetterData):
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) == len(data.letters)
    used = {attributes["href"] for tag, attributes in reader.tags if tag == "use"}
    assert used
    assert used <= {f"#{i}" for i in ids}


def test_pictures_have_texts_and_the_page_suits_phones_and_the_dark(page: str, reader: Reader):
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) > 20
    assert all(attributes.get("alt") for attributes in images)
    drawings = [a for tag, a in reader.tags if tag == "svg" and a.get("aria-hidden") != "true"]
    assert drawings
    assert all(a.get("aria-label") for a in drawings)
    metas = {a.get("name"): a.get("content") for tag, a in reader.tags if tag == "meta"}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert "prefers-color-scheme: dark" in page
    assert "max-width: 720px" in page
    assert 'lang="en"' in page


def test_the_page_says_what_was_measured(reader: Reader, result: dict, data: LetterData):
    text = reader.text
    for measures in (result, *result["baselines"].values()):
        for name in ("U", "S", "H", "T1"):
            assert f"{measures[name]:.1f}" in text
    assert "H@val" in text
    assert result["provenance"]["data_sha256"][:16] in text
    for c in data.dataset.unseen_classes:
        assert describe(data.letters[c]) in text
    assert not re.search(r"\bnan\b|None|\{|\}", text.split("Letters it never saw", 2)[2])


def test_answers_on_the_page_are_the_recognizer_s(page: str):
    tiles = re.findall(r'<li class="(ok|no)">(.*?)</li>', page)
    said = int(re.search(r"(\d+) of \d+ are right", " ".join(page.split()))[1])
    assert 0 < said < len(tiles)  # else one of the two kinds is not looked at
    assert said == sum(state == "ok" for state, _ in tiles)
    for state, tile in tiles:
        letter = re.search(r'alt="([^"]+)"', tile)[1]
        answers = re.findall(r'aria-label="([^"]+ with [^"]+)"', tile)
        assert (answers == [letter]) == (state == "ok")


def test_outlines_are_centred_and_told_apart(data: LetterData):
    paths = re.findall(r'<path d="([^"]+)"/>', symbols(data.letters))
    assert len(paths) == len(set(paths)) == len(data.letters)
    for path in paths:
        assert re.fullmatch(r"[MLQCZ \-0-9]+", path)
        numbers = np.array(re.findall(r"-?\d+", path), dtype=int).reshape(-1, 2)
        assert abs(numbers[:, 0].min() + numbers[:, 0].max()) <= 2
        assert numbers[:, 1].min() < 0


def test_a_shot_is_black_ink_as_dense_as_the_image_is_bright():
    import base64
    import io

    from PIL import Image

    image = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
    html = shot(image, 'a "letter" & more')
    assert 'alt="a &quot;letter&quot; &amp; more"' in html
    decoded = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))
    np.testing.assert_array_equal(np.asarray(decoded)[..., 1], image)
    assert not np.asarray(decoded)[..., 0].any()


def test_differences_are_put_in_words():
    o, caron = Letter("ǒ", "small", "O", ("caron",)), Letter("ŏ", "small", "O", ("breve",))
    assert _difference(o, caron) == "caron read as breve"
    both = Letter("ȱ", "small", "O", ("dot above", "macron"))
    single = Letter("ȯ", "small", "O", ("dot above",))
    assert _difference(both, single) == "macron missed"
    assert _difference(single, both) == "macron added"
    capital = Letter("Ȯ", "capital", "O", ("dot above",))
    assert _difference(single, capital) == (
        "small o with dot above read as capital O with dot above"
    )
