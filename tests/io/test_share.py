"""Folders and repositories in the Hugging Face manner; without a network, and with a fake hub."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlis import Recognizer, from_pretrained, remove_classes, rename_classes
from mlis.errors import ModelFileError, SettingsError
from mlis.io.checkpoint import load_exemplars, load_model
from mlis.io.hub import push_to_hub, save_pretrained
from mlis.io.model_card import model_card
from pairs import Pair, trained_pair
from simulated import small, tiny

DATA = tiny()
RESULTS = {
    "seed": 3,
    "test": {"U": 51.26, "S": 80.0, "H": 62.5, "T1": 60.0, "AUSUC": None},
    "provenance": {
        "protocol": "H@val",
        "data": "zoo",
        "data_sha256": "00ff",
        "features": "cnn.mat",
        "descriptors": "att.mat:att",
        "notes": ["stand-in"],
        "versions": {"mlis": "0.1.0", "torch": "2.13.0"},
    },
}


@pytest.fixture(scope="module")
def pair() -> Pair:
    config = small(generation={"generator": "ridge"})
    return trained_pair(DATA.for_training(), config, device="cpu")


@pytest.fixture(scope="module")
def model(pair) -> Recognizer:
    return pair.recognizer


@pytest.fixture
def no_network(monkeypatch):
    import huggingface_hub

    def refuse(*_: Any, **__: Any):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)


def test_a_folder_is_written_and_read_without_a_network(model, pair, tmp_path, no_network):
    save_pretrained(*(model, tmp_path / "m", pair.exemplars))
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["README.md", "config.json", "exemplars.safetensors", "model.safetensors"]
    for place in (tmp_path / "m", str(tmp_path / "m")):
        loaded = from_pretrained(place)
        np.testing.assert_array_equal(loaded.scores(DATA.features), model.scores(DATA.features))


# --- the card -----------------------------------------------------------------------------------


def test_the_card_says_what_is_recorded(model, pair, tmp_path):
    save_pretrained(model, tmp_path, pair.exemplars, RESULTS)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: mlis\n")
    assert "# zoo: 9 classes, 3 of them unseen" in card
    assert "| protocol | seed | U | S | H | T1 |" in card
    assert "| H@val | 3 | 51.3 | 80.0 | 62.5 | 60.0 |" in card
    for text in (
        "00ff",
        "cnn.mat",
        "att.mat:att",
        "stand-in",
        "torch 2.13.0",
        "36 training images",
    ):
        assert text in card
    assert "Seen: class_000, " in card
    assert "Changed since training" not in card
    assert load_model(tmp_path).metadata.record == RESULTS
    assert model_card(load_model(tmp_path), load_exemplars(tmp_path)) == card


def test_the_card_says_that_results_are_of_before_a_change(model, tmp_path):
    renamed = rename_classes(model, {"class_000": "lion"})
    changed, _ = remove_classes(renamed, None, ["class_001"])
    save_pretrained(changed, tmp_path, record=RESULTS)
    card = (tmp_path / "README.md").read_text()
    assert "The results above were measured before." in card
    assert "rename class_000 to lion" in card
    assert "remove class_001" in card


# --- the hub ------------------------------------------------------------------------------------


class FakeHub:
    """Keeps what is uploaded in a folder, and remembers what it was asked for."""

    def __init__(self, root: Path):
        self.root, self.asked = root, []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        hub = self

        class Api:
            def __init__(self, token: str | None = None):
                hub.asked.append(("token", token))

            def create_repo(self, name: str, **options: Any) -> str:
                hub.asked.append(("create", name, options))
                return f"https://huggingface.co/{name}"

            def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
                hub.asked.append(("upload", repo_id, commit_message))
                shutil.copytree(folder_path, hub.root / repo_id, dirs_exist_ok=True)

        def download(name: str, **options: Any) -> str:
            hub.asked.append(("download", name, options))
            if not (hub.root / name).is_dir():
                raise OSError("404 Client Error\nmore lines")
            return str(hub.root / name)

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    fake.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return fake


def test_push_and_load_by_name(model, hub):
    address = push_to_hub(model, "somebody/zoo", private=True, token="t", message="first")
    assert address == "https://huggingface.co/somebody/zoo"
    assert hub.asked == [
        ("token", "t"),
        ("create", "somebody/zoo", {"private": True, "exist_ok": True}),
        ("upload", "somebody/zoo", "first"),
    ]
    assert (hub.root / "somebody/zoo/README.md").exists()
    loaded = from_pretrained("somebody/zoo", revision="v1")
    np.testing.assert_array_equal(loaded.scores(DATA.features), model.scores(DATA.features))
    name, options = hub.asked[-1][1:]
    assert name == "somebody/zoo"
    assert options["revision"] == "v1"
    assert set(options["allow_patterns"]) == {
        *("model.safetensors", "config.json", "model.json", "growth.safetensors", "README.md"),
        "exemplars.safetensors",
    }


def test_a_hub_that_refuses(model, hub):
    with pytest.raises(ModelFileError, match=r"the hub did not provide it: 404 Client Error$"):
        from_pretrained("somebody/absent")
    (hub.root).write_text("full")
    with pytest.raises(ModelFileError, match="the hub refused it"):
        push_to_hub(model, "somebody/zoo")


@pytest.mark.parametrize("name", ["/absent/model", "runs/mine", "../x"])
def test_local_paths_never_ask_the_hub(name, hub):
    Path("runs").mkdir()
    with pytest.raises(ModelFileError, match=r"no saved model|is not a saved model"):
        from_pretrained(name)
    with pytest.raises(ModelFileError):
        from_pretrained(Path("owner/name"))
    assert hub.asked == []


def test_without_the_extra_folders_work_and_names_say_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    save_pretrained(model, "here")
    assert from_pretrained("here").class_names == model.class_names
    with pytest.raises(SettingsError, match=r"mlis\[hub\]"):
        from_pretrained("somebody/zoo")
    with pytest.raises(SettingsError, match=r"mlis\[hub\]"):
        push_to_hub(model, "somebody/zoo")
