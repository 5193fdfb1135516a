"""The HTTP API: answers, errors that say what was expected, and classes that join while it runs."""

import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydantic_core
import pytest
import scipy.special

import odd_images
from mlis.errors import DataError, SettingsError
from mlis.explanation import Examples, explain, sentence_encoder
from mlis.features.decode import claimed_pixels
from mlis.features.descriptors import text_model
from mlis.features.descriptors.class_descriptions import read_descriptions
from mlis.features.descriptors.describe import describe
from mlis.incremental import adapt, set_display_names
from mlis.io.checkpoint import save_model
from mlis.methods.gaussian import Gaussian
from mlis.methods.raw import RidgeSoftmax
from mlis.model.calibrate import calibrate
from mlis.model.recognizer import Metadata, replace
from mlis.serving.descriptions import Describer, Description
from mlis.serving.engine import Engine
from mlis.serving.exchange import Query
from mlis.serving.load import load_engine
from mlis.serving.service import Room
from mlis.serving.settings import Access
from serve_cases import (
    COLOURS,
    UNSEEN,
    MeanColours,
    client,
    colour_engine,
    colour_recognizer,
    feature_recognizer,
    growing_engine,
    png,
    refusal,
    upload,
)
from simulated import linear_world, small, tiny
from worded import Words, worded_world

ROWS = tiny().features[:20]


@pytest.fixture(scope="module")
def images():
    with client(colour_engine()) as asker:
        yield asker


@pytest.fixture(scope="module")
def features():
    with client(Engine(feature_recognizer())) as asker:
        yield asker


def post_rows(asker, rows, **more):
    return asker.post("/predict/features", json={"rows": rows, **more})


# --- predictions ----------------------------------------------------------------------------------


def test_rows_get_the_recognizers_own_probabilities(features):
    body = post_rows(features, ROWS.tolist(), top_k=3.0).json()  # 3.0 is an integer in JSON Schema
    recognizer = feature_recognizer()
    probabilities = scipy.special.softmax(recognizer.scores(ROWS).astype(float), axis=1)
    assert [result["row"] for result in body["results"]] == list(range(len(ROWS)))
    for result, chance in zip(body["results"], probabilities, strict=True):
        best = np.argsort(-chance)[:3]
        found = result["predictions"]
        assert [each["class"] for each in found] == [recognizer.class_names[c] for c in best]
        np.testing.assert_allclose([each["score"] for each in found], chance[best], atol=1e-5)
        assert [each["seen"] for each in found] == [bool(recognizer.seen_mask[c]) for c in best]


def test_pictures_of_classes_never_seen_are_recognised(images):
    files = [(f"{name}-{seed}.png", png(name, seed)) for name in COLOURS for seed in (100, 101)]
    results = images.post("/predict/images", files=upload(*files)).json()["results"]
    assert [result["file"] for result in results] == [name for name, _ in files]
    best = [result["predictions"][0] for result in results]
    expected = [name for name in COLOURS for _ in range(2)]
    right = [each["class"] == name for each, name in zip(best, expected, strict=True)]
    assert np.mean(right) > 0.7  # of six; a sixth by chance
    assert any(not each["seen"] and each["class"] in UNSEEN for each in best)
    assert all(each["seen"] == (each["class"] not in UNSEEN) for each in best)
    assert {len(result["predictions"]) for result in results} == {5}


def test_a_picture_gives_the_same_alone_and_among_others(images):
    one = images.post("/predict/images", files=upload(png("red")), params={"top_k": 2}).json()
    files = upload(*(png(name) for name in COLOURS), b"no picture")
    many = images.post("/predict/images", files=files, params={"top_k": 2}).json()
    assert one["results"][0]["predictions"] == many["results"][0]["predictions"]


def test_every_odd_file_gets_predictions_or_a_reason(images):
    fine, bad = odd_images.good() | odd_images.grey(), odd_images.bad()
    files = [*fine.items(), *((name, data) for name, (data, _) in bad.items())]
    files = [(name.encode(errors="replace").decode(), data) for name, data in files]
    results = []
    for start in range(0, len(files), 32):
        answer = images.post("/predict/images", files=upload(*files[start : start + 32]))
        results += answer.json()["results"]
    assert len(results) == len(files)
    for result in results[: len(fine)]:
        assert result["error"] is None, result
        assert result["predictions"]
    for result, (_, reason) in zip(results[len(fine) :], bad.values(), strict=True):
        assert result["predictions"] is None
        assert reason in result["error"]


