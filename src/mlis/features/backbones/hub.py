"""Loading models of the `transformers` ecosystem without output, and with actionable errors."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from mlis.errors import SettingsError

_HOW_TO_NAME = {
    "backbone": "--backbone NAME; in Python the argument backbone",
    "text model": "--text-model NAME; in Python model=TextModel(NAME)",
}

_ELSEWHERE = (
    " (where the hub cannot be reached: `hf download NAME --local-dir FOLDER` on a machine that "
    "reaches it, and copy FOLDER)"
)


@contextlib.contextmanager
def loading(name: str, kind: str, extra: str, offline: str) -> Iterator[None]:
    """Load a model by hub name or local folder in the block, without progress bars and logs.

    Args:
        name: of the model.
        kind: what it is, for messages.
        extra: of the package, which it needs.
        offline: a model of that kind whose weights are installed; empty if there is none.

    Raises:
        SettingsError: the extra is not installed, or the model cannot be loaded.
    """
    try:
        import transformers.utils.logging as library_log
    except ImportError as error:
        raise SettingsError(
            f"{kind} {name!r} needs the extra `{extra}`: pip install 'mlis[{extra}]'"
        ) from error
    advice = "Correct the name, or give a folder written by save_pretrained"
    installed = f"; or use {offline}, whose weights are installed" if offline else ""
    if _is_path(name) and not Path(name).is_dir():  # the hub need not be asked
        raise SettingsError(f"{kind} {name!r}: there is no such folder. {advice}{installed}")
    level, bar = library_log.get_verbosity(), library_log.is_progress_bar_enabled()
    hub_log = logging.getLogger("huggingface_hub")
    hub_level = hub_log.level
    hub_log.setLevel(logging.ERROR)  # a line for each of many attempts to reach the hub
    library_log.set_verbosity_error()
    library_log.disable_progress_bar()
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:  # a damaged folder may raise any exception
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        where, elsewhere = "there is no such folder", ""
        if Path(name).is_dir():
            where = "the folder contains no model that can be loaded"
        else:
            where += ", and it could not be downloaded from the hub"
            elsewhere = _ELSEWHERE
        raise SettingsError(
            f"{kind} {name!r}: {where} ({reason}). {advice}{elsewhere}{installed}"
        ) from error
    finally:
        hub_log.setLevel(hub_level)
        library_log.set_verbosity(level)
        if bar:
            library_log.enable_progress_bar()


def _is_path(name: str) -> bool:
    """Whether a name can only be a folder's: those of the hub are `NAME` or `OWNER/NAME`."""
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def on_this_machine(name: str, kind: str) -> str:
    """Folder of a model named by a file: a local folder, or in the cache of the hub.

    Nothing is downloaded and the hub is not contacted, as a name in a file is not the choice of the
    user. Loading by name would connect to the hub even with `local_files_only`.

    Raises:
        SettingsError: the model is not on this machine; names the flag that allows the download.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return name
    with contextlib.suppress(ValueError):  # not a valid name on the hub
        found = try_to_load_from_cache(name, "config.json")
        if isinstance(found, str):
            return str(Path(found).parent)
    raise SettingsError(
        f"{kind} {name!r}: not on this machine, and models named by a file are not downloaded. To "
        f"download it from the hub, name it explicitly ({_HOW_TO_NAME[kind]})"
    )
