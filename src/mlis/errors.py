"""The errors that users see: what was expected, what came, where, and what to do.

Every error that bad input or bad settings can cause is a :class:`MlisError`; the command line
prints its message on one line and exits with code 2. Anything else is a bug in `mlis`.
"""


class MlisError(Exception):
    """Base of all errors raised on purpose."""


class DataError(MlisError, ValueError):
    """A dataset, a file of one, or an array handed in is not what it must be."""


class SettingsError(MlisError, ValueError):
    """A setting, flag or preset is unknown or out of range."""


class ModelFileError(MlisError, ValueError):
    """A saved model or checkpoint is missing, damaged, or of another version."""


class DivergenceError(MlisError, RuntimeError):
    """Training produced NaN or infinity; the message names the step, the loss and what to try."""
