"""Summary of a dataset, printed by `mlis data info`."""

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np

from mlis.data.checks import CHECKS
from mlis.data.dataset import GZSLDataset
from mlis.data.io.benchmarks import Counts
from mlis.data.out_of_core.arrays import row_chunks
from mlis.escape import terminal


def describe(data: GZSLDataset) -> dict[str, Any]:
    """Sizes, images per class, descriptor similarity, passed checks and hash, as JSON values."""
    split = data.split
    return {
        "name": data.provenance.name,
        "table_1": asdict(Counts.of(data)),
        "features": data.provenance.features,
        "feature_size": data.features.shape[1],
        "feature_range": _range(data.features),
        "descriptors": data.provenance.descriptors,
        "descriptor_size": data.descriptors.shape[1],
        "images_per_class": {
            part: _per_class(data, getattr(split, part))
            for part in ("trainval", "test_seen", "test_unseen")
        },
        "classes_without_images": data.num_classes - len(np.unique(data.labels)),
        "descriptor_similarity": _similarity(data),
        "validation": _validation(data),
        "classes_with_one_training_image": _single(data),
        "test_images_equal_to_a_training_image": shared_rows(data),
        "checks_passed": list(CHECKS),  # otherwise the object would not exist
        "notes": list(data.provenance.notes),
        "files": dict(data.provenance.files),
        "sha256": data.sha256,
    }


def format_info(info: dict[str, Any]) -> str:
    """Format the result of `describe` as text."""
    counts = info["table_1"]
    lines = [
        f"{info['name']}",
        "  classes  seen  unseen  trainval images  test seen  test unseen",
        f"  {counts['classes']:>7}  {counts['seen']:>4}  {counts['unseen']:>6}"
        f"  {counts['trainval_images']:>15,}  {counts['test_seen_images']:>9,}"
        f"  {counts['test_unseen_images']:>11,}",
        f"features     {info['feature_size']} numbers, {info['feature_range'][0]:.4g} to "
        f"{info['feature_range'][1]:.4g}   {info['features']}",
        f"descriptors  {info['descriptor_size']} numbers   {info['descriptors']}",
        *_image_lines(info),
        *_similarity_lines(info["descriptor_similarity"]),
        _validation_line(info["validation"]),
    ]
    if single := info["classes_with_one_training_image"]:
        lines.append(
            f"warning      {len(single)} classes have a single training image, such as "
            f"{single[0]!r}: it is not held out, and has no positive pair in a metric loss"
        )
    if info["test_images_equal_to_a_training_image"]:
        lines.append(
            f"warning      {shared_rows_warning(info['test_images_equal_to_a_training_image'])}"
        )
    lines += [f"note         {note}" for note in info["notes"]]
    lines += [f"passed       {check}" for check in info["checks_passed"]]
    lines += [f"file         {name}  SHA-256 {digest}" for name, digest in info["files"].items()]
    lines.append(f"SHA-256      {info['sha256']}")
    return "\n".join(terminal(line.rstrip()) for line in lines)


def _range(features: np.ndarray) -> list[float]:
    extremes = [(float(chunk.min()), float(chunk.max())) for _, chunk in row_chunks(features)]
    return [min(low for low, _ in extremes), max(high for _, high in extremes)]


def _per_class(data: GZSLDataset, rows: np.ndarray) -> dict[str, float] | None:
    """Minimum, median and maximum number of images of the classes with images."""
    if not rows.size:
        return None
    counts = np.unique(data.labels[rows], return_counts=True)[1]
    return {
        "classes": len(counts),
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
    }


