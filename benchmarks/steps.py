"""Stage 1 and inference, step by step, beside the textbook and the machine's own limit.

    python benchmarks/steps.py [--shapes CUB,FLO] [--precision auto] [--profile] [-o steps.json]

Every row times our path and the textbook's in alternation within one run; the textbook computes in
float32 always. `products` is the time that the step's matrix products take by themselves at their
measured rate, in the dtypes that each has, as a share of our time.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from breakdown import breakdown, lines
from paired import Product, at_measured_rate, paired
from products import of_steps
from report import Rows, markdown, spread, write
from shapes import SHAPES, Shape, settings, tensors
from textbook import TextbookStageOne

from mlis.compute.precision import Precision
from mlis.config import Config
from mlis.data.samplers import uniform_rows
from mlis.encoder.trainer import RefinementTrainer
from mlis.generators.wgan_gp.trainer import AdversarialTrainer
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import FeatureScaler, TrainingTensors
from mlis.model.recognizer import BATCH, Recognizer
from mlis.model.refiners import LinearReLU

Step = Callable[[], object]


class StageOne:
    """Our stage 1 with one step of each part by itself, as the trainers take it."""

    def __init__(self, data: TrainingTensors, config: Config, precision: Precision):
        self.adversarial = AdversarialTrainer(data, config.generation, precision, seed=0)
        self.refinement = RefinementTrainer(
            *(data, config.refinement, precision, 0),
            lambda: self.adversarial.generator.sampler(data.descriptors),
        )

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Row numbers, labels and noise of one batch."""
        t = self.adversarial
        rows = uniform_rows(len(t.labels), t.settings.batch_size, t.rng)
        return rows, t.labels[rows], self._noise(t.settings.noise, torch.randn)

    def _noise(self, width: int, draw: Callable[..., torch.Tensor]) -> torch.Tensor:
        trainer = self.adversarial
        size, x = (trainer.settings.batch_size, width), trainer.data.x
        return draw(size, generator=trainer.rng, device=x.device, dtype=x.dtype)

    def critic_step(self) -> None:
        t = self.adversarial
        rows, labels, z = self._batch()
        with torch.no_grad():
            fake = t.generate(z, labels)
        t.critic_step(t.data.x[rows], fake, labels, self._noise(1, torch.rand))

    def generator_step(self) -> None:
        _, labels, z = self._batch()
        self.adversarial.generator_step(z, labels)

    def step(self) -> None:
        """Five critic updates, one of the generator, one of the encoder."""
        self.adversarial.step()
        self.refinement.step()


def measure(name: str, precision: str, repeats: int, profiled: bool = False) -> Rows:
    """All rows of one shape of stage 1."""
    shape, config = SHAPES[name], settings(name)
    fast = Precision.of(precision)
    textbook = Precision.of("float32", fast.device)
    ours = StageOne(tensors(shape, fast), config, fast)
    theirs = TextbookStageOne(tensors(shape, textbook), config)
    rows = ours.refinement.sampler.draw(ours.refinement.batches)
    made = ours.refinement.synthetic_labels
    products = of_steps(shape, config, fast)
    cases: dict[str, tuple[Step, Step]] = {
        "critic step": (ours.critic_step, theirs.critic_step),
        "generator step": (ours.generator_step, theirs.generator_step),
        "encoder step": (ours.refinement.step, lambda: theirs.encoder_step(rows, made)),
        "stage-1 step": (ours.step, lambda: theirs.step(rows, made)),
    }
    found: Rows = []
    for case, (mine, other) in cases.items():
        times = paired(mine, other, repeats)
        row = {"shape": name, "case": case, "precision": precision, **times}
        row |= beside_products(times["ours_ms"], products[case], fast.device)
        found.append(row)
        print(format_row(row), flush=True)
    if profiled:
        shares, longest = breakdown(ours.step)
        found[-1]["breakdown"] = shares
        print(lines(shares, longest), flush=True)
    return found


def beside_products(
    ours_ms: float, products: list[Product], device: torch.device
) -> dict[str, float]:
    """The products' own time at their measured rate, and how much of ours that is."""
    limit, rate = at_measured_rate(products, device)
    return {"products_ms": limit, "products_share": limit / ours_ms, "products_gflops": rate}


