"""Every setting of a run: default, meaning and range; read from TOML, presets and flags.

The only home of defaults: one frozen dataclass per stage, together a :class:`Config`. It is built
from defaults, a preset (:mod:`mlis.presets`), a TOML file and flags, in that order
(:func:`resolve`), checked field by field, and saved as JSON with every run.
"""

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, Union, cast, get_args, get_origin

from mlis.errors import SettingsError

_MOST_BITS = 53  # of a whole number; JSON readers keep no more
_NUMBERS: dict[Any, Any] = {int: Integral, float: Real}
_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "a string"}


def setting(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Declare one setting: its default, what it means, and the inclusive range of a number."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class Section:
    """Base of a settings dataclass; checks every `setting` against its annotation and range.

    Raises:
        SettingsError: a value of another type or out of range.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            if "help" not in f.metadata:  # no `setting`: a method's own field, such as `config`
                continue
            where = f"{type(self).__name__.lower()}.{f.name}"
            object.__setattr__(self, f.name, _checked(where, f, getattr(self, f.name)))

    def replace(self, values: Mapping[str, Any]) -> Self:
        """Return a copy with the given values changed.

        Raises:
            SettingsError: an unknown name, or a value of another type or out of range.
        """
        known = [f.name for f in fields(self)]
        for key in values:
            if key not in known:
                raise SettingsError(
                    f"unknown setting {type(self).__name__.lower()}.{key}: expected one of "
                    f"{', '.join(known)}"
                )
        return dataclasses.replace(self, **values)


@dataclass(frozen=True)
class Preprocessing(Section):
    """What is done to features and descriptors before anything is trained."""

    feature_transform: Literal["auto", "none", "sqrt"] = setting(
        "auto",
        "elementwise transform before scaling; auto: the square root where no training feature is "
        "negative",
    )
    feature_scaling: Literal["minmax", "standard", "none"] = setting(
        "minmax",
        "by training rows, minmax: each feature to [0, 1]; standard: to mean 0 and standard "
        "deviation 1, for features of both signs",
    )
    descriptor_norm: Literal["l2", "none"] = setting(
        "l2", "normalise each descriptor to unit length (raw norms of 20 swamp the features)"
    )


@dataclass(frozen=True)
class Generation(Section):
    """Stage 1a: features of classes without images. Conditional WGAN-GP (eq. 2) or ridge."""

    generator: Literal["wgan-gp", "ridge", "f-vaegan"] = setting(
        "wgan-gp",
        "the paper's conditional WGAN-GP, the closed-form ridge baseline, or f-VAEGAN-D2 "
        "(thousands of steps)",
    )
    generator_init: Literal["cold", "ridge"] = setting(
        "ridge", "wgan-gp: add to the ridge-predicted class mean, or start cold as the paper does"
    )
    steps: int = setting(100, "generator steps (thousands from a cold start)", low=0)
    batch_size: int = setting(256, "real and synthetic samples in a critic step", low=2)
    hidden: int = setting(4096, "hidden units of generator and critic", low=1)
    noise: int = setting(512, "length of the noise vector z", low=1)
    learning_rate: float = setting(1e-4, "Adam's step size for generator and critic", low=0)
    critic_steps: int = setting(5, "critic steps per generator step", low=1)
    penalty: float = setting(10.0, "weight of the gradient penalty (lambda of eq. 2)", low=0)
    adversarial_weight: float = setting(
        20.0, "f-vaegan: weight of the adversarial loss beside that of the VAE", low=0
    )
    beta1: float = setting(0.5, "Adam's first decay rate", low=0, high=0.9999)
    beta2: float = setting(0.999, "Adam's second decay rate", low=0, high=0.99999)
    init_std: float = setting(0.02, "standard deviation of initial weights", low=0)
    ridge_lambda: float = setting(0.03, "ridge: penalty of the regression", low=1e-12)
    ridge_kernel: Literal["auto", "linear", "rbf"] = setting(
        "auto",
        "ridge: kernel on the descriptors; auto: the one with the lower leave-one-class-out error",
    )
    ridge_neighbours: int = setting(
        20, "ridge: most similar seen classes that lend their residuals", low=1
    )


@dataclass(frozen=True)
class Refinement(Section):
    """Stage 1b: the encoder, metric loss on [h ; a_y] (eq. 1) and cross-entropy (eq. 3)."""

    components: Literal["ml+is+sfr", "ml+is", "ml+sfr", "ml", "sfr", "none"] = setting(
        "ml+is+sfr",
        "ml: metric loss; is: on [h ; a_y]; sfr: cross-entropy with synthetic features; "
        "none: no encoder (raw features)",
    )
    loss: str = setting(
        "circle",
        "circle, circle_eq1, contrastive, multi_similarity, or module:function taking "
        "(embeddings, labels)",
    )
    margin: float = setting(0.1, "m of the circle losses", low=-1, high=2)
    gamma: float = setting(60.0, "scale of the circle losses", low=1e-6)
    semantic_scale: float = setting(10.0, "length of a descriptor beside h in [h ; a_y]", low=0)
    visual_norm: Literal["none", "l2"] = setting(
        "none", "normalise h before it is concatenated with the descriptor"
    )
    schedule: Literal["sequential", "joint"] = setting(
        "sequential", "train the generator first, or generator and encoder step by step together"
    )
    generator_feedback: float = setting(
        0.0, "joint only: weight of the encoder's cross-entropy in the generator's loss", low=0
    )
    steps: int = setting(250, "encoder steps (joint: one per generator step)", low=0)
    classes_per_batch: int = setting(64, "P of a P x K batch (at most the seen classes)", low=2)
    samples_per_class: int = setting(4, "K of a P x K batch", low=2)
    hidden: int = setting(2048, "size of the refined feature h", low=1)
    learning_rate: float = setting(5e-4, "Adam's step size for the encoder", low=0)
    beta1: float = setting(0.5, "Adam's first decay rate", low=0, high=0.9999)
    beta2: float = setting(0.999, "Adam's second decay rate", low=0, high=0.99999)
    init_std: float = setting(0.02, "standard deviation of initial weights", low=0)
    cross_entropy_weight: float = setting(15.0, "weight of eq. 3 beside the metric loss", low=0)
    synthetic_per_unseen: int = setting(5, "synthetic samples a step per unseen class", low=0)
    synthetic_per_seen: int = setting(
        1,
        "synthetic samples a step per seen class, where a generator is trained: for unseen "
        "classes, or with classification.synthetic_per_seen > 0",
        low=0,
    )

    @property
    def switches(self) -> frozenset[str]:
        """The components that are on: a subset of {"ml", "is", "sfr"}."""
        return frozenset(self.components.split("+")) - {"none"}


_SEEN_LOSS = re.compile(r"seen-loss=(\d{1,3}(?:\.\d{1,6})?)")


def seen_loss(calibration: float | str) -> float | None:
    """P of "seen-loss=P", in points of S; None for anything else.

    >>> seen_loss("seen-loss=2.5")
    2.5
    """
    found = _SEEN_LOSS.fullmatch(calibration) if isinstance(calibration, str) else None
    return float(found[1]) if found and float(found[1]) <= 100 else None


def checked_calibration(calibration: Any, what: str = "classification.calibration") -> float | str:
    """A number below 1e30, "validation" (also for "h"), or "seen-loss=P".

    Raises:
        SettingsError: it is none of them; begins with `what`.
    """
    if isinstance(calibration, str):
        if calibration in ("h", "validation"):
            return "validation"
        if (loss := seen_loss(calibration)) is not None:
            return f"seen-loss={loss:g}"
    elif not isinstance(calibration, bool) and isinstance(calibration, Real):
        value = float(calibration)
        if abs(value) < 1e30:
            return value
    raise SettingsError(
        f"{what} must be h, seen-loss=P with P from 0 to 100, or a number below 1e30, but got "
        f"{calibration!r:.60}"
    )


@dataclass(frozen=True)
class Classification(Section):
    """Stage 2: softmax regression on refined features, real and synthetic."""

    synthetic_per_unseen: int = setting(300, "synthetic samples per unseen class", low=1)
    synthetic_per_seen: int = setting(0, "synthetic samples per seen class", low=0)
    balance: Literal["samples", "classes"] = setting(
        "classes", "every sample weighs the same, or every class"
    )
    weight_decay: float | Literal["auto"] = setting(
        "auto",
        "L2 penalty on the weights, for features of mean length 1; auto: 0.01 divided by the "
        "number of classes, each of which has that share of the loss",
        low=0,
    )
    tolerance: float = setting(
        3e-5,
        "stop when the largest gradient entry is below (at most a tenth of the first one)",
        low=0,
    )
    max_iterations: int = setting(300, "L-BFGS iterations at most", low=1)
    calibration: float | str = setting(
        "validation",
        "calibration constant subtracted from seen-class scores: a number; or chosen on validation "
        "classes, by one more training that holds them out (by up to five, that hold out others, "
        "where each holds out fewer than 10). `h` or `validation`: the one with the best H; "
        "`seen-loss=P`: the largest at which S falls by at most P points",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "calibration", checked_calibration(self.calibration))

    def penalty(self, num_classes: int) -> float:
        """The weight decay for so many classes."""
        return 0.01 / num_classes if self.weight_decay == "auto" else self.weight_decay


@dataclass(frozen=True)
class Config:
    """Every setting of a run, one section per stage."""

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    generation: Generation = field(default_factory=Generation)
    refinement: Refinement = field(default_factory=Refinement)
    classification: Classification = field(default_factory=Classification)
    precision: Literal["auto", "float32", "float64", "bfloat16"] = setting(
        "auto", "of matrix products; auto: bfloat16 where it is faster than float32"
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name == "precision":
                _checked("precision", f, self.precision)
            elif type(getattr(self, f.name)) is not f.type:
                raise SettingsError(f"Config.{f.name} must be a {f.name.title()} section")
        r = self.refinement
        if "is" in r.switches and "ml" not in r.switches:
            raise SettingsError("refinement.components: `is` needs `ml`")
        if r.generator_feedback > 0 and (r.schedule != "joint" or "sfr" not in r.switches):
            raise SettingsError(
                "refinement.generator_feedback > 0 trains the generator through the encoder's "
                "cross-entropy: it needs schedule='joint' and components with `sfr`"
            )
        if r.schedule == "joint" and self.generation.generator != "wgan-gp":
            raise SettingsError(
                "refinement.schedule='joint' alternates with steps of the WGAN-GP, which the "
                f"{self.generation.generator} generator does not have: use schedule='sequential'"
            )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, ready for JSON or TOML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Build from a nested dictionary; unknown names are errors."""
        return cls().replace(values)

    def replace(self, values: Mapping[str, Any]) -> "Config":
        """Return a copy with the given nested values changed.

        Raises:
            SettingsError: an unknown name, a value of another type or out of range, or values that
                exclude one another.

        >>> Config().replace({"generation": {"steps": 10}}).generation.steps
        10
        """
        return dataclasses.replace(self, **self._changes(values))

    def check(self, values: Mapping[str, Any]) -> None:
        """Check names, types and ranges of nested values, not whether they exclude one another.

        Raises:
            SettingsError: an unknown name, or a value of another type or out of range.
        """
        self._changes(values)

    def _changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # a file may hold anything
        if not isinstance(values, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"settings: expected a table, got {values!r:.60}")
        known = {f.name: f for f in fields(self)}
        changes: dict[str, Any] = {}
        for name, value in values.items():
            section = getattr(self, name) if name in known else None
            if name == "precision":
                changes[name] = _checked(name, known[name], value)
            elif isinstance(section, Section) and isinstance(value, Mapping):
                changes[name] = section.replace(cast(Mapping[str, Any], value))
            else:
                raise SettingsError(
                    f"unknown settings section {name!r}: expected one of {', '.join(known)}"
                )
        return changes

    @property
    def sha256(self) -> str:
        """Hash of all settings, for cache keys and result rows."""
        return hash_of(self.to_dict())


def hash_of(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values of sections, as `Config.to_dict` gives them, by "section.name"."""
    flat: dict[str, Any] = {}
    for section, value in settings.items():
        if isinstance(value, Mapping):
            named = cast("Mapping[str, Any]", value)
            flat |= {f"{section}.{name}": one for name, one in named.items()}
        else:
            flat[section] = value
    return flat


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        SettingsError: the file cannot be read or is not valid TOML; names the file.
    """
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"settings file {path} does not exist") from None
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # also numbers of thousands of digits, and other encodings
        raise SettingsError(f"settings file {path} is not valid TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"settings file {path} is not valid TOML: it nests too deep") from None


def resolve(*layers: Mapping[str, Any]) -> Config:
    """Apply nested dictionaries on top of the defaults, the last one winning.

    Only the result must be consistent: a flag may undo what a preset chose.

    >>> layers = {"refinement": {"schedule": "joint"}}, {"generation": {"generator": "ridge"}}
    >>> resolve(*layers, {"refinement": {"schedule": "sequential"}}).generation.generator
    'ridge'
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        Config().check(layer)
        for name, value in layer.items():
            section = isinstance(value, Mapping)
            merged[name] = {**merged.get(name, {}), **value} if section else value
    return Config().replace(merged)


def _kinds(f: dataclasses.Field[Any]) -> tuple[Any, ...]:
    """The alternatives of a field's type."""
    return get_args(f.type) if get_origin(f.type) in (Union, UnionType) else (f.type,)


def _checked(where: str, f: dataclasses.Field[Any], value: Any) -> Any:
    """Return `value` in the field's type, or raise a SettingsError that says what was expected."""
    names: list[str] = []
    for kind in _kinds(f):
        if get_origin(kind) is Literal:
            if isinstance(value, str) and value in get_args(kind):
                return value
            names += [repr(choice) for choice in get_args(kind)]
            continue
        if kind is str and isinstance(value, str):
            return value
        number = _NUMBERS.get(kind)
        if number and not isinstance(value, bool) and isinstance(value, number):
            return _in_range(where, f, _converted(kind, value))
        names.append(_NAMES[kind])
    raise SettingsError(f"{where} must be {' or '.join(names)}, but got {value!r}")


def _converted(kind: type, value: Any) -> float:
    try:
        return kind(value)
    except OverflowError:  # a whole number of 400 digits
        return math.inf


def _in_range(where: str, f: dataclasses.Field[Any], value: float) -> float:
    low, high = f.metadata["low"], f.metadata["high"]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise SettingsError(
            f"{where} must be below 2**{_MOST_BITS}, but got a number of {value.bit_length()} bits"
        )
    outside = (low is not None and value < low) or (high is not None and value > high)
    if outside or not math.isfinite(value):
        bounds = "finite" if low is None else f"at least {low}"
        bounds = bounds if high is None else f"between {low} and {high}"
        raise SettingsError(f"{where} must be {bounds}, but got {value}")
    return value


def checked_rate(rate: float | str) -> float:
    """The share of images of known classes that may be turned away, `0.05` or `"5%"`.

    Raises:
        SettingsError: it is not above 0 and below 1.

    >>> checked_rate("5%"), checked_rate(0.05)
    (0.05, 0.05)
    """
    text = str(rate).strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise SettingsError(
            f"reject: expected a share above 0 and below 1, such as 0.05 or 5%, got {text!r}. "
            "Name the share of images of known classes that may be turned away."
        )
    return value
