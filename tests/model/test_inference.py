"""The recognizer: arrays and tensors in and out, batches, types, errors, calibration, top-k."""

import numpy as np
import pytest
import torch

from mlis.errors import DataError
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Recognizer, replace
from mlis.model.refiners import Identity, LinearReLU
from mlis.pipeline import fit
from simulated import small, tiny

DATA = tiny()


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return fit(DATA.for_training(), small(), seed=1, device="cpu").recognizer


@pytest.fixture(scope="module")
def exact() -> Recognizer:
    return fit(DATA.for_training(), small("float64"), seed=1, device="cpu").recognizer


def by_hand(recognizer: Recognizer, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Refined features and scores in NumPy: scale, linear, ReLU, linear, calibration."""
    scaled = (x - recognizer.preprocessing.shift.numpy()) * recognizer.preprocessing.factor.numpy()
    h = np.maximum(
        scaled @ recognizer.refiner.weight.numpy().T + recognizer.refiner.bias.numpy(), 0
    )
    scores = h @ recognizer.head.weight.numpy().T + recognizer.head.bias.numpy()
    return h, scores - recognizer.calibration * recognizer.seen_mask.numpy()


@pytest.mark.parametrize("constant", [0.0, 1.75, -3.0])
def test_equals_numpy(exact, constant):
    calibrated = replace(exact, calibration=constant)
    h, scores = by_hand(calibrated, DATA.features.astype(np.float64))
    np.testing.assert_allclose(calibrated.refine(DATA.features), h, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(calibrated.scores(DATA.features), scores, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(calibrated.predict(DATA.features), scores.argmax(1))
    assert calibrated.predict(DATA.features).dtype == np.int64


def textbook(r: Recognizer, x: np.ndarray) -> np.ndarray:
    """Scaler, encoder, classifier, calibration, one after the other; in float64 after the root."""
    if r.preprocessing.transform == "sqrt":  # PyTorch's, as its last bit is not NumPy's
        x = torch.from_numpy(x).clamp(min=0).sqrt().numpy()
    h = (x.astype(np.float64) - r.preprocessing.shift.numpy()) * r.preprocessing.factor.numpy()
    if r.refiner.kind != "none":
        h = np.maximum(h @ r.refiner.weight.double().numpy().T + r.refiner.bias.double().numpy(), 0)
    scores = h @ r.head.weight.double().numpy().T + r.head.bias.double().numpy()
    return scores - r.calibration * r.seen_mask.numpy()


@pytest.mark.parametrize("shift", [0.0, 0.5, 1e4], ids=["zero", "near", "far"])
@pytest.mark.parametrize("transform", ["none", "sqrt"])
@pytest.mark.parametrize("with_encoder", [True, False])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_fused_pass_equals_the_formula(dtype, error, with_encoder, transform, shift):
    """Also where features lie thousands of their ranges away from zero."""
    rng = np.random.default_rng(0)
    inputs, hidden, classes = 12, 20, 7
    place = shift * (1 + rng.random(inputs))
    width = 0.1 + rng.random(inputs)
    x = place + width * rng.random((50, inputs))
    if transform == "sqrt":
        x = x**2
    x[0, 0] = -0.1 if transform == "sqrt" and shift == 0 else x[0, 0]

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape)).to(dtype)

    head = LinearHead(draw(classes, hidden if with_encoder else inputs), draw(classes))
    r = Recognizer(
        FeatureScaler(transform, torch.from_numpy(place), torch.from_numpy(1 / width)),
        LinearReLU(draw(hidden, inputs), draw(hidden)) if with_encoder else Identity(),
        head,
        tuple(map(str, range(classes))),
        np.arange(classes) < 4,
        np.eye(classes),
        calibration=0.3,
    )
    x = x.astype(np.float32 if dtype == torch.float32 else np.float64)
    if dtype == torch.float32:  # what is left of the features there is what both sides get
        rounded = torch.from_numpy(place).float().double()
        scaler = FeatureScaler(transform, rounded, torch.from_numpy(1 / width))
        r = replace(r, preprocessing=scaler)
    expected = textbook(r, x)
    np.testing.assert_allclose(r.scores(x), expected, rtol=0, atol=error * np.abs(expected).max())
    np.testing.assert_array_equal(r.predict(x), r.scores(x).argmax(1))


def test_numpy_in_numpy_out_and_torch_in_torch_out(recognizer):
    x = DATA.features
    for method in (recognizer.refine, recognizer.scores, recognizer.predict):
        array, tensor = method(x), method(torch.from_numpy(x))
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(array, tensor.numpy())
    indices, scores = recognizer.top_k(torch.from_numpy(x), 3)
    assert isinstance(indices, torch.Tensor)
    assert isinstance(scores, torch.Tensor)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_change_results(recognizer, exact, batch_size):
    for r, error in ((recognizer, 1e-5), (exact, 1e-12)):
        whole = r.scores(DATA.features)
        parts = r.scores(DATA.features, batch_size=batch_size)
        np.testing.assert_allclose(parts, whole, rtol=error, atol=error * np.abs(whole).max())
        np.testing.assert_array_equal(
            r.predict(DATA.features, batch_size=batch_size), r.predict(DATA.features)
        )
        assert r.refine(DATA.features, batch_size=batch_size).shape == (len(DATA.features), 10)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1][::-1],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: _read_only(x),
    ],
    ids=["float64", "big-endian", "Fortran", "reversed twice", "strided", "read-only"],
)
def test_any_memory_layout(recognizer, change):
    np.testing.assert_array_equal(
        recognizer.predict(change(DATA.features)), recognizer.predict(DATA.features)
    )
    np.testing.assert_array_equal(
        recognizer.predict(change(DATA.features)[::-1]), recognizer.predict(DATA.features)[::-1]
    )


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def test_the_features_handed_in_stay_as_they_are(recognizer):
    x = DATA.features.copy()
    for method in (recognizer.refine, recognizer.scores, recognizer.predict):
        method(x)
        method(torch.from_numpy(x))
    head = LinearHead(torch.zeros(9, recognizer.num_features), torch.zeros(9))
    raw = replace(recognizer, refiner=Identity(), head=head)
    assert raw.refine(x) is not x
    np.testing.assert_array_equal(x, DATA.features)


def test_no_rows(recognizer):
    x = DATA.features[:0]
    assert recognizer.scores(x).shape == (0, 9)
    assert recognizer.predict(x).shape == (0,)
    assert recognizer.refine(x).shape == (0, 10)
    assert recognizer.top_k(x, 2)[0].shape == (0, 2)


@pytest.mark.parametrize("shape", [(4, 8), (9,), (4, 9, 1)])
def test_another_shape_is_an_error(recognizer, shape):
    with pytest.raises(DataError, match=r"features of shape \(B, 9\), but got .*same model"):
        recognizer.predict(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(recognizer, bad):
    x = DATA.features.copy()
    x[13, 2] = bad
    for batch_size in (5, 8192):
        with pytest.raises(DataError, match="row 13 holds NaN or infinity"):
            recognizer.scores(x, batch_size=batch_size)


def test_top_k_is_consistent_with_scores(recognizer):
    scores = recognizer.scores(DATA.features)
    for form in (DATA.features, torch.from_numpy(DATA.features)):
        indices, values = (np.asarray(part) for part in recognizer.top_k(form, 4))
        assert indices.shape == values.shape == (len(scores), 4)
        np.testing.assert_array_equal(values, np.sort(scores, axis=1)[:, :-5:-1])
        np.testing.assert_array_equal(np.take_along_axis(scores, indices, 1), values)
        np.testing.assert_array_equal(indices[:, 0], recognizer.predict(DATA.features))
    assert recognizer.top_k(DATA.features, 99)[0].shape == (len(scores), 9)


def test_calibration_shifts_seen_scores_only(recognizer, exact):
    for r in (recognizer, exact):
        calibrated = replace(r, calibration=0.7)
        difference = r.scores(DATA.features) - calibrated.scores(DATA.features)
        error = 1e-14 if r is exact else 1e-6
        np.testing.assert_allclose(difference[:, r.seen_mask], 0.7, rtol=0, atol=error * 100)
        np.testing.assert_array_equal(difference[:, ~r.seen_mask], 0)
        assert r.calibration == 0
    everything_unseen = replace(recognizer, calibration=1e6).predict(DATA.features)
    assert not recognizer.seen_mask[everything_unseen].any()


def test_lists_are_arrays(recognizer):
    x = DATA.features[:3]
    for method in (recognizer.predict, recognizer.scores, recognizer.refine):
        found = method(x.tolist())
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, method(x))
    np.testing.assert_array_equal(recognizer.top_k(x.tolist(), 2)[0], recognizer.top_k(x, 2)[0])
    for wrong, said in (
        (x[0].tolist(), "2-d array of real numbers"),
        ([["a"]], "2-d array of real numbers"),
        ([[1.0], [1.0, 2.0]], "expected rows of equal length"),
        ([[1.0]], "features of shape"),
        (None, "2-d array of real numbers"),
    ):
        with pytest.raises(DataError, match=said):
            recognizer.predict(wrong)


def test_without_an_encoder_refined_features_are_the_scaled_ones():
    raw = fit(
        DATA.for_training(),
        small(refinement={"components": "none"}, preprocessing={"feature_transform": "sqrt"}),
        device="cpu",
    ).recognizer
    assert raw.refiner.kind == "none"
    rows = DATA.for_training().features.astype(np.float64)
    low, high = np.sqrt(rows.min(0)), np.sqrt(rows.max(0))
    expected = (np.sqrt(DATA.features) - low) / (high - low)
    np.testing.assert_allclose(raw.refine(DATA.features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["predict", "scores", "refine"])
@pytest.mark.parametrize(("kind", "weights"), [("array", "float32"), ("tensor", "float64")])
def test_numbers_beyond_float32_are_refused_by_row_and_column(
    recognizer, exact, method, kind, weights
):
    """Whatever the weights are: training was in float32, in which no such number is."""
    x = DATA.features.astype(np.float64)
    x[13, 2] = 1e300
    given = x if kind == "array" else torch.from_numpy(x)
    model = recognizer if weights == "float32" else exact
    with pytest.raises(DataError, match=r"row 13 holds 1e\+300.*column 2"):
        getattr(model, method)(given, batch_size=8)


@pytest.mark.parametrize("method", ["predict", "scores", "top_k"])
def test_results_that_are_not_finite_are_refused_by_row_and_column(recognizer, method):
    x = np.array(DATA.features)
    x[11, 4] = -3e38
    factor = torch.full_like(recognizer.preprocessing.factor, 9.0)
    scaler = FeatureScaler("none", recognizer.preprocessing.shift, factor)
    with pytest.raises(DataError, match=r"row 11 .*not finite.*-3e\+38, in column 4"):
        getattr(replace(recognizer, preprocessing=scaler), method)(x, batch_size=8)


def test_weights_that_are_not_finite_answer_nothing(recognizer):
    weight = recognizer.head.weight.clone()
    weight[1, 0] = torch.nan
    broken = replace(recognizer, head=LinearHead(weight, recognizer.head.bias))
    with pytest.raises(DataError, match=r"not finite.*weights are damaged"):
        broken.predict(DATA.features)
