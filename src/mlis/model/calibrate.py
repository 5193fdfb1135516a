"""Changes the calibration constant of a trained recognizer, without training.

It is first chosen by :mod:`mlis.protocol`. Calibration of probabilities is another thing:
:mod:`mlis.evaluation.confidence`."""

from mlis.config import checked_calibration
from mlis.errors import SettingsError
from mlis.model.history import noted
from mlis.model.recognizer import Recognizer, replace


def calibrate(recognizer: Recognizer, calibration: float | str) -> Recognizer:
    """A recognizer with another calibration constant; recorded in its history.

    Its temperature stays.

    Args:
        recognizer: is not modified.
        calibration: "h": the constant with the best H on validation classes; "seen-loss=P": the
            largest at which S falls there by at most P points below S at constant 0; or the
            constant itself. What U, S and H are there says `recognizer.metadata.tradeoff`, which
            was measured in training: before classes were added or removed, if any were.

    Raises:
        SettingsError: it is none of them, or not a number, and the recognizer has no trade-off.
    """
    constant = constant_of(recognizer, calibration)
    to = f"{calibration}" if constant == calibration else f"{calibration} ({constant:g})"
    metadata = noted(recognizer, "calibrate", [], to=to)
    return replace(recognizer, calibration=constant, metadata=metadata)


def constant_of(recognizer: Recognizer, calibration: float | str) -> float:
    """The constant that `calibrate` sets. Raises what it does."""
    calibration = checked_calibration(calibration, "calibration")
    known = recognizer.metadata.tradeoff
    if isinstance(calibration, float):
        return calibration
    if known is None:
        raise SettingsError(
            f"calibration: expected a number, got {calibration!r}: {no_curve(recognizer)}. Give a "
            "number, or use a model that was trained with --calibration h."
        )
    return known.constant(calibration)


def no_curve(recognizer: Recognizer) -> str:
    """Why a model has no validation curve."""
    why = (
        "saved by an older version, or trained with a fixed constant or without validation classes"
    )
    if recognizer.transductive:
        why = "transductive, its constant set by unlabelled images"
    return f"the model has no validation curve (it is {why})"
