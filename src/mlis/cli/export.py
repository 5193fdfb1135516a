"""`mlis export`: a trained model as an ONNX file."""

import argparse
from pathlib import Path

from mlis.cli.common import add_common_flags, add_model_argument
from mlis.cli.printing import print_json, say
from mlis.errors import SettingsError

_DESCRIPTION = """\
Write a model as ONNX, for onnxruntime and others: features → scores, or with --images photograph →
scores (EfficientNet-Lite alone).

Input `features` (N, Dx) float32; with --images `pixels` (N, P, P, 3) uint8, RGB. What is outside
then: EXIF rotation, the shorter side to P / 0.875 (bicubic), the middle P × P; normalisation is
inside. Outputs `scores` (N, C), calibrated, and `probabilities` (N, C), their softmax. The
metadata hold class_names, seen, calibration, backbone and preprocessing.

The file appears only if onnxruntime's scores are within 1e-4 of PyTorch's, over the largest."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export", help="a trained model as an ONNX file", description=_DESCRIPTION
    )
    add_model_argument(parser)
    parser.add_argument(
        *("-o", "--output"), metavar="FILE.onnx", type=Path, required=True, help="file to write"
    )
    parser.add_argument("--images", action="store_true", help="with the image model in it")
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="--images: the image model, where MODEL does not know it or it is to be downloaded",
    )
    add_common_flags(parser, with_json=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    if args.output.suffix != ".onnx" or args.output.is_dir():
        raise SettingsError(f"-o {args.output}: name a file that ends in .onnx")
    if not args.output.absolute().parent.is_dir():
        raise SettingsError(f"-o {args.output}: name a file in a folder that exists")
    if args.backbone is not None and not args.images:
        raise SettingsError("--backbone has no meaning without --images")
    from mlis.io.checkpoint import load_model
    from mlis.io.onnx import export_onnx
    from mlis.io.saved_models import one_model

    model = one_model(args.model)

    recognizer = load_model(model, growth=False)
    done = export_onnx(recognizer, args.output, images=args.images, backbone=args.backbone)
    what = "images" if args.images else "features"
    say(
        f"{done.path}: {what} → scores of {len(recognizer.class_names)} classes, "
        f"{done.size / 2**20:.1f} MiB; onnxruntime's scores are {done.difference:.1e} off PyTorch's"
    )
    if args.json:
        print_json({"path": str(done.path), "bytes": done.size, "difference": done.difference})
