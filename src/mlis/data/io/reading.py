"""One way to meet files that other libraries cannot read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlis.errors import DataError


@contextmanager
def reading(path: Path, kind: str, remedy: str) -> Iterator[None]:
    """Turn whatever the block raises on a missing or damaged file into one `DataError`.

    Damaged bytes make the readers of NumPy, SciPy, HDF5 and Arrow raise anything: TypeError,
    zlib.error, TokenError, MemoryError. Their warnings are dropped: what was read is checked.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not {kind}.") from None
    except MemoryError as error:  # a damaged header may ask for any amount
        raise DataError(
            f"{path}: memory does not suffice to read it ({_reason(error)}): it is larger than "
            f"this machine can hold, or damaged. {remedy}"
        ) from error
    except Exception as error:
        raise DataError(
            f"{path}: not {kind} that can be read ({_reason(error)}). {remedy}"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
