"""What goes over the wire: requests and answers, as the OpenAPI document shows them."""

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

from mlis.serving.settings import Limits

NAME_LENGTH, SENTENCE_LENGTH, MAX_SENTENCES, MAX_ATTRIBUTES = 200, 5000, 100, 10_000
LARGEST_FEATURE = 1e30
"""Far beyond any feature, and far enough within float32 that scores of it do not overflow."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected letters, but got characters that cannot be shown")
    return text


def _whole(value: Any) -> Any:
    """3 for 3.0, which is an integer in JSON Schema; all else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Feature = Annotated[Number, Field(ge=-LARGEST_FEATURE, le=LARGEST_FEATURE)]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_LENGTH),
    AfterValidator(_printable),
]
Sentence = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=SENTENCE_LENGTH)
]


class Wire(BaseModel):
    """Base of all: unknown fields are refused, as a misspelt one would be ignored."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", populate_by_name=True)


class Prediction(Wire):
    """One class, and how likely it is."""

    class_name: str = Field(alias="class", description="name of the class")
    score: float = Field(
        ge=0, le=1, description="softmax probability among all classes, after calibration"
    )
    seen: bool = Field(description="whether the class had images in training")


class FileResult(Wire):
    """Of one uploaded file: predictions, or the reason why there are none."""

    file: str = Field(description="name of the file as it was sent")
    predictions: list[Prediction] | None = Field(description="best first; null with an error")
    error: str | None = Field(description="why the file gave no predictions; else null")


class ImagesAnswer(Wire):
    """One result a file, in the order of the request."""

    results: list[FileResult]


class RowResult(Wire):
    """Of one row of features."""

    row: int = Field(ge=0, description="counts from 0")
    predictions: list[Prediction] = Field(description="best first")


class RowsAnswer(Wire):
    """One result a row, in the order of the request."""

    results: list[RowResult]


class ClassInfo(Wire):
    """One class of the model."""

    name: str
    seen: bool = Field(description="whether it had images in training")
    added: bool = Field(description="whether it was added while the server runs")
    description: str | None = Field(description="its sentences, where they are known")


class ClassList(Wire):
    """All classes, in the model's order."""

    count: int
    classes: list[ClassInfo]


class NewClass(Wire):
    """A class by its description: sentences, attributes or both, or a vector.

    What the model needs is what its own classes were described by; GET /health says what that is.
    """

    name: Name = Field(description="not the name of a class that is there")
    sentences: list[Sentence] | None = Field(
        default=None, min_length=1, max_length=MAX_SENTENCES, description="what it looks like"
    )
    attributes: dict[Name, Number | bool | str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ATTRIBUTES,
        description="value of each attribute, written as in the table of classes; one that is "
        "left out counts as unknown",
    )
    vector: list[Number] | None = Field(
        default=None, min_length=1, max_length=65_536, description="the descriptor itself"
    )


class Health(Wire):
    """What is served."""

    status: str = Field(description="ok")
    version: str = Field(description="of mlis")
    classes: int
    features: int = Field(description="numbers a row of features")
    image_model: str | None = Field(description="null where only features are understood")
    described_by: list[str] = Field(description="what POST /classes takes of a new class")
    changes: bool = Field(description="whether classes may be added")


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
    row = Annotated[list[Feature], Field(min_length=num_features, max_length=num_features)]
    rows: Any = list.__class_getitem__(row)
    return create_model(
        "RowsRequest",
        __base__=Wire,
        __doc__="Features of images, of the kind that the model was trained on.",
        rows=(rows, Field(min_length=1, max_length=limits.max_rows)),
        top_k=(
            Annotated[int, Field(strict=True, ge=1, le=limits.max_top_k), BeforeValidator(_whole)],
            Field(default=5, description="classes a row, best first"),
        ),
    )
