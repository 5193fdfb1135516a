"""Adapt a trained model to unlabelled images of its classes, without its training data.

  mlis adapt runs/mine --unlabelled photos/ -o models/adapted

--unlabelled is a folder of images, or features: a folder of features or a dataset folder (all its
rows), .npy, .npz, .mat, .csv or .parquet. Labels are not read. The unseen classes are moved to
where these images suggest, and the calibration constant with them (expectation maximisation).
It needs a Gaussian classifier: a model of the method auto, where it kept that one, or gaussian.

The new model is labelled *transductive* wherever it is shown or measured: it may have been adapted
to the images that it is tested on, so its figures are not comparable with inductive ones.
Results that were stored with the model are not kept. The images should show classes of the
model.
"""

import argparse
import time
from pathlib import Path

from mlis.cli.arguments import Commands, add_command, add_common
from mlis.cli.classes import opened, save
from mlis.cli.datasets import read_unlabelled
from mlis.errors import SettingsError


def add_to(commands: Commands) -> None:
    """Add the command."""
    text = "adapt a trained model to unlabelled images (transductive)"
    parser = add_command(commands, "adapt", run, text, __doc__)
    add_common(parser, "model")
    parser.add_argument(
        *("--unlabelled",), metavar="PATH", type=Path, required=True, help="images or features"
    )
    add_common(parser, "--backbone", "--workers", "--device")
    add_common(parser, "--output")
    add_common(parser, "--force", help="replace the model in FOLDER")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    started = time.perf_counter()
    from mlis.incremental import adapt
    from mlis.io.saved_models import run_of

    if (found := run_of(args.output)) is not None:
        raise SettingsError(
            f"-o {args.output}: expected a folder outside of runs, got one in {found}, whose "
            "results are inductive. Name another folder."
        )
    recognizer, exemplars = opened(args, args.device)
    rows = read_unlabelled("--unlabelled", args.unlabelled, recognizer, args)
    adapted = adapt(recognizer, rows, note=args.unlabelled.resolve().name)
    done = f"adapted to {len(rows):,} unlabelled images: transductive"
    done += f"; calibration {recognizer.calibration:.4g} → {adapted.calibration:.4g}"
    seconds = time.perf_counter() - started
    save(args, adapted, exemplars, done, seconds, images=len(rows), transductive=True)
