"""Have classes described by a language model of your choice. No model is called: --prompt prints
what to ask, --import reads the answer.

  mlis describe my-data --prompt --kind "garden flowers"      to paste into any language model
  mlis describe my-data --import answer.txt -o descriptions.csv
  mlis data build --features my-data --classes descriptions.csv --sentences text -o my-data-2

CLASSES is a dataset folder, a folder of images by class, a table with a column `name`, or a .txt
file with one name per line. An answer is a JSON object (name: a list of texts), alone or in a
fenced block, or lines `name: text`; --import takes several, each of some classes. Several texts of
a class are averaged as embeddings.
"""

import argparse
from pathlib import Path

from mlis.cli.arguments import Commands, add_command, add_common, at_least, refuse
from mlis.cli.output import check_file, print_json, say
from mlis.errors import DataError, SettingsError


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        *(commands, "describe", run, "descriptions of classes by any language model"),
        __doc__,
        usage="mlis describe CLASSES --prompt [options]\n"
        "       mlis describe [CLASSES] --import ANSWER … -o FILE.csv",
    )
    parser.add_argument("classes", metavar="CLASSES", nargs="?", type=Path, help="names of classes")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--prompt", action="store_true", help="print a prompt")
    action.add_argument(
        "--import",
        dest="answers",
        metavar="ANSWER",
        nargs="+",
        type=Path,
        help="read answers; with CLASSES each must be described, and no other",
    )
    parser.add_argument("--kind", metavar="TEXT", help="prompt: what they are, in the plural")
    parser.add_argument(
        "--texts", metavar="N", type=at_least(1), help="prompt: sentences per class (default: 5)"
    )
    add_common(
        *(parser, "--output"),
        metavar="FILE",
        required=False,
        help="the table (.csv); with --prompt a text file in place of the screen",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.prompt:
        return _prompt(args)
    refuse(args, ("kind", "texts"), "with --import, which asks nothing")
    if args.output is None:
        raise SettingsError("no table to write: name one with -o FILE.csv.")
    check_file(args.output, ".csv")
    from mlis.features.descriptors.language_model import TEXT, read_answers, write_texts

    names = None if args.classes is None else class_names(args.classes)
    texts = read_answers(args.answers, names)
    write_texts(texts, args.output)
    count = sum(map(len, texts.values()))
    say(f"{args.output}: {len(texts)} classes, {count} texts (--sentences {TEXT})")
    if args.json:
        print_json({"classes": len(texts), "texts": count})
    return None


def _prompt(args: argparse.Namespace) -> None:
    from mlis.features.descriptors.language_model import TEXTS, prompt

    if args.classes is None:
        raise SettingsError("--prompt: name the classes: a dataset, a table, or a .txt file.")
    refuse(args, ("json",), "with --prompt, whose result is the prompt")
    if args.output is not None:
        check_file(args.output)
    kind = {} if args.kind is None else {"kind": args.kind}
    text = prompt(class_names(args.classes), texts=args.texts or TEXTS, **kind)
    if args.output is None:
        for line in text.splitlines():
            say(line)
        return
    from mlis.storage.atomic import write_text

    write_text(args.output, text)
    say(f"{args.output}: {len(text):,} characters")


def class_names(path: Path) -> list[str]:
    """Names of a dataset folder, a folder of images by class, a table, or lines of a .txt file.

    Raises:
        DataError: there are none, or the file cannot be read.
    """
    from mlis.data.io.csv_file import NAME
    from mlis.data.io.folder import is_dataset_folder, load_folder
    from mlis.data.io.reading import read_text
    from mlis.data.io.text_table import find_column, read_table
    from mlis.data.labels import normal
    from mlis.features.images.files import find_images

    if path.is_dir():
        if is_dataset_folder(path):
            return list(load_folder(path).class_names)
        found = list(find_images(path).class_names)
    elif path.suffix.casefold() == ".txt":
        found = [normal(line) for line in read_text(path).splitlines()]
    else:
        found = [normal(name) for name in find_column(path, read_table(path), NAME)]
    names = list(dict.fromkeys(name for name in found if name))
    if not names:
        raise DataError(f"{path}: expected names of classes, got none.")
    return names
