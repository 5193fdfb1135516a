"""Have classes described by a language model of your choice. No model is called: --prompt prints
what to ask, --import reads the answer. Of sentences, of attributes, or of both in one table:

  mlis describe my-data --prompt --kind "garden flowers"      to paste into any language model
  mlis describe my-data --prompt attributes --kind "garden flowers"
  mlis describe my-data --import sentences.txt --import-attributes values.txt -o descriptions.csv
  mlis data build --features my-data --classes descriptions.csv -o my-data-2

CLASSES is a dataset folder, a folder of images by class, a table with a column `name`, or a .txt
file with one name per line. An answer is a JSON object (name: a list of texts), alone or in a
fenced block, or lines `name: text`; of attributes, the lists are objects of attributes and values.
--import takes several answers, each of some classes. Several texts of a class are averaged as
embeddings.
"""

import argparse
from pathlib import Path

from mlis.cli.arguments import Commands, add_command, add_common, at_least, refuse
from mlis.cli.output import check_file, print_json, say
from mlis.errors import DataError, SettingsError

SENTENCES, ATTRIBUTES = "sentences", "attributes"


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        *(commands, "describe", run, "descriptions of classes by any language model"),
        __doc__,
        usage="mlis describe CLASSES --prompt [attributes] [options]\n"
        "       mlis describe [CLASSES] --import ANSWER … -o FILE.csv",
    )
    parser.add_argument("classes", metavar="CLASSES", nargs="?", type=Path, help="names of classes")
    parser.add_argument(
        "--prompt",
        choices=(SENTENCES, ATTRIBUTES),
        nargs="?",
        const=SENTENCES,
        help="print a prompt that asks for sentences (default) or attributes",
    )
    parser.add_argument(
        "--import",
        dest="answers",
        metavar="ANSWER",
        nargs="+",
        type=Path,
        help="read answers with sentences; with CLASSES each must be described, and no other",
    )
    parser.add_argument(
        "--import-attributes",
        dest="attribute_answers",
        metavar="ANSWER",
        nargs="+",
        type=Path,
        help="read answers with attributes",
    )
    parser.add_argument("--kind", metavar="TEXT", help="prompt: what they are, in the plural")
    parser.add_argument(
        "--count",
        metavar="N",
        type=at_least(1),
        help="prompt: sentences per class (default: 5), or attributes (30)",
    )
    add_common(
        *(parser, "--output"),
        metavar="FILE",
        required=False,
        help="the table (.csv); with --prompt a text file in place of the screen",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    imports = bool(args.answers or args.attribute_answers)
    if (args.prompt is not None) == imports:
        raise SettingsError(
            "expected --prompt, or answers with --import or --import-attributes, got "
            + ("both." if imports else "none. Ask with --prompt first.")
        )
    return _import(args) if imports else _prompt(args)


def _import(args: argparse.Namespace) -> None:
    refuse(args, ("kind", "count"), "with answers, where nothing is asked")
    if args.output is None:
        raise SettingsError("no table to write: name one with -o FILE.csv.")
    check_file(args.output, ".csv")
    from mlis.features.descriptors.language_model import read_answers, write_answers
    from mlis.features.descriptors.language_model_attributes import AttributeTable, read_attributes

    names = None if args.classes is None else class_names(args.classes)
    texts, attributes = {}, AttributeTable((), {})
    if args.answers:
        texts = read_answers(args.answers, names)
    if args.attribute_answers:
        attributes = read_attributes(args.attribute_answers, names or list(texts) or None)
    write_answers(args.output, texts, attributes.columns, attributes.cells)
    classes, count = len(texts or attributes.cells), sum(map(len, texts.values()))
    say(
        f"{args.output}: {classes} classes, {count} texts, {len(attributes.columns)} attributes"
        + (f", of which {attributes.unknown} values are unknown" if attributes.unknown else "")
    )
    if args.json:
        numbers = {"classes": classes, "texts": count, "attributes": len(attributes.columns)}
        print_json({**numbers, "unknown": attributes.unknown})


def _prompt(args: argparse.Namespace) -> None:
    from mlis.features.descriptors.language_model import prompt
    from mlis.features.descriptors.language_model_attributes import attribute_prompt

    if args.classes is None:
        raise SettingsError("--prompt: name the classes: a dataset, a table, or a .txt file.")
    refuse(args, ("json",), "with --prompt, whose result is the prompt")
    if args.output is not None:
        check_file(args.output)
    how = {} if args.kind is None else {"kind": args.kind}
    names = class_names(args.classes)
    if args.prompt == ATTRIBUTES:
        count = {} if args.count is None else {"attributes": args.count}
        text = attribute_prompt(names, **how, **count)
    else:
        count = {} if args.count is None else {"texts": args.count}
        text = prompt(names, **how, **count)
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
