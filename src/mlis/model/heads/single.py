"""Heads that are not made of others, by kind: what an ensemble can hold."""

from mlis.model.heads.base import Head
from mlis.model.heads.cosine import CosineHead
from mlis.model.heads.counterfactual import CounterfactualHead
from mlis.model.heads.gated import GatedHead
from mlis.model.heads.gaussian import GaussianHead
from mlis.model.heads.linear import LinearHead
from mlis.model.heads.pairs import PairHead, RelationHead
from mlis.model.heads.shared_space import SharedSpaceHead

SINGLE_HEADS: dict[str, type[Head]] = {
    one.kind: one
    for one in (
        *(LinearHead, CosineHead, PairHead, RelationHead, GaussianHead),
        *(GatedHead, CounterfactualHead, SharedSpaceHead),
    )
}
