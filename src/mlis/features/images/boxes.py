"""Boxes in pictures, and the crops that they mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = ("x", "y", "width", "height")
_SLACK = 1.0  # pixels beyond the edge that count as rounding


@dataclass(frozen=True)
class Box:
    """A rectangle in an upright picture, that is, after its EXIF orientation is applied.

    Attributes:
        x, y: the upper left corner.
        width, height: positive.
        relative: whether all four are fractions of the picture's sides, instead of pixels.

    Raises:
        ValueError: a number is not finite, or a side is not positive.
    """

    x: float
    y: float
    width: float
    height: float
    relative: bool = False

    def __post_init__(self) -> None:
        numbers = self.x, self.y, self.width, self.height
        if not all(map(math.isfinite, numbers)) or min(self.width, self.height) <= 0:
            raise ValueError(f"box: expected x, y, width > 0 and height > 0, got {show(numbers)}")

    def pixels(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """x, y, width and height in pixels of a picture of this size (width, height)."""
        x, y = (size if self.relative else (1, 1))[:2]
        return self.x * x, self.y * y, self.width * x, self.height * y

    def crop(self, size: tuple[int, int], margin: float = 0.0) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge in whole pixels, as Pillow takes them.

        Args:
            size: (width, height) of the picture.
            margin: added on each side where the picture has it, as a fraction of the box.

        Raises:
            ValueError: the box leaves the picture, or has less than a pixel.
        """
        x, y, width, height = self.pixels(size)
        beyond = max(-x, -y, x + width - size[0], y + height - size[1])
        if beyond > _SLACK:
            got = show((x, y, width, height))
            raise ValueError(f"box: expected one inside {size[0]} × {size[1]} pixels, got {got}")
        left, upper = max(0, round(x - margin * width)), max(0, round(y - margin * height))
        right = min(size[0], round(x + width + margin * width))
        lower = min(size[1], round(y + height + margin * height))
        if right <= left or lower <= upper:
            raise ValueError(f"box: expected at least a pixel, got {show((x, y, width, height))}")
        return left, upper, right, lower


def show(numbers: Sequence[float]) -> str:
    """The four numbers, short."""
    return " ".join(f"{number:.6g}" for number in numbers)
