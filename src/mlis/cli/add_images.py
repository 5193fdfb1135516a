"""Add images to classes of a trained model, or classes of which there are a few images, without its
training data.

IMAGES is folders of images, each named after its class (photos/okapi), or a folder of such folders;
or features with labels: a folder of features, a .npz, .csv or .parquet file, or .npy with --labels.
Rows marked `test` are not used. Classes that the model does not know are added: --classes describes
them, as CLASSES of `mlis add-classes`; one that it does not describe is known by its images alone.
Descriptions of other classes are not used.

What the description of a class predicts and what its images show are weighed by their
uncertainties. A model of the method gaussian does this in closed form; for the others the
classifier is fitted again, from exemplars.safetensors beside the model. Calibration is unchanged,
and classes that had no image in training remain unseen ones. Results that are stored with the model
describe the model before the change.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlis.cli.arguments import Commands, add_command, add_common, refuse
from mlis.cli.classes import described, listed, opened, save
from mlis.cli.output import counted, report_unread, say
from mlis.errors import DataError

if TYPE_CHECKING:
    from mlis.features.labelled_rows import LabelledRows
    from mlis.model.recognizer import Recognizer


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        *(commands, "add-images", run, "add images to classes of a trained model"),
        __doc__,
    )
    add_common(parser, "model")
    parser.add_argument("images", metavar="IMAGES", type=Path, nargs="+", help="images or features")
    parser.add_argument("--labels", metavar="FILE", type=Path, help="labels of a .npy file")
    parser.add_argument("--label-column", metavar="NAME", help="default: label")
    parser.add_argument("--classes", metavar="FILE", type=Path, help="described new classes")
    parser.add_argument("--vectors", action="store_true", help="FILE has numeric descriptors")
    parser.add_argument("--names", metavar="FILE", type=Path, help="names of .npy descriptors")
    add_common(parser, "--text-model", "--backbone", "--workers", "--device")
    add_common(parser, "--output")
    add_common(parser, "--force", help="replace the model in FOLDER")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    started = time.perf_counter()
    from mlis.incremental import add_images

    recognizer, exemplars = opened(args, args.device)
    names, vectors, sentences = (), (), {}
    if args.classes is None:
        refuse(args, ("vectors", "names", "text_model"), "without --classes")
    else:
        names, vectors, sentences = described(args, recognizer)
    rows = _labelled(args, recognizer)
    images = rows.by_class(recognizer.class_names)
    added = images.keys() - set(recognizer.class_names)
    descriptors = {n: v for n, v in zip(names, vectors, strict=True) if n in added}
    if names and not descriptors:
        raise DataError(
            f"{args.classes}: expected a description of a class that is added "
            f"({listed(sorted(added))}), got {listed(names)}. Correct the names, or leave "
            "--classes out."
        )
    if unused := [name for name in names if name not in added]:
        say(f"not used from {args.classes}, as known or without images: {listed(unused)}")
    grown = add_images(
        *(recognizer, exemplars, images, descriptors),
        sentences={name: texts for name, texts in sentences.items() if name in added},
        note=", ".join(path.resolve().name for path in args.images[:12]),
    )
    new = [name for name in grown[0].class_names if name not in recognizer.class_names]
    total, classes = sum(map(len, images.values())), len(images)
    done = f"added {counted(total, 'image')} of {counted(classes, 'class', 'classes')}"
    done += f", of which are new: {listed(new)}" if new else ""
    save(args, *grown, done, seconds=time.perf_counter() - started)
    bad = [f"{one.path}: {one.reason}" for one in rows.bad]
    report_unread(bad, len(rows.labels) + len(bad))


def _labelled(args: argparse.Namespace, recognizer: "Recognizer") -> "LabelledRows":
    """Features and classes of images, or of the rows of a file."""
    from mlis.cli.progress import ImageBar
    from mlis.data.io.feature_rows import is_features
    from mlis.features.images.files import images_of_classes
    from mlis.features.labelled_rows import embed_labelled, read_labelled
    from mlis.image_classifier import ImageClassifier, check_backbone

    name = ", ".join(map(str, args.images))
    if missing := [path for path in args.images if not path.exists()]:
        raise DataError(f"{missing[0]}: no such file or folder.")
    if single := [path for path in args.images if not path.is_dir() and not is_features(path)]:
        raise DataError(
            f"{single[0]}: expected a folder of images named after their class, such as "
            f"photos/okapi, or features, got a file. Put the image into such a folder, and give "
            "the folder."
        )
    pictures = [path for path in args.images if path.is_dir() and not is_features(path)]
    if not pictures:
        refuse(args, ("backbone", "workers"), "with features, which are already computed")
        rows = read_labelled(args.images, args.labels, args.label_column or "", testing=False)
        check_backbone(recognizer, rows.backbone, name)
        return rows
    if len(pictures) < len(args.images):
        raise DataError(f"{name}: expected images or features, got both. Add each alone.")
    refuse(args, ("labels", "label_column"), "with folders of images, which are named as classes")
    images = [image for path in pictures for image in images_of_classes(path)]
    backbone = ImageClassifier(recognizer, args.backbone, device=args.device).backbone
    with ImageBar() as bar:
        bar.started(len(images), 0)
        return embed_labelled(name, images, backbone, workers=args.workers, done=bar.done)
