"""Arguments shared by several commands: types of values, common flags, a flag for every setting."""

import argparse
import dataclasses
import inspect
import math
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from mlis import presets
from mlis.cli.output import complain
from mlis.config import Config, checked_calibration, checked_rate, read_toml, resolve
from mlis.errors import SettingsError

if TYPE_CHECKING:
    from mlis.compute.ray_cluster import Cluster
    from mlis.model.recognizer import Recognizer

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = argparse._SubParsersAction


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of descriptions; `-o, --output FILE`, not `-o FILE, --output FILE`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors that accepts no abbreviated flags."""

    def __init__(self, *args: Any, **kwargs: Any):
        options = {"allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(*args, **{**options, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where to read more; exit with 2."""
        complain(f"{message} (see `{self.prog} --help`)")
        raise SystemExit(2)


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    text: str,
    description: str | None = None,
    *,
    usage: str | None = None,
    json: bool = True,
) -> argparse.ArgumentParser:
    """Add a command; return its parser, which has `--verbose`, and `--json` if it has a result.

    It is described by the docstring of `run`, unless a `description` is given.
    """
    description = description or inspect.getdoc(run)
    parser = commands.add_parser(name, help=text, description=description, usage=usage)
    parser.register("type", Path, _path)
    add_common(parser, *(["--json"] if json else []), "--verbose")
    parser.set_defaults(run=run)
    return parser


# Types: each is a `type` of `add_argument`, or makes one.


def filled(text: str) -> str:
    """Text that is not empty, as an unset variable of a shell is."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name or path, got an empty one")
    return text


def _path(text: str) -> Path:
    """What `type=Path` stands for: an empty one would be the current folder."""
    return Path(filled(text))


def at_least(low: int) -> Callable[[str], int]:
    """Integers ≥ `low`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number ≥ {low}, got {text!r}")
        return int(text)

    return parse


def not_negative(text: str) -> float:
    """A finite number ≥ 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number ≥ 0, got {text!r}")
    return value


def duration(text: str) -> float:
    """Seconds: "90", "60s", "10m", "2h", or "none" for no limit.

    >>> duration("10m"), duration("none")
    (600.0, 1000000000.0)
    """
    if text == "none":
        return 1e9
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    value = not_negative(text[:-1] if factor else text) * (factor or 1)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a time above 0, such as 60s or 10m, got {text}")
    return value


def share(text: str) -> float:
    """A share above 0 and below 1: 0.05, or "5%"."""
    try:
        return checked_rate(text)
    except SettingsError:
        raise argparse.ArgumentTypeError(
            f"expected a share above 0 and below 1, such as 5% or 0.05, got {text!r}"
        ) from None


def seeds(text: str) -> tuple[int, ...]:
    """Distinct seeds: numbers and ranges, separated by commas.

    >>> seeds("0-2, 7")
    (0, 1, 2, 7)
    """
    numbers: list[int] = []
    for part in text.split(","):
        low, _, high = (bound.strip() for bound in part.partition("-"))
        high = high or low
        if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
            raise argparse.ArgumentTypeError(f"expected seeds such as 0-4 or 0,2, got {text!r}")
        numbers += range(int(low), int(high) + 1)
    return _distinct(numbers, text)


def names(text: str) -> tuple[str, ...]:
    """Distinct names, separated by commas."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"expected names such as A,B, got {text!r}")
    return _distinct(found, text)


def _distinct(values: list[Any], text: str) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"expected distinct values, got {text!r}")
    return tuple(values)


def calibration(text: str) -> float | str:
    """ "h", "seen-loss=P" or a number.

    >>> calibration("seen-loss=5"), calibration("0.3")
    ('seen-loss=5', 0.3)
    """
    try:
        return checked_calibration(_number_or_name(text), "")
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from None


# Common flags

