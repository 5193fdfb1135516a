"""The errors that users see: what was expected, what was received, where, and what to do.

Every error that bad input or bad settings can cause is a :class:`MlisError`; the command line
prints its message on one line and exits with code 2. Anything else is a bug in `mlis`.
"""

import re

from mlis.escape import terminal

LONGEST = 1000
"""Characters of a message; of a longer one the middle is left out."""


class MlisError(Exception):
    """Base of all errors raised on purpose; whatever a file holds, its message is one short line.

    >>> str(MlisError("a cell is " + repr("x" * 5000)))[:20], len(str(MlisError("x" * 5000)))
    ("a cell is 'xxxxxxxxx", 1000)
    >>> print(MlisError("class \\x1b[2J,\\n second line"))
    class \\x1b[2J, second line
    """

    def __init__(self, message: object = ""):
        super().__init__(_one_line(str(message)))


def _one_line(text: str) -> str:
    """`text` without line breaks, with escapes for what does not print, and not too long.

    A class name may hold the terminal's control codes, a cell a megabyte.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 303]} … {text[-300:]}"
    return terminal(re.sub(r"\s*[\n\r]\s*", " ", text))[:LONGEST]


class DataError(MlisError, ValueError):
    """A dataset, a file of one, or an array handed in is not what it must be."""


class SettingsError(MlisError, ValueError):
    """A setting, flag or preset is unknown or out of range."""


class ModelFileError(MlisError, ValueError):
    """A saved model or checkpoint is missing, damaged, or of another version."""


class OutOfMemoryError(MlisError, MemoryError):
    """The memory of the machine or the GPU does not suffice; says which setting to lower."""


class DivergenceError(MlisError, RuntimeError):
    """Training produced NaN or infinity; the message names the step, the loss and what to try."""


class FeatureRangeWarning(UserWarning):
    """Features lie far outside the range of the training's, so that predictions mean little."""
