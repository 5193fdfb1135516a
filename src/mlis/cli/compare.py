"""Test an image-text model and this package on the same photographs, in one table:

  zero-shot, class names    the class whose name, in prompt templates, fits the image best
  zero-shot, descriptions   the same with texts of --descriptions; and with names and texts
  linear probe              softmax regression on image features of seen classes; names no other
  mlis                      --method on the same image features and DATASET's descriptors; and on
                            the model's own texts, where auto may blend the zero-shot classifier

  mlis compare my-data --clip openai/clip-vit-base-patch32
  mlis compare my-data --clip /models/siglip --descriptions classes.csv -o my-data-siglip

DATASET is a folder that `mlis data build` wrote: its photographs are embedded by the model, unless
its features are the model's already. Test rows are those of DATASET, and influence no choice.
`Unseen` means without training images here: the model's own training, on images and texts from the
web, may well have had images of these classes, and even these photographs.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mlis.cli.arguments import Commands, add_command, add_common, at_least, duration
from mlis.cli.build import check_output
from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.cli.output import (
    number,
    print_json,
    print_list,
    print_table,
    say,
)
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mlis.data.dataset import GZSLDataset
    from mlis.experiments.compare import Row

MEASURES = ("U", "S", "H", "T1")


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        *(commands, "compare", run, "an image-text model (CLIP, SigLIP) and mlis in one table"),
        __doc__,
        usage="mlis compare DATASET --clip NAME [options]",
    )
    add_dataset_arguments(parser)
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--clip",
        metavar="NAME",
        required=True,
        help="an image-text model of transformers (CLIP, SigLIP, …), by hub name or folder",
    )
    group.add_argument(
        "--template",
        metavar="TEXT",
        action="append",
        help="a prompt with {} in place of the class name; may be repeated (default: CLIP's "
        "'a photo of a {}.' and its authors' seven for photographs of things)",
    )
    group.add_argument(
        "--descriptions",
        metavar="FILE",
        type=Path,
        help="texts of all classes: .csv, .tsv or .parquet, as for `mlis data build --classes`",
    )
    group.add_argument(
        "--method", metavar="NAME", default="auto", help="of `mlis fit` (default: auto)"
    )
    group.add_argument(
        "--budget", type=duration, metavar="TIME", help="of --method auto, each time"
    )
    group.add_argument(
        "--seed",
        dest="training_seed",
        metavar="N",
        type=at_least(0),
        default=0,
        help="of the method (default: 0)",
    )
    add_common(
        *(group, "--output"),
        required=False,
        help="keep the dataset with the model's image features, for `mlis fit`",
    )
    add_common(group, "--force", help="replace the dataset in FOLDER")
    add_common(group, "--workers", "--device")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.output is not None:
        check_output(args)
        if args.dataset is not None and args.output.resolve() == Path(args.dataset).resolve():
            raise SettingsError(f"-o {args.output}: is the dataset itself. Name another folder.")
    if args.budget is not None and args.method != "auto":
        raise SettingsError(f"--budget: only --method auto has one, got --method {args.method}.")
    from mlis.cli.progress import Progress
    from mlis.experiments.compare import TEMPLATES, compare, prompts
    from mlis.features.descriptors.text_tower import TextTower
    from mlis.methods.registry import build_method

    templates = args.template or TEMPLATES
    prompts((), templates)  # before anything is loaded
    options = {} if args.budget is None else {"budget": args.budget}
    method = build_method(args.method, **options)
    data = load(dataset_arguments(args))
    texts = _texts(args.descriptions)
    tower = TextTower(args.clip, device=args.device)
    data = _seen_by_model(args, data)
    with Progress() as progress:
        rows = compare(
            *(data, tower),
            templates=templates,
            descriptions=texts,
            method=method,
            seed=args.training_seed,
            device=args.device,
            callbacks=[progress(args.method)],
        )
    cut = tower.cut([text for one in (texts or {}).values() for text in one])
    _print(args, data, rows, cut)


def _texts(table: Path | None) -> Mapping[str, Sequence[str]] | None:
    """The texts of each class of a table."""
    if table is None:
        return None
    from mlis.features.descriptors.class_descriptions import read_descriptions

    described = read_descriptions(table)
    if not described.has_sentences:
        raise DataError(f"{table}: expected a column of sentences, got none. Describe the classes.")
    return dict(zip(described.names, described.sentences, strict=True))


def _seen_by_model(args: argparse.Namespace, data: "GZSLDataset") -> "GZSLDataset":
    """The dataset with the model's features of its photographs; kept with -o."""
    from mlis.cli.progress import ImageBar
    from mlis.features.backbones import load_backbone
    from mlis.features.backbones.base import CENTRE
    from mlis.features.images.dataset_images import save_beside_photographs, with_features_of

    backbone = load_backbone(args.clip, device=args.device, views=CENTRE)
    folder = None if args.dataset is None else Path(args.dataset)
    known = data.provenance.sources.get("backbone") or {}
    if known.get("fingerprint") != backbone.identity.fingerprint:
        if folder is None or not folder.is_dir():
            raise DataError(
                f"{data.provenance.name}: its features are not known to be of {backbone.identity}, "
                "and it has no photographs. Give a folder that `mlis data build` wrote."
            )
        with TemporaryDirectory() as scratch, ImageBar() as bar:
            output = args.output or Path(scratch)
            where = (data, folder, backbone, output)
            data = with_features_of(*where, workers=args.workers, progress=bar)
    if args.output is not None:
        save_beside_photographs(data, folder or args.output, args.output)
    return data


def _print(args: argparse.Namespace, data: "GZSLDataset", rows: "Sequence[Row]", cut: int) -> None:
    tested = rows[0].evaluation
    say(f"{data.provenance.name}, image features of {args.clip}, {tested.images} test images")
    cells = [
        [row.name, *(number(getattr(row.evaluation, name)) for name in MEASURES)] for row in rows
    ]
    print_table([["", *MEASURES], *cells])
    print_list("trained and chosen:", [f"{row.name}: {row.protocol}" for row in rows])
    if cut:
        say(f"{cut} descriptions are longer than the model reads and were truncated")
    for note in tested.notes:
        say(f"note: {note}")
    say("unseen: without training images here; the image-text model may have been trained on them")
    if args.json:
        about = {"dataset": data.provenance.name, "model": args.clip, "images": tested.images}
        print_json({**about, "rows": [row.to_dict() for row in rows]})
