"""What the tests of methods share: chosen on validation classes, tested once."""

from typing import Any

from mlis.data.dataset import GZSLDataset
from mlis.evaluation import Evaluation
from mlis.methods.base import Method
from mlis.model.recognizer import Recognizer
from mlis.pipeline import Trained
from mlis.protocol import Chosen, evaluate_on_test


def choose_and_test(method: Method, data: GZSLDataset, **how: Any) -> tuple[Chosen, Evaluation]:
    chosen = method.choose(data, device="cpu", **how)
    return chosen, evaluate_on_test(chosen.recognizer, data)


def candidates(method: Method, *arguments: Any, **how: Any) -> dict[Any, Recognizer]:
    """Every alternative and what was trained with it."""
    found = method.candidates(*arguments, device="cpu", **how)
    return {one: Trained.of(trained).recognizer for one, trained in found}
