"""Heads: from refined features (B, Dh) to one score per class (B, C).

A head is a module that knows its `kind` in `HEADS` and the sizes that rebuild it, so that a model
with it can be saved. A new one is a file here, its line in `single.py`, and a test.
"""

from mlis.model.heads.base import Head
from mlis.model.heads.cosine import CosineHead
from mlis.model.heads.counterfactual import CounterfactualHead, Counterfactuals
from mlis.model.heads.ensemble import EnsembleHead, Member
from mlis.model.heads.gated import GatedHead
from mlis.model.heads.gaussian import GaussianHead
from mlis.model.heads.linear import LinearHead
from mlis.model.heads.pairs import PairHead, RelationHead
from mlis.model.heads.shared_space import SharedSpaceHead
from mlis.model.heads.single import SINGLE_HEADS

HEADS: dict[str, type[Head]] = {**SINGLE_HEADS, EnsembleHead.kind: EnsembleHead}

__all__ = [
    "HEADS",
    "CosineHead",
    "CounterfactualHead",
    "Counterfactuals",
    "EnsembleHead",
    "GatedHead",
    "GaussianHead",
    "Head",
    "LinearHead",
    "Member",
    "PairHead",
    "RelationHead",
    "SharedSpaceHead",
]
