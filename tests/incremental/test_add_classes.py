"""Classes added to a trained model, removed, renamed: quality, consistency, files, errors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import coloured
import mlis.incremental.refit
from cli_cases import last_json, printed, refused
from coloured import COLOURS, LATER, UNSEEN, Colours, picture, write_table
from fake_backbones import Letters
from mlis.config import Config
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError, ModelFileError, SettingsError
from mlis.evaluation import Evaluation, evaluate
from mlis.features.descriptors.class_descriptions import read_descriptions
from mlis.features.descriptors.describe import describe
from mlis.features.descriptors.new_classes import describe_like
from mlis.image_classifier import ImageClassifier
from mlis.incremental.refit import refit
from mlis.io.checkpoint import EXEMPLARS, RECORD, load_exemplars, load_model, save_model
from mlis.model.recognizer import Metadata, Recognizer, replace
from mlis.pipeline import fit
from pairs import Pair, loaded_pair, trained_pair
from simulated import linear_world, small, tiny

DATA = tiny()
NEW = np.array([[0.5, -0.5, 0.5, 0.5], [-0.5, -0.5, -0.5, 0.5]], dtype=np.float32)


@pytest.fixture(scope="module", params=["ridge", "wgan-gp"])
def model(request) -> Pair:
    config = small(generation={"generator": request.param})
    found = trained_pair(DATA.for_training(), config, seed=1, device="cpu")
    return found._replace(recognizer=replace(found.recognizer, calibration=0.5))


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Pair:
    return Pair(*coloured.coloured_model(tmp_path_factory.mktemp("colours")))


def without(dataset: GZSLDataset, held: np.ndarray):
    """The training split without these unseen classes."""
    training = dataset.for_training()
    kept = np.setdiff1d(np.arange(dataset.num_classes), held)
    return dataclasses.replace(
        training,
        labels=np.searchsorted(kept, training.labels),
        descriptors=training.descriptors[kept],
        class_names=tuple(training.class_names[i] for i in kept),
        seen_mask=training.seen_mask[kept],
        class_ids=training.class_ids[kept],
    )


def measured(recognizer: Recognizer | Pair, dataset: GZSLDataset) -> Evaluation:
    test = dataset.for_testing()
    place = {name: i for i, name in enumerate(recognizer.class_names)}
    labels = np.array([place[name] for name in test.class_names])[test.labels]
    scores = recognizer.scores(test.features)
    return evaluate(scores, labels, recognizer.seen_mask.numpy(), recognizer.class_names)


def test_removing_what_was_added_last_restores_the_scores(model, tmp_path):
    x = DATA.features[:20]
    grown = model.add(["one", "two"], NEW)
    assert not np.array_equal(grown.scores(x)[:, : len(model.class_names)], model.scores(x))
    grown.save(tmp_path)
    for again in (grown, loaded_pair(tmp_path)):
        back = again.remove(["two", "one"])
        np.testing.assert_array_equal(back.scores(x), model.scores(x))
        # of one alone, and after another change, the scores of the others stay as they are
        kept = again.remove(["one"])
        np.testing.assert_array_equal(kept.scores(x), np.delete(again.scores(x), -2, axis=1))
        renamed = again.rename({"one": "uno"}).remove(["uno", "two"])
        np.testing.assert_array_equal(
            renamed.scores(x), again.scores(x)[:, : len(model.class_names)]
        )
    twice = grown.remove(["one"]).add(["three"], NEW[:1])
    once = twice.remove(["three"])
    np.testing.assert_array_equal(once.scores(x), grown.remove(["one"]).scores(x))


# --- quality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["ridge", "wgan-gp"])
def test_added_classes_are_recognised_as_if_known_from_the_start(generator, tmp_path):
    """Two of six unseen classes held back, in a world where descriptors say what they look like."""
    data = linear_world(3)
    held = data.unseen_classes[[1, 4]]
    config = Config.from_dict(
        {
            "precision": "float32",
            "generation": {"generator": generator, "steps": 20, "hidden": 64, "noise": 8},
            "refinement": {"steps": 60, "hidden": 64, "classes_per_batch": 12},
            "classification": {"synthetic_per_unseen": 60, "calibration": 0.5},
        }
    )
    known = measured(fit(data.for_training(), config, device="cpu").recognizer, data)
    trained_pair(without(data, held), config, device="cpu").save(tmp_path)
    names = [data.class_names[i] for i in held]
    grown = loaded_pair(tmp_path).add(names, data.descriptors[held])
    found = measured(grown, data)
    assert known.H is not None
    assert known.H > 70
    for measure in ("U", "S", "H"):
        assert abs(getattr(found, measure) - getattr(known, measure)) < 4, measure
    of_added = np.isin(data.labels, held)
    told = grown.predict(data.features[of_added])
    right = [grown.class_names[p] for p in told] == np.array(data.class_names)[
        data.labels[of_added]
    ]
    assert np.mean(right) > 0.6


def test_a_colour_that_is_described_later(colours, tmp_path):
    later = write_table(tmp_path / "later.csv", LATER)
    grown = colours.add(*describe_like(colours.metadata.sources["descriptors"], later))
    every = COLOURS | UNSEEN | LATER
    images = [picture(colour, 60) for colour in every.values()]
    found = ImageClassifier(grown.recognizer, Colours()).predict(images, k=1)
    assert [one.classes[0].name for one in found] == list(every)
    assert [one.classes[0].seen for one in found] == [name in COLOURS for name in every]


def test_without_new_classes_the_kept_rows_give_the_trained_classifier(model):
    """What is kept says what the training's rows and its generator said."""
    again = refit(
        model.exemplars,
        lambda x: torch.relu(x @ model.refiner.weight.T + model.refiner.bias),
        model.descriptors.numpy(),
        model.seen_mask.numpy(),
        model.head,
        model.device,
    )
    rows = DATA.features[DATA.split.trainval]
    ours = model.predict(rows)
    assert np.mean(replace(model.recognizer, head=again).predict(rows) == ours) > 0.9


