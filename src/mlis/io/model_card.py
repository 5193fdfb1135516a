"""The README.md of a shared model, written from what was recorded when it was trained."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import mlis
from mlis.escape import markdown

if TYPE_CHECKING:
    from mlis.model.recognizer import Recognizer

_MEASURES = ("U", "S", "H", "T1", "AUSUC")
_HEADER = """\
---
library_name: mlis
pipeline_tag: image-classification
tags:
- zero-shot
- generalized-zero-shot-learning
- metric-learning
---
"""
_USE = """\
## Use

```python
from mlis import Recognizer

model = Recognizer.from_pretrained("FOLDER OR OWNER/NAME")
"""


def model_card(recognizer: "Recognizer") -> str:
    """Markdown. What was not recorded is said to be unknown, never guessed."""
    return "\n".join([_HEADER, *_sections(recognizer)])


def _sections(recognizer: "Recognizer") -> Iterator[str]:
    seen = int(recognizer.seen_mask.sum())
    total = len(recognizer.class_names)
    data = _told(recognizer.record.get("provenance", {}), "data")
    title = "Recognizer" if data == "unknown" else data
    yield f"# {title}: {total} classes, {total - seen} of them never seen\n"
    yield (
        "Recognises images of classes that had training images (seen) and of classes of which it "
        "had only\na description (unseen): generalized zero-shot recognition by Metric Learning "
        "with Implicit Semantics.\n"
    )
    yield _USE + _call(recognizer) + "```\n"
    yield "## Results\n\n" + _results(recognizer)
    yield "## Training\n\n" + "\n".join(_training(recognizer)) + "\n"
    if recognizer.history:
        changes = "\n".join(
            f"- {markdown(entry['when'])}: {markdown(entry['action'])} {_named(entry['classes'])}"
            for entry in recognizer.history
        )
        yield f"## Changed since training\n\nThe results above are of before.\n\n{changes}\n"
    yield "## Limits\n\n" + "\n".join(_limits(recognizer)) + "\n"
    yield "## Classes\n\n" + _classes(recognizer)


def _call(recognizer: "Recognizer") -> str:
    if recognizer.backbone:
        return 'for found in model.predict_images(["photo.jpg"]):\n    print(found.classes)\n'
    return f"classes = model.predict(features)  # (B, {recognizer.num_features}) float32\n"


def _results(recognizer: "Recognizer") -> str:
    record = recognizer.record
    test = record.get("test")
    if not isinstance(test, Mapping):
        return "None are recorded.\n"
    protocol = _protocol(record)
    present = [name for name in _MEASURES if name in test]
    values = ["–" if test[name] is None else f"{float(test[name]):.1f}" for name in present]
    lines = [
        f"| protocol | seed | {' | '.join(present)} |",
        f"|{'---|' * (len(present) + 2)}",
        f"| {protocol} | {_told(record, 'seed')} | {' | '.join(values)} |",
    ]
    return "\n".join(
        [
            *lines,
            "",
            "Per cent: U and S are mean accuracies per class on unseen and on seen classes, each "
            "among all",
            "classes; H is their harmonic mean. One training, one test; other seeds differ.\n",
        ]
    )


def _protocol(record: Mapping[str, Any]) -> str:
    origin = record.get("provenance") or {}
    return markdown(str(record.get("protocol") or origin.get("protocol") or "unknown protocol"))


def _training(recognizer: "Recognizer") -> Iterator[str]:
    record = recognizer.record
    origin = record.get("provenance") or {}
    yield f"- Data: {_told(origin, 'data')}, SHA-256 {_told(origin, 'data_sha256')}"
    backbone = recognizer.backbone
    features = _told(origin, "features")
    if backbone:
        known = [_told(backbone, name) for name in ("name", "pooling", "fingerprint")]
        features = f"{known[0]}, {known[1]}, fingerprint {known[2]}"
    yield f"- Features: {features}, {recognizer.num_features} numbers an image"
    size = recognizer.descriptors.shape[1]
    yield f"- Descriptors: {_told(origin, 'descriptors')}, {size} numbers a class"
    yield from (f"- Note: {markdown(str(note))}" for note in origin.get("notes") or ())
    yield f"- Calibration: {recognizer.calibration:g} taken from the scores of seen classes"
    versions = origin.get("versions") or {}
    told = ", ".join(f"{markdown(name)} {_told(versions, name)}" for name in versions)
    yield f"- Versions: {told or 'unknown'}; this file by mlis {mlis.__version__}"
    yield f"- Settings: `record.config` in config.json, SHA-256 {_told(origin, 'config_sha256')}"
    if recognizer.growth is not None:
        size = recognizer.growth.nbytes / 2**20
        rows = len(recognizer.growth.rows)
        yield (
            f"- growth.safetensors ({size:.1f} MiB), for adding classes, holds the generator, and "
            f"features of\n  {rows:,} training images in 8 bits a number"
        )


def _limits(recognizer: "Recognizer") -> Iterator[str]:
    yield "- Every image is called one of these classes; nothing says that it is none of them."
    yield (
        "- Unseen classes are known by their descriptions alone: expect more errors on them than "
        "on seen\n  ones, and most between classes that are described alike."
    )
    yield (
        "- It takes features of the image model above only; those of another one are refused where "
        "that can be told."
    )
    yield "- Scores are softmax probabilities among these classes, not frequencies of being right."


def _classes(recognizer: "Recognizer") -> str:
    names: dict[bool, list[str]] = {True: [], False: []}
    for name, seen in zip(recognizer.class_names, recognizer.seen_mask, strict=True):
        names[bool(seen)].append(markdown(name))
    return (
        f"Seen: {', '.join(names[True]) or 'none'}\n\nUnseen: {', '.join(names[False]) or 'none'}\n"
    )


def _told(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "unknown" if value is None or value == "" else markdown(str(value))


def _named(classes: Any) -> str:
    if isinstance(classes, Mapping):
        return ", ".join(f"{markdown(old)} to {markdown(new)}" for old, new in classes.items())
    return ", ".join(map(markdown, classes))
