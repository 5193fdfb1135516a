"""Do explanations tell the truth: the table of docs/trust.md.

    python benchmarks/explain.py FLO --data-root DIR --features efficientnet_lite2.mat
    python benchmarks/explain.py --features F.mat --split S.mat --method ridge
    python benchmarks/explain.py my-data                                   a dataset with sentences

For each test image whose true class is the answer or the runner-up, the descriptor that is
predicted from the image should be nearer to that of the true class: share of images by the sum of
the evidence that is shown and by the similarity, for images of seen and of unseen classes. Numbers
of embeddings count as attributes here; where the dataset keeps sentences, what is shown with them
is measured, too. And of images of seen classes, the share whose nearest training image has the
same class. Explanations do not enter any choice, so test images are looked at here.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np

from mlis.cli.datasets import add_dataset_arguments, dataset_arguments, load
from mlis.explanation import Examples, Explainer, Explanation, sentence_encoder
from mlis.methods.registry import build_method
from mlis.model.recognizer import Metadata, replace


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_dataset_arguments(parser)
    parser.add_argument("--method", default="gaussian")
    args = parser.parse_args(argv)
    data = load(dataset_arguments(args))
    described = build_method(args.method).choose(data, seed=0, exemplars=False).recognizer
    columns = [f"column {i}" for i in range(data.descriptors.shape[1])]
    recognizer = replace(described, metadata=Metadata({"descriptors": {"columns": columns}}))
    training, test = data.for_training(), data.for_testing()
    x = np.asarray(test.features)
    examples = Examples(training.features, training.labels)
    started = time.perf_counter()
    explainer = Explainer(recognizer, examples)
    fitted = time.perf_counter()
    found = explainer(x)
    seconds = time.perf_counter() - fitted
    print(f"{data.provenance.name}, {args.method}: {fitted - started:.2f} s once, ", end="")
    print(f"{1e6 * seconds / len(x):.0f} µs per image")
    truth = np.array([test.class_names[label] for label in test.labels])
    right = np.array([one.answer for one in found]) == truth
    either = right | (np.array([one.runner_up for one in found]) == truth)
    sign = np.where(right, 1, -1)
    similar = np.array([one.similarity[0] - one.similarity[1] for one in found]) * sign > 0
    measures = {"attributes": _shown(found) * sign > 0, "similarity": similar}
    if (encoder := sentence_encoder(described)) is not None:
        with_sentences = Explainer(described, examples, encoder)(x)
        measures["what is shown with sentences"] = _shown(with_sentences) * sign > 0
    seen = test.seen_mask[test.labels]
    for name, mask in (("seen", seen & either), ("unseen", ~seen & either)):
        wrong = mask & ~right
        print(f"  {name}: {mask.sum()} images, {wrong.sum()} wrong; the true one of the two")
        for title, hit in measures.items():
            print(
                f"    by {title}: {100 * hit[mask].mean():.1f}%, of wrong answers "
                f"{100 * hit[wrong].mean():.1f}%"
            )
    same = np.array([one.nearest[0].class_name for one in found]) == truth
    print(f"  nearest training image of the same class: {100 * same[seen].mean():.1f}% of seen")


def _shown(found: Sequence[Explanation]) -> np.ndarray:
    """Sum of the evidence that is shown."""
    return np.array([sum(each.evidence for each in one.attributes) for one in found])


if __name__ == "__main__":
    main()