_SHORT = {"--output": "-o", "--verbose": "-v"}
_COMMON: dict[str, dict[str, Any]] = {
    "model": {
        "metavar": "MODEL",
        "type": Path,
        "help": "folder of a saved model, or of a run with exactly one",
    },
    "--output": {"metavar": "FOLDER", "type": Path, "required": True, "help": "folder to write"},
    "--force": {"action": "store_true"},
    "--calibration": {
        "metavar": "X",
        "type": calibration,
        "help": "h: the calibration constant with the best H on validation classes; seen-loss=P: "
        "the largest at which S falls by at most P points there; or a number",
    },
    "--device": {  # no choices: `cuda:1` is possible
        "default": "auto",
        "help": "where to compute: auto (default), cpu, cuda or cuda:N",
    },
    "--backbone": {
        "metavar": "NAME",
        "help": "images: the image model, if MODEL does not know it or it has moved; a model of "
        "the hub is downloaded only if it is named here. Views of each image are those of MODEL",
    },
    "--text-model": {
        "metavar": "NAME",
        "help": "the text model, if it has moved since training; a model of the hub is downloaded "
        "only if it is named here",
    },
    "--reject": {
        "type": share,
        "metavar": "RATE",
        "help": "answer 'unknown' for what looks like none of the classes; RATE, e.g. 5%% or 0.05, "
        "is the share of images of known classes that may be turned away",
    },
    "--workers": {
        "type": at_least(1),
        "metavar": "N",
        "help": "images: decoding threads (default: number of processors)",
    },
    "--json": {
        "action": "store_true",
        "help": "print the result as one JSON object on the last line",
    },
    "--verbose": {"action": "store_true", "help": "log more on stderr"},
}


def add_common(parser: argparse._ActionsContainer, *flags: str, **changes: Any) -> None:
    """Add common arguments by name; `changes` replace keywords of `add_argument` for all of them.

    >>> parser = argparse.ArgumentParser()
    >>> add_common(parser, "--output", metavar="RUN", required=False)
    >>> parser.parse_args(["-o", "run"]).output.name
    'run'
    """
    for flag in flags:
        aliases = (_SHORT[flag], flag) if flag in _SHORT else (flag,)
        parser.add_argument(*aliases, **{**_COMMON[flag], **changes})


def refuse(args: argparse.Namespace, dests: typing.Iterable[str], reason: str) -> None:
    """Refuse flags that were given although they would have no effect.

    Args:
        args: parsed arguments.
        dests: names in `args` that are absent, None, False or empty if the flag was not given.
        reason: continues "--flag: not allowed".

    Raises:
        SettingsError: names the flags.
    """
    given = [
        name
        for name in dests
        if (value := getattr(args, name, None)) is not None and value is not False and value != ()
    ]
    if given:
        flags = [
            setting_flag(*name.split(".")) if "." in name else f"--{name.replace('_', '-')}"
            for name in given
        ]
        them = "it" if len(given) == 1 else "them"
        raise SettingsError(f"{', '.join(flags)}: not allowed {reason}. Leave {them} out.")


def load_recognizer(model: Path, device: str = "cpu") -> "Recognizer":
    """The only model at MODEL, on a device.

    Raises:
        ModelFileError: there is none, or several, or it is damaged.
    """
    from mlis.compute.precision import Precision
    from mlis.io.checkpoint import load_model
    from mlis.io.saved_models import one_model

    return load_model(one_model(model), Precision.of("float32", device).device)


_RAY_ONLY = ("address", "cores", "gpus")


