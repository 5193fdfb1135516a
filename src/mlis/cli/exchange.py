"""`mlis data import` and `mlis data export`: labelled images from and for other tools."""

import argparse
from collections import Counter
from pathlib import Path

from mlis.cli.arguments import Commands, add_command, add_common, not_negative
from mlis.cli.output import check_file, check_folder, print_json, print_list, say
from mlis.errors import SettingsError

FORMATS = ("coco", "label-studio", "fiftyone", "imagefolder")
_SOURCES = """\
SOURCE is recognised by its content: a folder of images, or what `mlis data build` or `features
images` made of one; a .csv, .tsv or .parquet table with columns path and class, optionally split,
and x, y, width, height of a box (pixels); COCO, Label Studio or FiftyOne (.json); Hugging Face: a
folder with metadata.csv or .jsonl, or Parquet files. Several files whose names say train, val and
test are the parts of a split."""
_IMPORT = f"""\
Write the images that a table or an annotation tool names as a folder of images.

{_SOURCES}

FOLDER gets CLASS/… and labels.csv (path, class, split), which every command that takes a folder of
images reads. Whole images are hard links; each box becomes a PNG of its crop. Records that cannot
be used are listed at the end and in bad.csv, with the reason."""
_EXPORT = f"""\
Write labelled images in the format of another tool.

{_SOURCES}

The .json files name images by their path below the folder of images; nothing is copied. For Label
Studio, FILE.xml is the labeling interface. `imagefolder` is a folder with hard links and
metadata.jsonl, which Hugging Face `datasets` loads."""


def add_to(actions: Commands) -> None:
    """Add the commands to those of `mlis data`."""
    text = "a folder of images from a table, COCO, Label Studio, …"
    parser = add_command(actions, "import", run_import, text, _IMPORT)
    _add_sources(parser)
    add_common(parser, "--output")
    parser.add_argument(
        "--margin",
        type=not_negative,
        default=0.0,
        metavar="X",
        help="around each box, as a fraction of its sides, e.g. 0.1 (default: 0)",
    )
    text = "labelled images for COCO, Label Studio, …"
    parser = add_command(actions, "export", run_export, text, _EXPORT)
    _add_sources(parser)
    add_common(parser, "--output", metavar="FILE", help="file to write; imagefolder: folder")
    parser.add_argument("--format", choices=FORMATS, required=True, help="of the file")
    add_url_flag(parser)


def add_url_flag(parser: argparse._ActionsContainer) -> None:
    """Where Label Studio finds the images."""
    parser.add_argument(
        "--url",
        metavar="PREFIX",
        help="label-studio: address of the folder of images, to which paths are added (default: "
        "/data/local-files/?d=, a 'Local files' storage)",
    )


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SOURCE", type=Path, nargs="+", help="see above")
    parser.add_argument(
        "--images", metavar="DIR", type=Path, help="where the images are (default: beside SOURCE)"
    )
    parser.add_argument(
        "--class-column", metavar="NAME", default="", help="tables: default class, else label"
    )


def run_import(args: argparse.Namespace) -> None:
    """`mlis data import`."""
    check_folder(args.output)
    from mlis.features.exchange.formats import read
    from mlis.features.exchange.image_folder import write_image_folder

    _check_outside(args)
    rows = read(args.sources, args.images, args.class_column)
    found = write_image_folder(rows, args.output, margin=args.margin)
    classes = len(found.class_names)
    say(f"{args.output}: {len(found.images):,} images of {classes:,} classes")
    marks = Counter(image.mark for image in found.images if image.mark)
    if marks:
        say(f"  {', '.join(f'{mark}: {count:,}' for mark, count in marks.items())}")
    _report(args, [f"{each.path}: {each.reason}" for each in found.bad])
    if args.json:
        print_json({"images": len(found.images), "classes": classes, "bad": len(found.bad)})


def run_export(args: argparse.Namespace) -> None:
    """`mlis data export`."""
    if args.format == "imagefolder":
        check_folder(args.output)
        if args.output.exists() and any(args.output.iterdir()):
            raise SettingsError(f"-o {args.output}: is not empty. Choose another folder.")
        _check_outside(args)
    else:
        check_file(args.output, ".json")
    from mlis.features.exchange.formats import read, write

    rows = read(args.sources, args.images, args.class_column)
    count, bad = write(rows, args.format, args.output, **url_option(args))
    say(f"{args.output}: {count:,} images or boxes")
    _report(args, [f"{each.path}: {each.reason}" for each in bad])
    if args.json:
        print_json({"rows": count, "bad": len(bad)})


def url_option(args: argparse.Namespace) -> dict[str, str]:
    """The option of Label Studio's `write` that --url gives."""
    if args.url is None:
        return {}
    if args.format != "label-studio":
        raise SettingsError(f"--url: not allowed with --format {args.format}. Leave it out.")
    return {"prefix": args.url}


def _check_outside(args: argparse.Namespace) -> None:
    for source in (*args.sources, *([args.images] if args.images else [])):
        if source.is_dir() and args.output.resolve().is_relative_to(source.resolve()):
            raise SettingsError(
                f"-o {args.output}: lies inside {source}. Choose a folder outside it."
            )


def _report(args: argparse.Namespace, lines: list[str]) -> None:
    print_list(f"{len(lines):,} records could not be used:", lines)
