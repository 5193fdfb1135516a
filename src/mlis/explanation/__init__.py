"""Why this class: the nearest training images, and the attributes that speak for the answer."""

from mlis.explanation.explainer import Examples, Explainer, can_explain, explain
from mlis.explanation.result import Attribute, Explanation, Neighbour

__all__ = [
    "Attribute",
    "Examples",
    "Explainer",
    "Explanation",
    "Neighbour",
    "can_explain",
    "explain",
]