# --- consistency --------------------------------------------------------------------------------


def test_everything_about_the_classes_grows_together(model):
    grown = model.add(["a", "b"], NEW, note="by hand")
    assert grown.class_names == (*model.class_names, "a", "b")
    assert grown.seen_mask.tolist() == [*model.seen_mask.tolist(), False, False]
    np.testing.assert_array_equal(grown.descriptors[-2:], NEW)
    assert grown.scores(DATA.features).shape == (len(DATA.features), 11)
    assert grown.calibration == model.calibration
    (entry,) = grown.metadata.history
    assert entry["action"] == "add"
    assert entry["classes"] == ["a", "b"]
    assert entry["synthetic_per_unseen"] == 5
    assert entry["note"] == "by hand"
    assert entry["when"].endswith("+00:00")


def test_removing_leaves_the_scores_of_the_others(model):
    names = [model.class_names[i] for i in (0, 7)]
    smaller = model.remove(names)
    kept = [i for i in range(9) if i not in (0, 7)]
    np.testing.assert_allclose(
        smaller.scores(DATA.features), model.scores(DATA.features)[:, kept], rtol=1e-5, atol=1e-5
    )
    assert smaller.seen_mask.tolist() == model.seen_mask[kept].tolist()
    assert smaller.metadata.history[-1]["classes"] == names
    assert smaller.exemplars is not None
    assert smaller.exemplars.labels.unique().tolist() == [0, 1, 2, 3, 4]
    again = smaller.add(["a"], NEW[:1])  # rows and generator number the classes again
    assert again.class_names[-1] == "a"
    assert again.scores(DATA.features).shape[1] == 8


@pytest.mark.parametrize("generator", ["ridge", "wgan-gp"])
def test_classes_added_one_by_one_or_together_give_the_same(generator):
    # A penalty and a tolerance that leave one minimum: at the default ones L-BFGS stops in a flat
    # valley, at a point that depends on where it starts and on the order of sums.
    stage_2 = {"weight_decay": 1e-2, "tolerance": 1e-6, "max_iterations": 2000}
    config = small(generation={"generator": generator}, classification=stage_2)
    model = trained_pair(DATA.for_training(), config, seed=1, device="cpu")
    first = model.add(["a"], NEW[:1])
    second = first.add(["b"], NEW[1:])
    both = model.add(["a", "b"], NEW)
    assert second.class_names == both.class_names
    expected = both.scores(DATA.features)
    assert expected.std() > 1
    np.testing.assert_allclose(second.scores(DATA.features), expected, rtol=0, atol=0.02)
    assert [entry["action"] for entry in second.metadata.history] == ["add", "add"]


