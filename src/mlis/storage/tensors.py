"""Tensors in safetensors files with a checksum. Nothing is unpickled."""

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
    """Write tensors and string metadata to a file, atomically, with a checksum of both.

    The bytes are determined by the content: metadata are stored as one JSON string, as safetensors
    writes several in random order.

    Raises:
        OSError: the file cannot be written.
    """
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    digest = checksum(ready, metadata)
    with atomic_write(path) as temporary:
        text = json.dumps({**metadata, "sha256": digest}, sort_keys=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors sets owner-only permissions
        try:
            save_file(ready, temporary, metadata={"mlis": text})
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"{path}: cannot be written: {error}") from None
        temporary.chmod(mode)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors (on the CPU) and metadata.

    Raises:
        ModelFileError: the file is missing or damaged, or not written by `save_tensors`.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = _strings(strict_json((handle.metadata() or {})["mlis"]))
            recorded = metadata.pop("sha256", None)
            # copied, as the alignment of mapped tensors, which affects the last bits of matrix
            # products, is arbitrary
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
        digest = checksum(tensors, metadata)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file.") from None
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise ModelFileError(
            f"{path}: not a safetensors file, or damaged ({error}). Restore it from a copy, or "
            "delete it and train again."
        ) from None
    if recorded != digest:
        raise ModelFileError(
            f"{path} is damaged: its content does not match its checksum. Restore it from a copy, "
            "or delete it and train again."
        )
    return tensors, metadata


def is_tensor_file(path: Path) -> bool:
    """Whether the header is of a file written by `save_tensors`."""
    try:
        with safe_open(path, framework="pt") as handle:
            return "mlis" in (handle.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _strings(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("metadata are not strings")
    return dict(metadata)


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the metadata and of names, types, shapes and values of CPU tensors."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}/{value.dtype}/{tuple(value.shape)}".encode())
        try:
            content = value.reshape(-1).view(torch.uint8).numpy().data
        except RuntimeError as error:  # a type without access to its bytes
            raise ValueError(f"{name}: {value.dtype} is not supported: {error}") from None
        digest.update(content)
    return digest.hexdigest()
