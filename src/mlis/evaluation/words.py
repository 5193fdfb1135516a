"""What the measures mean, in plain words, for those who do not know the symbols."""

from collections.abc import Iterable

MEANING = {
    "U": "photographs of described-only (unseen) classes named right",
    "S": "photographs of classes with training images (seen) named right",
    "H": "both in one number: the harmonic mean of U and S",
    "T1": "photographs of described-only classes named right where no other class is possible",
    "AUSUC": "U and S over all trade-offs between them: the area under their curve",
    "overall": "photographs named right, whatever their class",
    "best H": "H at the best trade-off for these very photographs (optimistic)",
    "ECE": "how far probabilities are from the share named right",
    "Recall@1": "photographs whose nearest other one is of the same class",
    "MAP@R": "nearest photographs that are of the same class (mean average precision)",
    "risk": "photographs named wrong, of those that look most like known classes",
    "AURC": "photographs named wrong, averaged over all shares that are answered",
    "AUROC": "chance that a photograph of a known class looks more known than one of another",
}
"""By symbol; per cent, of U, S and T1 the mean over classes."""


def legend(symbols: Iterable[str]) -> list[str]:
    """A line for each symbol.

    >>> legend(["overall"])
    ['overall: photographs named right, whatever their class']
    """
    return [f"{symbol}: {MEANING[symbol]}" for symbol in symbols]


def in_words(U: float | None, S: float | None, H: float | None) -> str:
    """One line of U, S and H; what is undefined is left out. Empty without any.

    >>> in_words(43.6, 80.2, 56.5)
    'named right: 44 % of photographs of described-only classes (U), 80 % of photographs of
    classes with training images (S); both in one number: 56 (H)'
    """
    shares = (
        (U, "of photographs of described-only classes (U)"),
        (S, "of photographs of classes with training images (S)"),
    )
    said = [f"{value:.0f} % {what}" for value, what in shares if value is not None]
    both = "" if H is None else f"; both in one number: {H:.0f} (H)"
    return f"named right: {', '.join(said)}{both}" if said else ""
