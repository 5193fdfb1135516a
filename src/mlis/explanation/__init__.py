"""Why this class: nearest training images, and the attributes and sentences that speak for it."""

from mlis.explanation.examples import Examples
from mlis.explanation.explainer import Explainer, can_explain, explain
from mlis.explanation.result import Attribute, Explanation, Neighbour
from mlis.explanation.sentences import SentenceEncoder, sentence_encoder

__all__ = [
    "Attribute",
    "Examples",
    "Explainer",
    "Explanation",
    "Neighbour",
    "SentenceEncoder",
    "can_explain",
    "explain",
    "sentence_encoder",
]
