"""`--engine`: whether this machine works, or a Ray cluster."""

import argparse
from typing import TYPE_CHECKING, Any

from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.compute.ray_cluster import Cluster


def add_engine_flags(parser: argparse._ActionsContainer, what: str) -> None:
    """`--engine` and what belongs to `ray`; `what` is done by each task."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: spread over the machines of a Ray cluster (extra `ray`)",
    )
    ray_only: dict[str, Any] = {"default": argparse.SUPPRESS}
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="ray: of the cluster, or auto on one of its machines (default: this machine alone)",
        **ray_only,
    )
    parser.add_argument(
        "--cores", type=int, metavar="N", help=f"ray: cores of each {what} (default: 1)", **ray_only
    )
    parser.add_argument(
        "--gpus",
        type=float,
        metavar="X",
        help=f"ray: GPUs of each {what}, perhaps a share (default: 1 where --device comes to cuda)",
        **ray_only,
    )


def cluster_of(args: argparse.Namespace) -> "Cluster | None":
    """What the flags of `add_engine_flags` ask for; None: this machine, without Ray.

    Raises:
        SettingsError: a flag of another engine is given, or a number is out of range.
    """
    from mlis.compute.ray_cluster import Cluster

    given = {name: v for name, v in vars(args).items() if name in ("address", "cores", "gpus")}
    if args.engine == "local":
        if given:
            raise SettingsError(f"--{next(iter(given))} has no meaning without --engine ray")
        return None
    if ":" in args.device:
        raise SettingsError(f"--device {args.device}: Ray chooses which GPU; say cuda")
    if "gpus" not in given:
        from mlis.compute.precision import Precision

        given["gpus"] = float(Precision.of("float32", args.device).device.type == "cuda")
    return Cluster(**given)
