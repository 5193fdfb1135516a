"""`mlis evaluate`: the same numbers as the fit's own test, and no model on data it does not fit."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from cli_cases import NAMES, QUICK, SEEN, last_json, printed, refused, small_dataset
from mlis.cli import main
from mlis.data.dataset import GZSLDataset, content_hash
from mlis.data.io.folder import save_dataset
from mlis.data.out_of_core.safetensors_file import write_arrays
from mlis.data.splits import Split
from mlis.evaluation import evaluate_confidence, evaluate_retrieval
from mlis.evaluation.words import MEANING
from mlis.io.checkpoint import load_model, save_model
from mlis.model.recognizer import replace
from page_cases import Reader, check_self_contained

MEASURES = ("U", "S", "H", "T1", "AUSUC", "overall", "best_H_optimistic")


@pytest.fixture(scope="module")
def run(small_folder, tmp_path_factory):
    """A run of two components and two seeds."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    several = ("--seeds", "0,1", "--components", "ml,ml+is+sfr")
    assert main(["fit", str(small_folder), "-o", str(folder), *QUICK, *several]) == 0
    return folder


@pytest.fixture
def model(run):
    return run / "seed-1/ml/model"


def evaluate(capsys, *arguments) -> dict:
    return last_json(printed(capsys, "evaluate", *arguments, "--json"))


def cells(text: str, words: str) -> list[str]:
    """Value and symbol in the line of a measure."""
    (line,) = [line for line in text.splitlines() if line.endswith(f"  {words}")]
    return line.removesuffix(words).split()


def failure(capsys, *arguments) -> str:
    return refused(capsys, "evaluate", *arguments)


def test_a_run_gives_what_its_fit_measured(run, capsys):
    found = evaluate(capsys, run)
    saved = json.loads((run / "results.json").read_text())
    for components in ("ml", "ml+is+sfr"):
        for name in MEASURES:
            assert found["components"][components][name] == saved["components"][components][name]
            mean = found["components"][components][f"{name}_mean"]
            assert mean == saved["components"][components][f"{name}_mean"]
    assert found["protocol"] == saved["protocol"]
    assert found["seeds"] == [0, 1]
    assert found["H"] == found["components"]["ml+is+sfr"]["H"]
    assert found["seconds"] > 0


def test_a_model_elsewhere_needs_a_dataset(model, small_folder, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    assert "Name DATA" in failure(capsys, tmp_path / "model")
    found = evaluate(capsys, tmp_path / "model", small_folder)
    assert {name: found[name] for name in MEASURES} == {
        name: value for name, value in evaluate(capsys, model).items() if name in MEASURES
    }


def test_text_names_measures_classes_and_confusions(model, run, capsys):
    assert main(["evaluate", str(model), "--per-class", "--confusions", "2"]) == 0
    captured = capsys.readouterr()
    row = json.loads((run / "seed-1/ml/result.json").read_text())["test"]
    lines = captured.out.splitlines()
    for name in ("U", "S", "H", "T1", "AUSUC", "overall"):
        assert cells(captured.out, MEANING[name]) == [f"{row[name]:.1f}", name]
    for line in row["per_class"]:
        (shown,) = [text for text in lines if text.startswith(line["name"] + "  ")]
        kind = "seen" if line["seen"] else "unseen"
        assert shown.split()[-3:] == [kind, str(line["images"]), f"{line['accuracy']:.1f}"]
    pairs = [text for text in lines if "classified as" in text]
    assert len(pairs) == 2
    worst = row["confusions"][0]
    assert pairs[0].startswith(f"{worst['count']} images")
    assert pairs[0].endswith(f"of {worst['label']} classified as {worst['predicted']}")
    assert captured.err == ""


def test_probabilities_are_measured_at_the_models_temperature(model, tmp_path, capsys):
    cold = evaluate(capsys, model)
    test = small_dataset().for_testing()
    recognizer = load_model(model)
    expected = evaluate_confidence(recognizer.scores(test.features), test.labels, test.seen_mask)
    assert {name: cold[name] for name in expected.to_dict()} == expected.to_dict()
    save_model(replace(recognizer, temperature=50.0), tmp_path / "model")
    features = tmp_path / "data"
    save_dataset(small_dataset(), features)
    warm = evaluate(capsys, tmp_path / "model", features)
    assert warm["U"] == cold["U"]
    assert warm["ECE"] != cold["ECE"]
    assert main(["evaluate", str(tmp_path / "model"), str(features)]) == 0
    assert "temperature of the probabilities: 50" in capsys.readouterr().out


def test_another_split_is_warned_of(model, tmp_path, capsys):
    base = small_dataset()
    again = GZSLDataset.from_arrays(
        *(base.features, base.labels, base.descriptors),
        class_names=NAMES,
        unseen_classes=NAMES[SEEN:],
        seed=5,
        name="again",
    )
    save_dataset(again, tmp_path / "data")
    assert main(["evaluate", str(model), str(tmp_path / "data")]) == 0
    assert "training images may be among the test images" in capsys.readouterr().err


def other_dataset(**changes) -> GZSLDataset:
    base = small_dataset()
    given = {"features": base.features, "names": NAMES, "unseen": NAMES[SEEN:], **changes}
    labels = given.get("labels", base.labels)
    return GZSLDataset.from_arrays(
        *(given["features"], labels, given.get("descriptors", base.descriptors)),
        class_names=given["names"],
        unseen_classes=given["unseen"],
        name="other",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"features": small_dataset().features[:, :-1]},
            "other: expected 16 features per row, as in training, got 15",
        ),
        (
            {"names": (*NAMES[:3], "a stranger", *NAMES[4:])},
            "got 3 rows of other classes: a stranger",
        ),
        (
            {"unseen": (NAMES[0], *NAMES[SEEN + 1 :])},
            "different splits: 'kind 0' is seen in the model, but unseen in the data",
        ),
    ],
    ids=["features", "names", "split"],
)
def test_data_that_do_not_match_are_refused(model, changes, said, tmp_path, capsys):
    save_dataset(other_dataset(**changes), tmp_path / "data")
    assert said in failure(capsys, model, tmp_path / "data")


