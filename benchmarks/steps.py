"""Stage 1 and inference, step by step, beside the textbook and the machine's own limit.

    python benchmarks/steps.py [--shapes CUB,FLO] [--precision auto] [-o bench.json]

Every row times our path and the textbook's in alternation within one run. `limit` is the time that
the step's matrix products take by themselves at their measured rate, as a share of our time.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from paired import paired, product_rate, seconds
from shapes import SHAPES, Shape, settings, tensors
from textbook import TextbookStageOne

from mlis.compute import Arithmetic
from mlis.config import Config
from mlis.generation.losses import critic_backward
from mlis.generation.train import AdversarialTrainer
from mlis.refinement.train import RefinementTrainer


def products(shape: Shape, config: Config) -> dict[str, list[tuple[int, int, int]]]:
    """The matrix products (m, k, n) of a critic, a generator and an encoder step, as we do them."""
    g, r = config.generation, config.refinement
    B, H, D, Z, A = g.batch_size, g.hidden, shape.features, g.noise, shape.descriptor
    share, of_share = (shape.seen, A, H), (H, shape.seen, A)
    fakes = [(B, Z, H), (B, H, D)]
    critic = [(2 * B, D, H), (B, H, D), (H, 3 * B, D), share, of_share, *fakes]
    generator = [*fakes, (B, D, H), (B, H, D), (B, D, H), (D, B, H), (H, B, Z)]
    generator += [share, share, of_share]
    real = min(r.classes_per_batch, shape.seen) * r.samples_per_class
    made = shape.unseen * r.synthetic_per_unseen + shape.seen * r.synthetic_per_seen
    N, E, C = real + made, r.hidden, shape.seen + shape.unseen
    encoder = [(made, Z, H), (made, H, D), (N, D, E), (D, N, E), (N, E, C), (C, N, E), (N, C, E)]
    encoder += [(real, E, real), (real, real, E)]
    return {"critic": critic, "generator": generator, "encoder": encoder}


def measure(name: str, precision: str, repeats: int) -> list[dict[str, object]]:
    """All rows of one shape."""
    shape, config = SHAPES[name], settings(name)
    fast = Arithmetic.of(precision)
    textbook = Arithmetic.of("float32", fast.device)
    data = tensors(shape, fast)
    ours = AdversarialTrainer(data, config.generation, fast, seed=0)
    refinement = RefinementTrainer(
        data, config.refinement, fast, 0, lambda: ours.generator.sampler(data.descriptors)
    )
    theirs = TextbookStageOne(tensors(shape, textbook), config)
    rows = refinement.sampler.draw(refinement.batches)
    labels = refinement.synthetic_labels
    size = config.generation.batch_size
    batch = torch.arange(size) % len(data.y)
    alpha = torch.rand(size, 1)

    def critic_step() -> None:
        with torch.no_grad():
            share = ours.network.share(data.descriptors)
            z = torch.randn(size, config.generation.noise)
            fake = ours.network(z, share, data.y[batch], None)
        real, y = data.x[batch], data.y[batch]
        critic_backward(ours.critic, real, fake, y, data.descriptors, alpha, 10.0)
        ours.adam_critic.step()

    def whole() -> None:
        ours.step()
        refinement.step()

    parts = products(shape, config)
    rounds = config.generation.critic_steps
    cases = {
        "critic step": (critic_step, theirs.critic_step, parts["critic"]),
        "encoder step": (
            refinement.step,
            lambda: theirs.encoder_step(rows, labels),
            parts["encoder"],
        ),
        "stage-1 step": (
            whole,
            lambda: theirs.step(rows, labels),
            rounds * parts["critic"] + parts["generator"] + parts["encoder"],
        ),
    }
    found: list[dict[str, object]] = []
    for case, (mine, other, shapes) in cases.items():
        row = paired(mine, other, repeats)
        limit = 1000 * product_rate(shapes, fast.product, fast.device)
        found.append(
            {"shape": name, "case": case, "precision": precision, **row, "limit_ms": limit}
        )
        print(format_row(found[-1]), flush=True)
    return found


def inference(name: str, repeats: int = 5, rows: int = 16384) -> dict[str, object]:
    """Images a second from features to classes, beside the product's own time."""
    from mlis.classification import LinearClassifier
    from mlis.inference import Recognizer
    from mlis.preprocessing import FeatureScaler

    shape, hidden = SHAPES[name], settings(name).refinement.hidden
    classes = shape.seen + shape.unseen
    recognizer = Recognizer(
        scaler=FeatureScaler("none", torch.zeros(shape.features), torch.ones(shape.features)),
        encoder_weight=torch.randn(hidden, shape.features),
        encoder_bias=torch.zeros(hidden),
        classifier=LinearClassifier(torch.randn(classes, hidden), torch.zeros(classes)),
        class_names=tuple(map(str, range(classes))),
        seen_mask=(torch.arange(classes) < shape.seen).numpy(),
        descriptors=torch.zeros(classes, 1).numpy(),
    )
    x = torch.rand(rows, shape.features)
    recognizer.predict(x)
    took = min(seconds(lambda: recognizer.predict(x)) for _ in range(repeats))
    limit = product_rate(
        [(rows, shape.features, hidden), (rows, hidden, classes)], torch.float32, x.device
    )
    row = {"shape": name, "case": "inference", "images_per_s": rows / took, "limit": limit / took}
    print(
        f"{name:5s} inference: {rows / took:,.0f} images/s, {limit / took:.0%} of the product rate"
    )
    return row


def format_row(row: dict[str, object]) -> str:
    """One line for the terminal."""
    r = {key: value for key, value in row.items() if isinstance(value, float)}
    return (
        f"{row['shape']:5s} {row['case']:13s} {row['precision']:8s} "
        f"{r['ours_ms']:7.0f} ms, textbook {r['textbook_ms']:7.0f} ms, "
        f"× {r['ratio']:.2f} ({r['ratio_min']:.2f}–{r['ratio_max']:.2f}), "
        f"products alone {r['limit_ms'] / r['ours_ms']:.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="CUB,AWA2,SUN,FLO,aPY")
    parser.add_argument("--precision", default="float32,auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name in options.shapes.split(","):
        for precision in options.precision.split(","):
            rows += measure(name, precision, options.repeats)
        rows.append(inference(name))
    if options.output:
        facts = {
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rows": rows,
        }
        options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