def _similarity(data: GZSLDataset) -> dict[str, Any] | None:
    """Cosine of each class's descriptor with that of the nearest other class."""
    if data.num_classes < 2:
        return None
    scale = np.abs(data.descriptors).max(axis=1, keepdims=True)  # avoids overflow of squares
    unit = data.descriptors / scale
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    nearest = np.empty(data.num_classes, dtype=np.int64)
    cosine = np.empty(data.num_classes, dtype=np.float32)
    unseen_to_seen = []
    for start, chunk in row_chunks(unit):
        rows = np.arange(start, start + len(chunk))
        similar = chunk @ unit.T
        similar[rows - start, rows] = -np.inf
        nearest[rows], cosine[rows] = similar.argmax(axis=1), similar.max(axis=1)
        unseen = ~data.seen_mask[rows]
        unseen_to_seen.append(similar[unseen][:, data.seen_mask].max(axis=1))
    closest = int(cosine.argmax())
    to_seen = np.concatenate(unseen_to_seen)
    return {
        "nearest_class_cosine": {
            "min": float(cosine.min()),
            "median": float(np.median(cosine)),
            "max": float(cosine.max()),
        },
        "most_similar": [data.class_names[closest], data.class_names[nearest[closest]]],
        "unseen_to_nearest_seen_median": float(np.median(to_seen)) if to_seen.size else None,
    }


def _validation(data: GZSLDataset) -> dict[str, int] | None:
    split = data.split
    if not split.has_validation:
        return None
    return {
        "seen": len(np.unique(data.labels[split.train])),
        "unseen": len(np.unique(data.labels[split.val_unseen])),
        "train_images": len(split.train),
        "val_seen_images": len(split.val_seen),
        "val_unseen_images": len(split.val_unseen),
    }


def _single(data: GZSLDataset) -> list[str]:
    """Names of the classes with one training row."""
    counts = np.bincount(data.labels[data.split.trainval], minlength=data.num_classes)
    return [data.class_names[c] for c in np.flatnonzero(counts == 1)]


def shared_rows(data: GZSLDataset) -> int:
    """Number of test rows with the same features as a training row.

    One pass over the file, with 16 bytes of memory per row.
    """
    digests = np.empty(len(data.labels), dtype="V16")
    for start, chunk in row_chunks(data.features):
        for i, row in enumerate(chunk + np.float32(0)):  # -0.0 becomes 0.0
            digests[start + i] = np.void(hashlib.blake2b(row.data, digest_size=16).digest())
    tested = np.concatenate([data.split.test_seen, data.split.test_unseen])
    trained = set(digests[data.split.trainval].tolist())
    return sum(digest in trained for digest in digests[tested].tolist())


def shared_rows_warning(count: int) -> str:
    """Warning about test rows that are equal to training rows."""
    return f"{count} test images have the same features as a training image"


def _image_lines(info: dict[str, Any]) -> list[str]:
    lines = []
    for part, counts in info["images_per_class"].items():
        text = "none"
        if counts:
            text = f"{counts['min']} / {counts['median']:g} / {counts['max']} (min/median/max)"
        lines.append(f"images per class, {part}: {text}")
    if info["classes_without_images"]:
        lines.append(f"classes without images: {info['classes_without_images']}")
    return lines


def _similarity_lines(similarity: dict[str, Any] | None) -> list[str]:
    if similarity is None:
        return []
    cosine, pair = similarity["nearest_class_cosine"], similarity["most_similar"]
    lines = [
        f"nearest other descriptor, cosine: {cosine['min']:.3f} / {cosine['median']:.3f} / "
        f"{cosine['max']:.3f} (min/median/max); most similar: {pair[0]} and {pair[1]}"
    ]
    if similarity["unseen_to_nearest_seen_median"] is not None:
        lines.append(
            f"unseen class to nearest seen, cosine: median "
            f"{similarity['unseen_to_nearest_seen_median']:.3f}"
        )
    return lines


def _validation_line(validation: dict[str, int] | None) -> str:
    if validation is None:
        return "validation   none: too few seen classes"
    return (
        f"validation   {validation['seen']} seen / {validation['unseen']} unseen classes; "
        f"{validation['train_images']:,} / {validation['val_seen_images']:,} / "
        f"{validation['val_unseen_images']:,} images (train / seen / unseen)"
    )
