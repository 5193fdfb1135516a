"""`mlis evaluate`: measure saved models on a dataset's test rows."""

import argparse
import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.datasets import (
    add_dataset_arguments,
    dataset_arguments,
    given_options,
    load,
    relocated,
)
from mlis.cli.models import SavedModel, find_models
from mlis.cli.printing import number, print_json, print_summaries, print_table, result_object
from mlis.errors import DataError

if TYPE_CHECKING:
    from mlis.data.dataset import GZSLDataset
    from mlis.evaluation import Evaluation
    from mlis.experiments.retrieval import UnseenImages
    from mlis.model.recognizer import Recognizer

logger: logging.Logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Measure a saved model, or all finished models of a run, on the test rows of DATASET. A run knows its
own dataset; name it (or --data-root) if it has moved.

  U, S     mean over unseen (seen) classes of top-1 accuracy, all classes being candidates
  H        2US / (U + S)
  T1       images of unseen classes, only unseen classes being candidates
  AUSUC    area under the seen-unseen curve
  overall  share of all test images that are right

and how well features alone tell unseen classes apart, as they come (raw) and refined: Recall@1, the
share of their images whose nearest neighbour is of the same class, and MAP@R, the mean average
precision among the R nearest, R being the number of other images of the class."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a saved model on a dataset's test rows",
        description=_DESCRIPTION,
        usage="mlis evaluate MODEL_OR_RUN [DATASET] [options]",
    )
    parser.add_argument("model", metavar="MODEL_OR_RUN", type=Path, help="folder of either")
    add_dataset_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--per-class", action="store_true", help="print every class's accuracy")
    group.add_argument(
        "--confusions",
        type=int,
        default=5,
        metavar="N",
        help="most confused pairs to print, at most 10 (default: 5)",
    )
    add_device_flag(group)
    add_common_flags(group, with_json=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    from mlis.experiments.retrieval import UnseenImages

    started = time.perf_counter()
    models = find_models(args.model)
    dataset = _dataset(args, models[0].run)
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    protocol = ""
    unseen = UnseenImages(dataset)
    for model in models:
        result, retrieved, protocol, components = _evaluate(model, dataset, unseen, args.device)
        print(f"{model.folder} on {dataset.provenance.name}: {result.images} test images")
        _print_evaluation(args, result, retrieved)
        rows[components].append(result.to_dict() | retrieved)
    _print_summary(args, models, rows, protocol, dataset, time.perf_counter() - started)


def _dataset(args: argparse.Namespace, run: Path | None) -> "GZSLDataset":
    if run is None or args.dataset is not None:
        if args.dataset is None and not given_options(args):
            raise DataError(
                f"{args.model} does not lie in a run, so it does not know its dataset: name DATASET"
            )
        return load(dataset_arguments(args))
    from mlis.runs.run import RunPlan

    return load(relocated(RunPlan.read(run).dataset, args))


def _evaluate(
    model: SavedModel, dataset: "GZSLDataset", unseen: "UnseenImages", device: str
) -> "tuple[Evaluation, dict[str, float | None], str, str]":
    """Measures, retrieval, the protocol the model was trained under, and its components."""
    from mlis.compute.precision import Precision
    from mlis.io.checkpoint import load_model, read_record
    from mlis.protocol import test_once

    record = read_record(model.folder)["record"]
    recognizer = load_model(model.folder, Precision.of("float32", device).device, growth=False)
    _check_match(model.folder, recognizer, dataset)
    origin = record.get("provenance", {})
    if origin.get("data_sha256") != dataset.sha256:
        logger.warning(
            "%s was trained on other data or another split than these: training images may be "
            "among the test images",
            model.folder,
        )
    protocol = origin.get("protocol", "unknown")
    components = str(record.get("components", "model"))
    return test_once(recognizer, dataset), unseen.retrieved(recognizer), protocol, components


def _check_match(folder: Path, recognizer: "Recognizer", dataset: "GZSLDataset") -> None:
    from mlis.image_classifier import check_backbone

    name = dataset.provenance.name
    if recognizer.num_features != dataset.features.shape[1]:
        raise DataError(
            f"{folder} takes {recognizer.num_features} features, but {name} has "
            f"{dataset.features.shape[1]}: use the features that the model was trained on"
        )
    check_backbone(recognizer, dataset.provenance.sources.get("backbone") or {}, name)
    if recognizer.class_names != dataset.class_names:
        raise DataError(
            f"{folder} and {name} have different classes: "
            f"{_first_difference(recognizer.class_names, dataset.class_names)}"
        )
    differing = (recognizer.seen_mask != dataset.seen_mask).nonzero()[0]
    if len(differing):
        index = int(differing[0])
        kinds = ("unseen", "seen")
        raise DataError(
            f"{folder} and {name} have different splits: {dataset.class_names[index]!r} is "
            f"{kinds[int(recognizer.seen_mask[index])]} in the model, but "
            f"{kinds[int(dataset.seen_mask[index])]} in the data"
        )


def _first_difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} in the model, {len(theirs)} in the data"
    index = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    return f"number {index} is {ours[index]!r} in the model, {theirs[index]!r} in the data"


def _print_evaluation(
    args: argparse.Namespace, result: "Evaluation", retrieved: dict[str, float | None]
) -> None:
    print(result)
    if retrieved:
        shown = {name: number(value) for name, value in retrieved.items()}
        print(
            "retrieval among unseen classes, raw → refined features:"
            f" Recall@1 {shown['recall_at_1_raw']} → {shown['recall_at_1_refined']},"
            f" MAP@R {shown['map_at_r_raw']} → {shown['map_at_r_refined']}"
        )
    for note in result.notes:
        print(f"note: {note}")
    if args.per_class:
        ranked = sorted(
            result.per_class,
            key=lambda row: (row.seen, row.accuracy is None, row.accuracy or 0.0, row.name),
        )
        rows = [
            [row.name, "seen" if row.seen else "unseen", str(row.images), number(row.accuracy)]
            for row in ranked
        ]
        print_table([["class", "", "images", "accuracy"], *rows])
    for pair in result.confusions[: max(args.confusions, 0)]:
        print(f"{pair.count} images ({pair.share:.0f}%) of {pair.label} taken for {pair.predicted}")


def _print_summary(
    args: argparse.Namespace,
    models: list[SavedModel],
    rows: dict[str, list[dict[str, Any]]],
    protocol: str,
    dataset: "GZSLDataset",
    seconds: float,
) -> None:
    from mlis.evaluation import summarise

    share = seconds / len(models)
    summaries = {
        components: {**summarise(group), "seconds": [round(share, 3)] * len(group)}
        for components, group in rows.items()
    }
    if len(models) > 1:
        print_summaries(summaries)
    if args.json:
        seeds = [model.seed for model in models if model.components == next(iter(rows))]
        facts = {"dataset": dataset.provenance.name, "protocol": protocol, "model": str(args.model)}
        result = result_object(summaries, [s for s in seeds if s is not None], **facts)
        if len(models) == 1:
            only = next(iter(rows.values()))[0]
            result |= {name: only[name] for name in ("per_class", "confusions", "notes")}
        print_json(result)
