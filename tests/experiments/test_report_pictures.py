"""Thumbnails: of the right image, or none."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiment_cases import saved
from mlis.data import load_dataset
from mlis.experiments.report.pictures import SIDE, pictures_of
from mlis.storage.atomic import write_json
from simulated import tiny
from standins import write_standin

COLOURS = [(200, 30, 30), (30, 160, 30), (30, 30, 200)]


def colour(source: str | None) -> tuple[int, int, int]:
    """Of the middle of a thumbnail."""
    assert source is not None
    assert source.startswith("data:image/jpeg;base64,")
    data = base64.b64decode(source.split(",", 1)[1])
    assert len(data) < 8000
    image = Image.open(io.BytesIO(data))
    assert max(image.size) <= SIDE
    return image.getpixel((image.width // 2, image.height // 2))  # pyright: ignore


def close(found: tuple[int, int, int], wanted: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(found, wanted, strict=True))


def paint(path: Path, wanted: tuple[int, int, int], size: tuple[int, int] = (300, 200)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, wanted).save(path)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A dataset folder as `mlis data build` leaves it; each row's image has its class's colour."""
    data = tiny()
    folder = saved(tmp_path / "data", data)
    lines = ["path,class,sha256"]
    for row, label in enumerate(data.labels):
        name = f"class {label}/image {row}.png"
        paint(tmp_path / "photos" / name, COLOURS[label % 3])
        lines.append(f"{name},{label},x")
    (folder / "images.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "sources.json", {"root": str(tmp_path / "photos")})
    return folder


def test_built_folders_know_their_images(built, tmp_path):
    data = load_dataset(built)
    pictures = pictures_of({"name_or_path": str(built)}, data, None)
    assert pictures.has.all()
    for row in (0, 20, len(data.labels) - 1):
        assert close(colour(pictures.thumbnail(row)), COLOURS[data.labels[row] % 3])
    (tmp_path / "photos").rename(tmp_path / "moved")
    gone = pictures_of({"name_or_path": str(built)}, data, None)
    assert gone.thumbnail(0) is None
    assert str(tmp_path / "photos") in gone.problem
    again = pictures_of({"name_or_path": str(built)}, data, tmp_path / "moved")
    assert close(colour(again.thumbnail(0)), COLOURS[0])


def test_damaged_images_and_tables_are_passed_over(built, tmp_path, caplog):
    data = load_dataset(built)
    paths = sorted((tmp_path / "photos").rglob("*.png"))
    for path in paths:
        path.write_bytes(b"no image")
    pictures = pictures_of({"name_or_path": str(built)}, data, None)
    assert pictures.thumbnail(0) is None
    assert "the picture of row 0 is left out" in caplog.text
    (built / "images.csv").write_text("path,class,sha256\none.png,1,0\n", encoding="utf-8")
    pictures = pictures_of({"name_or_path": str(built)}, data, None)
    assert f"one line for each of {len(data.labels)} rows, got 1" in pictures.problem
    (built / "sources.json").write_text("{", encoding="utf-8")
    lines = ["path,class", *(f"{i}.png,1" for i in range(len(data.labels)))]
    (built / "images.csv").write_text("\n".join(lines), encoding="utf-8")
    assert pictures_of({"name_or_path": str(built)}, data, None).problem


def test_benchmark_files_find_theirs_by_name_in_a_folder(tmp_path, xlsa17):
    write_standin(tmp_path / "data", "APY", xlsa17, feature_size=4)
    arguments = {"name_or_path": "aPY", "data_root": str(tmp_path / "data")}
    data = load_dataset(**arguments)
    assert "--images names a folder" in pictures_of(arguments, data, None).problem
    photos = tmp_path / "photos"
    photos.mkdir()
    assert "none of the photographs is there" in pictures_of(arguments, data, photos).problem
    paint(photos / "deep" / "000003.jpg", COLOURS[0])
    paint(photos / "one" / "000007.jpg", COLOURS[1])
    paint(photos / "images" / "000007.jpg", COLOURS[2])  # the name is images/000007.jpg
    paint(photos / "one" / "000008.jpg", COLOURS[1])
    paint(photos / "two" / "000008.jpg", COLOURS[2])  # which of the two nobody knows
    pictures = pictures_of(arguments, data, photos)
    assert np.flatnonzero(pictures.has).tolist() == [3, 7]
    assert close(colour(pictures.thumbnail(3)), COLOURS[0])
    assert close(colour(pictures.thumbnail(7)), COLOURS[2])
    assert pictures.thumbnail(8) is None
