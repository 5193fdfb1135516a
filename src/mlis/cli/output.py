"""`-o`: the folder that a command writes."""

import argparse
from pathlib import Path

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
    """Refuse the name of a file, where a folder is to be written."""
    if output.exists() and not output.is_dir():
        raise SettingsError(f"-o {output}: is a file; name a folder")


def check_no_dataset(output: Path, *, force: bool) -> None:
    """Refuse a folder that holds a dataset, unless it may be replaced."""
    from mlis.data.io.folder import WORDS

    if (output / WORDS).exists() and not force:
        raise SettingsError(
            f"{output} holds a dataset: choose another folder, or replace it with --force"
        )
