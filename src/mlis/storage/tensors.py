"""Tensors in safetensors files that notice when they are damaged. Nothing is unpickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mlis.errors import ModelFileError
from mlis.storage.atomic import atomic_write, strict_json


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and string metadata to one file, atomically, with a checksum over both.

    The same content gives the same bytes: the metadata are one JSON string, as safetensors
    writes several in random order. Raises `OSError` where the file cannot be written.
    """
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    digest = checksum(ready, metadata)
    with atomic_write(path) as temporary:
        words = json.dumps({**metadata, "sha256": digest}, sort_keys=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # the library's own is for the owner alone
        try:
            save_file(ready, temporary, metadata={"mlis": words})
        except SafetensorError as error:  # a full disk, say: what others raise as an OSError
            raise OSError(f"{path} cannot be written: {error}") from None
        temporary.chmod(mode)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors (on the CPU) and metadata back.

    Raises:
        ModelFileError: the file is missing, is not safetensors, or its checksum does not match.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = _texts(strict_json((handle.metadata() or {})["mlis"]))
            recorded = metadata.pop("sha256", None)
            # copies: tensors that lie in the mapped file are aligned by chance, and the last bits
            # of a matrix product depend on that
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
        digest = checksum(tensors, metadata)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise ModelFileError(
            f"{path} cannot be read as safetensors ({error}): the file is damaged or of another "
            "kind; restore it from a copy, or delete it and train again"
        ) from None
    if recorded != digest:
        raise ModelFileError(
            f"{path} is damaged: its content does not match its checksum; restore it from a copy, "
            "or delete it and train again"
        )
    return tensors, metadata


def is_tensor_file(path: Path) -> bool:
    """Whether `save_tensors` wrote this file, by its header alone."""
    try:
        with safe_open(path, framework="pt") as handle:
            return "mlis" in (handle.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _texts(words: object) -> dict[str, str]:
    if not isinstance(words, dict) or not all(isinstance(text, str) for text in words.values()):
        raise ValueError("its metadata are not texts by name")
    return dict(words)


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes and numbers of CPU tensors, and over the metadata."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}/{value.dtype}/{tuple(value.shape)}".encode())
        try:
            content = value.reshape(-1).view(torch.uint8).numpy().data
        except RuntimeError as error:  # a type whose bytes PyTorch does not show
            raise ValueError(f"{name} is of {value.dtype}: {error}") from None
        digest.update(content)
    return digest.hexdigest()