def test_the_model_answers_many_clients_at_once_each_with_its_own(features):
    recognizer = feature_recognizer()
    expected = [recognizer.class_names[c] for c in recognizer.predict(ROWS)]

    def ask(i: int) -> str:
        answer = post_rows(features, [ROWS[i % 20].tolist()], top_k=1)
        return answer.json()["results"][0]["predictions"][0]["class"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(100))) == expected * 5


def test_a_picture_whose_features_are_not_finite_has_a_reason():
    class Broken(MeanColours):
        def __call__(self, inputs):
            rows = super().__call__(inputs)
            rows[0] = np.nan
            return rows

    engine = Engine(colour_recognizer(), Broken())
    pictures = [engine.prepare(png(name), 10**6) for name in ("red", "blue")]
    bad, good = engine.answer([Query(pixels, True) for pixels in pictures])
    assert "not finite" in bad.reason
    assert good.probabilities is not None
    assert good.probabilities.sum() == pytest.approx(1)


# --- refusals -------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}


def test_scores_that_overflow_refuse_their_row_alone():
    """Of a model with large weights; with common ones no row that the API takes comes so far."""
    far = np.full(ROWS.shape[1], 3e38, dtype=np.float32)
    bad, good = Engine(feature_recognizer()).answer([Query(far, False), Query(ROWS[0], False)])
    assert bad.probabilities is None
    assert "so far from the training's" in bad.reason
    assert good.probabilities is not None
    assert good.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 415, "expected application/json, got application/octet"),
        (b"{", 422, "body: not JSON: EOF"),
        (b"[" * 10_000, 422, "body: not JSON: recursion limit"),
        (b"9" * 10_000, 422, "body: not JSON: number out of range"),
        (b'{"rows": []}', 422, "rows: List should have at least 1 item"),
        (b'{"rows": [[1, 2]]}', 422, "rows.0: List should have at least 9 items"),
        (b'{"rows": [[1,2,3,4,5,6,7,8,"9"]]}', 422, "rows.0.8: Input should be a valid number"),
        (b'{"rows": [[1,2,3,4,5,6,7,8,NaN]]}', 422, "rows.0.8: Input should be a finite number"),
        (b'{"rows": [[1,2,3e38,4,5,6,7,8,9]]}', 422, "rows.0.2: Input should be less than"),
        (b'{"rows": [[1,2,3,4,5,6,7,8,9]], "topk": 3}', 422, "topk: Extra inputs are not"),
        (b'{"rows": [[1,2,3,4,5,6,7,8,9]], "top_k": 0}', 422, "top_k: Input should be greater"),
        (b'{"\\ud800": 1}', 422, "body: not JSON: "),
    ],
)
def test_a_bad_body_is_told_what_was_expected(features, content, status, said):
    headers = JSON if content else {"content-type": "application/octet-stream"}
    answer = features.post("/predict/features", content=content or b"x", headers=headers)
    assert said in refusal(answer, status)


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({}, 415, "expected multipart/form-data with files, got none"),
        ({"files": {"other": ("a.png", b"x")}}, 422, "files: Field required"),
        ({"files": upload(b"x"), "params": {"top_k": "many"}}, 422, "top_k: Input should be a val"),
        ({"files": upload(*[b"x"] * 33)}, 422, "files: expected at most 32 items, got 33"),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}},
            400,
            "multipart",
        ),
    ],
)
def test_a_bad_upload_is_told_what_was_expected(images, request_, status, said):
    assert said in refusal(images.post("/predict/images", **request_), status)


def test_paths_and_methods_that_are_not_there(features):
    assert "/openapi.json" in refusal(features.get("/predict"), 404)
    assert "/openapi.json" in refusal(features.get("/docs"), 404)  # its scripts come from elsewhere
    assert "DELETE is not allowed" in refusal(features.delete("/classes"), 405)


def test_limits_are_the_servers_own():
    limits = {"max_files": 2, "max_rows": 3, "max_megapixels": 0.002, "max_upload": 0.02}
    with client(colour_engine(), limits) as asker:
        assert "at most 2 items, got 3" in refusal(
            asker.post("/predict/images", files=upload(*[b"x"] * 3)), 422
        )
        rows = [[0.5] * 24] * 4
        assert "at most 3 rows of 24 numbers" in refusal(post_rows(asker, rows), 422)
        assert "at most 0.00659 MiB, got more" in refusal(
            post_rows(asker, [[0.123456789012] * 24] * 99), 413
        )
        large = upload(b"x" * 21_000)
        assert "at most 0.02 MiB" in refusal(asker.post("/predict/images", files=large), 413)
        sizes = upload(png("red", size=(40, 40)), png("red", size=(60, 40)))
        small, large = asker.post("/predict/images", files=sizes).json()["results"]
        assert small["error"] is None
        assert "2,000" in large["error"]
        assert "60 × 40" in large["error"]


