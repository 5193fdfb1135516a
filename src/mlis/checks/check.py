"""All checks of a dataset, and those that a saved model allows."""

import numpy as np

from mlis.checks import classes, rows
from mlis.checks.findings import Finding, Report
from mlis.data.dataset import GZSLDataset
from mlis.errors import DataError
from mlis.features.descriptors.attributes import column_names
from mlis.features.descriptors.visual_words import known_texts
from mlis.incremental.class_warnings import attracting
from mlis.incremental.exemplar_buffer import ExemplarBuffer
from mlis.model.recognizer import Recognizer


def check(
    subject: GZSLDataset | Recognizer, exemplars: ExemplarBuffer | None = None, name: str = "model"
) -> Report:
    """What is likely wrong with a dataset or a model, and what to do about it.

    A dataset: near-duplicate photographs, likely mislabelled ones, classes with few rows, classes
    described almost alike or without words for what can be seen, descriptors and columns that say
    little, and unseen classes that are likely to fail. A model: what its descriptions say, unseen
    classes that attract images of others, and with an exemplar buffer those likely to fail. Test
    rows are compared with training rows for near-duplicates, and otherwise not read. Features stay
    in their file.

    Args:
        subject: what to check.
        exemplars: the exemplar buffer of a model.
        name: of a model, for the report; a dataset has its own.

    Raises:
        DataError: it is neither a dataset nor a recognizer.

    >>> from mlis import load_dataset
    >>> report = check(load_dataset("letters"))
    >>> report.counts.get("test-duplicates", 0), report.counts.get("few-rows", 0)
    (0, 0)
    """
    if isinstance(subject, GZSLDataset):
        return _check_dataset(subject)
    if isinstance(subject, Recognizer):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _check_model(subject, exemplars, name)
    raise DataError(
        f"check: expected a dataset or a recognizer, got {type(subject).__name__}. Load one with "
        "load_dataset or load_model."
    )


def _check_dataset(data: GZSLDataset) -> Report:
    statistics = rows.RowStatistics.of(data)
    found, notes = rows.duplicates(data, statistics)
    found += rows.mislabelled(data, statistics)
    found += classes.few_rows(statistics.counts, data.class_names)
    found += classes.descriptions(data.descriptors, data.class_names)
    said, text_notes = classes.texts(known_texts(data.provenance.sources), data.class_names)
    found += said
    names = column_names(data.provenance.sources, data.descriptors.shape[1])
    found += classes.columns(data.descriptors, statistics.class_means, data.seen_mask, names)
    found += _risks(data.descriptors, statistics.class_means, data.seen_mask, data.class_names)
    return Report.of(data.provenance.name, found, [*notes, *text_notes])


def _check_model(recognizer: Recognizer, exemplars: ExemplarBuffer | None, name: str) -> Report:
    descriptors = recognizer.descriptors.numpy(force=True)
    seen_mask, names = recognizer.seen_mask.numpy(force=True), recognizer.class_names
    found = classes.descriptions(descriptors, names)
    said, text_notes = classes.texts(known_texts(recognizer.metadata.sources), names)
    found += said
    found += [
        Finding("attracts", message, share, classes=(name,))
        for name, share, message in attracting(recognizer, exemplars)
    ]
    notes = ["photographs and columns were not checked: name the dataset to check them"]
    notes += text_notes
    if exemplars is None:
        notes.append(
            "classes likely to fail were not sought: the model has no exemplar buffer "
            "(exemplars.safetensors)"
        )
    else:
        means = _exemplar_means(exemplars, len(names))
        found += _risks(descriptors, means, seen_mask, names)
    return Report.of(name, found, notes)


def _risks(
    descriptors: np.ndarray, means: np.ndarray, seen_mask: np.ndarray, names: tuple[str, ...]
) -> list[Finding]:
    if seen_mask.sum() < 2 or seen_mask.all():
        return []
    return classes.likely_to_fail(classes.class_risk(descriptors, means, seen_mask), names)


def _exemplar_means(exemplars: ExemplarBuffer, count: int) -> np.ndarray:
    """(C, Dx) class means of the exemplars, standardised."""
    values, labels = exemplars.rows.numpy(), exemplars.labels.numpy()
    sums, squares = np.zeros((count, values.shape[1])), np.zeros(values.shape[1])
    for start in range(0, len(values), 4096):
        part = values[start : start + 4096].astype(np.float64)
        np.add.at(sums, labels[start : start + 4096], part)
        squares += np.square(part).sum(axis=0)
    counts = np.bincount(labels, minlength=count)
    # the steps of the 8 bits are a scale of their own, which standardising removes
    return rows.RowStatistics.from_sums(sums, squares, counts).class_means
