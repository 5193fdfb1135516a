"""The history of a model: what was changed after its training, and when."""

import dataclasses
import datetime
from typing import Any

import mlis
from mlis.model.recognizer import Metadata, Recognizer


def noted(recognizer: Recognizer, action: str, classes: Any, **settings: Any) -> Metadata:
    """The recognizer's metadata with one more entry in its history.

    Args:
        recognizer: is not modified.
        action: such as "add".
        classes: their names, or what else JSON holds of them.
        settings: of the change; empty texts are left out.
    """
    entry = {
        "action": action,
        "classes": classes,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mlis": mlis.__version__,
        **{name: value for name, value in settings.items() if value != ""},
    }
    metadata = recognizer.metadata
    return dataclasses.replace(metadata, history=(*metadata.history, entry))
