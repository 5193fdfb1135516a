"""What an added class attracts, and whether `add-classes` warns: the table of docs/trust.md.

    mlis data build --features features --classes examples/flowers102.csv -o flowers
    python benchmarks/attraction.py flowers --method gaussian
    python benchmarks/attraction.py --features F.mat --split S.mat

`features` are those of `mlis features images DIR/images --labels DIR/images.csv --class-column
class_name`. Texts that tell nothing, if classes have sentences, and the real descriptions of the
classes without training photographs are added one by one (a real one is removed before): to a model
whose described classes are held out of the training classes, which the thresholds were chosen on,
and to the model of all training classes, with test photographs. Counted are the photographs of
other classes that the new class takes, and the warnings about it.
"""

import argparse
import logging
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.data.dataset import TestSplit
from mlis.evaluation import best_calibration
from mlis.features.descriptors.new_classes import describe_like
from mlis.features.descriptors.visual_words import known_texts
from mlis.incremental import ExemplarBuffer, add_classes, remove_classes
from mlis.incremental.class_warnings import attraction
from mlis.methods.registry import build_method
from mlis.model.recognizer import Recognizer

VAGUE = (
    "a flower",
    "a bird",
    "an animal",
    "a photo",
    "A plant that grows in the garden.",
    "A beautiful flower with nice petals.",
    "A very popular plant, first described by Linnaeus in 1753 and named after a botanist.",
)


class Trial:
    """One class added to one model.

    Attributes:
        share: of training photographs, over an even share.
        taken: per cent of the photographs of other classes, seen and unseen.
        warned: kinds of warnings: words, attracts or another.
    """

    def __init__(
        self,
        pair: tuple[Recognizer, ExemplarBuffer | None],
        name: str,
        vector: np.ndarray,
        text: Sequence[str],
        test: TestSplit,
    ):
        self.warned: list[str] = []
        grown, exemplars = add_classes(
            *(*pair, [name], vector[None]), sentences={name: text}, warn=self._warn
        )
        shares = attraction(grown, exemplars)
        self.share = float(shares[-1]) * int(np.isfinite(shares).sum())
        took = grown.predict(np.asarray(test.features)) == len(grown.class_names) - 1
        names = np.array(test.class_names, dtype=object)[test.labels]
        seen = test.seen_mask[test.labels]
        self.taken = [100 * took[part & (names != name)].mean() for part in (seen, ~seen)]

    def _warn(self, _: str, text: str) -> None:
        kinds = {"hardly describes": "words", "it may attract": "attracts"}
        self.warned.append(next((k for said, k in kinds.items() if said in text), "other"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_dataset_arguments(parser)
    parser.add_argument("--method", default="gaussian")
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    data, method = load(dataset_arguments(args)), build_method(args.method)
    sources = data.provenance.sources
    texts = known_texts(sources)
    vague = {}
    if texts:
        made = describe_like(sources["descriptors"], {text: text for text in VAGUE})[1]
        vague = dict(zip(VAGUE, made, strict=True))
    training, held_out = data.for_validation()
    trained = method.fit(training, seed=0)
    scores = trained.recognizer.scores(held_out.features)
    constant = best_calibration(scores, held_out.labels, held_out.seen_mask)
    trained.recognizer.calibration = constant
    everything = method.choose(data, seed=0)
    for part, model, test in (
        ("validation", trained, held_out),
        ("test", everything, data.for_testing()),
    ):
        pair = model.recognizer, model.exemplars
        print(f"{part}, {args.method}: warned, times an even share, % taken of seen and unseen")
        for text, vector in vague.items():
            one = Trial(pair, text, vector, (text,), test)
            took = ", ".join(f"{value:.1f}" for value in one.taken)
            print(f"  {text[:40]!r}: {' '.join(one.warned) or '-'}; {one.share:.2f}; {took}")
        unseen = ~model.recognizer.seen_mask.numpy()
        rows = dict(zip(data.class_names, data.descriptors, strict=True))
        real = [
            Trial(remove_classes(*pair, [name]), name, rows[name], texts.get(name, ()), test)
            for name in np.array(model.recognizer.class_names, dtype=object)[unseen]
        ]
        taken, shares = np.array([one.taken for one in real]), [one.share for one in real]
        warned = sum(bool(one.warned) for one in real)
        print(
            f"  {len(real)} real descriptions: warned of {warned} "
            f"({sorted({kind for one in real for kind in one.warned})}); share at most "
            f"{max(shares):.2f}; taken mean {taken.mean(0).round(1)}, most "
            f"{taken.max(0).round(1)}; rank correlation of share and taken "
            f"{spearmanr(shares, taken.sum(1))[0]:.2f}"
        )


if __name__ == "__main__":
    main()