def inference(name: str, repeats: int, rows: int = 8 * BATCH) -> dict[str, object]:
    """From features to classes: one fused pass, against scaler, encoder and classifier in turn."""
    shape, hidden = SHAPES[name], settings(name).refinement.hidden
    device = Precision.of("float32").device
    recognizer = untrained(shape, hidden).to(device)
    x = torch.rand(rows, shape.features, device=device)
    times = paired(lambda: recognizer.predict(x), lambda: textbook_predict(recognizer, x), repeats)
    classes, f32 = shape.seen + shape.unseen, torch.float32
    batch = min(rows, BATCH)
    two = [Product(batch, shape.features, hidden, f32), Product(batch, hidden, classes, f32)]
    row: dict[str, object] = {"shape": name, "case": "inference", "precision": "float32", **times}
    row |= beside_products(times["ours_ms"], -(-rows // batch) * two, device)
    row["images_per_s"] = 1e3 * rows / times["ours_ms"]
    print(f"{format_row(row)}, {row['images_per_s']:,.0f} images/s", flush=True)
    return row


def untrained(shape: Shape, hidden: int) -> Recognizer:
    """A recognizer of random weights and scaling."""
    classes = shape.seen + shape.unseen
    low, span = torch.rand(shape.features), 1 + torch.rand(shape.features)
    return Recognizer(
        preprocessing=FeatureScaler("none", low.double(), 1 / span.double()),
        refiner=LinearReLU(0.02 * torch.randn(hidden, shape.features), torch.zeros(hidden)),
        head=LinearHead(torch.randn(classes, hidden), torch.zeros(classes)),
        class_names=tuple(map(str, range(classes))),
        seen_mask=(torch.arange(classes) < shape.seen).numpy(),
        descriptors=torch.zeros(classes, 1).numpy(),
    )


@torch.no_grad()
def textbook_predict(recognizer: Recognizer, x: torch.Tensor) -> torch.Tensor:
    """Scale, refine, classify, one after the other, in batches of the same size."""
    refiner = recognizer.refiner
    assert isinstance(refiner, LinearReLU)
    found = []
    for part in x.split(BATCH):
        h = torch.relu(
            torch.nn.functional.linear(recognizer.preprocessing(part), refiner.weight, refiner.bias)
        )
        found.append(torch.softmax(recognizer.head(h), dim=1).argmax(1))
    return torch.cat(found)


def format_row(row: dict[str, object]) -> str:
    """One line for the terminal."""
    r = {key: value for key, value in row.items() if isinstance(value, float)}
    return (
        f"{row['shape']:5s} {row['case']:14s} {row['precision']:8s} "
        f"{r['ours_ms']:7.0f} ms, textbook {r['textbook_ms']:7.0f} ms, "
        f"× {spread(r)}, products alone {r['products_share']:.0%} "
        f"at {r['products_gflops']:,.0f} GFLOP/s"
    )


def table(rows: Rows) -> str:
    """All rows as Markdown."""
    header = ["shape", "case", "precision", "ours, ms", "textbook (float32), ms", "times as fast"]
    header += ["products alone, ms", "share of ours", "their rate, GFLOP/s"]
    body = []
    for row in rows:
        what = (row["shape"], row["case"], row["precision"])
        times = (f"{row['ours_ms']:.1f}", f"{row['textbook_ms']:.1f}", spread(row))
        share, rate = f"{row['products_share']:.0%}", f"{row['products_gflops']:,.0f}"
        body.append([*what, *times, f"{row['products_ms']:.1f}", share, rate])
    text = markdown(header, body)
    for row in rows:
        if "images_per_s" in row:
            text += f"\n\n{row['shape']}: {row['images_per_s']:,.0f} images/s from features."
        if "breakdown" in row:
            parts = ", ".join(f"{kind} {share:.0%}" for kind, share in row["breakdown"].items())
            text += f"\n\n{row['shape']}, {row['case']}, {row['precision']}, profiled: {parts}."
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", default="CUB,AWA2,SUN,FLO,aPY")
    parser.add_argument("--precision", default="float32,auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="say where a whole step's time goes")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    rows: Rows = []
    for name in options.shapes.split(","):
        for precision in options.precision.split(","):
            rows += measure(name, precision, options.repeats, options.profile)
        rows.append(inference(name, options.repeats))
    write(options.output, arguments, rows)


if __name__ == "__main__":
    main()
