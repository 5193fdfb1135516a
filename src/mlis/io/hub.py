"""Models in the Hugging Face manner: a folder, or a repository on the hub.

A folder holds the files of :mod:`mlis.io.checkpoint` and the model card `README.md`. Nothing is
unpickled, and no other file of a repository is downloaded.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.errors import ModelFileError, SettingsError
from mlis.incremental import ExemplarBuffer
from mlis.io import format_1
from mlis.io.checkpoint import (
    EXEMPLARS,
    RECORD,
    WEIGHTS,
    load_model,
    replaced_files,
    write_model,
)
from mlis.io.model_card import model_card
from mlis.io.saved_models import one_model
from mlis.model.recognizer import Recognizer
from mlis.storage.folders import replaced_together

if TYPE_CHECKING:
    import torch

CARD = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def save_pretrained(
    recognizer: Recognizer,
    folder: str | Path,
    exemplars: ExemplarBuffer | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write a model and its card to `folder`, made if absent.

    Args:
        recognizer: what to save.
        folder: gets the files of :func:`mlis.io.checkpoint.save_model` and `README.md`.
        exemplars: its exemplar buffer. It holds features of training images, in eight bits per
            number; without it nobody can add classes.
        record: strict-JSON mapping to keep (`test`: measures, `provenance`, `config`, `seed`),
            which the card is written from; that of the recognizer's metadata where absent.
    """
    record = recognizer.metadata.record if record is None else record
    with replaced_together(Path(folder), without=replaced_files(folder, exemplars)) as new:
        write_model(recognizer, new, exemplars, record)
        (new / CARD).write_text(model_card(recognizer, exemplars, record), encoding="utf-8")


def from_pretrained(
    name_or_folder: str | Path,
    *,
    device: "str | torch.device" = "cpu",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Recognizer:
    """Load a model from a folder, or from the hub (extra `hub`).

    Args:
        name_or_folder: folder of a model, or of a run that has one, which is read without any
            network; or `owner/name` on the hub, where there is no such folder.
        device: where its weights are to be.
        revision, token, cache_dir: of the hub, as `huggingface_hub.snapshot_download` takes them.

    Raises:
        ModelFileError: there is no model, a run has several, it is damaged, or the hub does not
            give it.
        SettingsError: the extra `hub` is not installed.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = fetch(name_or_folder, revision=revision, token=token, cache_dir=cache_dir)
    return load_model(one_model(folder), device)


def push_to_hub(
    recognizer: Recognizer,
    repository: str,
    exemplars: ExemplarBuffer | None = None,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload a recognizer of mlis",
) -> str:
    """Upload a model and its card to the hub (extra `hub`); return its address.

    Args:
        recognizer, exemplars: as of `save_pretrained`.
        repository: `owner/name`; made if absent.
        private: of a repository that is made here.
        token: of the hub; the one that `hf auth login` keeps where absent.
        message: of the commit.

    Raises:
        ModelFileError: the hub refuses it.
        SettingsError: the extra `hub` is not installed.
    """
    hub = _hub()
    try:
        with tempfile.TemporaryDirectory(prefix="mlis-hub-") as folder:
            save_pretrained(recognizer, folder, exemplars)
            api = hub.HfApi(token=token)
            made = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
            return str(made)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{repository}: the hub refused it: {_line(error)}") from error


def fetch(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Download a repository's model files (or find them in the hub's cache); return their folder.

    Raises what `from_pretrained` does.
    """
    text = str(name)
    owner = text.partition("/")[0]
    local = isinstance(name, Path) or not _REPOSITORY.fullmatch(text)
    if local or ("/" in text and Path(owner).exists()):
        raise ModelFileError(f"no saved model: {text} is not a folder")
    hub = _hub(f"{text} is not a folder, and looking for it on the hub ")
    try:
        found = hub.snapshot_download(
            text,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=[WEIGHTS, RECORD, EXEMPLARS, format_1.RECORD, format_1.EXEMPLARS, CARD],
        )
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"no saved model: {text} is not a folder, and the hub did not provide it: "
            f"{_line(error)}"
        ) from error
    return Path(found)


def _hub(why: str = "the hub ") -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise SettingsError(f"{why}needs the extra `hub`: pip install 'mlis[hub]'") from error
    return huggingface_hub


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
