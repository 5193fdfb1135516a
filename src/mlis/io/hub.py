"""Models in the Hugging Face manner: a folder, or a repository on the hub.

A folder holds `model.safetensors`, `config.json`, perhaps `growth.safetensors`, and the model card
`README.md`. It is the format of :mod:`mlis.io.checkpoint` and nothing else; nothing is unpickled,
and of a repository no other file is fetched.
"""

import dataclasses
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlis.errors import ModelFileError, SettingsError
from mlis.io.model_card import model_card
from mlis.storage.folders import replaced_together

if TYPE_CHECKING:
    import torch

    from mlis.model.recognizer import Recognizer

CARD = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class Pretrained:
    """Saving and loading by folder or name; base class of `mlis.model.recognizer.Recognizer`."""

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        growth: bool = True,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the model and its card to `folder`, made if absent.

        Args:
            folder: gets the files of :func:`mlis.io.checkpoint.save_model` and `README.md`.
            growth: whether `growth.safetensors` is written where the model has it. It holds
                features of training images, in eight bits a number; without it nobody can add
                classes.
            record: strict-JSON facts to keep (`test`: measures, `provenance`, `config`, `seed`),
                which the card is written from; those that it was loaded with where absent.
        """
        from mlis.io.checkpoint import replaced_files, write_model

        recognizer = cast("Recognizer", self)
        if not growth:
            recognizer = dataclasses.replace(recognizer, growth=None)
        if record is not None:
            recognizer = dataclasses.replace(recognizer, record=record)
        with replaced_together(Path(folder), without=replaced_files(folder, recognizer)) as new:
            write_model(recognizer, new)
            (new / CARD).write_text(model_card(recognizer), encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        device: "str | torch.device" = "cpu",
        growth: bool = True,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> "Recognizer":
        """Load a model from a folder, or from the hub (extra `hub`).

        Args:
            name_or_folder: folder of a model, or of a run that has one, which is read without any
                network; or `owner/name` on the hub, where there is no such folder.
            device: where its weights are to be.
            growth: whether what adding classes needs is loaded too.
            revision, token, cache_dir: of the hub, as `huggingface_hub.snapshot_download` takes
                them.

        Raises:
            ModelFileError: there is no model, a run has several, it is damaged, or the hub does not
                give it.
            SettingsError: the extra `hub` is not installed.
        """
        from mlis.io.checkpoint import load_model
        from mlis.io.saved_models import one_model

        folder = Path(name_or_folder)
        if not folder.is_dir():
            folder = _fetched(name_or_folder, revision, token, cache_dir)
        return load_model(one_model(folder), device, growth=growth)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        token: str | None = None,
        message: str = "Upload a recognizer of mlis",
        growth: bool = True,
    ) -> str:
        """Upload the model and its card to the hub (extra `hub`); return its address.

        Args:
            repository: `owner/name`; made if absent.
            private: of a repository that is made here.
            token: of the hub; the one that `hf auth login` keeps where absent.
            message: of the commit.
            growth: as of `save_pretrained`.

        Raises:
            ModelFileError: the hub refuses it.
            SettingsError: the extra `hub` is not installed.
        """
        hub = _hub()
        try:
            with tempfile.TemporaryDirectory(prefix="mlis-hub-") as folder:
                self.save_pretrained(folder, growth=growth)
                api = hub.HfApi(token=token)
                made = api.create_repo(repository, private=private, exist_ok=True)
                api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
                return str(made)
        except (OSError, ValueError) as error:
            raise ModelFileError(
                f"{repository}: the hub did not take it: {_line(error)}"
            ) from error


def _fetched(
    name: str | Path, revision: str | None, token: str | None, cache_dir: str | Path | None
) -> Path:
    """The folder that a repository's model files were fetched to."""
    from mlis.io.checkpoint import GROWTH, OLD_RECORD, RECORD, WEIGHTS

    text = str(name)
    owner = text.partition("/")[0]
    local = isinstance(name, Path) or not _REPOSITORY.fullmatch(text)
    if local or ("/" in text and Path(owner).exists()):
        raise ModelFileError(f"no saved model: {text} is not a folder")
    hub = _hub(f"{text} is no folder here, and to look for it on the hub ")
    try:
        found = hub.snapshot_download(
            text,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=[WEIGHTS, RECORD, OLD_RECORD, GROWTH, CARD],
        )
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"no saved model: {text} is no folder here, and the hub did not give it: {_line(error)}"
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
