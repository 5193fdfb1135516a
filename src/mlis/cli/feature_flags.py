"""Flags of images and words, for `mlis features` and `mlis data build`."""

import argparse
from pathlib import Path

from mlis.cli.common import add_device_flag


def add_image_flags(parser: argparse._ActionsContainer) -> None:
    """What says how images are found and computed."""
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="efficientnet-lite2 (default), -lite0 or -lite1: installed weights; or any vision "
        "model of transformers by hub name or folder, such as microsoft/resnet-101",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help=".csv, .tsv or .parquet with columns path (below DIR) and class, perhaps split "
        "(train, val, test); only the files that it names are read",
    )
    parser.add_argument(
        "--path-column", metavar="NAME", default="", help="of --labels (default: path)"
    )
    parser.add_argument(
        "--class-column", metavar="NAME", default="class", help="of --labels (default: class)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode (default: processors)"
    )
    parser.add_argument(
        "--shard-images",
        type=int,
        default=512,
        metavar="N",
        help="images a shard: the most that a kill can lose (default: 512)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the model (default: auto: bfloat16 where it is faster, else float32)",
    )
    add_device_flag(parser)


def add_word_flags(parser: argparse._ActionsContainer) -> None:
    """What says how descriptions become vectors."""
    parser.add_argument(
        "--sentences", metavar="COLUMN", nargs="+", help="these, and no others; may be `name`"
    )
    parser.add_argument("--attributes", metavar="COLUMN", nargs="+", help="these, and no others")
    parser.add_argument(
        "--categories",
        metavar="COLUMN",
        nargs="+",
        help="these, and no others: one number a value, 1 where the class has it",
    )
    parser.add_argument(
        "--missing",
        metavar="VALUE",
        nargs="+",
        default=(),
        help="of attributes: read as nothing, besides empty cells, such as -1",
    )
    parser.add_argument(
        "--name-column", metavar="COLUMN", default="name", help="of the names (default: name)"
    )
    parser.add_argument(
        "--attribute-weight",
        type=float,
        metavar="W",
        help="share of the cosine that attributes decide beside sentences (default: 0.5)",
    )
    parser.add_argument(
        "--text-model",
        metavar="NAME",
        help="all-MiniLM-L6-v2 (default): installed weights; or any model of "
        "sentence-transformers or transformers by hub name or folder",
    )