def add_engine_flags(parser: argparse._ActionsContainer, what: str) -> None:
    """`--engine` and the flags of `ray`; `what` is the work of one task."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: distribute the work over a Ray cluster (extra `ray`)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="ray: of the cluster, or `auto` on one of its machines (default: only this machine)",
    )
    parser.add_argument(
        "--cores", type=int, metavar="N", help=f"ray: cores per {what} (default: 1)"
    )
    parser.add_argument(
        "--gpus",
        type=float,
        metavar="X",
        help=f"ray: GPUs per {what}, may be a fraction (default: 1 if --device selects cuda)",
    )


def cluster_of(args: argparse.Namespace) -> "Cluster | None":
    """The cluster that the flags of `add_engine_flags` describe; None: no Ray.

    Raises:
        SettingsError: a flag of another engine is given, or a number is out of range.
    """
    if args.engine == "local":
        return refuse(args, _RAY_ONLY, "without --engine ray")
    from mlis.compute.precision import Precision
    from mlis.compute.ray_cluster import Cluster

    if ":" in args.device:
        raise SettingsError(
            f"--device {args.device}: expected cpu, cuda or auto with --engine ray: Ray chooses "
            "which GPU. Say cuda."
        )
    given = {name: value for name in _RAY_ONLY if (value := getattr(args, name)) is not None}
    if "gpus" not in given:
        given["gpus"] = float(Precision.of("float32", args.device).device.type == "cuda")
    return Cluster(**given)


# Settings

COMPONENTS = "refinement.components"


def sections() -> Iterator[tuple[str, type[Any], tuple[dataclasses.Field[Any], ...]]]:
    """The sections of `Config`: name, class, fields."""
    for f in dataclasses.fields(Config):
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            yield f.name, f.type, dataclasses.fields(f.type)


def setting_flag(section: str, field: str) -> str:
    """`--FIELD`, or `--SECTION-FIELD` if several sections have a field of that name.

    >>> setting_flag("refinement", "gamma"), setting_flag("generation", "batch_size")
    ('--gamma', '--batch-size')
    >>> setting_flag("generation", "steps")
    '--generation-steps'
    """
    uses = Counter(f.name for _, _, section_fields in sections() for f in section_fields)
    name = field if uses[field] == 1 else f"{section}-{field}"
    return f"--{name.replace('_', '-')}"


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--preset`, `--settings` and a flag for every setting, grouped by section."""
    group = parser.add_argument_group(
        "settings", "Flags override the settings file, which overrides the preset and defaults."
    )
    group.add_argument(
        "--preset",
        metavar="NAME",
        help=f"none, {', '.join(presets.names())} (default: DATASET's own, if it has one)",
    )
    group.add_argument("--settings", metavar="FILE.toml", type=Path, help="settings file")
    group.add_argument(
        "--precision",
        choices=typing.get_args(typing.get_type_hints(Config)["precision"]),
        default=argparse.SUPPRESS,
        help="of large matrix products (default: auto: bfloat16 where it is faster, else float32)",
    )
    for section, owner, section_fields in sections():
        group = parser.add_argument_group(section, (owner.__doc__ or "").splitlines()[0])
        for f in section_fields:
            _add_setting(group, section, f)


def _add_setting(group: argparse._ArgumentGroup, section: str, f: dataclasses.Field[Any]) -> None:
    dest = f"{section}.{f.name}"
    help_text = f"{f.metadata['help']} (default: {f.default})".replace("%", "%%")
    options: dict[str, Any] = {}
    if dest == COMPONENTS:
        choices = ", ".join(typing.get_args(f.type))
        options = {"type": names, "metavar": "A[,B…]"}
        help_text = f"one, or several to compare, of {choices}; {help_text}"
    elif typing.get_origin(f.type) is Literal:
        options = {"choices": typing.get_args(f.type)}
    elif f.type in (int, float):
        options = {"type": f.type, "metavar": "N" if f.type is int else "X"}
    elif f.type is str:
        options = {"metavar": "NAME"}
    else:  # a number or a name, such as calibration
        options = {"type": _number_or_name, "metavar": "X"}
    # SUPPRESS: a flag that was not given must not hide preset and settings file
    options |= {"dest": dest, "default": argparse.SUPPRESS, "help": help_text}
    group.add_argument(setting_flag(section, f.name), **options)


def _number_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags, nested as in `Config.to_dict`."""
    given: dict[str, Any] = {"precision": args.precision} if "precision" in args else {}
    for section, _, section_fields in sections():
        for f in section_fields:
            if (dest := f"{section}.{f.name}") in args:
                given.setdefault(section, {})[f.name] = getattr(args, dest)
    return given


def resolve_settings(args: argparse.Namespace) -> tuple[Config, tuple[str, ...], str]:
    """Settings, components to train, and the name of the preset that they start from.

    Raises:
        SettingsError: an unknown preset or setting, a value out of range, an unreadable file.
    """
    preset = args.preset or presets.own_preset(args.dataset or "")
    layers = [presets.load(preset)]
    if args.settings is not None:
        layers.append(read_toml(args.settings))
        try:
            Config().check(layers[-1])
        except SettingsError as error:
            raise SettingsError(f"settings file {args.settings}: {error}") from None
    flags = given_settings(args)
    components: tuple[str, ...] = flags.get("refinement", {}).pop("components", ())
    if components:  # Config holds one: the last, as in the bottom line of the paper's table
        flags["refinement"]["components"] = components[-1]
    config = resolve(*layers, flags)
    for name in components:
        config.replace({"refinement": {"components": name}})
    return config, components or (config.refinement.components,), preset
