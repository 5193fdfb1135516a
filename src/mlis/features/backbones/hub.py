"""Models of the `transformers` ecosystem: quiet loading, and errors that say what to do."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mlis.errors import SettingsError

_NAME_IT = {
    "backbone": "--backbone NAME; in Python the argument backbone",
    "text model": "--text-model NAME; in Python model=TextModel(NAME)",
}


@contextlib.contextmanager
def loading(name: str, kind: str, extra: str, offline: str) -> Iterator[None]:
    """Load a model by hub name or local folder, without its library's bars and notes.

    Raises:
        SettingsError: the extra is not installed, or nothing of that name can be had.
    """
    try:
        import transformers.utils.logging as words
    except ImportError as error:
        raise SettingsError(
            f"{kind} {name!r} needs the extra `{extra}`: pip install 'mlis[{extra}]'"
        ) from error
    level, bar = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity_error()
    words.disable_progress_bar()
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:  # a damaged folder makes it raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        where = (
            "this folder holds none that can be loaded"
            if Path(name).is_dir()
            else "there is no such folder, and the hub did not give it"
        )
        raise SettingsError(
            f"{kind} {name!r}: {where} ({reason}). Correct the name, give a folder that "
            f"save_pretrained wrote, or use {offline}, whose weights are installed"
        ) from error
    finally:
        words.set_verbosity(level)
        if bar:
            words.enable_progress_bar()


def on_this_machine(name: str, kind: str) -> str:
    """Folder of a model that a file names: itself a folder, or what the hub gave earlier.

    Nothing is downloaded, and the hub is not asked: a file that somebody made is not the user's
    word. `huggingface_hub` connects even where it is told to use local files only, so it is not
    given the name.

    Raises:
        SettingsError: it is not on this machine; says how the user asks for it.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return name
    with contextlib.suppress(ValueError):  # not a name that the hub could have
        found = try_to_load_from_cache(name, "config.json")
        if isinstance(found, str):
            return str(Path(found).parent)
    raise SettingsError(
        f"{kind} {name!r}: not on this machine, and nothing that a model's file names is "
        f"downloaded. To get it from the hub, name it yourself ({_NAME_IT[kind]})"
    )
