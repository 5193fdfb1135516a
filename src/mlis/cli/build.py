"""Compute features of images and descriptors of classes, and write them as a dataset folder.

The class of DIR/a/b.jpg is `a`; its name must be spelled exactly as in the table. Unseen are the
classes that the table's column `split` says; without it, those that have no images; if all have
some, a fifth chosen by --split-seed. Beside the dataset: images.csv (the image of each row),
sources.json (the models), bad.csv (files without a row), unmatched.csv (classes with only images
or only a description). If the command is killed, run it again to continue; with --force it adds
what is new in DIR.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlis.cli import features
from mlis.cli.arguments import Commands, add_command, add_common, refuse
from mlis.cli.datasets import add_dataset_options
from mlis.cli.output import check_folder, check_replaceable, print_json, say
from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.data.dataset import GZSLDataset
    from mlis.data.io.feature_folder import ImageFeatures
    from mlis.features.descriptors.describe import Descriptors
    from mlis.features.images.files import Bad, Found

_SPLITTING = ("seed", "test_fraction")  # of `mlis.features.build.build`, and their flags

logger: logging.Logger = logging.getLogger(__name__)


def add_to(actions: Commands) -> None:
    """Add the command to those of `mlis data`."""
    parser = add_command(
        *(actions, "build", run, "a dataset from a folder of images and a table of classes"),
        __doc__,
        usage="mlis data build (--images DIR | --features FOLDER) --classes FILE -o FOLDER",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", metavar="DIR", type=Path, help="folder of images")
    source.add_argument(
        "--features",
        metavar="FOLDER",
        type=Path,
        help="what `mlis features images` wrote; or a dataset folder, whose rows, labels and split "
        "get new descriptors",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        type=Path,
        required=True,
        help="described classes: .csv, .tsv, .parquet, or what `mlis features text` wrote",
    )
    add_common(parser, "--output")
    add_common(parser, "--force", help="replace the dataset in FOLDER")
    parser.add_argument(
        "--skip-undescribed", action="store_true", help="leave out images of other classes"
    )
    add_dataset_options(parser, *_SPLITTING)
    features.add_image_flags(parser.add_argument_group("images"))
    features.add_text_flags(parser.add_argument_group("descriptions"))


def check_output(args: argparse.Namespace) -> None:
    """Refuse an output that cannot be written, or a dataset without --force."""
    from mlis.data.io.folder import is_dataset_folder

    check_folder(args.output)
    there = is_dataset_folder(args.output)
    check_replaceable(args.output, "a dataset", there=there, force=args.force)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    check_output(args)
    from mlis.data.io.folder import METADATA, write_folder
    from mlis.features.build import build, check_seen, described_images, unmatched, write_sources
    from mlis.features.images.files import write_bad
    from mlis.storage.folders import replaced_together
    from mlis.storage.locks import held

    if args.features is not None and (args.features / METADATA).exists():
        return _redescribe(args)
    found = _found(args)
    descriptors = _descriptors(args)
    lacking = unmatched(found.class_names, descriptors.names)
    found = described_images(found, descriptors.names, skip=args.skip_undescribed)
    check_seen(descriptors, found.class_names)  # before the long part
    with held(args.output):
        images, bad = _features(args, found)
        how = {name: getattr(args, name) for name in _SPLITTING if name in args}
        how["name"] = args.output.absolute().name
        data, descriptors = _weighed(args, descriptors, lambda new: build(images, new, **how))
        with replaced_together(args.output) as new:
            write_folder(data, new)
            write_sources(images, descriptors, new)
            write_bad(new, bad)
    features.report_unmatched(lacking, args.output)
    features.report_bad(bad, args.output)
    return _report(args, data, len(bad))


def _redescribe(args: argparse.Namespace) -> None:
    """A dataset folder's rows, labels and split with the new descriptors."""
    from mlis.data.io.folder import load_folder
    from mlis.features.build import redescribe, unmatched
    from mlis.features.images.dataset_images import save_beside_photographs

    refuse(
        args,
        ("backbone", "views", "regions", "labels", "skip_undescribed"),
        "with a dataset's features",
    )
    if args.output.resolve() == args.features.resolve():
        raise SettingsError(f"-o {args.output}: is the dataset itself. Name another folder.")
    old, descriptors = load_folder(args.features), _descriptors(args)
    name = args.output.absolute().name
    data, _ = _weighed(args, descriptors, lambda new: redescribe(old, new, name=name))
    save_beside_photographs(data, args.features, args.output)
    features.report_unmatched(unmatched(data.class_names, descriptors.names), args.output)
    _report(args, data, 0)


def _found(args: argparse.Namespace) -> "Found":
    """The images of a folder, or the rows of a folder of features as if they were files."""
    from mlis.data.io.feature_folder import read_feature_folder
    from mlis.features.images.files import Found, ImageFile

    if args.images is not None:
        return features.find(args, args.images)
    refuse(
        args,
        ("backbone", "views", "regions", "labels"),
        "with --features, which are already computed",
    )
    table = read_feature_folder(args.features)
    rows = zip(table.paths, table.classes, strict=True)
    files = tuple(ImageFile(path, args.features / path, name) for path, name in rows)
    return Found(args.features, files)


def _descriptors(args: argparse.Namespace) -> "Descriptors":
    from mlis.features.descriptors.describe import read_descriptors

    if not args.classes.is_dir():
        return features.describe_table(args, args.classes)
    refuse(args, features.TEXT_FLAGS, f"with {args.classes}, which is already computed")
    return read_descriptors(args.classes)


def _weighed(
    args: argparse.Namespace,
    descriptors: "Descriptors",
    dataset: "Callable[[Descriptors], GZSLDataset]",
) -> "tuple[GZSLDataset, Descriptors]":
    """The dataset and its descriptors, whose attributes have the weight that is asked for."""
    data = dataset(descriptors)
    if args.attribute_weight != features.AUTO:
        return data, descriptors
    from mlis.experiments.attribute_weight import choose_attribute_weight

    chosen = choose_attribute_weight(data, descriptors, device=args.device)
    return dataset(chosen), chosen


def _features(args: argparse.Namespace, found: "Found") -> "tuple[ImageFeatures, Sequence[Bad]]":
    """Features of the images, computed where they are missing."""
    from mlis.cli.progress import ImageBar
    from mlis.data.io.feature_folder import read_feature_folder
    from mlis.features.images.extract import extract, remove_unused_shards

    if args.images is None:
        table = read_feature_folder(args.features)
        kept = {image.path for image in found.images}
        return table.choose([path in kept for path in table.paths]), found.bad
    backbone = features.load_image_model(args)
    with ImageBar(features.CONTINUE) as bar:
        result = extract(
            *(found, backbone, args.output),
            shard_images=args.shard_images,
            workers=args.workers,
            progress=bar,
        )
    remove_unused_shards(result, backbone, args.output)
    return result.images, result.bad


def _report(args: argparse.Namespace, data: "GZSLDataset", bad: int) -> None:
    warn_of_duplicates(data)
    seen, unseen = len(data.seen_classes), len(data.unseen_classes)
    say(f"{args.output}: {len(data.labels):,} images, {seen} seen and {unseen} unseen classes")
    for note in data.provenance.notes:
        say(f"  {note}")
    if args.json:
        print_json({"images": len(data.labels), "seen": seen, "unseen": unseen, "bad": bad})


def warn_of_duplicates(data: "GZSLDataset") -> None:
    """Warn if test images have the features of a training image."""
    from mlis.data.summary import shared_rows, shared_rows_warning

    if count := shared_rows(data):
        logger.warning("%s", shared_rows_warning(count))
