"""Base of heads and refiners: a kind in a registry, and the sizes that rebuild them.

So a model is saved as its tensors and a description in JSON, and nothing is unpickled.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

from torch import nn


class Part(nn.Module, ABC):
    """A module of a recognizer that can be saved.

    Attributes:
        kind: its name in the registry of such parts.
    """

    kind: ClassVar[str]

    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """JSON-compatible arguments of `empty`."""

    @classmethod
    @abstractmethod
    def empty(cls, *args: Any, **sizes: Any) -> Self:
        """A part of these sizes whose tensors are on the meta device, to load a state into."""


P = TypeVar("P", bound=Part)


def describe(part: Part) -> dict[str, Any]:
    """Kind and sizes, for JSON; `empty_part` reads them."""
    return {"kind": part.kind, **part.sizes()}


def empty_part(kinds: Mapping[str, type[P]], description: Mapping[str, Any]) -> P:
    """The part that `describe` described, without its weights.

    Args:
        kinds: the registry, such as `HEADS`.
        description: kind and sizes.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: it is not such a description.
    """
    sizes = dict(description)
    return kinds[sizes.pop("kind")].empty(**sizes)
