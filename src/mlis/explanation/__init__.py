"""Why this class: nearest training images, and the attributes and sentences that speak for it."""

from mlis.explanation.explainer import Examples, Explainer, can_explain, explain
from mlis.explanation.result import Attribute, Explanation, Neighbour
from mlis.explanation.sentences import Sentences, recorded_sentences

__all__ = [
    "Attribute",
    "Examples",
    "Explainer",
    "Explanation",
    "Neighbour",
    "Sentences",
    "can_explain",
    "explain",
    "recorded_sentences",
]