class Stuck(MeanColours):
    """An image model that computes nothing until it is let go."""

    def __init__(self):
        self.go, self.began = threading.Event(), threading.Event()

    def __call__(self, inputs):
        self.began.set()
        assert self.go.wait(60)
        return super().__call__(inputs)


def test_what_takes_too_long_is_503_and_the_server_lives_on():
    stuck = Stuck()
    with client(Engine(colour_recognizer(), stuck), {"timeout": 0.3}) as asker:
        answer = asker.post("/predict/images", files=upload(png("red")))
        assert "expected within 0.3 s" in refusal(answer, 503)
        assert asker.get("/health").status_code == 200
        stuck.go.set()
        assert asker.post("/predict/images", files=upload(png("red"))).status_code == 200


def test_more_than_may_wait_is_503_before_it_is_received_or_decoded():
    """What is in progress counts a picture and its megapixels; half of the room is one client's."""
    stuck = Stuck()
    limits = {"max_waiting": 8, "max_batch": 1, "max_wait": 0.0}
    with client(Engine(colour_recognizer(), stuck), limits) as asker, ThreadPoolExecutor() as pool:
        room = asker.app.state.service.room
        first = pool.submit(asker.post, "/predict/images", files=upload(*[png("red")] * 6))
        assert stuck.began.wait(30)
        assert room.used == 6
        second = asker.post("/predict/images", files=upload(png("red")))
        assert "server busy: expected at most 6 images" in refusal(second, 503)
        assert second.headers["retry-after"] == "1"
        unread = asker.post("/predict/images", content=iter([b"never", b"parsed"]))
        assert unread.status_code == 503
        stuck.go.set()
        assert first.result(60).status_code == 200
        assert room.used == 0
        alone = asker.post("/predict/images", files=upload(*[png("red")] * 9))
        assert alone.status_code == 200  # too much for the room, and let in alone
    assert Room(8, "rows").used == 0


def test_no_file_is_decoded_to_learn_its_size(images):
    """An icon is when Pillow opens it: 3 MB took 6 seconds and 660 MB, whatever the limit."""
    inner = png("red", size=(600, 400))
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner), 22)
    icon = struct.pack("<HHH", 0, 1, 1) + entry + inner
    assert claimed_pixels(icon) == claimed_pixels(b"nothing") == 0
    assert claimed_pixels(inner) == 240_000
    (result,) = images.post("/predict/images", files=upload(icon)).json()["results"]
    assert "not an image" in result["error"]


@pytest.mark.parametrize("path", ["/predict/features", "/classes"])
def test_of_many_faults_few_are_looked_for(path):
    """Millions of wrong items or keys: the first is named, and memory stays small."""
    row = b"[" + b",".join([b'"a"'] * 24) + b"]"
    bodies = [
        b'{"rows": [' + b",".join([row] * 256) + b"]}",
        b'{"name": "a", "vector": [' + b",".join([b'"a"'] * 3000) + b"]}",
        b'{"name": "a", "attributes": {' + b",".join(b'"%d":[]' % i for i in range(9000)) + b"}}",
        b"{" + b",".join(b'"%d":1' % i for i in range(6000)) + b"}",
    ]
    with growing() as asker:
        for body in bodies:
            answer = asker.post(path, content=body, headers=JSON)
            assert len(answer.json()["problems"]) <= 3, answer.text
            refusal(answer, 422)


def test_a_body_of_too_many_values_is_not_parsed(features, monkeypatch):
    def unparsed(*_, **__):
        raise AssertionError("parsed")

    monkeypatch.setattr(pydantic_core, "from_json", unparsed)
    body = b'{"rows": [' + b",".join([b"[]"] * 3000) + b"]}"
    answer = features.post("/predict/features", content=body, headers=JSON)
    assert "expected at most 256 rows of 9 numbers" in refusal(answer, 422)
    answer = features.post("/predict/features", content=b" " * 200_000, headers=JSON)
    assert "at most 0.0747 MiB" in refusal(answer, 413)


# --- classes --------------------------------------------------------------------------------------


