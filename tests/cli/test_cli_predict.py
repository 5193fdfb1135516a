"""`mlis predict`: every kind of features file, both formats, and outputs that are never half."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import scipy.io
import scipy.special

import mlis.cli.predict
from cli_cases import FEATURES, NAMES, QUICK, SEEN, refused, small_dataset
from mlis import image_classifier
from mlis.cli import main
from mlis.data.io.folder import load_folder
from mlis.errors import ModelFileError
from mlis.io.checkpoint import load_model
from mlis.io.hub import from_pretrained
from mlis.storage.atomic import with_checksum, without_checksum

X = small_dataset().features[:40]


@pytest.fixture(scope="module")
def run(small_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict") / "run"
    assert main(["fit", str(small_folder), "-o", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def model(run):
    return run / "seed-0/ml+is+sfr/model"


@pytest.fixture
def features(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


def predict(capsys, *arguments) -> str:
    assert main(["predict", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def failure(capsys, *arguments) -> str:
    return refused(capsys, "predict", *arguments)


def test_csv_has_the_best_classes_and_their_probabilities(model, features, capsys):
    rows = list(csv.DictReader(io.StringIO(predict(capsys, model, features, "--top-k", "3"))))
    recognizer = load_model(model)
    scores = recognizer.scores(X)
    chances = scipy.special.softmax(scores.astype(float), axis=1)
    assert [row["row"] for row in rows] == [str(i) for i in range(len(X))]
    for row, chance in zip(rows, chances, strict=True):
        best = np.argsort(-chance)[:3]
        assert [row[f"class_{k}"] for k in (1, 2, 3)] == [NAMES[c] for c in best]
        found = [float(row[f"score_{k}"]) for k in (1, 2, 3)]
        np.testing.assert_allclose(found, chance[best], atol=1e-6)
        assert [row[f"seen_{k}"] for k in (1, 2, 3)] == [str(bool(c < SEEN)).lower() for c in best]
    assert [row["class_1"] for row in rows] == [NAMES[c] for c in recognizer.predict(X)]
    assert {row["class_1"] for row in rows} != {rows[0]["class_1"]}


def test_json_lines_say_the_same(model, features, tmp_path, capsys):
    table = list(csv.DictReader(io.StringIO(predict(capsys, model, features))))
    lines = predict(capsys, model, features, "--format", "jsonl").splitlines()
    for number, (line, row) in enumerate(zip(lines, table, strict=True)):
        found = json.loads(line)
        assert found["row"] == number
        assert len(found["predictions"]) == 5
        for k, entry in enumerate(found["predictions"], 1):
            assert entry["class"] == row[f"class_{k}"]
            assert str(entry["score"]) == row[f"score_{k}"]
            assert entry["seen"] is (row[f"seen_{k}"] == "true")


def test_output_files_have_what_stdout_has(model, features, tmp_path, capsys):
    for name, flags in (("p.csv", ()), ("p.jsonl", ()), ("p.txt", ("--format", "jsonl"))):
        assert predict(capsys, model, features, "-o", tmp_path / name, *flags) == ""
        kind = "csv" if name == "p.csv" else "jsonl"
        printed = predict(capsys, model, features, "--format", kind)
        assert (tmp_path / name).read_text(encoding="utf-8") == printed


def test_a_run_with_one_model_is_taken_for_it(run, model, features, capsys):
    assert predict(capsys, run, features) == predict(capsys, model, features)


def write_npz(path):
    np.savez(path, features=X.astype(np.float64), other=np.zeros(3))


def write_labelled_csv(path):
    lines = ["label," + ",".join(f"f{i}" for i in range(FEATURES))]
    path.write_text("\n".join([*lines, *("any," + ",".join(map(repr, r.tolist())) for r in X)]))


def write_mat(path):
    scipy.io.savemat(path, {"features": X.T.astype(np.float64)})


def write_parquet(path, labelled=False):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {f"f{i}": X[:, i] for i in range(FEATURES)}
    if labelled:
        columns["label"] = [None, *["any"] * (len(X) - 1)]
    parquet.write_table(pyarrow.table(columns), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.npz", write_npz),
        ("labelled.csv", write_labelled_csv),
        ("X.MAT", write_mat),
        ("labelled.parquet", lambda path: write_parquet(path, labelled=True)),
        ("fortran.npy", lambda path: np.save(path, np.asfortranarray(X.astype(np.float64)))),
    ],
)
def test_every_kind_of_file_gives_the_same(name, write, model, features, tmp_path, capsys):
    write(tmp_path / name)
    found = predict(capsys, model, tmp_path / name)
    labelled = found.splitlines()[0].endswith(",label")
    assert labelled == name.startswith("labelled")
    if labelled:
        assert all(line.endswith((",any", ",")) for line in found.splitlines()[1:])
    assert without_label(found) == predict(capsys, model, features)


def without_label(text: str) -> str:
    lines = text.splitlines(keepends=True)
    last = lines[0].endswith(",label\n")
    return "".join(line.rpartition(",")[0] + "\n" for line in lines) if last else text


def test_a_dataset_folder_in_pieces(model, small_folder, capsys, monkeypatch):
    whole = predict(capsys, model, small_folder)
    assert len(whole.splitlines()) == 1 + len(small_dataset().labels)
    monkeypatch.setattr(mlis.cli.predict, "ROWS_AT_A_TIME", 50)
    pieces = predict(capsys, model, small_folder)
    for a, b in zip(whole.splitlines(), pieces.splitlines(), strict=True):
        assert a.split(",")[1] == b.split(",")[1]
        assert a.split(",")[0] == b.split(",")[0]


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("x.npy", X[:, :-1], "15 features per row, expected 16"),
        ("x.npy", X[0], "expected features of shape (images, numbers)"),
        ("x.npy", np.where(np.arange(40)[:, None] == 7, np.nan, X), "row 7 contains NaN"),
        ("x.npy", np.array([[object()]]), "x.npy"),
    ],
    ids=["size", "one row", "NaN", "objects"],
)
def test_features_that_do_not_fit(model, name, array, said, tmp_path, capsys):
    np.save(tmp_path / name, array, allow_pickle=True)
    out = tmp_path / "out.csv"
    assert said in failure(capsys, model, tmp_path / name, "-o", out)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["MODEL", "x.txt"], "expected a .npy, .npz, .csv, .parquet or .mat file"),
        (["MODEL", "x.npy", "--top-k", "0"], "--top-k: expected a whole number ≥ 1"),
        (["MODEL", "x.npy", "-o", "p.txt"], "expected a .csv or .jsonl file"),
        (["MODEL", "x.npy", "-o", "absent/p.csv"], "no folder absent"),
        (["x.npy", "x.npy"], "no saved model"),
    ],
)
def test_wrong_use(arguments, said, model, features, capsys, monkeypatch):
    monkeypatch.chdir(features.parent)
    assert said in failure(capsys, *[model if a == "MODEL" else a for a in arguments])
    assert [path.name for path in features.parent.iterdir()] == ["x.npy"]


def test_a_run_with_several_models_asks_which(run, features, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    record = without_checksum(json.loads((copy / "run.json").read_text()))
    (copy / "run.json").write_text(json.dumps(with_checksum(record | {"seeds": [0, 1]})))
    shutil.copytree(copy / "seed-0", copy / "seed-1")
    line = failure(capsys, copy, features)
    assert "has 2 models" in line
    with pytest.raises(ModelFileError, match="has 2 models: name one of"):
        from_pretrained(copy)
    with pytest.raises(ModelFileError, match=r"no saved model: .* holds neither"):
        from_pretrained(tmp_path)
    assert str(copy / "seed-1/ml+is+sfr/model") in line


def test_an_existing_output_stays_when_predicting_fails(model, tmp_path, capsys):
    (tmp_path / "p.csv").write_text("precious")
    np.save(tmp_path / "x.npy", np.where(np.arange(40)[:, None] == 7, np.inf, X))
    failure(capsys, model, tmp_path / "x.npy", "-o", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "precious"


# --- explanations ---------------------------------------------------------------------------------


def test_explanations_are_columns_and_json(model, features, small_folder, capsys):
    found = predict(capsys, model, features, "--explain", "--training", small_folder)
    rows = list(csv.DictReader(io.StringIO(found)))
    lines = predict(capsys, model, features, "--explain", "--format", "jsonl").splitlines()
    for row, line in zip(rows, lines, strict=True):
        kept = json.loads(line)["explanation"]  # of the buffer beside the model
        assert (kept["answer"], kept["runner_up"]) == (row["class_1"], row["class_2"])
        assert row["runner_up"] == row["class_2"]
        assert f"description of {row['class_1']} " in row["because"]
        assert [one["name"] for one in kept["nearest"]] == ["", "", ""]
        counts = [one.split(" of ") for one in kept["resembles"].split(", ")]
        assert sum(int(count) for count, _ in counts) == 3
        assert all(name in NAMES[:SEEN] for _, name in counts)
        named = [one.partition(" (")[0] for one in row["resembles"].split("; ")]
        assert len(named) == 3
        data = load_folder(small_folder)
        assert {int(one.removeprefix("row ")) for one in named} <= set(data.split.trainval.tolist())


def test_training_rows_are_found_in_files_and_marked_test_rows_are_not(model, tmp_path, capsys):
    data = small_dataset()
    marks = np.where(np.isin(np.arange(len(data.labels)), data.split.trainval), "train", "test")
    names = np.array([data.class_names[label] for label in data.labels])
    np.savez(tmp_path / "t.npz", features=data.features, labels=names, split=marks)
    test = data.split.test_seen[:5]
    np.save(tmp_path / "x.npy", data.features[test])
    training = ("--explain", "--training", tmp_path / "t.npz")
    found = predict(capsys, model, tmp_path / "x.npy", *training)
    for row in csv.DictReader(io.StringIO(found)):
        numbers = [int(one.split()[1]) for one in row["resembles"].split("; ")]
        assert (marks[numbers] == "train").all()


def test_of_many_training_images_the_same_number_of_each_class_is_compared(
    model, features, small_folder, capsys, monkeypatch
):
    data, most = small_dataset(), 3 * SEEN
    monkeypatch.setattr("mlis.explanation.examples.COMPARED", most)
    examples = image_classifier.training_images(small_folder, load_model(model))
    assert np.bincount(examples.labels, minlength=len(NAMES)).tolist() == [3] * SEEN + [0] * (
        len(NAMES) - SEEN
    )
    for row, label, name in zip(examples.features, examples.labels, examples.names, strict=True):
        number = int(name.removeprefix("row "))
        np.testing.assert_array_equal(row, data.features[number])
        assert data.labels[number] == label
    arguments = ["predict", model, features, "--explain", "--training", small_folder]
    assert main([*map(str, arguments)]) == 0
    assert f"{most} of its {len(data.split.trainval)} " in capsys.readouterr().err


def test_what_cannot_be_explained_is_refused(model, features, tmp_path, capsys):
    assert "without --explain" in failure(capsys, model, features, "--training", features)
    np.savez(tmp_path / "t.npz", features=X, labels=["nobody"] * len(X))
    said = failure(capsys, model, features, "--explain", "--training", tmp_path / "t.npz")
    assert "nobody" in said
    np.savez(tmp_path / "u.npz", features=X, labels=[NAMES[-1]] * len(X))  # unseen
    said = failure(capsys, model, features, "--explain", "--training", tmp_path / "u.npz")
    assert "u.npz" in said
    assert f"got {len(X)} of others" in said
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "exemplars.safetensors").unlink()
    assert "--training" in failure(capsys, bare, features, "--explain")


@pytest.mark.parametrize("text", ["path\na.jpg\n", "path,x,y,width,height\na.jpg,1,1,9,9\n"])
def test_a_table_of_photographs_is_not_features(text, model, tmp_path, capsys):
    table = tmp_path / "boxes.csv"
    table.write_text(text)
    assert f"mlis data import {table}" in refused(capsys, "predict", model, table)
