"""`mlis data build`: images and a table of classes become a dataset folder."""

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlis.cli import features
from mlis.cli.common import add_common_flags
from mlis.cli.feature_flags import add_image_flags, add_word_flags
from mlis.cli.feature_output import report_bad, report_unmatched
from mlis.cli.output import add_force_flag, add_output_flag, check_no_dataset
from mlis.cli.printing import print_json, say
from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.data.dataset import GZSLDataset
    from mlis.data.io.feature_folder import ImageFeatures
    from mlis.features.descriptors.describe import Descriptors
    from mlis.features.images.files import Bad, Found

logger: logging.Logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Compute features of images and descriptors of classes, and write them as a dataset folder.

The class of DIR/a/b.jpg is `a`; names must agree with those of the table letter for letter.
Unseen are the classes that the table's column `split` says; without it those that have no images;
if all have some, a fifth by --split-seed. Beside the dataset: images.csv (the picture of each
row), sources.json (the models), bad.csv (files without a row), unmatched.csv (names without a
partner). The same command goes on after a kill; with --force it adds what is new in DIR."""


def add_to(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `mlis data`."""
    parser = actions.add_parser(
        "build",
        help="a dataset from a folder of images and a table of classes",
        description=_DESCRIPTION,
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
    add_output_flag(parser)
    add_force_flag(parser, "the dataset that is")
    parser.add_argument(
        "--skip-undescribed",
        action="store_true",
        help="leave out images of classes that are not described",
    )
    parser.add_argument(
        "--split-seed", type=int, default=0, metavar="N", help="of what is chosen (default: 0)"
    )
    parser.add_argument(
        "--test-fraction",
        type=float,
        default=0.2,
        metavar="X",
        help="share of a seen class's images held out for testing (default: 0.2)",
    )
    add_image_flags(parser.add_argument_group("images"))
    add_word_flags(parser.add_argument_group("words"))
    add_common_flags(parser, with_json=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    check_no_dataset(args.output, force=args.force)
    from mlis.data.io.folder import METADATA, write_folder
    from mlis.features.build import build, check_seen, described_images, unmatched, write_sources
    from mlis.features.images.files import write_bad
    from mlis.storage.folders import replaced_together
    from mlis.storage.locks import held

    if args.features is not None and (args.features / METADATA).exists():
        _redescribe(args)
        return
    found = _found(args)
    descriptors = _descriptors(args)
    lacking = unmatched(found.class_names, descriptors.names)
    found = described_images(found, descriptors.names, skip=args.skip_undescribed)
    check_seen(descriptors, found.class_names)  # before the long part
    with held(args.output):
        images, bad = _features(args, found)
        data = build(
            images,
            descriptors,
            name=args.output.absolute().name,
            seed=args.split_seed,
            test_fraction=args.test_fraction,
        )
        with replaced_together(args.output) as new:
            write_folder(data, new)
            write_sources(images, descriptors, new)
            write_bad(new, bad)
    report_unmatched(lacking, args.output)
    report_bad(bad, args.output)
    _report(args, data, len(bad))


def _redescribe(args: argparse.Namespace) -> None:
    """A dataset folder's rows, labels and split with the new descriptors."""
    from mlis.data.io.feature_folder import IMAGES
    from mlis.data.io.folder import SOURCES, load_folder, write_folder
    from mlis.features.build import redescribe, unmatched
    from mlis.storage.atomic import strict_json, write_json
    from mlis.storage.folders import replaced_together
    from mlis.storage.locks import held

    flags = ("backbone", "labels", "skip_undescribed")
    if given := [f"--{name.replace('_', '-')}" for name in flags if getattr(args, name)]:
        raise SettingsError(f"{', '.join(given)}: has no meaning with a dataset's features")
    if args.output.resolve() == args.features.resolve():
        raise SettingsError(f"-o {args.output}: is the dataset itself; name another folder")
    old, descriptors = load_folder(args.features), _descriptors(args)
    data = redescribe(old, descriptors, name=args.output.absolute().name)
    with held(args.output), replaced_together(args.output) as new:
        write_folder(data, new)
        if (args.features / IMAGES).exists():
            shutil.copyfile(args.features / IMAGES, new / IMAGES)
        if (args.features / SOURCES).exists():
            known = strict_json((args.features / SOURCES).read_text(encoding="utf-8"))
            write_json(new / SOURCES, {**known, **data.provenance.sources})
    report_unmatched(unmatched(data.class_names, descriptors.names), args.output)
    _report(args, data, 0)


def _report(args: argparse.Namespace, data: "GZSLDataset", bad: int) -> None:
    warn_of_twins(data)
    seen, unseen = len(data.seen_classes), len(data.unseen_classes)
    say(f"{args.output}: {len(data.labels):,} images, {seen} seen and {unseen} unseen classes")
    for note in data.provenance.notes:
        say(f"  {note}")
    if args.json:
        print_json({"images": len(data.labels), "seen": seen, "unseen": unseen, "bad": bad})


def _found(args: argparse.Namespace) -> "Found":
    """The images in a folder, or the rows of a folder of features as if they were files."""
    from mlis.data.io.feature_folder import read_feature_folder
    from mlis.features.images.files import Found, ImageFile

    if args.images is not None:
        return features.find(args, args.images)
    for flag, given in (("--backbone", args.backbone), ("--labels", args.labels)):
        if given is not None:
            raise SettingsError(f"{flag} has no meaning with --features, which are computed")
    table = read_feature_folder(args.features)
    rows = zip(table.paths, table.classes, strict=True)
    files = tuple(ImageFile(path, args.features / path, name) for path, name in rows)
    return Found(args.features, files)


def _descriptors(args: argparse.Namespace) -> "Descriptors":
    from mlis.features.descriptors.describe import read_descriptors

    if not args.classes.is_dir():
        return features.describe_table(args, args.classes)
    names = ("sentences", "attributes", "categories", "missing", "attribute_weight", "text_model")
    given = [name for name in names if getattr(args, name) not in (None, ())]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise SettingsError(f"{flag} has no meaning with {args.classes}, which is computed")
    return read_descriptors(args.classes)


def _features(args: argparse.Namespace, found: "Found") -> "tuple[ImageFeatures, Sequence[Bad]]":
    """Features of the images that were found, computed where they are not."""
    from mlis.cli.progress import ImageBar
    from mlis.data.io.feature_folder import read_feature_folder
    from mlis.features.images.extract import extract, remove_unused_shards

    if args.images is None:
        table = read_feature_folder(args.features)
        kept = {image.path for image in found.images}
        return table.choose([path in kept for path in table.paths]), found.bad
    backbone = features.load_image_model(args)
    bar = ImageBar("images")
    try:
        result = extract(
            found,
            backbone,
            args.output,
            shard_images=args.shard_images,
            workers=args.workers,
            progress=bar,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on behind the last shard") from None
    finally:
        bar.close()
    remove_unused_shards(result, backbone, args.output)
    return result.images, result.bad


def warn_of_twins(data: "GZSLDataset") -> None:
    """Say how many test images have the features of a training image, if any."""
    from mlis.data.summary import shared_rows, shared_rows_warning

    if count := shared_rows(data):
        logger.warning("%s", shared_rows_warning(count))