def test_classes_are_listed_with_what_is_known_of_them(images):
    body = images.get("/classes").json()
    assert body["count"] == len(COLOURS)
    assert [each["name"] for each in body["classes"]] == list(COLOURS)
    assert {each["name"] for each in body["classes"] if not each["seen"]} == set(UNSEEN)
    said = {each["name"]: each["description"] for each in body["classes"]}
    assert said["grey"] == "like an elephant"
    assert said["red"] is None
    assert not any(each["added"] for each in body["classes"])


def growing(**access):
    """A client of a model whose classes may be described by a vector."""
    return client(growing_engine(), {"max_classes": 8}, **access)


CYAN = {"name": "cyan", "vector": [0.1, 0.8, 0.8]}


def test_a_class_that_is_described_is_recognised_at_once(monkeypatch):
    monkeypatch.setitem(COLOURS, "cyan", (25, 205, 205))

    def scores(asker, colour: str) -> list[dict[str, float]]:
        files = upload(*(png(colour, seed) for seed in range(5, 10)))
        results = asker.post("/predict/images", files=files, params={"top_k": 9}).json()["results"]
        return [{each["class"]: each["score"] for each in r["predictions"]} for r in results]

    with growing() as asker:
        assert all("cyan" not in each for each in scores(asker, "cyan"))
        answer = asker.post("/classes", json=CYAN)
        assert answer.status_code == 201
        expected = {"name": "cyan", "seen": False, "added": True, "description": None}
        expected |= {"display_name": None}
        assert answer.json() == {**expected, "warnings": []}
        assert asker.get("/classes").json()["classes"][-1] == expected
        of_cyan, of_red = scores(asker, "cyan"), scores(asker, "red")
        for each in of_cyan:
            assert "cyan" in sorted(each, key=each.__getitem__)[-2:]
        assert {max(each, key=each.__getitem__) for each in of_red} == {"red"}
        assert min(each["cyan"] for each in of_cyan) > 10 * max(each["cyan"] for each in of_red)
        assert "mlis_classes 7.0" in asker.get("/metrics").text
        assert 'mlis_class_changes_total{action="add"} 1.0' in asker.get("/metrics").text


@pytest.mark.parametrize(
    ("new", "status", "said"),
    [
        ({"name": "red", "vector": [1, 0, 0]}, 409, "a class 'red' exists already"),
        ({"name": "", "vector": [1, 0, 0]}, 422, "name: String should have at least 1"),
        ({"name": "a\nb", "vector": [1, 0, 0]}, 422, "printable"),
        ({"name": "a"}, 422, "expected vector, as for this model's classes, got nothing"),
        ({"name": "a", "vector": [1, 0]}, 422, "vector: expected 3 numbers, got 2"),
        ({"name": "a", "vector": [0, 0, 0]}, 422, "all zeros"),
        ({"name": "a", "vector": [1e300, 0, 0]}, 422, "infin"),
        ({"name": "a", "vektor": [1, 0, 0]}, 422, "vektor: Extra inputs"),
    ],
)
def test_a_class_that_cannot_be_added_leaves_all_as_it_was(new, status, said):
    with growing() as asker:
        assert said in refusal(asker.post("/classes", json=new), status)
        assert asker.get("/classes").json()["count"] == len(COLOURS)


def test_both_names_of_a_class_are_answered():
    recognizer = set_display_names(colour_recognizer(), {"red": "Красный"})
    with client(Engine(recognizer, MeanColours())) as asker:
        listed = {
            one["name"]: one["display_name"] for one in asker.get("/classes").json()["classes"]
        }
        assert {name for name, text in listed.items() if text} == {"red"}
        (found,) = asker.post("/predict/images", files=upload(png("red"))).json()["results"]
        assert found["predictions"][0]["class"] == "red"
        assert [one.get("display_name") for one in found["predictions"]][:2] == ["Красный", None]


def test_classes_are_added_only_where_that_is_allowed_and_not_without_end():
    with growing(host="0.0.0.0") as asker:
        assert "--allow-changes" in refusal(asker.post("/classes", json=CYAN), 403)
        assert asker.get("/health").json()["changes"] is False
    with growing() as asker:
        for name in ("a", "b"):
            new = {"name": name, "vector": [0.3, 0.2, 0.9 if name == "a" else 0.4]}
            assert asker.post("/classes", json=new).status_code == 201
        assert "8 classes, the maximum" in refusal(asker.post("/classes", json=CYAN), 422)
    with client(Engine(colour_recognizer(), MeanColours())) as asker:
        assert "no exemplar buffer" in refusal(asker.post("/classes", json=CYAN), 422)


