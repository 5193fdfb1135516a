"""Train on some animals and recognise an unseen one, the zebra, from its description.

A further class, the hippo, is added after training, from its description and without images.

Features are simulated: each animal's attributes mixed by a fixed matrix, plus noise.
"""

import numpy as np

from mlis import MLISClassifier, add_classes

ATTRIBUTES = {  # stripes, hooves, long neck, lives in water, spots, mane
    "tiger": [1, 0, 0, 0, 0, 0],
    "horse": [0, 1, 0, 0, 0, 1],
    "giraffe": [0, 1, 1, 0, 1, 0],
    "otter": [0, 0, 0, 1, 0, 0],
    "leopard": [0, 0, 0, 0, 1, 0],
    "lion": [0, 0, 0, 0, 0, 1],
    "okapi": [1, 1, 1, 0, 0, 0],
    "cow": [0, 1, 0, 0, 1, 0],
    "zebra": [1, 1, 0, 0, 0, 1],  # never seen
}
UNSEEN = {"zebra"}
LATER = {"hippo": [0, 1, 0, 1, 0, 0]}  # described only after training
MIX = np.random.default_rng(0).random((6, 64))


def photographs(names: list[str], rng: np.random.Generator) -> np.ndarray:
    """(n, 64) non-negative features of animals with these names."""
    clean = np.array([(ATTRIBUTES | LATER)[name] for name in names]) @ MIX
    return np.maximum(clean + 0.2 * rng.standard_normal(clean.shape), 0)


def main() -> None:
    rng = np.random.default_rng(1)
    seen = [name for name in ATTRIBUTES if name not in UNSEEN for _ in range(40)]
    model = MLISClassifier(generator="ridge", steps=100, calibration=1.0, random_state=0)
    model.fit(photographs(seen, rng), seen, descriptors=ATTRIBUTES)

    zebras = ["zebra"] * 50
    horses = ["horse"] * 50
    print(f"zebras called zebra: {np.mean(model.predict(photographs(zebras, rng)) == 'zebra'):.0%}")
    print(f"horses called horse: {np.mean(model.predict(photographs(horses, rng)) == 'horse'):.0%}")

    pair = model.recognizer_, model.exemplars_
    grown, _ = add_classes(*pair, list(LATER), list(LATER.values()))
    names = np.array(grown.class_names)
    for name in ("hippo", "zebra", "horse"):
        right = names[grown.predict(photographs([name] * 50, rng))] == name
        print(f"with hippos added after training, {name}s called {name}: {np.mean(right):.0%}")


if __name__ == "__main__":
    main()
