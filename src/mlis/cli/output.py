"""`-o`: the folder that a command writes."""

import argparse
import contextlib
from pathlib import Path
from tempfile import TemporaryFile

from mlis.errors import SettingsError


def add_output_flag(
    parser: argparse._ActionsContainer, metavar: str = "FOLDER", text: str = "folder to write"
) -> None:
    """`-o`, which must be given."""
    parser.add_argument(*("-o", "--output"), metavar=metavar, type=Path, required=True, help=text)


def add_force_flag(parser: argparse._ActionsContainer, what: str) -> None:
    """`--force`; `what` may be in the folder already, and then only this flag replaces it."""
    parser.add_argument("--force", action="store_true", help=f"replace {what} in FOLDER")


def check_folder(output: Path) -> None:
    """Refuse what is not a folder that can be written, before any work is done."""
    try:
        if output.exists() and not output.is_dir():
            raise SettingsError(f"-o {output}: is a file; name a folder")
        missing = [path for path in (output, *output.parents) if not path.exists()]
        try:
            output.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=output):
                pass
        finally:
            for path in missing:
                with contextlib.suppress(OSError):
                    path.rmdir()
    except OSError as error:
        raise SettingsError(
            f"-o {output}: cannot be written ({error.strerror}). Choose another folder."
        ) from None


def check_no_dataset(output: Path, *, force: bool) -> None:
    """Refuse what `check_folder` does, and a dataset unless it may be replaced."""
    from mlis.data.io.folder import is_dataset_folder

    check_folder(output)
    if is_dataset_folder(output) and not force:
        raise SettingsError(
            f"{output} holds a dataset: choose another folder, or replace it with --force"
        )
