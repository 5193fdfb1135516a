"""Serve predictions of a saved model over HTTP until Ctrl-C.

POST /predict/images takes image files, POST /predict/features rows of features, GET /classes
lists the classes; POST /classes adds one by its description, PATCH and DELETE /classes/NAME rename
and remove it; GET /health, /metrics (Prometheus) and /openapi.json. A web page does the same. The
server makes no outgoing connection. It needs the extra `serve`: pip install 'mlis[serve]'.

Only this machine can connect, unless --host says otherwise. Predictions need no password; changes
of the classes from other machines need --allow-changes, --hostname and --token-file.
docs/serving.md describes how to put the server behind a proxy.
"""

import argparse
import functools
import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from mlis.cli.arguments import Commands, add_command, add_common
from mlis.errors import SettingsError
from mlis.serving.settings import Access, Limits, is_loopback, read_token

if TYPE_CHECKING:
    from mlis.serving.engine import Engine

logger: logging.Logger = logging.getLogger(__name__)

_METAVARS = {"max_upload": "MIB", "rate": "N", "timeout": "SECONDS", "max_wait": "MS"}


def add_to(commands: Commands) -> None:
    """Add the command."""
    text = "serve predictions over HTTP, with a page to try it"
    parser = add_command(commands, "serve", run, text, __doc__, json=False)
    add_common(parser, "model")
    _add_access_flags(parser)
    parser.add_argument(
        "--descriptions",
        metavar="TABLE",
        type=Path,
        help="table of classes, as for `mlis data build`, whose sentences are shown (default: "
        "those that the model keeps)",
    )
    parser.add_argument(
        "--training",
        metavar="PATH",
        type=Path,
        help="labelled features of the training or a dataset folder, whose images explanations "
        "name (default: classes of those kept beside the model)",
    )
    add_common(parser, "--reject", "--backbone", "--text-model", "--device")
    group = parser.add_argument_group("limits")
    for field in fields(Limits):
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=field.type if field.type is int else float,
            default=field.default,
            metavar=_METAVARS.get(field.name, "N"),
            help=f"{field.metadata['help']} (default: {field.default:g})",
        )


def _add_access_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free port (default: 8000)")
    parser.add_argument("--no-page", action="store_true", help="serve only the API")
    parser.add_argument(
        "--allow-changes",
        action=argparse.BooleanOptionalAction,
        help="allow adding, renaming and removing classes (default: only on a loopback address)",
    )
    parser.add_argument(
        "--hostname",
        action="append",
        default=[],
        metavar="NAME",
        help="host name that requests may use; repeatable (default: localhost and the address)",
    )
    parser.add_argument(
        "--proxy",
        metavar="ADDRESS",
        help="address of a reverse proxy whose X-Forwarded-For and -Proto are trusted",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="file with the token that changes need: Authorization: Bearer TOKEN",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    access = Access.of(
        args.host,
        allow_changes=args.allow_changes,
        page=not args.no_page,
        hostnames=tuple(args.hostname),
        proxy=args.proxy,
        token="" if args.token_file is None else read_token(args.token_file),
    )
    _progress(str(args.model))
    from mlis.io.saved_models import one_model

    model = one_model(args.model)
    try:
        from mlis.serving.run import serve
    except ImportError as error:
        raise SettingsError(
            f"`mlis serve` needs packages that are not installed ({error.name}): "
            "pip install 'mlis[serve]'"
        ) from error
    from mlis.serving.load import load_engine

    engine = load_engine(
        model,
        args.device,
        backbone=args.backbone,
        text_model=args.text_model,
        changes=access.allow_changes,
        descriptions=args.descriptions,
        reject=args.reject,
        training=args.training,
        progress=_progress,
    )
    if not is_loopback(args.host):
        logger.warning(
            "other machines can connect to %s, and predictions need no password. Put a proxy with "
            "a password in front, or use 127.0.0.1",
            args.host,
        )
    serve(engine, limits, access, args.port, functools.partial(_say_ready, engine, access))


def _progress(what: str) -> None:
    print(f"loading {what}", file=sys.stderr, flush=True)


def _say_ready(engine: "Engine", access: Access, address: str) -> None:
    kinds = "images and features" if engine.backbone else "features"
    print(f"ready: {len(engine.catalogue.names)} classes, {kinds}; Ctrl-C stops")
    if engine.recognizer.transductive:
        print(
            "transductive: adapted to unlabelled images; its figures are not comparable with those "
            "of inductive models"
        )
    if access.page:
        print(f"page: {address}/")
    print(f"API:  {address}/openapi.json", flush=True)
