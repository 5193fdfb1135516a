"""Write a model as ONNX, for onnxruntime and others: features → scores, or with --images image →
scores (EfficientNet-Lite only).

Input `features` (N, Dx) float32; with --images `pixels`, uint8, RGB: (N, P, P, 3), or (N, V, P, P,
3) for a model of V views, in the order of the metadata. The caller applies the EXIF rotation; for
the view `centre` resizes the shorter side to P / 0.875 (bicubic) and crops the central P × P, for
`whole` resizes to P × P; normalisation is part of the file. Outputs `scores` (N, C), calibrated,
and `probabilities` (N, C), the softmax of scores / temperature. The metadata contain class_names,
seen, calibration, backbone and preprocessing.

The file is kept only if onnxruntime's scores differ from PyTorch's by at most 1e-4 of the
largest.
"""

import argparse

from mlis.cli.arguments import Commands, add_command, add_common, load_recognizer, refuse
from mlis.cli.output import check_file, print_json, say


def add_to(commands: Commands) -> None:
    """Add the command."""
    text = "write a trained model as an ONNX file"
    parser = add_command(commands, "export", run, text, __doc__)
    add_common(parser, "model")
    add_common(parser, "--output", metavar="FILE.onnx", help="file to write")
    parser.add_argument("--images", action="store_true", help="include the image model")
    add_common(parser, "--backbone")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    check_file(args.output, ".onnx")
    if not args.images:
        refuse(args, ["backbone"], "without --images")
    from mlis.io.onnx import export_onnx

    recognizer = load_recognizer(args.model)
    done = export_onnx(recognizer, args.output, images=args.images, backbone=args.backbone)
    what = "images" if args.images else "features"
    say(
        f"{done.path}: {what} → scores of {len(recognizer.class_names)} classes, "
        f"{done.size / 2**20:.1f} MiB; largest relative difference between onnxruntime and "
        f"PyTorch: {done.difference:.1e}"
    )
    if args.json:
        print_json({"path": str(done.path), "bytes": done.size, "difference": done.difference})