def test_the_cost_of_an_addition_does_not_grow_with_their_number(monkeypatch):
    """Rows × classes of stage 2; the rows' weights stay what the settings say."""
    solved: list[tuple[int, int, float]] = []
    whole = mlis.incremental.refit.fit_classifier

    def counted(features, labels, classes, settings, *, sample_weight, start):
        solved.append((len(features), classes, float(sample_weight.sum())))
        return whole(features, labels, classes, settings, sample_weight=sample_weight, start=start)

    monkeypatch.setattr(mlis.incremental.refit, "fit_classifier", counted)
    per_class = {"synthetic_per_unseen": 100, "max_iterations": 2}
    config = small(generation={"generator": "ridge"}, classification=per_class)
    pair = trained_pair(DATA.for_training(), config, seed=1, device="cpu")
    seen = len(pair.exemplars.labels)
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for i, vector in enumerate(vectors):
        pair = pair.add([f"new {i}"], vector[None])
    rows, classes, weights = map(np.array, zip(*solved, strict=True))
    few = mlis.incremental.refit.FEW
    assert rows[:few].tolist() == [seen + 100 * (3 + i) for i in range(1, few + 1)]
    assert (rows * classes).max() == (rows * classes)[few - 1]
    np.testing.assert_allclose(weights, seen + 100 * (classes - 6), rtol=1e-5)


def test_a_training_that_keeps_nothing(tmp_path, capsys):
    bare = trained_pair(DATA.for_training(), small(), device="cpu", exemplars=False)
    with pytest.raises(DataError, match="no exemplar buffer"):
        bare.add(["a"], NEW[:1])
    bare.save(tmp_path)
    assert not (tmp_path / EXEMPLARS).exists()
    assert bare.remove(["class_000"]).rename({"class_001": "x"}).exemplars is None


# --- files --------------------------------------------------------------------------------------


def test_exemplars_and_history_survive_a_round_trip(model, tmp_path):
    grown = model.add(["a"], NEW[:1])
    grown.save(tmp_path, {"seed": 1})
    loaded = loaded_pair(tmp_path)
    assert loaded.metadata.history == grown.metadata.history
    assert loaded.metadata.record == {"seed": 1}
    np.testing.assert_array_equal(loaded.scores(DATA.features), grown.scores(DATA.features))
    one, two = (r.add(["b"], NEW[1:]) for r in (loaded, grown))
    assert torch.equal(one.head.weight, two.head.weight)


def test_exemplars_of_another_model_are_refused(model, tmp_path):
    model.save(tmp_path / "one")
    model.rename({"class_000": "x"}).save(tmp_path / "two")
    (tmp_path / "two" / EXEMPLARS).rename(tmp_path / "one" / EXEMPLARS)
    with pytest.raises(ModelFileError, match=r"exemplars\.safetensors is of another model than"):
        load_exemplars(tmp_path / "one")
    assert load_exemplars(tmp_path / "two") is None


def test_damaged_exemplars_are_noticed(model, tmp_path):
    model.save(tmp_path)
    whole = bytearray((tmp_path / EXEMPLARS).read_bytes())
    whole[-1] ^= 4
    (tmp_path / EXEMPLARS).write_bytes(whole)
    with pytest.raises(ModelFileError, match=r"exemplars\.safetensors is damaged"):
        load_exemplars(tmp_path)
    load_model(tmp_path)


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "vectors", "said"),
    [
        (["class_000"], NEW[:1], "has classes of these names already: class_000"),
        (["a", "a"], NEW, "named twice: a"),
        (["a"], NEW[:1, :3], r"must have shape \(1, 4\).*got \(1, 3\)"),
        (["a"], np.zeros((1, 4)), "descriptor of 'a' is all zeros"),
        ([" "], NEW[:1], "must be a text that is not empty"),
    ],
)
def test_wrong_additions(model, names, vectors, said):
    with pytest.raises(DataError, match=said):
        model.add(names, vectors)


