"""What a run was given, in words that stand beside its figures: features, descriptors, split.

Figures of one benchmark are comparable only where all three agree: with 1024-d sentences in place
of 312 attributes the same method gains ten points of H on CUB.
"""

from mlis.data.dataset import GZSLDataset
from mlis.data.io.benchmarks import PROPOSED_SPLITS

ATTRIBUTES, SENTENCES = "attributes", "sentence embeddings"
_KINDS = {
    "FLO": SENTENCES,
    **dict.fromkeys(("AWA1", "AWA2", "AWA2WEB", "SUN", "aPY", "CUB"), ATTRIBUTES),
}
NAMES = ("features", "descriptors", "split")


def inputs_of(dataset: GZSLDataset) -> dict[str, str]:
    """By `NAMES`, for the provenance of a row.

    >>> from mlis.data.letters.dataset import load_letters
    >>> inputs_of(load_letters().dataset)["descriptors"]
    'parts of the Unicode names, 44-d'
    """
    facts, fingerprint = dataset.provenance, dataset.split.fingerprint
    return {
        "features": _sized(facts.features, dataset.features.shape[1]),
        "descriptors": _sized(
            ", ".join(filter(None, (kind_of(dataset), facts.descriptors))),
            dataset.descriptors.shape[1],
        ),
        "split": f"{_version(facts.name, fingerprint)}, {fingerprint}",
    }


def _version(name: str, fingerprint: str) -> str:
    if name not in PROPOSED_SPLITS:
        return "own split"
    return f"{'' if fingerprint == PROPOSED_SPLITS[name] else 'not '}proposed split v1"


def kind_of(dataset: GZSLDataset) -> str:
    """Whether descriptors are attributes or sentence embeddings; empty where it is not known."""
    facts = dataset.provenance
    if facts.descriptors.startswith("sent"):  # CUB has both
        return SENTENCES
    return _KINDS.get(facts.name, "")


def _sized(text: str, size: int) -> str:
    return f"{text}, {size}-d" if text else f"{size}-d"
