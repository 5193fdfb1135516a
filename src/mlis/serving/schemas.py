"""Schemas of requests and responses, as in the OpenAPI document."""

from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    create_model,
)

from mlis.data.labels import normal
from mlis.serving.settings import Limits

NAME_LENGTH, SENTENCE_LENGTH, MAX_SENTENCES, MAX_ATTRIBUTES = 200, 5000, 100, 2000
LARGEST_FEATURE = 1e30
"""Far beyond any feature, and far enough within float32 that scores of it do not overflow."""

REJECT = (
    "share of images of known classes that may be turned away, such as 0.05 or 5%, so that the "
    "first class of what looks like none of them is `unknown`; without it that of --reject, if any"
)

EXPLAIN = "whether to say why it is the likeliest class, and not the second"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters, got others")
    return text


def _few(value: Any) -> Any:
    """Refuse a large object before each of its items is looked at."""
    if isinstance(value, dict) and len(value) > MAX_ATTRIBUTES:
        raise ValueError(f"expected at most {MAX_ATTRIBUTES} attributes, got {len(value)}")
    return value


def _whole(value: Any) -> Any:
    """3 for 3.0, which is an integer in JSON Schema; all else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Constant = Annotated[Number, Field(gt=-LARGEST_FEATURE, lt=LARGEST_FEATURE)]
_LOSS = "(100|[0-9]{1,2}([.][0-9]{1,6})?)"
_DECIMAL = "-?[0-9]{1,20}([.][0-9]{1,20})?(e([0-9]|-[0-9]{1,2}))?"  # as the page writes any float
Word = Annotated[str, StringConstraints(pattern=f"^(h|seen-loss={_LOSS}|{_DECIMAL})$")]
Calibration: Any = Constant | Word | None  # pyright: ignore[reportOperatorIssue]
_PER_CENT = "(0[.]0{0,5}[1-9][0-9]{0,5}|[1-9][0-9]?([.][0-9]{1,6})?)%"
Share = Annotated[str, StringConstraints(pattern=f"^{_PER_CENT}$")]
Rate: Any = Annotated[Number, Field(gt=0, lt=1)] | Share | None  # pyright: ignore[reportOperatorIssue]
Part = Annotated[float, Field(gt=0, lt=1)]
CALIBRATION = (
    "the trade-off between seen and unseen classes: h, seen-loss=P, or the calibration constant; "
    "the model's own where absent"
)
Feature = Annotated[Number, Field(ge=-LARGEST_FEATURE, le=LARGEST_FEATURE)]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_LENGTH),
    AfterValidator(_printable),
]
ClassName = Annotated[Name, AfterValidator(normal)]
Sentence = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=SENTENCE_LENGTH)
]


class Wire(BaseModel):
    """Base of all: unknown fields are refused, so that a misspelt one is not ignored."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", populate_by_name=True)


class Prediction(Wire):
    """One class, and how likely it is."""

    class_name: str = Field(alias="class", description="name of the class, or unknown")
    score: float | None = Field(
        ge=0,
        le=1,
        description="softmax probability among all classes, after calibration; null of unknown",
    )
    seen: bool | None = Field(
        description="whether the class had images in training; null of unknown"
    )
    display_name: str | None = Field(
        default=None, description="what people read in place of the name; absent if the same"
    )


class Evidence(Wire):
    """What one attribute, or one sentence, says."""

    name: str = Field(description="of the attribute; or the sentence")
    of: str = Field(description="the class that the sentence describes; empty for an attribute")
    evidence: float = Field(
        description="log-likelihood ratio of answer and runner-up; negative: it speaks against it"
    )
    image: float = Field(description="what the image shows, on the scale of the descriptors")
    answer: float
    runner_up: float


class Neighbour(Wire):
    """A training image that is near."""

    class_name: str = Field(alias="class")
    similarity: float = Field(description="cosine")
    name: str = Field(description="its path or row of --training; empty without that")


class Explanation(Wire):
    """Why the likeliest class, and not the second."""

    answer: str
    runner_up: str
    because: str = Field(
        description="attributes and sentences with their evidence, or similarity, as text"
    )
    resembles: str = Field(description="the nearest training images, as text")
    similarity: tuple[float, float] | None = Field(
        description="cosine of what the image shows with the descriptors of answer and runner-up"
    )
    attributes: list[Evidence] = Field(
        description="attributes and sentences with the largest evidence; empty where columns have "
        "no names and no sentences are kept"
    )
    nearest: list[Neighbour] = Field(description="empty where no training images are kept")


Why = Annotated[Explanation | None, Field(description="if it was asked for with `explain`")]


class FileResult(Wire):
    """Predictions for one uploaded file, or the reason why there are none."""

    file: str = Field(description="name of the file as it was sent")
    predictions: list[Prediction] | None = Field(description="best first; null with an error")
    error: str | None = Field(description="why the file gave no predictions; else null")
    explanation: Why = None


class ImagesAnswer(Wire):
    """One result per file, in the order of the request."""

    results: list[FileResult]