def test_wrong_removals_and_names(model):
    with pytest.raises(DataError, match=r"no class 'Class 003'.*Did you mean 'class_003'"):
        model.remove(["Class 003"])
    with pytest.raises(DataError, match="keep at least 2"):
        model.remove(model.class_names[1:])
    with pytest.raises(DataError, match="two classes would have the same name: class_000"):
        model.rename({"class_001": "class_000"})
    with pytest.raises(DataError, match="no class 'x'"):
        model.rename({"x": "y"})
    with pytest.raises(SettingsError, match="synthetic_per_unseen must be at least 1"):
        model.add(["a"], NEW[:1], synthetic_per_class=0)


def test_a_description_like_another_or_like_all_is_told(caplog):
    """A recognizer of twelve classes that share most of what is said of them."""
    rng = np.random.default_rng(0)
    known = (1 + rng.random((12, 8))).astype(np.float32)
    labels = np.repeat(np.arange(12), 6)
    features = np.abs(known[labels] @ rng.normal(size=(8, 9)) + rng.random((72, 9)))
    data = GZSLDataset.from_arrays(features, labels, known, unseen_classes=[10, 11])
    config = small(generation={"generator": "ridge"}, refinement={"components": "none"})
    trained = trained_pair(data.for_training(), config, seed=0, device="cpu")
    near = known[3] + 0.12 * rng.random(8)
    opposite = 2 * known.mean(axis=0) - known[5]  # about the mean
    trained.add(["echo", "anything", "new"], np.stack([near, known.mean(axis=0), opposite]))
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "'echo' and 'class_003' are described alike" in text]
    assert [text for text in told if "'anything' is nearer to the mean" in text]
    assert not [text for text in told if "'new'" in text]


# --- descriptors as in training -----------------------------------------------------------------

WORDS = """name,text,legs,flies,share
cat,abba,4,no,10%
owl,cafe,2,yes,?
bee,bead,6,yes,30%
"""


def words_record(tmp_path: Path) -> tuple[dict, np.ndarray]:
    (tmp_path / "train.csv").write_text(WORDS)
    made = describe(read_descriptions(tmp_path / "train.csv"), Letters(), weight=0.3)
    return json.loads(json.dumps(dict(made.record))), made.vectors


def test_described_again_alone_a_class_has_the_training_s_vector(tmp_path):
    record, vectors = words_record(tmp_path)
    for i, line in enumerate(WORDS.splitlines()[1:]):
        (tmp_path / "one.csv").write_text(f"{WORDS.splitlines()[0]}\n{line}\n")
        names, found = describe_like(record, tmp_path / "one.csv", model=Letters())
        assert names == (line.split(",")[0],)
        np.testing.assert_allclose(found[0], vectors[i], atol=1e-6)


def test_descriptions_that_do_not_fit(tmp_path):
    record, _ = words_record(tmp_path)
    cases = [
        ("name,legs\nant,6\n", "expected sentences, as in training"),
        ("name,text,flies\nant,bad,7\n", "column 'flies'.*'ant': expected yes or no"),
        ("name,text,split\nant,bad,seen\n", "class 'ant': expected unseen"),
        ("name,text,legs\nant,bad,many\n", "row 0.*got 'many'"),
    ]
    for text, said in cases:
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(DataError, match=said):
            describe_like(record, tmp_path / "x.csv", model=Letters())
    other = Letters()
    other.identity = dataclasses.replace(other.identity, weights="other")
    with pytest.raises(DataError, match="text model: expected letters"):
        describe_like(record, {"ant": "bad"}, model=other)
    with pytest.raises(DataError, match="no record of how its descriptors were computed"):
        describe_like({}, {"ant": "bad"})


# --- on the command line ------------------------------------------------------------------------


