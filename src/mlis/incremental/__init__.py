"""Class-incremental changes of a trained recognizer."""

from mlis.incremental.adapt import adapt
from mlis.incremental.add_images import add_images
from mlis.incremental.class_changes import (
    add_classes,
    remove_classes,
    rename_classes,
    set_display_names,
)
from mlis.incremental.exemplar_buffer import ExemplarBuffer

__all__ = [
    "ExemplarBuffer",
    "adapt",
    "add_classes",
    "add_images",
    "remove_classes",
    "rename_classes",
    "set_display_names",
]
