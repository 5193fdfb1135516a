"""What every head is: a module from refined features (B, Dh) to one score per class (B, C)."""

from abc import abstractmethod
from typing import Self

from torch import Tensor

from mlis.errors import DataError
from mlis.model.parts import Part


class Head(Part):
    """A module from refined features (B, Dh) to scores (B, C)."""

    @property
    def knows_by_description(self) -> bool:
        """Whether `with_classes` can make a class from its descriptor, without any training."""
        return False

    def with_classes(self, descriptors: Tensor) -> Self:
        """A head that also knows classes of these (n, Da) raw descriptors; they come last.

        Raises:
            DataError: a head of this kind cannot.
        """
        raise DataError(
            f"cannot add {len(descriptors)} classes by their descriptors: expected a head that "
            f"predicts classes, such as 'gaussian', got {self.kind!r}. Train such a model."
        )

    def with_images(self, h: Tensor, labels: Tensor) -> Self:
        """A head that has also learnt from these (n, Dh) refined features of its classes (n,).

        Raises:
            DataError: a head of this kind cannot.
        """
        raise DataError(
            f"cannot add {len(labels)} images: expected a linear or Gaussian head, got "
            f"{self.kind!r}. Train a model with such a head, as the methods gaussian, ridge and "
            "mlis do."
        )

    @abstractmethod
    def chosen(self, classes: Tensor) -> Self:
        """A head of the classes with these indices (K,), in their order."""

    @abstractmethod
    def forward(self, h: Tensor) -> Tensor:
        """Scores (B, C) of (B, Dh) refined features."""