def test_add_rename_remove_and_list(colours, tmp_path, capsys):
    colours.save(tmp_path / "model", {"seed": 0})
    table = write_table(tmp_path / "later.csv", LATER)
    out = printed(
        *(capsys, "add-classes", tmp_path / "model", table, "-o", tmp_path / "new", "--json")
    )
    assert "added magenta in " in out
    assert "8 classes, 6 seen and 2 unseen" in out
    assert "exemplars.safetensors, for adding further classes: " in out
    assert last_json(out)["growth_bytes"] == (tmp_path / "new" / EXEMPLARS).stat().st_size
    classifier = ImageClassifier(load_model(tmp_path / "new"), Colours())
    (found,) = classifier.predict([picture(LATER["magenta"])], k=1)
    assert found.classes[0].name == "magenta"
    new = tmp_path / "new"
    printed(capsys, "rename-classes", new, "magenta", "rose", "-o", tmp_path / "rose")
    printed(capsys, "remove-classes", tmp_path / "rose", "cyan", "red", "-o", new, "--force")
    out = printed(capsys, "classes", new, "--json")
    assert [line.split()[1] for line in out.splitlines()[1:7]] == ["seen"] * 5 + ["unseen"]
    assert "remove red, cyan" in out
    actions = [entry["action"] for entry in last_json(out)["history"]]
    assert actions == ["add", "rename", "remove"]
    facts = json.loads((new / RECORD).read_text())
    assert facts["history"][0]["note"] == "later.csv"
    assert facts["record"] == {"seed": 0}


def test_numbers_from_a_table_or_an_array(model, tmp_path, capsys):
    model.save(tmp_path / "model")
    lines = [f"{name},{','.join(map(str, row))}" for name, row in zip("ab", NEW, strict=True)]
    (tmp_path / "v.csv").write_text("\n".join(["name,w,x,y,z", *lines]))
    np.save(tmp_path / "v.npy", NEW)
    (tmp_path / "names.txt").write_text("a\nb\n")
    common = ("add-classes", tmp_path / "model")
    printed(capsys, *common, tmp_path / "v.csv", "-o", tmp_path / "one")
    names = ("--names", tmp_path / "names.txt")
    printed(capsys, *common, tmp_path / "v.npy", *names, "-o", tmp_path / "two")
    one, two = load_model(tmp_path / "one"), load_model(tmp_path / "two")
    assert one.class_names[-2:] == two.class_names[-2:] == ("a", "b")
    assert torch.equal(one.head.weight, two.head.weight)
    sources = {"descriptors": {"format": "mlis-columns", "columns": [*"zyxw"]}}
    known = replace(model.recognizer, metadata=Metadata(sources))
    save_model(known, tmp_path / "known", model.exemplars)
    printed(capsys, "add-classes", tmp_path / "known", tmp_path / "v.csv", "-o", tmp_path / "zyxw")
    np.testing.assert_array_equal(load_model(tmp_path / "zyxw").descriptors[-2:], NEW[:, ::-1])
    (tmp_path / "v.csv").write_text("name,w,x,y\na,1,2,3\n")
    said = refused(
        capsys, "add-classes", tmp_path / "known", tmp_path / "v.csv", "-o", tmp_path / "n"
    )
    assert "missing columns z" in said


def test_wrong_use_writes_nothing(colours, model, tmp_path, capsys):
    colours.save(tmp_path / "model")
    model.save(tmp_path / "numbers")
    table = write_table(tmp_path / "later.csv", LATER | COLOURS)
    np.save(tmp_path / "v.npy", NEW)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    place, new = tmp_path / "model", tmp_path / "new"
    cases = [
        (("add-classes", place, table, "-o", new), "names already: red, green"),
        (("add-classes", place, table, "-o", tmp_path / "numbers"), "--force"),
        (("add-classes", place, tmp_path, "-o", new), "got a folder, whose attributes"),
        (("add-classes", tmp_path / "numbers", tmp_path / "v.npy", "-o", new), "--names"),
        (("add-classes", place, tmp_path / "absent.csv", "-o", new), "absent.csv"),
        (("rename-classes", place, "red", "-o", new), "expected pairs OLD NEW"),
        (("remove-classes", place, "Red", "-o", new), "Did you mean 'red'"),
        (("classes", tmp_path), "no saved model"),
    ]
    for arguments, said in cases:
        assert said in refused(capsys, *arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
