"""`mlis features images` and `mlis features text`: from images and descriptions to vectors."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.arguments import (
    Commands,
    add_command,
    add_common,
    add_engine_flags,
    at_least,
    cluster_of,
    names,
    refuse,
)
from mlis.cli.output import check_folder, print_json, print_list, say
from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.compute.ray_cluster import Cluster
    from mlis.features.backbones.base import Backbone
    from mlis.features.build import Unmatched
    from mlis.features.descriptors.describe import Descriptors
    from mlis.features.images.extract import Compute, Extraction
    from mlis.features.images.files import Bad, Found


def add_to(commands: Commands) -> None:
    """Add both commands."""
    text = "features of images, descriptors of classes"
    parser = commands.add_parser("features", help=text, description=text)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    images = add_command(actions, "images", run_images, "features of a folder of images")
    images.add_argument("folder", metavar="DIR", type=Path, help="folder of images")
    add_common(images, "--output")
    add_common(images, "--force", help="replace features of another model in FOLDER")
    add_image_flags(images)
    add_engine_flags(images, "shard")
    words = add_command(actions, "text", run_text, "descriptors of described classes")
    words.add_argument("table", metavar="FILE", type=Path, help="described classes")
    add_common(words, "--output")
    words.add_argument(
        "--images", metavar="DIR", type=Path, help="report names that differ from DIR's folders"
    )
    add_text_flags(words)
    add_common(words, "--device")


def add_image_flags(parser: argparse._ActionsContainer) -> None:
    """How images are found and their features computed."""
    parser.add_argument(
        "--backbone",
        metavar="NAME,…",
        help="efficientnet-lite2 (default) or -lite0: installed weights; or any vision "
        "model of transformers by hub name or folder, such as microsoft/resnet-101; of several, "
        "the features are joined",
    )
    parser.add_argument(
        "--views",
        type=names,
        metavar="VIEW,…",
        help="of each image, features joined in this order: centre (the model's own crop), whole "
        "(squashed to the model's input), centre-flip and whole-flip (mirrored; averaged with the "
        "view that is not). Default: centre,whole; centre if the model does not crop",
    )
    parser.add_argument(
        "--regions",
        type=at_least(2),
        metavar="GRID",
        help="features of GRID × GRID regions of each view, joined: for the methods dazle, dvbe "
        "and vgse-patches; others see their mean. Views: centre unless --views names others",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help=".csv, .tsv or .parquet with columns path (below DIR) and class, optionally split "
        "(train, val, test), and x, y, width, height: a box, in pixels, whose crop is written to "
        "FOLDER/crops; only the files that it names are read (default: DIR/labels.csv, if any)",
    )
    parser.add_argument(
        "--path-column", metavar="NAME", default="", help="of --labels (default: path)"
    )
    parser.add_argument(
        "--class-column", metavar="NAME", default="class", help="of --labels (default: class)"
    )
    add_common(parser, "--workers")
    parser.add_argument(
        "--shard-images",
        type=at_least(1),
        default=512,
        metavar="N",
        help="images per shard: the most that a kill can lose (default: 512)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the model (default: auto: bfloat16 where it is faster, else float32)",
    )
    add_common(parser, "--device")


CROPS = "crops"
CONTINUE = "run the same command again to continue after the last shard"
TEXT_FLAGS = ("sentences", "attributes", "categories", "missing", "attribute_weight", "text_model")
TEXT_FLAGS += ("subtract_mean", "phrases")
AUTO = "auto"


def add_text_flags(parser: argparse._ActionsContainer) -> None:
    """How descriptions become vectors."""
    columns: dict[str, Any] = {"metavar": "COLUMN", "nargs": "+"}
    parser.add_argument(
        "--sentences", **columns, help="only these are sentences; may include `name`"
    )
    parser.add_argument("--attributes", **columns, help="only these are attributes")
    parser.add_argument("--categories", **columns, help="only these are categories")
    parser.add_argument(
        "--missing",
        metavar="VALUE",
        nargs="+",
        default=(),
        help="attributes: values that mean missing, besides empty cells, such as -1",
    )
    parser.add_argument(
        "--name-column", metavar="COLUMN", default="name", help="of class names (default: name)"
    )
    parser.add_argument(
        "--attribute-weight",
        type=_weight,
        metavar="W",
        help="with sentences and attributes: the attributes' share of the cosine (default: 0.5); "
        "auto (data build): chosen on validation classes",
    )
    parser.add_argument(
        "--subtract-mean",
        action="store_true",
        help="sentences: subtract the mean of all classes' vectors, which removes what all texts "
        "have in common",
    )
    parser.add_argument(
        "--phrases",
        action="store_true",
        help="also embed the names of attributes and classes, for the methods dazle and "
        "vgse-patches; they are kept in the dataset's provenance",
    )
    parser.add_argument(
        "--text-model",
        metavar="NAME",
        help="all-MiniLM-L6-v2 (default): installed weights; or any model of "
        "sentence-transformers or transformers by hub name or folder",
    )


def _weight(text: str) -> float | str:
    """A number, or "auto"."""
    try:
        return text if text == AUTO else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got {text!r}") from None


def run_images(args: argparse.Namespace) -> None:
    """Compute features of all images in DIR with a pretrained model.

    The class of DIR/a/b/c.jpg is `a`, unless --labels gives a table. Files that cannot be read as
    images do not stop the command: they are listed at the end and in bad.csv, with the reason.

    The work is done in shards, which are kept in the output folder: if the command is killed, run
    it again to continue after the last shard; if DIR has changed, it computes what is new.
    """
    cluster = cluster_of(args)
    if cluster is not None:
        refuse(args, ["workers"], "with --engine ray, which has --cores")
    check_folder(args.output)
    found = find(args, args.folder)
    from mlis.cli.progress import ImageBar
    from mlis.features.images.extract import extract_folder

    backbone = load_image_model(args)
    with ImageBar(CONTINUE) as bar:
        result = extract_folder(
            *(found, backbone, args.output),
            replace=args.force,
            shard_images=args.shard_images,
            workers=args.workers,
            progress=bar,
            compute=_ray_compute(args, cluster, backbone),
        )
    _report_images(args, result, found)


def _report_images(args: argparse.Namespace, result: "Extraction", found: "Found") -> None:
    rows, size = result.images.features.shape
    from mlis.features.backbones.base import views_of

    model, rate = result.images.backbone, result.computed / result.seconds
    views = views_of(model)
    shown = f", {rate:.1f} images/s" if result.computed else ""
    say(
        f"{args.output}: {rows:,} images × {size} features by {model['name']} "
        f"({', '.join(views)}); {result.computed:,} computed now{shown}"
    )
    if found.unlisted:
        say(f"  {found.unlisted:,} files are not in the table of labels and were not read")
    report_bad(result.bad, args.output)
    if args.json:
        numbers = {"images": rows, "size": size, "computed": result.computed}
        times = {"seconds": round(result.seconds, 3), "images_per_second": round(rate, 2)}
        made_by = {"backbone": model["name"], "fingerprint": model["fingerprint"]}
        made_by |= {"views": list(views)}
        print_json({**numbers, "bad": len(result.bad), **times, **made_by})


def _ray_compute(
    args: argparse.Namespace, cluster: "Cluster | None", backbone: "Backbone"
) -> "Compute | None":
    """What computes shards with `--engine ray`; None without it."""
    if cluster is None:
        return None
    from mlis.compute.precision import Precision
    from mlis.features.images.ray_shards import Model, RayShards

    device = Precision.of(backbone.precision, args.device).device.type
    return RayShards(cluster, Model.of(backbone, device))


def find(args: argparse.Namespace, folder: Path) -> "Found":
    """The images of a folder, as the flags of `add_image_flags` say."""
    from mlis.features.images.files import find_images

    if args.output.resolve().is_relative_to(folder.resolve()):
        raise SettingsError(f"-o {args.output}: lies inside {folder}. Choose a folder outside it.")
    found = find_images(
        folder, args.labels, class_column=args.class_column, path_column=args.path_column
    )
    if not any(image.box for image in found.images):
        return found
    from mlis.features.exchange.image_folder import write_image_folder

    return write_image_folder(found.images, args.output / CROPS, replace=True)


def load_image_model(args: argparse.Namespace) -> "Backbone":
    """The image model and the views that the flags name."""
    from mlis.features.backbones import DEFAULT, load_backbone

    name = args.backbone or DEFAULT
    how = {"device": args.device, "precision": args.precision}
    return load_backbone(name, **how, views=args.views, grid=args.regions or 1)


def report_bad(bad: "Sequence[Bad]", output: Path) -> None:
    """The first of the files without features; all are in bad.csv."""
    title = f"{len(bad):,} files gave no features ({output / 'bad.csv'}):"
    print_list(title, [f"{each.path}: {each.reason}" for each in bad])


def run_text(args: argparse.Namespace) -> None:
    """Turn descriptions of classes into one vector each.

    FILE is a .csv, .tsv or .parquet table with a column `name`, optionally `split` (seen or
    unseen), and columns of sentences or attributes; a class may have several rows. Columns of
    numbers, yes and no, or percentages are attributes; columns of a few words that classes share
    are categories; all others are sentences, unless --sentences, --attributes or --categories name
    them. The command prints how each column was read.

    Sentences are embedded, normalised to unit length and averaged. Attributes: yes/no and 0/1 are
    kept, percentages are divided by 100, other numbers are scaled to 0 (smallest class) … 1
    (largest); categories are one-hot; a missing value becomes the mean of the classes that have it.
    With both, the two vectors are normalised to unit length, weighted and concatenated.
    """
    check_folder(args.output)
    if args.attribute_weight == AUTO:
        raise SettingsError(
            "--attribute-weight auto: expected images to choose by, got none. Give it to "
            "`mlis data build`, or a number here."
        )
    descriptors = describe_table(args, args.table)
    from mlis.features.build import unmatched
    from mlis.features.descriptors.describe import write_descriptors
    from mlis.features.images.files import find_images

    found: list[Unmatched] = []
    if args.images is not None:
        found = unmatched(find_images(args.images).class_names, descriptors.names)
    write_descriptors(descriptors, args.output)
    classes, size = descriptors.vectors.shape
    say(f"{args.output}: {classes} classes × {size} numbers, {descriptors.kind}")
    for note in descriptors.notes:
        say(f"  {note}")
    if args.images is not None:
        report_unmatched(found, args.output)
    if args.json:
        print_json({"classes": classes, "size": size, "unmatched": len(found)})


def describe_table(args: argparse.Namespace, table: Path) -> "Descriptors":
    """Descriptors of the classes of a table, as the flags of `add_text_flags` say."""
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
    if not (words.has_sentences and words.attributes):
        refuse(args, ["attribute_weight"], f"with {table}, without sentences and attributes")
    model = None
    if words.has_sentences or args.phrases:
        from mlis.features.descriptors import text_model as text

        model = text.TextModel(args.text_model or text.DEFAULT, device=args.device)
    else:
        refuse(args, ["text_model"], f"with {table}, without sentences or --phrases")
    if not words.has_sentences:
        refuse(args, ["subtract_mean"], f"with {table}, without sentences")
    given = args.attribute_weight
    weight = WEIGHT if given in (None, AUTO) else given
    how = {"subtract_mean": args.subtract_mean, "phrases": args.phrases}
    return describe(words, model, weight=weight, **how)


def report_unmatched(found: "Sequence[Unmatched]", output: Path) -> None:
    """Names without a counterpart, on stdout and in unmatched.csv."""
    from mlis.features.build import write_unmatched

    write_unmatched(found, output)
    for lacks, text in (
        ("description", "classes have images and no description"),
        ("images", "classes are described and have no images"),
    ):
        lines = [
            f"{each.name} (near: {each.near})" if each.near else each.name
            for each in found
            if each.lacks == lacks
        ]
        print_list(f"{len(lines)} {text}:", lines)