def test_a_class_is_renamed_and_removed():
    with growing() as asker:
        assert asker.patch("/classes/red", json={"name": "crimson / red"}).json() == {
            **{"name": "crimson / red", "seen": True, "added": False, "description": None},
            "display_name": None,
        }
        assert asker.post("/classes", json=CYAN).status_code == 201
        assert asker.patch("/classes/cyan", json={"name": "teal"}).json()["added"] is True
        for path, status in (("red", 404), ("nothing%2Fhere", 404), ("crimson%20%2F%20red", 204)):
            assert asker.delete(f"/classes/{path}").status_code == status
        assert "a class 'teal' exists" in refusal(
            asker.patch("/classes/blue", json={"name": "teal"}), 409
        )
        refusal(asker.patch("/classes/blue", json={"name": ""}), 422)
        names = [each["name"] for each in asker.get("/classes").json()["classes"]]
        assert names == ["green", "blue", "yellow", "grey", "pink", "teal"]
        best = asker.post("/predict/images", files=upload(png("blue"))).json()["results"][0]
        assert best["predictions"][0]["class"] == "blue"
        for name in names[:4]:
            assert asker.delete(f"/classes/{name}").status_code == 204
        assert "at least 2" in refusal(asker.delete("/classes/pink"), 422)


def test_changes_from_other_machines_need_a_name_and_the_token():
    token = "0123456789abcdef"
    for missing in ({"hostnames": ("a.example",)}, {"token": token}, {}):
        with pytest.raises(SettingsError, match="expected --hostname and --token-file"):
            Access.of("0.0.0.0", allow_changes=True, **missing)
        with pytest.raises(SettingsError, match="expected --hostname and --token-file"):
            Access.of("127.0.0.1", allow_changes=True, proxy="127.0.0.1", **missing)
    access = {"allow_changes": True, "hostnames": ("a.example",), "token": token}
    with growing(host="0.0.0.0", **access) as asker:
        asked = [
            lambda **more: asker.post("/classes", json=CYAN, **more),
            lambda **more: asker.patch("/classes/red", json={"name": "crimson"}, **more),
            lambda **more: asker.delete("/classes/green", **more),
        ]
        for ask in asked:
            for given in ({}, {"authorization": token}, {"authorization": f"Bearer {token}x"}):
                answer = ask(headers=given)
                refusal(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert asker.get("/classes").json()["count"] == len(COLOURS)
        assert asker.get("/health").json()["token"] is True
        right = {"authorization": f"Bearer {token}"}
        assert [ask(headers=right).status_code for ask in asked] == [201, 200, 204]
        assert token not in repr(Access.of("0.0.0.0", **access))


TABLE = """name,stripes,height cm,colour
zebra,yes,130,white
horse,no,160,brown
cow,no,150,
tiger,yes,100,orange
"""


@pytest.fixture
def by_attributes(tmp_path):
    """A describer of attributes, and the words that it was made of."""
    table = tmp_path / "classes.csv"
    table.write_text(TABLE)
    words = read_descriptions(table, attributes=["stripes", "height cm"])
    descriptors = describe(words, None)
    return Describer(
        2, dict(descriptors.record), None, ("attributes", "vector"), ("stripes", "height cm")
    ), descriptors


def test_attributes_become_the_vector_that_the_table_gave(by_attributes):
    describer, descriptors = by_attributes
    said = {"zebra": ("yes", "130"), "horse": ("no", "160"), "tiger": ("1", "100.0")}
    for name, (stripes, height) in said.items():
        words = Description(attributes={"stripes": stripes, "height cm": height})
        vector = describer.vector(name, words)
        assert np.array_equal(vector, descriptors.vectors[descriptors.names.index(name)])
    half = describer.vector("new", Description(attributes={"stripes": "yes"}))
    assert half[0] == 1
    assert half[1] == pytest.approx(descriptors.vectors[:, 1].mean())  # unknown: the mean


def test_a_table_of_numbers_needs_them_all():
    columns = {"format": "mlis-columns", "columns": ["legs", "wings"]}
    metadata = Metadata({"descriptors": columns})
    recognizer = replace(colour_recognizer(), metadata=metadata, descriptors=np.ones((6, 2)))
    describer = Describer.of(recognizer)
    assert describer.takes == ("attributes", "vector")
    said = {"wings": "2", "legs": "6"}
    assert describer.vector("bee", Description(attributes=said)).tolist() == [6, 2]
    for wrong, message in (
        ({"legs": "6"}, "'wings' is missing"),
        ({"legs": "6", "wings": "two"}, "'wings': expected a number, got 'two'"),
        ({"legs": "6", "wing": "2"}, "Did you mean 'wings'?"),
    ):
        with pytest.raises(DataError, match=message.replace("?", r"\?")):
            describer.vector("bee", Description(attributes=wrong))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (Description(), "expected attributes or vector, as for this model's classes, got nothing"),
        (Description(sentences=("a zebra",)), "got sentences"),
        (
            Description(attributes={"stripe": "yes"}),
            "attribute of this model. Did you mean 'stripes'",
        ),
        (Description(attributes={"stripes": "perhaps"}), "'stripes', row 0"),
        (
            Description(attributes={"stripes": "7"}),
            "(1 or 0), as in training, got 7",
        ),
        (Description(attributes={"stripes": "yes"}, vector=(1.0, 0.0)), "vector: expected alone"),
    ],
)
def test_words_that_do_not_fit_are_told_what_is_missing(by_attributes, words, said, tmp_path):
    with pytest.raises(DataError) as error:
        by_attributes[0].vector("new", words)
    assert said in str(error.value)
    assert ".csv" not in str(error.value)  # no file that the visitor does not know


