"""`mlis features images` and `mlis features text`: from photographs and words to vectors."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.engine_flags import add_engine_flags, cluster_of
from mlis.cli.feature_flags import add_image_flags, add_word_flags
from mlis.cli.feature_output import report_images, report_unmatched, summary
from mlis.cli.output import add_force_flag, add_output_flag, check_folder
from mlis.cli.printing import print_json, say
from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.compute.ray_cluster import Cluster
    from mlis.features.backbones.base import Backbone
    from mlis.features.build import Unmatched
    from mlis.features.descriptors.describe import Descriptors
    from mlis.features.images.extract import Compute
    from mlis.features.images.files import Found

_IMAGES = """\
Compute features of all images in DIR with a pretrained model.

The class of DIR/a/b/c.jpg is `a`; with --labels, a table says it. Whatever is no image that can be
read is listed at the end, and in bad.csv, with its reason; it never ends the run.

The work is done in shards, which are kept in the output folder: after a kill, the same command
goes on behind the last one, and after DIR has grown or changed, it computes what is new."""

_TEXT = """\
Turn descriptions of classes into one vector each.

FILE is a .csv, .tsv or .parquet table with a column `name`, perhaps `split` (seen or unseen), and
columns of sentences or attributes; a class may have several rows. Columns of numbers, yes and no,
or per cent are attributes, columns of a few words that classes share are categories, all others
sentences, unless --sentences, --attributes or --categories name them. What each was read as is
printed.

Sentences: embedded, brought to length one, averaged. Attributes: yes/no and 0/1 as they are, per
cent / 100, other numbers from 0 (smallest class) to 1 (largest), categories one number a value;
what is missing gets the mean of the classes that have it. Both: side by side, each of length one
before weighting."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands."""
    parser = commands.add_parser(
        "features",
        help="features of images, descriptors of classes",
        description="Features of images, descriptors of classes.",
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    images = actions.add_parser(
        "images", help="features of a folder of images", description=_IMAGES
    )
    images.add_argument("folder", metavar="DIR", type=Path, help="folder of images")
    add_output_flag(images)
    add_force_flag(images, "features of another model")
    add_image_flags(images)
    add_engine_flags(images, "shard")
    add_common_flags(images, with_json=True)
    images.set_defaults(run=run_images)
    text = actions.add_parser("text", help="descriptors of described classes", description=_TEXT)
    text.add_argument("table", metavar="FILE", type=Path, help="described classes")
    add_output_flag(text)
    text.add_argument(
        "--images", metavar="DIR", type=Path, help="say which names differ from DIR's folders"
    )
    add_word_flags(text)
    add_device_flag(text)
    add_common_flags(text, with_json=True)
    text.set_defaults(run=run_text)


def run_images(args: argparse.Namespace) -> None:
    """`mlis features images`."""
    cluster = cluster_of(args)
    if cluster is not None and args.workers is not None:
        raise SettingsError("--workers has no meaning with --engine ray: use --cores")
    check_folder(args.output)
    found = find(args, args.folder)
    from mlis.cli.progress import ImageBar
    from mlis.features.images.extract import extract_folder

    backbone = load_image_model(args)
    bar = ImageBar("images")
    try:
        result = extract_folder(
            found,
            backbone,
            args.output,
            replace=args.force,
            shard_images=args.shard_images,
            workers=args.workers,
            progress=bar,
            compute=ray_compute(args, cluster, backbone),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on behind the last shard") from None
    finally:
        bar.close()
    report_images(result, found, args.output)
    if args.json:
        print_json(summary(result))


def ray_compute(
    args: argparse.Namespace, cluster: "Cluster | None", backbone: "Backbone"
) -> "Compute | None":
    """Who computes with `--engine ray`; None without."""
    if cluster is None:
        return None
    from mlis.compute.precision import Arithmetic
    from mlis.features.images.ray_shards import Model, RayShards

    device = Arithmetic.of(backbone.precision, args.device).device.type
    return RayShards(cluster, Model.of(backbone, device))


def find(args: argparse.Namespace, folder: Path) -> "Found":
    """The images of a folder that the arguments mean."""
    from mlis.features.images.files import find_images

    for flag in ("shard_images", "workers"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise SettingsError(f"--{flag.replace('_', '-')} must be at least 1, but got {value}")
    if args.output.resolve().is_relative_to(folder.resolve()):
        raise SettingsError(f"-o {args.output} lies inside {folder}: choose a folder outside of it")
    return find_images(
        folder, args.labels, class_column=args.class_column, path_column=args.path_column
    )


def load_image_model(args: argparse.Namespace) -> "Backbone":
    """The image model that the arguments name."""
    from mlis.features.backbones import DEFAULT, load_backbone

    name = args.backbone or DEFAULT
    return load_backbone(name, device=args.device, precision=args.precision)


def run_text(args: argparse.Namespace) -> None:
    """`mlis features text`."""
    check_folder(args.output)
    descriptors = describe_table(args, args.table)
    found: list[Unmatched] = []
    if args.images is not None:
        from mlis.features.build import unmatched
        from mlis.features.images.files import find_images

        found = unmatched(find_images(args.images).class_names, descriptors.names)
    from mlis.features.descriptors.describe import write_descriptors

    write_descriptors(descriptors, args.output)
    classes, size = descriptors.vectors.shape
    say(f"{args.output}: {classes} classes × {size} numbers, {descriptors.kind}")
    for note in descriptors.notes:
        say(f"  {note}")
    report_unmatched(found, args.output if args.images is not None else None)
    if args.json:
        print_json({"classes": classes, "size": size, "unmatched": len(found)})


def describe_table(args: argparse.Namespace, table: Path) -> "Descriptors":
    """Descriptors of the classes of a table, as the arguments say."""
    from mlis.features.descriptors.class_descriptions import read_descriptions
    from mlis.features.descriptors.describe import WEIGHT, describe

    words = read_descriptions(
        table,
        sentences=args.sentences,
        attributes=args.attributes,
        categories=args.categories,
        missing=args.missing,
        name_column=args.name_column,
    )
    both = words.has_sentences and words.attributes
    if args.attribute_weight is not None and not both:
        raise SettingsError("--attribute-weight has no meaning without sentences and attributes")
    if args.text_model is not None and not words.has_sentences:
        raise SettingsError("--text-model has no meaning without sentences")
    model = None
    if words.has_sentences:
        from mlis.features.descriptors import text_model as text

        model = text.TextModel(args.text_model or text.DEFAULT, device=args.device)
    weight = WEIGHT if args.attribute_weight is None else args.attribute_weight
    return describe(words, model, weight=weight)
