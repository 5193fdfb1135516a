"""An image-text model (CLIP, SigLIP, …) and this package on the same features and test rows.

- Zero-shot: the class whose text has the highest cosine with the image (Radford et al.: "Learning
  Transferable Visual Models From Natural Language Supervision", ICML 2021, section 3.1). A class's
  text is its name in several templates, whose embeddings are averaged, or its descriptions (Menon,
  Vondrick: "Visual Classification via Description from Large Language Models", ICLR 2023).
- Linear probe: softmax regression on the image features of seen classes (the same, section 3.2).
- A method of this package, on the same image features and the dataset's descriptors; and on the
  model's own embeddings of names (and descriptions) as descriptors, where `auto` also tries the
  zero-shot classifier as a member of its ensemble.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from mlis.compute.precision import Precision, own_modes
from mlis.config import Classification
from mlis.data.dataset import GZSLDataset, TestSplit
from mlis.data.labels import shorten
from mlis.errors import DataError, SettingsError
from mlis.evaluation import Evaluation, evaluate
from mlis.features.descriptors.text_tower import TextTower
from mlis.methods.base import Method
from mlis.methods.registry import build_method
from mlis.model.classification import fit_classifier
from mlis.protocol import evaluate_on_test
from mlis.provenance import PROTOCOL
from mlis.training.callbacks import Callback

TEMPLATES = (
    "a photo of a {}.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""CLIP's basic template, and the seven that its authors' notebook on prompts selects of 80."""
NOTHING = "nothing trained or chosen"
H_AT_VAL = f"{PROTOCOL}: trained on seen classes, settings chosen on validation classes"
_PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # of equals the first is chosen


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the comparison.

    Attributes:
        name: of what was tested.
        protocol: what was trained and chosen, and on which rows.
        evaluation: on the test rows of the dataset.
        seconds: of embedding texts, training and testing; not of the image features.
    """

    name: str
    protocol: str
    evaluation: Evaluation
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """U, S, H, T1 and the rest as strict JSON values, without classes and confusions."""
        measures = {name: getattr(self.evaluation, name) for name in ("U", "S", "H", "T1")}
        about = {"name": self.name, "protocol": self.protocol}
        return {**about, **measures, "seconds": round(self.seconds, 3)}


def compare(
    data: GZSLDataset,
    texts: TextTower,
    *,
    templates: Sequence[str] = TEMPLATES,
    descriptions: Mapping[str, Sequence[str]] | None = None,
    method: Method | None = None,
    seed: int = 0,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> list[Row]:
    """Test all on the test rows of a dataset, each once.

    Args:
        data: with features (N, D) of the model's image half.
        texts: its text half.
        templates: each with `{}` in place of the class name; underscores of names become spaces.
        descriptions: texts of every class; without them the rows that need them are left out.
        method: of this package; default `auto`.
        seed: of the method.
        device: auto, cpu or cuda.
        callbacks: are told of the method's training.

    Raises:
        DataError: a class is not described, features and texts are not of the same size, or the
            data are not for the method.
        SettingsError: a template has no `{}`.
    """
    test, names = data.for_testing(), data.class_names
    images = _unit(test.features)
    rows: list[Row] = []

    def zero_shot(name: str, started: float, prototypes: np.ndarray) -> None:
        found = _zero_shot(images, prototypes, test)
        rows.append(Row(name, NOTHING, found, time.perf_counter() - started))

    started = time.perf_counter()
    named = texts.describe(prompts(names, templates))
    zero_shot("zero-shot, class names", started, named)
    described = named
    if descriptions is not None:
        started = time.perf_counter()
        described = texts.describe(_of_all(names, descriptions))
        zero_shot("zero-shot, descriptions", started, described)
        zero_shot("zero-shot, names and descriptions", started, _unit(named + described))
    started = time.perf_counter()
    probe, chosen = linear_probe(data, device=device)
    rows.append(Row("linear probe on seen classes", chosen, probe, time.perf_counter() - started))
    method = method or build_method("auto")
    own = named if descriptions is None else _unit(named + described)
    for title, one in (("", data), (", the model's texts", _described_by(data, own))):
        trained = method.choose(one, seed=seed, device=device, callbacks=callbacks, exemplars=False)
        tested = evaluate_on_test(trained.recognizer, one)
        chosen = H_AT_VAL + _shares(trained.report)
        rows.append(Row(f"mlis, {method.name}{title}", chosen, tested, trained.seconds))
    return rows


def _described_by(data: GZSLDataset, prototypes: np.ndarray) -> GZSLDataset:
    """The dataset with text embeddings, by the model of its features, as descriptors."""
    image = data.provenance.sources.get("backbone") or {"name": "image-text model"}
    text = {"name": image["name"], "size": prototypes.shape[1]}
    sources = {**data.provenance.sources, "backbone": image, "descriptors": {"text": text}}
    provenance = dataclasses.replace(data.provenance, sources=sources)
    return dataclasses.replace(data, descriptors=prototypes, provenance=provenance)


def _shares(report: Mapping[str, Any]) -> str:
    """Of the methods that the automatic choice averages; empty for another method."""
    kept = (report.get("choice") or report).get("kept") or {}
    return "; kept " + ", ".join(kept) if kept else ""


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts of each class: its name in every template.

    Raises:
        SettingsError: a template has no `{}`, or there is none.

    >>> prompts(["fire_lily"], ["a photo of a {}.", "{}"])
    [('a photo of a fire lily.', 'fire lily')]
    """
    if not templates or not all("{}" in template for template in templates):
        raise SettingsError(
            f"templates: expected {{}} in each, in place of the class name, got {list(templates)}. "
            "Say, for instance, 'a photo of a {}.'"
        )
    clean = [name.replace("_", " ") for name in names]
    return [tuple(template.replace("{}", name) for template in templates) for name in clean]


