"""Where memory does not suffice: one error that says what to lower, and work in smaller parts."""

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Generator

from mlis.errors import OutOfMemoryError

logger: logging.Logger = logging.getLogger(__name__)

_SAYS_SO = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there was no memory; PyTorch has no class for that on a CPU."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    own = type(error).__name__ == "OutOfMemoryError"  # PyTorch's, of a GPU; it need not be loaded
    return own or any(words in str(error) for words in _SAYS_SO)


@contextlib.contextmanager
def enough_memory(what: str, remedy: str) -> Generator[None, None, None]:
    """Turn an allocation that fails inside the block, on a CPU or a GPU, into one clear error.

    Args:
        what: is being done.
        remedy: which settings to lower.

    Raises:
        OutOfMemoryError: in place of what NumPy or PyTorch raised.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        place = "the GPU's memory" if "CUDA" in str(error) else "memory"
        raise OutOfMemoryError(
            f"{what}: {place} does not suffice ({_amount(str(error))}). {remedy}, or use a larger "
            "machine; what is finished is kept."
        ) from error


def in_parts(count: int, size: int, work: Callable[[slice], None], what: str, remedy: str) -> None:
    """Work on rows 0 to `count`, `size` at a time, and fewer from where memory is short.

    Args:
        count: of rows.
        size: rows at a time, to begin with.
        work: is called with each part in turn, and again with half of one that was too large: for
            work on single rows, which comes to the same whatever else is in the part.
        what: is being done.
        remedy: what to use where not even one row fits; begins with "use".

    Raises:
        OutOfMemoryError: not even one row fits.
    """
    start = 0
    while start < count:
        part = slice(start, min(start + size, count))
        try:
            work(part)
        except (MemoryError, RuntimeError) as error:
            size = smaller(part.stop - part.start, error, what, remedy)
        else:
            start = part.stop


def smaller(size: int, error: Exception, what: str, remedy: str) -> int:
    """Half of as many rows as were too many; an error that says anything else is raised again.

    Raises:
        OutOfMemoryError: it was one row.
    """
    if isinstance(error, OutOfMemoryError) or not is_shortage(error):
        raise error
    if size <= 1:
        raise OutOfMemoryError(
            f"{what}: memory does not suffice even for one row at a time: {remedy}, or a larger "
            "machine"
        ) from error
    logger.warning("%s: memory does not suffice for %d rows at a time: taking half", what, size)
    _release()
    return size // 2


def _release() -> None:
    """Hand back what PyTorch keeps of a GPU's memory for itself."""
    torch = sys.modules.get("torch")  # measures are taken without it
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _amount(text: str) -> str:
    """What was asked for, of an allocator's message."""
    found = re.search(
        r"(?:allocate|Tried to allocate) ([\d.]+ (?:bytes|[KMGT]i?B))", text, re.IGNORECASE
    )
    return f"{found[1]} were asked for" if found else "the allocator does not say how much"
