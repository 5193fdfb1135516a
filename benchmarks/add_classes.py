"""Classes added after training, beside a model that knew them from the start.

    python benchmarks/add_classes.py FLO --data-root DIR --features-file FILE --work FOLDER

Some unseen classes are held back, drawn by the seed; a model is trained without their descriptors,
saved, loaded, and given them then. Both models have the same settings, seed and calibration: the
constant comes from the validation classes, which are training classes, so it does not depend on
what is held back. All three are tested once (H@val). Models are kept in --work and not trained
again. `--variants` also measures what is kept of the training rows in other ways.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from report import Rows, markdown, write

from mlis.config import Config, resolve
from mlis.data import load_dataset
from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.evaluation import Evaluation, evaluate
from mlis.incremental import ExemplarBuffer, add_classes
from mlis.io.checkpoint import EXEMPLARS, load_exemplars, load_model, save_model
from mlis.methods.mlis import MLIS
from mlis.model.recognizer import Recognizer
from mlis.pipeline import fit
from mlis.presets import load, own_preset
from mlis.provenance import PROTOCOL

MEASURES = ("U", "S", "H", "T1", "AUSUC")
LIMIT_POINTS, LIMIT_SECONDS = 1.0, 10.0


def without(training: TrainingSplit, held: np.ndarray) -> TrainingSplit:
    """A training split in which these unseen classes do not exist."""
    kept = np.setdiff1d(np.arange(len(training.class_names)), held)
    return dataclasses.replace(
        training,
        labels=np.searchsorted(kept, training.labels),
        descriptors=training.descriptors[kept],
        class_names=tuple(training.class_names[i] for i in kept),
        seen_mask=training.seen_mask[kept],
        class_ids=training.class_ids[kept],
    )


def tested(recognizer: Recognizer, dataset: GZSLDataset) -> Evaluation:
    """Measures on the test rows of the classes that the recognizer knows, in any order."""
    test = dataset.for_testing()
    place = {name: i for i, name in enumerate(recognizer.class_names)}
    labels = np.array([place.get(name, -1) for name in test.class_names])[test.labels]
    rows = np.flatnonzero(labels >= 0)
    scores = recognizer.scores(test.features[rows])
    return evaluate(
        scores, labels[rows], recognizer.seen_mask.numpy(force=True), recognizer.class_names
    )


def models(
    dataset: GZSLDataset, config: Config, held: np.ndarray, seed: int, work: Path
) -> tuple[Recognizer, Recognizer, ExemplarBuffer | None]:
    """The model that knew all classes from the start, the one that did not, and its buffer."""
    whole, part = work / "from-the-start", work / "held-back"
    if not (whole / EXEMPLARS).exists():
        trained = MLIS(config).choose(dataset, seed=seed, reuse=True)
        save_model(trained.recognizer, whole, trained.exemplars)
    known = load_model(whole)
    if not (part / EXEMPLARS).exists():
        split = without(dataset.for_training(), held)
        smaller = fit(split, config, seed=seed, reuse=True, exemplars=True)
        smaller.recognizer.calibration = known.calibration
        save_model(smaller.recognizer, part, smaller.exemplars)
    return known, load_model(part), load_exemplars(part)


def variants(
    exemplars: ExemplarBuffer, dataset: GZSLDataset, model: Recognizer
) -> Iterator[tuple[str, ExemplarBuffer]]:
    """Other ways to keep the training rows, and their size."""
    training = dataset.for_training()
    place = {name: i for i, name in enumerate(model.class_names)}
    labels = np.array([place.get(name, -1) for name in training.class_names])[training.labels]
    x = torch.from_numpy(np.array(training.features))
    exact = {
        "labels": torch.from_numpy(labels),
        "sample_weight": torch.ones(len(labels)),
        "low": torch.zeros(x.shape[1]),
        "step": torch.ones(x.shape[1]),
    }
    scaled = model.preprocessing(x).float()
    yield "all rows, float32", dataclasses.replace(exemplars, rows=scaled, **exact)
    yield "all rows, float16", dataclasses.replace(exemplars, rows=scaled.half(), **exact)
    for most in (64, 32, 16, 8):
        chosen = torch.cat(
            [
                torch.nonzero(exemplars.labels == c).flatten()[:most]
                for c in exemplars.labels.unique()
            ]
        )
        counts = torch.bincount(exemplars.labels)
        weights = (counts / counts.clamp(min=1, max=most))[exemplars.labels[chosen]]
        own = {"labels": exemplars.labels[chosen], "sample_weight": weights}
        yield (
            f"{most} rows a class, uint8",
            dataclasses.replace(exemplars, rows=exemplars.rows[chosen], **own),
        )


def row(name: str, found: Evaluation, **facts: object) -> dict[str, object]:
    print(name, found, flush=True)
    return {"model": name, **{m: getattr(found, m) for m in MEASURES}, **facts}


def added(
    model: Recognizer, exemplars: ExemplarBuffer, dataset: GZSLDataset, held: np.ndarray, name: str
) -> dict[str, object]:
    """Add the classes that were held back, and test."""
    names = [dataset.class_names[i] for i in held]
    wall, cpu = time.perf_counter(), time.process_time()
    grown, _ = add_classes(model, exemplars, names, dataset.descriptors[held])
    took = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return row(name, tested(grown, dataset), **took, mib=exemplars.nbytes / 2**20)


def table(rows: Rows) -> str:
    """All rows as Markdown."""
    body = []
    for one in rows:
        cells = [f"{one[m]:.1f}" for m in MEASURES]
        cells += [f"{one[n]:.1f}" if n in one else "–" for n in ("mib", "seconds", "cpu_seconds")]
        body.append([one["model"], *cells])
    return markdown(["model", *MEASURES, "kept, MiB", "seconds", "CPU seconds"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", nargs="?", default="FLO", help="a name, or a dataset folder")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--features-file", help="as `mlis fit` takes it")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained models")
    parser.add_argument("--held", type=int, default=5, help="unseen classes held back (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    dataset = load_dataset(
        options.dataset, data_root=options.data_root, features_file=options.features_file
    )
    config = resolve(load(own_preset(options.dataset)))
    rng = np.random.default_rng(options.seed)
    held = np.sort(rng.choice(dataset.unseen_classes, options.held, replace=False))
    known, model, exemplars = models(dataset, config, held, options.seed, options.work)
    assert exemplars is not None
    rows = [
        row("all classes from the start", tested(known, dataset)),
        row(f"without {options.held} of them (fewer to tell apart)", tested(model, dataset)),
        added(model, exemplars, dataset, held, "these added later"),
    ]
    if options.variants:
        for name, other in variants(exemplars, dataset, model):
            rows.append(added(model, other, dataset, held, f"added, {name}"))
    first, last = rows[0], rows[2]
    off = max(abs(float(str(first[m])) - float(str(last[m]))) for m in ("U", "S", "H"))
    print(f"{dataset.provenance.name}, {PROTOCOL}, seed {options.seed}, held {held.tolist()}")
    print(table(rows))
    print(f"U, S and H at most {off:.2f} points apart (limit {LIMIT_POINTS})")
    write(options.output, arguments, rows)


if __name__ == "__main__":
    main()
