"""What an explanation holds, and how it is written."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

LONGEST = 160
"""Characters of a sentence in a text."""


@dataclass(frozen=True)
class Attribute:
    """What one attribute, or one sentence, says.

    Attributes:
        name: of the column; or the sentence.
        evidence: log-likelihood ratio of answer and runner-up; negative: it speaks against it.
        image: predicted from the image, on the scale of the descriptors.
        answer, runner_up: of the two classes' descriptors; or how well the sentence fits them, a
            cosine.
        of: the class that the sentence describes; empty for an attribute.
    """

    name: str
    evidence: float
    image: float
    answer: float
    runner_up: float
    of: str = ""


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        class_name: its class.
        similarity: cosine with the image, from -1 to 1.
        name: its path or row; empty for one of the exemplar buffer, which keeps none.
    """

    class_name: str
    similarity: float
    name: str = ""


@dataclass(frozen=True)
class Explanation:
    """Why one image was recognised as the likeliest class.

    Attributes:
        answer, runner_up: the likeliest and the second class; the latter is empty where there is
            no other class.
        similarity: cosine of the descriptor predicted from the image with those of answer and
            runner-up, the seen classes' mean subtracted; None where one has no descriptor.
        attributes: at most five attributes, and sentences of the two classes, of the largest
            evidence, what speaks for the answer first, what speaks against it last; empty where
            columns have no names, or no attribute tells the two classes apart.
        nearest: at most three training images, the nearest first; empty without any to compare.
        display_names: of these classes, for the texts.
    """

    answer: str
    runner_up: str
    similarity: tuple[float, float] | None
    attributes: tuple[Attribute, ...]
    nearest: tuple[Neighbour, ...]
    display_names: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `because` and `resembles` say the rest as text."""
        nearest = [
            {"class": one.class_name, "similarity": round(one.similarity, 4), "name": one.name}
            for one in self.nearest
        ]
        attributes = [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(one).items()}
            for one in self.attributes
        ]
        similarity = None if self.similarity is None else [round(c, 4) for c in self.similarity]
        return {
            "answer": self.answer,
            "runner_up": self.runner_up,
            "because": self.because,
            "resembles": self.resembles,
            "similarity": similarity,
            "attributes": attributes,
            "nearest": nearest,
        }

    @property
    def because(self) -> str:
        """Evidence of attributes and sentences; without any, how similar the descriptors are."""
        if self.attributes:
            return "; ".join(f"{self._shown(one)} {one.evidence:+.1f}" for one in self.attributes)
        if self.similarity is None:
            return ""
        own, other = self.similarity
        names = [self.display_names.get(one, one) for one in (self.answer, self.runner_up)]
        own, other = (round(value, 2) + 0.0 for value in (own, other))  # no -0.00
        return f"similarity to the description of {names[0]} {own:+.2f}, of {names[1]} {other:+.2f}"

    @property
    def resembles(self) -> str:
        """The nearest training images; without names how many of which class, most first."""
        shown = self.display_names
        found = [(one.name, shown.get(one.class_name, one.class_name)) for one in self.nearest]
        if all(name for name, _ in found):
            return "; ".join(f"{name} ({label})" for name, label in found)
        counts = Counter(label for _, label in found)
        return ", ".join(f"{count} of {label}" for label, count in counts.most_common())

    def _shown(self, one: Attribute) -> str:
        """The name of an attribute; or a sentence, and of which class it is, or what is unlike."""
        if not one.of:
            return one.name
        unlike = "" if (one.evidence > 0) == (one.of == self.answer) else "unlike "
        text = " ".join(one.name.split()).rstrip(".。")
        text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
        return f"{unlike}{self.display_names.get(one.of, one.of)}: “{text}”"