class RowResult(Wire):
    """Predictions for one row of features."""

    row: int = Field(ge=0, description="counts from 0")
    predictions: list[Prediction] = Field(description="best first")
    explanation: Why = None


class RowsAnswer(Wire):
    """One result per row, in the order of the request."""

    results: list[RowResult]


class ClassInfo(Wire):
    """One class of the model."""

    name: str
    seen: bool = Field(description="whether it had images in training")
    added: bool = Field(description="whether it was added since the server started")
    description: str | None = Field(description="its sentences, where they are known")
    display_name: str | None = Field(
        default=None, description="what people read in place of the name, if it differs"
    )


class ClassList(Wire):
    """All classes, in the model's order."""

    count: int
    classes: list[ClassInfo]


class Point(Wire):
    """U, S and H on validation classes (per cent) at a calibration constant."""

    constant: float
    U: float = Field(description="accuracy on classes without images in training")
    S: float = Field(description="accuracy on classes with images in training")
    H: float = Field(description="harmonic mean of U and S")


class TradeOff(Wire):
    """The trade-off between seen and unseen classes."""

    calibration: float = Field(description="constant of requests that choose none")
    points: list[Point] = Field(
        description="by ascending constant, as it was trained; empty where it was not measured"
    )


class Added(ClassInfo):
    """The class that was added."""

    warnings: list[str] = Field(description="possible problems of the class, and what to do")


class Learnt(Added):
    """The class that images were added to."""

    new: bool = Field(description="whether there was no class of that name when they were added")


class Described(Wire):
    """What describes a new class: sentences, attributes or both, or a vector.

    GET /health says which of them the model takes.
    """

    sentences: Annotated[list[Sentence], Field(fail_fast=True)] | None = Field(
        default=None, min_length=1, max_length=MAX_SENTENCES, description="what it looks like"
    )
    attributes: Annotated[dict[Name, Number | bool | str] | None, BeforeValidator(_few)] = Field(
        default=None,
        min_length=1,
        max_length=MAX_ATTRIBUTES,
        description="value of each attribute, written as in the table of classes; one that is "
        "left out counts as unknown",
    )
    vector: Annotated[list[Number], Field(fail_fast=True)] | None = Field(
        default=None, min_length=1, max_length=65_536, description="the descriptor itself"
    )


class NewClass(Described):
    """A class by its description: sentences, attributes or both, or a vector.

    GET /health says which of them the model takes.
    """

    name: ClassName = Field(description="not the name of a class that exists")


class NewName(Wire):
    """A new name of a class."""

    name: ClassName = Field(description="not the name of a class that exists")


class Health(Wire):
    """What is served."""

    status: str = Field(description="ok")
    version: str = Field(description="of mlis")
    classes: int
    features: int = Field(description="numbers per row of features")
    image_model: str | None = Field(description="null where only features are accepted")
    described_by: list[str] = Field(description="how POST /classes may describe a new class")
    can_learn: bool = Field(description="whether images may be added to classes, or make new ones")
    changes: bool = Field(description="whether classes may be added, removed and renamed")
    token: bool = Field(description="whether changes need a token")
    can_explain: bool = Field(description="whether predictions may ask to `explain`")
    can_reject: bool = Field(description="whether predictions may ask to `reject`")
    reject: float | None = Field(description="of requests that do not say: that of --reject")
    transductive: bool = Field(
        description="whether the model was adapted to unlabelled images, so that its figures are "
        "not comparable with those of others"
    )


class Place(Wire):
    """One thing that is wrong, and where in the request."""

    where: str
    problem: str


class Problem(Wire):
    """Why a request was refused."""

    detail: str = Field(description="what was expected and what came")
    problems: list[Place] = Field(default=[], description="the first few, one by one")


def rows_request(limits: Limits, num_features: int) -> Any:
    """The model of a request with features: rows of `num_features` numbers within ±1e30."""
    return create_model(
        "RowsRequest",
        __base__=Wire,
        __doc__="Features of images, of the kind that the model was trained on.",
        rows=_rows(limits, num_features),
        top_k=(
            Annotated[int, Field(strict=True, ge=1, le=limits.max_top_k), BeforeValidator(_whole)],
            Field(default=5, description="classes per row, best first"),
        ),
        explain=(bool, Field(default=False, strict=True, description=EXPLAIN)),
        reject=(
            Rate,
            Field(default=None, description=REJECT),
        ),
        calibration=(
            Calibration,
            Field(default=None, description=CALIBRATION),
        ),
    )


def class_rows_request(limits: Limits, num_features: int) -> Any:
    """The model of a request with features of a class, and what describes it if it is new."""
    return create_model(
        "ClassRowsRequest",
        __base__=Described,
        __doc__="Features of images of one class; if it is new, it may be described, too.",
        rows=_rows(limits, num_features),
    )


def _rows(limits: Limits, num_features: int) -> Any:
    size = Field(min_length=num_features, max_length=num_features, fail_fast=True)
    row = Annotated[list[Feature], size]
    rows: Any = Annotated[list.__class_getitem__(row), Field(fail_fast=True)]
    return rows, Field(min_length=1, max_length=limits.max_rows)