@own_modes()
def linear_probe(data: GZSLDataset, *, device: str = "auto") -> tuple[Evaluation, str]:
    """Softmax regression on unit features of seen classes; and what was chosen.

    The penalty is the one with the best S on the held-out rows of seen classes in the validation
    split. It never names an unseen class: U and H are 0 by construction, T1 and AUSUC undefined.
    """
    split, place = data.split, Precision.of("float32", device).device
    settings = Classification()
    chosen = "fixed penalty"
    if len(split.val_seen):
        held = _rows(data, split.val_seen)
        seen = np.isin(np.arange(data.num_classes), data.labels[split.train])
        kept = seen[held.labels]
        held = dataclasses.replace(
            held, features=held.features[kept], labels=held.labels[kept], seen_mask=seen
        )
        settings = max(
            (dataclasses.replace(settings, weight_decay=penalty) for penalty in _PENALTIES),
            key=lambda one: _probe(data, split.train, held, one, place).S or 0.0,
        )
        chosen = f"penalty {settings.weight_decay:g} chosen on validation rows of seen classes"
    found = _probe(data, split.trainval, data.for_testing(), settings, place)
    return dataclasses.replace(found, T1=None, AUSUC=None, curve=None), chosen


def _probe(
    data: GZSLDataset,
    rows: np.ndarray,
    test: TestSplit,
    settings: Classification,
    device: torch.device,
) -> Evaluation:
    """Train on these rows of the dataset; test. A class without rows gets the smallest score."""
    training = _rows(data, rows)
    features, labels = torch.from_numpy(_unit(training.features)), torch.from_numpy(training.labels)
    head = fit_classifier(features.to(device), labels.to(device), data.num_classes, settings)
    with torch.inference_mode():
        scores = head(torch.from_numpy(_unit(test.features)).to(device)).cpu().numpy()
    return evaluate(scores, test.labels, test.seen_mask, test.class_names)


def _rows(data: GZSLDataset, rows: np.ndarray) -> TestSplit:
    features = np.asarray(data.features[rows])
    return TestSplit(features, data.labels[rows], data.seen_mask, data.class_names)


def _zero_shot(images: np.ndarray, prototypes: np.ndarray, test: TestSplit) -> Evaluation:
    if prototypes.shape[1] != images.shape[1]:
        raise DataError(
            f"expected features and texts of one model, got features of {images.shape[1]} numbers "
            f"and texts of {prototypes.shape[1]}. Use features of the same image-text model, of "
            "one view of each photograph."
        )
    return evaluate(images @ prototypes.T, test.labels, test.seen_mask, test.class_names)


def _of_all(names: Sequence[str], descriptions: Mapping[str, Sequence[str]]) -> list[Sequence[str]]:
    if missing := [name for name in names if not descriptions.get(name)]:
        raise DataError(
            f"descriptions: expected one of every class, got none of {len(missing)}: "
            f"{shorten(missing)}. Describe them, or leave the descriptions out."
        )
    return [descriptions[name] for name in names]


def _unit(rows: Any) -> np.ndarray:
    """(n, D) float32 rows of length 1; those of zeros stay."""
    return normalize(torch.tensor(np.asarray(rows, dtype=np.float32)), dim=1).numpy()