# --- server ---------------------------------------------------------------------------------------


def test_metrics_count_requests_batches_and_bad_files():
    with client(colour_engine()) as asker:
        asker.post("/predict/images", files=upload(png("red"), b"nothing", png("blue")))
        post_rows(asker, [[1]])
        asker.get("/nowhere/" + "x" * 1000)
        text = asker.get("/metrics").text
    assert 'mlis_requests_total{method="POST",route="/predict/images",status="200"} 1.0' in text
    assert 'mlis_requests_total{method="POST",route="/predict/features",status="422"} 1.0' in text
    assert 'mlis_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'mlis_request_seconds_count{route="/predict/images"} 1.0' in text
    assert "mlis_batch_rows_sum 2.0" in text
    assert "mlis_bad_images_total 1.0" in text
    assert "mlis_in_progress 0.0" in text
    assert "xxx" not in text


# --- the trade-off between seen and unseen classes ------------------------------------------------


def test_a_request_chooses_its_own_trade_off():
    data = linear_world(classes=16, unseen=4, per_class=10, noise=0.3)
    model = Gaussian(small()).choose(data, device="cpu").recognizer
    rows = data.features[:6]
    with client(Engine(model)) as asker:
        known = asker.get("/tradeoff").json()
        assert known["calibration"] == model.calibration
        assert len(known["points"]) == len(model.metadata.tradeoff.constants)
        middle = known["points"][len(known["points"]) // 2]["constant"]
        for choice in ("seen-loss=5", "h", -3.5, "-3.5", repr(middle), "1.5e-10", None):
            results = post_rows(asker, rows.tolist(), calibration=choice).json()["results"]
            scorer = model if choice is None else calibrate(model, float_or_text(choice))
            expected = scorer.probabilities(rows)
            found = [result["predictions"][0] for result in results]
            names = [scorer.class_names[c] for c in expected.argmax(1)]
            assert [each["class"] for each in found] == names
            scores = [each["score"] for each in found]
            np.testing.assert_allclose(scores, expected.max(1), atol=1e-4)
        for bad in ("auc", "nan", 1e300, True, "x" * 41):
            refused = refusal(post_rows(asker, rows.tolist(), calibration=bad), 422)
            assert "calibration" in refused


def float_or_text(value: float | str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def test_pictures_take_a_constant_without_a_curve(images):
    known = images.get("/tradeoff").json()
    assert known == {"calibration": 1.0, "points": []}
    path = "/predict/images?top_k=6&calibration="
    (found,) = images.post(f"{path}1e6", files=upload(png("red"))).json()["results"]
    assert {each["class"] for each in found["predictions"][:2]} == set(UNSEEN)
    said = refusal(images.post(f"{path}seen-loss=5", files=upload(png("red"))), 409)
    assert "has no validation curve" in said


# --- none of the classes --------------------------------------------------------------------------


def rejecting(reject: float = 0.0) -> Engine:
    """A server of a model to which every row of `ROWS` looks known, and random ones do not."""
    recognizer = feature_recognizer()
    known = np.quantile(recognizer.known_scores(ROWS), np.linspace(0, 1, 101))
    metadata = Metadata(rejection=tuple(known.tolist()))
    return Engine(replace(recognizer, metadata=metadata), reject=reject)


def test_unknown_comes_first_at_the_rate_of_the_request_or_the_server():
    with client(rejecting(0.5)) as asker:
        rows, levels = ROWS.tolist(), asker.app.state.service.engine._served[0].known_levels(ROWS)
        for more, rate in (({}, 0.5), ({"reject": 0.2}, 0.2)):
            results = post_rows(asker, rows, top_k=2, **more).json()["results"]
            found = [one["predictions"][0] for one in results]
            unknown = {"class": "unknown", "score": None, "seen": None}
            assert [one == unknown for one in found] == (levels < rate).tolist()
            assert {len(one["predictions"]) for one in results} == {2}
        assert asker.get("/health").json()["reject"] == 0.5
        assert post_rows(asker, rows, reject=5).status_code == 422


def test_a_rate_may_be_per_cent():
    rows = ROWS.tolist()
    with client(rejecting()) as asker:
        expected = post_rows(asker, rows, reject=0.2).json()
        assert post_rows(asker, rows, reject="20%").json() == expected
        for wrong in ("0%", "100%", "5 %", "x"):
            refusal(post_rows(asker, rows, reject=wrong), 422)


def test_a_model_that_cannot_reject_says_so(features):
    assert features.get("/health").json()["can_reject"] is False
    answer = post_rows(features, ROWS[:1].tolist(), reject=0.05)
    assert answer.status_code == 409
    assert "Train it again" in answer.json()["detail"]
    with pytest.raises(DataError, match="Train it again"):
        Engine(feature_recognizer(), reject=0.05)


# --- why this class -------------------------------------------------------------------------------


def test_an_answer_is_explained_where_it_is_asked_for():
    data = linear_world(classes=16, unseen=4, per_class=10, noise=0.3)
    model = Gaussian(small()).choose(data, device="cpu").recognizer
    rows = data.features[:4]
    with client(Engine(model)) as asker:
        assert asker.get("/health").json()["can_explain"] is True
        results = post_rows(asker, rows.tolist(), explain=True).json()["results"]
        for result, expected in zip(results, explain(model, rows), strict=True):
            assert result["explanation"]["because"] == expected.because
            assert result["explanation"]["answer"] == result["predictions"][0]["class"]
            assert result["explanation"]["runner_up"] == result["predictions"][1]["class"]
        plain = post_rows(asker, rows.tolist()).json()["results"]
        assert {result["explanation"] for result in plain} == {None}


def test_training_images_are_named_also_after_classes_change():
    data = linear_world(classes=16, unseen=4, per_class=10, noise=0.3)
    model = Gaussian(small()).choose(data, device="cpu").recognizer
    rows, labels = data.features[data.split.trainval], data.labels[data.split.trainval]
    names = [f"{model.class_names[label]}/{i}.jpg" for i, label in enumerate(labels)]
    engine = Engine(model, describer=Describer.of(model), examples=Examples(rows, labels, names))
    gone, other, last = (model.class_names[i] for i in (0, 1, labels.max()))
    with client(engine) as asker:

        def nearest(label):
            row = rows[labels == label][:1].tolist()
            (found,) = post_rows(asker, row, explain=True).json()["results"]
            return found["explanation"]["nearest"]

        assert gone in {one["name"].split("/")[0] for one in nearest(0)}
        assert asker.delete(f"/classes/{gone}").status_code == 204
        assert asker.patch(f"/classes/{other}", json={"name": "new"}).status_code == 200
        assert gone not in {one["name"].split("/")[0] for one in nearest(0)}
        for label, shown in ((1, "new"), (labels.max(), last)):
            one = nearest(label)[0]
            assert one["name"].split("/")[0] == model.class_names[label]
            assert one["class"] == shown


def test_answers_go_on_when_no_training_image_is_left():
    data = linear_world(classes=16, unseen=4, per_class=10, noise=0.3)
    gaussian = Gaussian(small()).choose(data, device="cpu").recognizer
    config = small(generation={"generator": "ridge"})
    ridge = RidgeSoftmax(config).fit(data.for_training(), device="cpu").recognizer
    few = np.flatnonzero(np.isin(data.labels, (0, 1, 13)))  # 13 is unseen
    examples = Examples(data.features[few], data.labels[few])
    body = data.features[:2].tolist()
    for model, able in ((gaussian, True), (ridge, False)):
        with client(Engine(model, describer=Describer.of(model), examples=examples)) as asker:
            for name in (model.class_names[i] for i in (0, 1, 13)):
                answer = post_rows(asker, body, explain=True)
                assert answer.json()["results"][0]["explanation"]["nearest"]
                assert asker.delete(f"/classes/{name}").status_code == 204
                if name != model.class_names[0] and not able:
                    break  # no seen class is left
            assert asker.get("/health").json()["can_explain"] is able
            answer = post_rows(asker, body, explain=True)
            assert answer.status_code == (200 if able else 409)
            assert post_rows(asker, body).status_code == 200


def test_sentences_are_shown_and_weighed():
    data = worded_world()
    model = Gaussian(small()).choose(data, seed=0).recognizer
    words = Words()
    body = data.features[:6].tolist()
    with client(Engine(model, encoder=sentence_encoder(model, words))) as asker:
        about = asker.get("/classes").json()["classes"][0]
        assert about["description"].startswith("It has part ")
        results = post_rows(asker, body, explain=True).json()["results"]
        said = [one for found in results for one in found["explanation"]["attributes"]]
        assert any(one["name"].startswith("It looks like") and one["of"] for one in said)
        embedded = len(words.asked)
        assert asker.patch(f"/classes/{about['name']}", json={"name": "new"}).status_code == 200
        assert post_rows(asker, body, explain=True).status_code == 200
        assert len(words.asked) == embedded
    with client(Engine(model)) as asker:
        (found,) = post_rows(asker, body[:1], explain=True).json()["results"]
        assert found["explanation"]["attributes"] == []
        assert found["explanation"]["because"].startswith("similarity")


def test_the_text_model_of_sentences_is_loaded_at_the_start(tmp_path, monkeypatch, caplog):
    data = worded_world()
    save_model(Gaussian(small()).choose(data, seed=0).recognizer, tmp_path / "model")
    told = []
    engine = load_engine(tmp_path / "model", "cpu", changes=False, progress=told.append)
    assert told == ["text model of the sentences"]
    assert "explanations leave out sentences" in caplog.text  # it is on no machine
    body = data.features[:1].tolist()
    with client(engine) as asker:
        (found,) = post_rows(asker, body, explain=True).json()["results"]
        assert found["explanation"]["because"].startswith("similarity")
    monkeypatch.setattr(text_model, "TextModel", lambda name, **_: Words())
    engine = load_engine(tmp_path / "model", "cpu", changes=False, text_model="moved")
    with client(engine) as asker:
        (found,) = post_rows(asker, body, explain=True).json()["results"]
        assert found["explanation"]["attributes"]


def test_training_images_that_explain_nothing_are_refused_at_the_start():
    data, model = tiny(), feature_recognizer()
    unseen = np.flatnonzero(~data.seen_mask[data.labels])
    with pytest.raises(DataError, match="seen classes"):
        Engine(model, examples=Examples(data.features[unseen], data.labels[unseen]))
    broken = data.features.copy()
    broken[17] = np.nan
    with pytest.raises(DataError, match="row 17"):
        Engine(model, examples=Examples(broken, data.labels))


def test_possible_problems_of_a_class_are_answered():
    with client(growing_engine()) as asker:
        red = {
            "name": "scarlet",
            "vector": list(asker.app.state.service.engine._served[0].descriptors[0].tolist()),
        }
        (told,) = asker.post("/classes", json=red).json()["warnings"]
        assert "'scarlet'" in told
        assert "identical" in told
        answer = asker.post("/classes/scarlett/images", files=upload(png("red")))
        assert any("'scarlet'" in one for one in answer.json()["warnings"])


def test_a_transductive_model_is_labelled():
    data = linear_world(classes=8, unseen=3, per_class=10, noise=0.3)
    model = Gaussian(small()).fit(data.for_training(), device="cpu").recognizer
    for one in (model, adapt(model, data.for_testing().features)):
        with client(Engine(one), page=True) as asker:
            assert asker.get("/health").json()["transductive"] is one.transductive
            assert ("Transductive" in asker.get("/").text) is one.transductive


def test_explanations_follow_the_constant_and_the_classes():
    with client(growing_engine()) as asker:
        files = upload(png("red"))
        for constant in (1e6, -1e6):
            path = f"/predict/images?explain=true&calibration={constant:.0f}"
            (found,) = asker.post(path, files=files).json()["results"]
            names = [each["class"] for each in found["predictions"][:2]]
            assert [found["explanation"][key] for key in ("answer", "runner_up")] == names
            assert found["explanation"]["nearest"][0]["class"] == "red"
        assert asker.delete("/classes/red").status_code == 204
        (found,) = asker.post("/predict/images?explain=true", files=files).json()["results"]
        assert found["explanation"]["nearest"][0]["class"] != "red"


def test_a_model_that_cannot_explain_says_so(features):
    assert features.get("/health").json()["can_explain"] is False
    assert "cannot explain" in refusal(post_rows(features, ROWS[:1].tolist(), explain=True), 409)
