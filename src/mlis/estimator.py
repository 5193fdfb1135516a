"""scikit-learn estimators: any method, or the paper's, behind `fit`, `predict` and `transform`."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from mlis.config import Config
from mlis.data.class_table import class_table
from mlis.data.dataset import GZSLDataset, Provenance
from mlis.encoder.metric_losses import EmbeddingLoss
from mlis.errors import DataError
from mlis.evaluation import Evaluation
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.methods.base import Method
from mlis.methods.mlis import MLIS
from mlis.methods.registry import build_method
from mlis.model.recognizer import Recognizer
from mlis.training.progress import ProgressBar

# scikit-learn and SciPy ship no types
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false


class _GZSLEstimator(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator, ABC
):
    """What both classifiers do; they differ in `_method`."""

    n_features_in_: int
    random_state: int | np.random.RandomState | None
    device: str
    verbose: bool

    @abstractmethod
    def _method(self) -> Method:
        """The method to train, by the constructor's arguments."""

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        descriptors: Mapping[Any, ArrayLike] | ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train on features X (n, Dx) of seen classes with labels y (n,).

        Args:
            X: one row of features per image: non-negative, as after a network's ReLU, or of both
                signs (then `feature_scaling="standard"` may suit them better).
            y: class labels, numbers or strings.
            descriptors: one vector for each of all C classes; classes that have one but no row
                in `y` are the unseen ones. A mapping {label: vector}; a data frame whose index
                holds the labels; an array (C, Da) with its labels as `classes`; or an array
                alone when y holds integers 0..C-1 that number its rows. None: one-hot.
            classes: (C,) labels of the rows of `descriptors`.

        Raises:
            DataError: X, y and descriptors do not fit each other (a ValueError).
            SettingsError: an argument of the constructor is not possible (a ValueError).
            DivergenceError: a loss became NaN or infinite.
        """
        method = self._method()
        rows, labels = _validated(self, X, y)
        check_classification_targets(labels)
        table = class_table(labels, descriptors, classes)
        if len(table.classes) < 2:
            raise DataError(
                f"expected at least 2 classes, got only one class: {table.names[0]!r}. Bring "
                "rows of another class, or the descriptor of an unseen one."
            )
        seed = _seed(self.random_state)
        dataset = GZSLDataset.from_indices(
            rows,
            table.labels,
            table.descriptors,
            table.names,
            unseen=table.unseen,
            seed=seed,
            test_fraction=0,
            provenance=Provenance("fit"),
        )
        if not table.unseen.size:  # subtracted from all scores alike
            settings = method.config.replace({"classification": {"calibration": 0.0}})
            method = dataclasses.replace(method, config=settings)
        bars: dict[str, Any] = {}
        if self.verbose:
            last, first = [ProgressBar("training")], [ProgressBar("validation")]
            bars = {"callbacks": last, "validation_callbacks": first}
        trained = method.choose(dataset, seed=seed, device=self.device, **bars)
        self.config_: Config = trained.method.config
        self.report_: Mapping[str, Any] = trained.report
        self.validation_: Evaluation | None = trained.validation
        # In float32 a row's scores depend, in the last digits, on the rows beside it in a batch.
        self.recognizer_: Recognizer = trained.recognizer.double()
        self.exemplars_: ExemplarBuffer | None = trained.exemplars
        self.classes_: np.ndarray = table.classes
        self.descriptors_: np.ndarray = table.descriptors
        self.seen_mask_: np.ndarray = dataset.seen_mask
        return self

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Calibrated scores of the classes: (B, C), or (B,) of class 1 if C is 2."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The best of all classes, seen or unseen, for each row of X (B, Dx): (B,) labels."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(1)]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities of the classes, (B, C) float64, columns in the order of `classes_`."""
        return softmax(self._scores(X) / self.recognizer_.temperature, axis=1)

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithm of `predict_proba`, (B, C) float64, without underflow."""
        return log_softmax(self._scores(X) / self.recognizer_.temperature, axis=1)

    def unknown(self, X: ArrayLike, rate: float | str) -> np.ndarray:
        """Whether each row of X (B, Dx) looks like none of the classes: (B,) bool.

        Args:
            X: features.
            rate: share of images of known classes that may be turned away, `0.05` or `"5%"`.

        Raises:
            SettingsError: the rate is not above 0 and below 1.
            DataError: the model has no rejection quantiles, as it was trained without validation.
        """
        rows = self._features(X)
        return self.recognizer_.unknown(rows, rate)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Refined features `h = E(x)`, (B, Dh) float64, for any other classifier or retrieval."""
        rows = self._features(X)
        return self.recognizer_.refine(rows)

    def _scores(self, X: ArrayLike) -> np.ndarray:
        rows = self._features(X)
        return self.recognizer_.scores(rows)

    def _features(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        return _validated(self, X, reset=False)

    @property
    def _n_features_out(self) -> int:
        return self.recognizer_.refiner.width(self.n_features_in_)


class GZSLClassifier(_GZSLEstimator):
    """Classifier that also recognises classes of which it has only a descriptor.

    By default several methods are tried on classes held out of the training, and the best are
    averaged (:class:`mlis.methods.auto.Auto`); what was tried, and the accuracy to expect, is in
    `report_`. Without `descriptors`, or when every class has rows, it is an ordinary classifier.

    Args:
        method: "auto", or one of :data:`mlis.methods.registry.METHODS`, such as "gaussian".
        budget: "auto" alone: seconds for choice and training.
        candidates: "auto" alone: names of further methods to try, such as ("zlap",).
        calibration: constant subtracted from seen-class scores (calibrated stacking), or
            "h" or "seen-loss=P", chosen on validation classes
            (:func:`mlis.model.calibrate.calibrate`).
        precision: "auto", "float32", "float64" or "bfloat16", of training.
        random_state: seed; None draws one, so that two fits differ.
        device: "auto", "cpu" or "cuda".
        verbose: whether progress bars are shown; methods in closed form have none.
        config: all other settings, a :class:`~mlis.config.Config` or a nested mapping of some.

    Every argument that is None takes its value from `config`, or else `Config`'s default.

    Attributes:
        classes_: (C,) all class labels, seen and unseen, sorted: the columns of `predict_proba`.
        seen_mask_: (C,) bool, True for the classes with training rows.
        descriptors_: (C, Da) float32 as given, in the order of `classes_`.
        recognizer_: the fitted :class:`~mlis.model.recognizer.Recognizer`, in float64.
        exemplars_: its exemplar buffer, to add classes with, or None.
        validation_: measures on validation classes (:class:`~mlis.evaluation.Evaluation`), or None.
        report_: methods that were tried, kept, and the expected U, S, H and T1; empty for others.
        config_: the settings that were used, resolved.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    >>> rng = np.random.default_rng(0)
    >>> described = rng.random((12, 6))
    >>> look = rng.random((6, 16))
    >>> y = np.repeat(np.arange(10), 20)  # classes 10 and 11 have no rows
    >>> X = described[y] @ look + 0.02 * rng.random((200, 16))
    >>> model = GZSLClassifier(method="gaussian", random_state=0).fit(X, y, descriptors=described)
    >>> model.predict(described[9:] @ look)
    array([ 9, 10, 11])
    """

    def __init__(
        self,
        *,
        method: str = "auto",
        budget: float | None = None,
        candidates: Sequence[str] | None = None,
        calibration: float | str | None = None,
        precision: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        verbose: bool = False,
        config: Config | Mapping[str, Any] | None = None,
    ):
        self.method = method
        self.budget = budget
        self.candidates = candidates
        self.calibration = calibration
        self.precision = precision
        self.random_state = random_state
        self.device = device
        self.verbose = verbose
        self.config = config

    def _method(self) -> Method:
        changes = {
            "classification": {"calibration": self.calibration},
            "precision": self.precision,
        }
        options: dict[str, object] = {}
        if self.budget is not None:
            options["budget"] = float(self.budget)
        if self.candidates is not None:
            one = isinstance(self.candidates, str)
            options["candidates"] = (self.candidates,) if one else tuple(self.candidates)
        return build_method(self.method, _settings(self.config, changes), **options)


class MLISClassifier(_GZSLEstimator):
    """The paper's method as a classifier; for the best one for the data, see `GZSLClassifier`.

    Metric learning with implicit semantics: features of the unseen classes are synthesised from
    their descriptors, an encoder refines all features, and a softmax classifier is trained on
    the refined ones. Prediction needs features alone. Without `descriptors`, or when every
    class has rows, it is an ordinary classifier and nothing is synthesised.

    Args:
        generator: "wgan-gp" (the paper's, best on a GPU) or "ridge" (closed form, instant).
        components: what trains the encoder: "ml", "ml+is", "ml+is+sfr", ….
        loss: the metric loss: "circle", "circle_eq1", "contrastive", "multi_similarity",
            "module:function", or a function `(embeddings, labels) → scalar`.
        steps: encoder steps.
        generator_steps: steps of the WGAN-GP.
        semantic_scale: length of a descriptor beside the refined feature in the metric loss.
        calibration: constant subtracted from seen-class scores (calibrated stacking), or
            "validation": found by a second training that holds out a fifth of the seen classes,
            or by up to five if that is fewer than 10 classes.
        precision: "auto", "float32", "float64" or "bfloat16", of training.
        random_state: seed; None draws one, so that two fits differ.
        device: "auto", "cpu" or "cuda".
        verbose: whether progress bars are shown; methods in closed form have none.
        config: all other settings, a :class:`~mlis.config.Config` or a nested mapping of some of
            them, e.g. `{"refinement": {"gamma": 16}}`.

    Every argument that is None takes its value from `config`, or else `Config`'s default.

    Attributes:
        classes_: (C,) all class labels, seen and unseen, sorted: the columns of `predict_proba`.
        seen_mask_: (C,) bool, True for the classes with training rows.
        descriptors_: (C, Da) float32 as given, in the order of `classes_`.
        recognizer_: the fitted :class:`~mlis.model.recognizer.Recognizer`, in float64.
        exemplars_: its exemplar buffer, to add classes with
            (:func:`mlis.incremental.add_classes`); None where no class is unseen.
        validation_: measures of the first such training on the classes that it held out
            (:class:`~mlis.evaluation.Evaluation`), or None.
        config_: the settings that were used, resolved.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    >>> colours, shapes = ("red", "green", "blue"), ("disc", "ring", "star")
    >>> described = {
    ...     f"{c} {s}": [c == other for other in colours] + [s == other for other in shapes]
    ...     for c in colours
    ...     for s in shapes
    ... }
    >>> seen = [name for name in described if name != "blue ring"]
    >>> rng = np.random.default_rng(0)
    >>> look = rng.random((6, 16))  # what a part looks like to a camera
    >>> y = np.repeat(seen, 20)
    >>> X = np.array([described[name] for name in y]) @ look + 0.2 * rng.random((160, 16))
    >>> model = MLISClassifier(generator="ridge", steps=20, random_state=0)
    >>> model = model.fit(X, y, descriptors=described)
    >>> model.predict([look[0] + look[5], look[2] + look[4]])  # no blue ring was trained on
    array(['red star', 'blue ring'], dtype='<U10')
    >>> model.classes_[~model.seen_mask_]
    array(['blue ring'], dtype='<U10')
    """

    def __init__(
        self,
        *,
        generator: str | None = None,
        components: str | None = None,
        loss: str | EmbeddingLoss | None = None,
        steps: int | None = None,
        generator_steps: int | None = None,
        semantic_scale: float | None = None,
        calibration: float | str | None = None,
        precision: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        verbose: bool = False,
        config: Config | Mapping[str, Any] | None = None,
    ):
        self.generator = generator
        self.components = components
        self.loss = loss
        self.steps = steps
        self.generator_steps = generator_steps
        self.semantic_scale = semantic_scale
        self.calibration = calibration
        self.precision = precision
        self.random_state = random_state
        self.device = device
        self.verbose = verbose
        self.config = config

    def _method(self) -> Method:
        chosen = {
            "generation": {"generator": self.generator, "steps": self.generator_steps},
            "refinement": {
                "components": self.components,
                "loss": None if callable(self.loss) else self.loss,
                "steps": self.steps,
                "semantic_scale": self.semantic_scale,
            },
            "classification": {"calibration": self.calibration},
            "precision": self.precision,
        }
        loss = self.loss if callable(self.loss) else None
        return MLIS(_settings(self.config, chosen), loss)


def _settings(base: Config | Mapping[str, Any] | None, changes: Mapping[str, Any]) -> Config:
    """`base`, overridden by the values that are not None."""
    config = base if isinstance(base, Config) else Config.from_dict(base or {})
    return config.replace(_without_none(changes))


def _validated(estimator: BaseEstimator, X: Any, y: Any = "no_validation", **how: Any) -> Any:
    """Rows as finite float32 in C order (and labels as a vector), scikit-learn's own checks."""
    return validate_data(estimator, X, y, dtype=np.float32, order="C", force_writeable=True, **how)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop entries that are None; convert NumPy scalars (of grids) to Python's."""
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _without_none(cast(Mapping[str, Any], value))
    return value.item() if isinstance(value, np.generic) else value


def _seed(random_state: int | np.random.RandomState | None) -> int:
    """An int is the seed itself, so that it means here what it means on the command line."""
    source = check_random_state(random_state)
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(source.randint(2**31 - 1))
