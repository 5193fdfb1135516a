"""The README.md of a shared model, written from what was recorded when it was trained."""

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import mlis
from mlis.escape import markdown
from mlis.image_classifier import recorded_backbone
from mlis.incremental import ExemplarBuffer
from mlis.model.recognizer import Recognizer


def model_card(
    recognizer: Recognizer,
    exemplars: ExemplarBuffer | None = None,
    record: Mapping[str, Any] | None = None,
) -> str:
    """Markdown. What was not recorded is said to be unknown, never guessed."""
    record = recognizer.metadata.record if record is None else record
    mask = recognizer.seen_mask.tolist()
    names: dict[bool, list[str]] = {True: [], False: []}
    for name, seen in zip(recognizer.class_names, mask, strict=True):
        names[seen].append(name)
    known = recognizer.metadata.tradeoff
    return _template().render(
        seen=names[True],
        unseen=names[False],
        num_features=recognizer.num_features,
        descriptor_size=recognizer.descriptors.shape[1],
        calibration=recognizer.calibration,
        temperature=recognizer.temperature,
        tradeoff=known and known.at(recognizer.calibration),
        transductive=recognizer.transductive,
        history=recognizer.metadata.history,
        backbone=recorded_backbone(recognizer),
        exemplars=exemplars,
        record=record,
        test=record.get("test"),
        provenance=record.get("provenance") or {},
        version=mlis.__version__,
    )


@functools.cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("mlis.io", ""),
        autoescape=False,  # Markdown is escaped by the filter below
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = _shown
    return environment.get_template("model_card.md")


def _shown(value: Any) -> str:
    return "unknown" if value is None or value == "" else markdown(str(value))
