"""Show the trade-off between seen and unseen classes of a model, or choose another one.

  mlis calibrate MODEL                                  what each choice gives
  mlis calibrate MODEL --calibration seen-loss=5 -o OUT
  mlis calibrate MODEL --calibration 0.3 --force        in place

The calibration constant is subtracted from the scores of seen classes: a larger one gives a higher
accuracy on unseen classes (U), and a lower one on seen classes (S). Nothing is trained. U, S and H
are those on validation classes, measured in training: before any class was added or removed.
Expect a lower U of a test with more unseen classes than were held out. `mlis predict` and
`mlis evaluate` take --calibration for one call.
"""

import argparse
from typing import TYPE_CHECKING, Any

from mlis.cli.arguments import Commands, add_command, add_common, load_recognizer, refuse
from mlis.cli.classes import opened, save
from mlis.cli.output import number, print_json, print_list, print_table, say
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mlis.evaluation import OperatingPoint
    from mlis.model.recognizer import Recognizer


def add_to(commands: Commands) -> None:
    """Add the command."""
    text = "choose the trade-off between seen and unseen classes of a trained model"
    parser = add_command(commands, "calibrate", run, text, __doc__)
    add_common(parser, "model", "--calibration")
    add_common(parser, "--output", required=False)
    add_common(parser, "--force", help="replace the model in FOLDER, or, without -o, MODEL itself")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.calibration is None:
        refuse(args, ["output", "force"], "without --calibration")
        _show(args)
        return
    from mlis.io.saved_models import one_model
    from mlis.model.calibrate import calibrate

    if args.output is None:
        if not args.force:
            raise SettingsError("no output: name a folder with -o, or replace MODEL with --force.")
        args.output = one_model(args.model)
    recognizer, exemplars = opened(args)
    changed = calibrate(recognizer, args.calibration)
    done, expected = f"calibration {changed.calibration:g}", None
    if (known := changed.metadata.tradeoff) is not None:
        point = known.at(changed.calibration)
        measures = ", ".join(f"{name} {number(getattr(point, name))}" for name in "USH")
        done += f" (on validation classes{_since(changed)}: {measures})"
        expected = _rounded(point)
    save(args, changed, exemplars, done, calibration=changed.calibration, expected=expected)


def _show(args: argparse.Namespace) -> None:
    from mlis.evaluation.tradeoff import EXAMPLES
    from mlis.evaluation.words import legend
    from mlis.model.calibrate import constant_of, no_curve

    recognizer = load_recognizer(args.model)
    known = recognizer.metadata.tradeoff
    if known is None:
        raise DataError(
            f"{args.model}: {no_curve(recognizer)}. Its constant is {recognizer.calibration:g}; "
            "set another with --calibration NUMBER, or train with --calibration h."
        )
    constants = {name: constant_of(recognizer, name) for name in EXAMPLES}
    constants = {"h" if name == "validation" else name: c for name, c in constants.items()}
    constants |= {"0": 0.0, "of the model": recognizer.calibration}
    points = {name: known.at(constant) for name, constant in constants.items()}
    rows = [
        [name, f"{point.constant:.4g}", *map(number, point[1:])] for name, point in points.items()
    ]
    print_table([["calibration", "constant", "U", "S", "H"], *rows])
    print_list("in words, per cent:", legend("USH"))
    say(f"on validation classes, {known.splits} class splits{_since(recognizer)}")
    if args.json:
        choices = {name: _rounded(point) for name, point in points.items()}
        print_json({"choices": choices, "splits": known.splits})


def _rounded(point: "OperatingPoint") -> dict[str, Any]:
    return {"constant": point.constant, **{name: round(getattr(point, name), 2) for name in "USH"}}


def _since(recognizer: "Recognizer") -> str:
    changed = [one for one in recognizer.metadata.history if one["action"] in ("add", "remove")]
    return ", before classes were added or removed" if changed else ""