def test_classes_are_matched_by_name(model, small_folder, tmp_path, capsys):
    """In another order, and with one that has no image."""
    base, order = small_dataset(), np.random.default_rng(0).permutation(len(NAMES))
    other = GZSLDataset(
        base.features,
        np.argsort(order)[base.labels],
        np.vstack([base.descriptors[order], np.arange(6)]).astype(np.float32),
        (*(NAMES[i] for i in order), "one more"),
        base.split,
    )
    save_dataset(other, tmp_path / "data")
    wanted = evaluate(capsys, model, small_folder)
    found = evaluate(capsys, model, tmp_path / "data")
    for name in (*MEASURES, "per_class"):
        assert found[name] == wanted[name]


SPLIT = small_dataset().split
ROWS = np.concatenate([SPLIT.test_seen, SPLIT.test_unseen])


def test_features_with_labels_and_no_training_row(model, small_folder, tmp_path, capsys):
    """Files of the test rows alone give what the dataset's own test gives."""
    base, wanted = small_dataset(), evaluate(capsys, model, small_folder)
    x, y = base.features[ROWS], base.labels[ROWS]
    names = np.array([NAMES[label] for label in y])
    np.savez(tmp_path / "names.npz", features=x, labels=names)
    np.savez(tmp_path / "numbers.npz", features=x, labels=y)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "y.txt").write_text("\n".join(names))
    header = "kind," + ",".join(f"f{i}" for i in range(x.shape[1]))
    lines = [",".join([n, *map(repr, map(float, row))]) for n, row in zip(names, x, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join([header, *lines]))
    marked = [f"{header},split", *(f"{line},test" for line in lines)]
    (tmp_path / "marked.csv").write_text("\n".join([*marked, "nothing" + ",0" * 16 + ",train"]))
    (tmp_path / "all.csv").write_text("\n".join(marked))
    pairs = zip(NAMES, base.descriptors, strict=True)
    attributes = [f"{name},{','.join(map(str, vector))}" for name, vector in pairs]
    (tmp_path / "c.csv").write_text("\n".join(["name,a,b,c,d,e,f", *attributes]))
    shutil.copytree(model, tmp_path / "model")
    column, classes = ("--label-column", "kind"), ("--classes", tmp_path / "c.csv")
    for given in (
        [tmp_path / "names.npz"],
        [tmp_path / "numbers.npz"],
        [tmp_path / "x.npy", "--labels", tmp_path / "y.txt"],
        [tmp_path / "t.csv", *column],
        [tmp_path / "marked.csv", *column],
        ["--features", tmp_path / "all.csv", *column, *classes],
        ["--features", tmp_path / "names.npz"],
    ):
        found = evaluate(capsys, tmp_path / "model", *given)
        for name in (*MEASURES, "per_class", "confusions"):
            assert found[name] == wanted[name], given
        assert found["protocol"] == "labelled rows"


def test_a_dataset_folder_of_test_rows_alone(model, small_folder, tmp_path, capsys):
    base, wanted = small_dataset(), evaluate(capsys, model, small_folder)
    none = np.empty(0, dtype=np.int64)
    split = Split(none, *np.split(np.arange(len(ROWS)), [len(SPLIT.test_seen)]))
    arrays = {"features": base.features[ROWS], "labels": base.labels[ROWS]}
    arrays["descriptors"] = base.descriptors
    shutil.copytree(small_folder, tmp_path / "data")
    words = json.loads((tmp_path / "data/dataset.json").read_text())
    words["sha256"] = content_hash(NAMES, arrays, split)
    (tmp_path / "data/dataset.json").write_text(json.dumps(words))
    parts = {f"split.{name}": getattr(split, name) for name in split.__dataclass_fields__}
    write_arrays(tmp_path / "data/features.safetensors", arrays | parts)
    found = evaluate(capsys, model, tmp_path / "data")
    assert {name: found[name] for name in MEASURES} == {name: wanted[name] for name in MEASURES}
    arrays["labels"] = arrays["labels"][::-1].copy()
    write_arrays(tmp_path / "data/features.safetensors", arrays | parts)
    assert "damaged or do not belong together" in failure(capsys, model, tmp_path / "data")


@pytest.mark.parametrize(
    ("arrays", "flags", "said"),
    [
        ({"labels": ["kind 0", "Kind 9"]}, (), "other classes: Kind 9. Did you mean 'kind 9'?"),
        ({"labels": [0, 12]}, (), "labels: row 1: expected a label from 0 to 11"),
        ({"split": ["train", "val"]}, (), "expected rows marked test, got none"),
        ({}, ("--backbone", "x"), "--backbone: not allowed with features"),
        ({}, ("--test-fraction", "0.5"), "--test-fraction: not allowed with labelled rows"),
    ],
)
def test_labelled_rows_that_do_not_fit(model, arrays, flags, said, tmp_path, capsys):
    given = {"features": np.zeros((2, 16), np.float32), "labels": ["kind 0", "kind 9"]} | arrays
    np.savez(tmp_path / "x.npz", **{name: np.array(value) for name, value in given.items()})
    assert said in failure(capsys, model, tmp_path / "x.npz", *flags)


def test_a_run_without_a_finished_training(run, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    shutil.copy(run / "run.json", tmp_path / "run")
    assert "no finished training" in failure(capsys, tmp_path / "run")


RETRIEVAL = ("recall_at_1_raw", "recall_at_1_refined", "map_at_r_raw", "map_at_r_refined")


def test_retrieval_of_unseen_classes_raw_beside_refined(model, run, tmp_path, capsys):
    base = small_dataset()
    noise = np.random.default_rng(0).random(base.features.shape, dtype=np.float32)
    data = dataclasses.replace(base, features=base.features + 2 * noise)  # else all are found
    save_dataset(data, tmp_path / "data")
    rows = data.split.test_unseen
    recognizer = load_model(model)
    raw = evaluate_retrieval(data.features[rows], data.labels[rows])
    refined = evaluate_retrieval(recognizer.refine(data.features[rows]), data.labels[rows])
    wanted = (raw.recall_at_1, refined.recall_at_1, raw.map_at_r, refined.map_at_r)
    found = evaluate(capsys, model, tmp_path / "data")
    assert [found[name] for name in RETRIEVAL] == pytest.approx(wanted)
    assert len(set(wanted)) == 4
    assert raw.images == len(rows)
    text = printed(capsys, "evaluate", model, tmp_path / "data")
    for name, pair in zip(("Recall@1", "MAP@R"), (wanted[:2], wanted[2:]), strict=True):
        shown = cells(text, f"{MEANING[name]}, of unseen classes: raw → refined features")
        assert shown == [*"{:.1f} → {:.1f}".format(*pair).split(), name]
    several = evaluate(capsys, run, tmp_path / "data")["components"]["ml"]
    assert several["map_at_r_refined"][1] == pytest.approx(refined.map_at_r)
    assert several["map_at_r_refined_mean"] == pytest.approx(np.mean(several["map_at_r_refined"]))


def test_without_unseen_test_images_there_is_nothing_to_retrieve(model, tmp_path, capsys):
    base = small_dataset()
    split = dataclasses.replace(base.split, test_unseen=np.empty(0, dtype=np.int64))
    save_dataset(dataclasses.replace(base, split=split), tmp_path / "data")
    found = evaluate(capsys, model, tmp_path / "data")
    assert not set(RETRIEVAL) & set(found)
    assert found["S"] is not None


def test_unknown_rows_are_measured(run, model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "other.npy", rng.random((20, small_dataset().features.shape[1]), np.float32))
    found = evaluate(capsys, model, "--unknown", tmp_path / "other.npy")
    assert found["unknown_images"] == 20
    assert 0 <= found["AUROC_unknown"] <= 100
    plain = evaluate(capsys, model)
    assert plain["AUROC_unknown"] is None
    assert plain["risk_coverage"][-1] == [100, pytest.approx(100 - plain["overall"], abs=1e-3)]


def test_what_the_usual_rate_turns_away(model, small_folder, tmp_path, capsys):
    """Of seen and unseen classes apart; the model's promise is of validation images."""
    recognizer = load_model(model)
    test = small_dataset().for_testing()
    known, seen = recognizer.known_scores(test.features), test.seen_mask[test.labels]
    quantiles = tuple(np.quantile(known[seen], np.linspace(0, 1, 101)).tolist())
    metadata = dataclasses.replace(recognizer.metadata, rejection=quantiles)
    save_model(replace(recognizer, metadata=metadata), tmp_path / "model")
    found = evaluate(capsys, tmp_path / "model", small_folder)["turned_away_at_5"]
    unknown = load_model(tmp_path / "model").unknown(test.features, 0.05)
    assert found == {"seen": 100 * unknown[seen].mean(), "unseen": 100 * unknown[~seen].mean()}
    assert 0 < found["seen"] < 10
    text = printed(capsys, "evaluate", tmp_path / "model", small_folder)
    for kind, share in found.items():
        words = f"photographs of {kind} classes that --reject 5% turns away"
        assert cells(text, words) == [f"{share:.1f}"]
    assert evaluate(capsys, model)["turned_away_at_5"] == {}  # trained with a given constant


def test_a_page_of_one_model(run, model, small_folder, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    out = printed(capsys, "evaluate", model, "--html", page)
    assert f"page: {page}" in out
    shown = Reader(page.read_text(encoding="utf-8"))
    row = json.loads((run / "seed-1/ml/result.json").read_text())["test"]
    for name in ("U", "S", "H", "T1", "AUSUC", "overall"):
        assert [MEANING[name], name, f"{row[name]:.1f}"] in shown.rows
    for words in ("seen classes: ECE", "risk by coverage", "Class by class", "Where it goes wrong"):
        assert words in shown.text
    worst = row["confusions"][0]
    assert f"{worst['label']} unseen was taken for {worst['predicted']}" in shown.text
    assert re.search(
        r"One of them, against kind \d+: .+? Nearest training images: \d of kind", shown.text
    )
    check_self_contained(page.read_text(encoding="utf-8"))
    shutil.copytree(model, tmp_path / "model")  # labelled rows instead of the dataset
    x, y = small_dataset().features[ROWS], small_dataset().labels[ROWS]
    np.savez(tmp_path / "x.npz", features=x, labels=np.array([NAMES[label] for label in y]))
    printed(capsys, "evaluate", tmp_path / "model", tmp_path / "x.npz", "--html", page)
    again = Reader(page.read_text(encoding="utf-8"))
    assert [MEANING["H"], "H", f"{row['H']:.1f}"] in again.rows


def test_a_page_is_of_one_model(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert "has 4 models" in failure(capsys, run, "--html", page)
    assert "expected a .html file" in failure(capsys, run, "--html", tmp_path / "page.txt")
    out = refused(capsys, "report", run, "-o", page)
    assert f"mlis evaluate {run} --html" in out
    assert not page.exists()


def test_display_names_are_shown(model, small_folder, tmp_path, capsys):
    printed(
        capsys, "rename-classes", model, "--display", "kind 9", "Neun", "-o", tmp_path / "model"
    )
    text = printed(capsys, "evaluate", tmp_path / "model", small_folder, "--per-class")
    assert re.search(r"^Neun +unseen", text, re.M)
    assert "of Neun classified as" in text
    assert "kind 9" not in text
    found = evaluate(capsys, tmp_path / "model", small_folder)
    assert "kind 9" in {one["name"] for one in found["per_class"]}


def test_a_page_without_test_images_says_so(model, tmp_path, capsys):
    base, none = small_dataset(), np.empty(0, dtype=np.int64)
    split = dataclasses.replace(base.split, test_unseen=none, test_seen=none)
    save_dataset(dataclasses.replace(base, split=split), tmp_path / "data")
    page = tmp_path / "page.html"
    printed(capsys, "evaluate", model, tmp_path / "data", "--html", page)
    assert "there are no test images" in Reader(page.read_text(encoding="utf-8")).text
