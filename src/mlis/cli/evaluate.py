"""`mlis evaluate`: measure saved models on labelled photographs, features or a dataset."""

import argparse
import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.common import add_common_flags, add_device_flag
from mlis.cli.datasets import (
    BENCHMARK,
    FLAGS,
    LETTERS,
    add_dataset_arguments,
    dataset_arguments,
    given_options,
    kind_of,
    load,
    relocated,
)
from mlis.cli.printing import (
    number,
    print_json,
    print_summaries,
    print_table,
    report_unread,
    result_object,
    say,
)
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mlis.data.dataset import GZSLDataset
    from mlis.evaluation import Evaluation
    from mlis.features.labelled_rows import LabelledRows
    from mlis.io.saved_models import SavedModel
    from mlis.model.recognizer import Recognizer

logger: logging.Logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Measure a saved model, or all finished models of a run, on labelled rows that it was not trained on.

  mlis evaluate runs/mine                          the test rows of the run's own dataset
  mlis evaluate runs/mine test-photos/             photographs by folder: CLASS/*.jpg
  mlis evaluate runs/mine test.csv                 photographs in a table: path, class
  mlis evaluate runs/mine features/                what `mlis features images` wrote
  mlis evaluate runs/mine test.npz                 features with labels; .csv, .parquet likewise
  mlis evaluate runs/mine FLO --data-root DIR      the test rows of a dataset

Labels are matched to the model's classes by name; which classes are seen is what the model says. A
dataset needs no training rows here; where rows are marked, those marked test are used.

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
        help="measure a saved model on labelled photographs or a dataset",
        description=_DESCRIPTION,
        usage="mlis evaluate MODEL_OR_RUN [DATA] [options]",
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
    group = parser.add_argument_group("photographs")
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help="the image model, where the model does not know it or it lies elsewhere now; one of "
        "the hub is downloaded only where it is named here",
    )
    group.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode (default: processors)"
    )
    add_device_flag(group)
    add_common_flags(group, with_json=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for."""
    from mlis.evaluation import evaluate
    from mlis.experiments.retrieval import UnseenImages
    from mlis.image_classifier import check_backbone
    from mlis.io.saved_models import find_models

    started = time.perf_counter()
    models = find_models(args.model)
    data, dataset = _data(args, models[0])
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    protocol, unseen = "", None
    for model in models:
        recognizer = _loaded(model.folder, args.device)
        check_backbone(recognizer, data.backbone, data.name)
        test = data.for_model(recognizer)
        protocol = _protocol(model.folder, recognizer, dataset)
        unseen = unseen or UnseenImages(test)
        scores = recognizer.scores(test.features)
        result = evaluate(scores, test.labels, test.seen_mask, test.class_names)
        retrieved = unseen.retrieved(recognizer)
        say(f"{model.folder} on {data.name}: {result.images} test images")
        _print_evaluation(args, result, retrieved)
        rows[str(recognizer.record.get("components", "model"))].append(result.to_dict() | retrieved)
    _print_summary(args, models, rows, protocol, data.name, time.perf_counter() - started)
    report_unread([(one.path, one.reason) for one in data.bad], len(data.labels) + len(data.bad))


def _data(
    args: argparse.Namespace, model: "SavedModel"
) -> "tuple[LabelledRows, GZSLDataset | None]":
    """The rows to recognise, and the dataset that they are of, if it has training rows."""
    from mlis.data.io.folder import METADATA, read_test_only
    from mlis.features.labelled_rows import LabelledRows

    options = given_options(args)
    place = Path(args.dataset) if args.dataset is not None else None
    if place is None and model.run is None and not {"split_file", "data_root"} & options.keys():
        place = _test_features(options)
    named = args.dataset is not None and kind_of(args.dataset, options) in (BENCHMARK, LETTERS)
    if place is None or named or not place.exists():
        return _of_dataset(args, model)
    if (place / METADATA).exists():
        found = read_test_only(place)
        if found is None:
            return _of_dataset(args, model)
        features, names, sources = found
        return LabelledRows(place.name, features, names, sources.get("backbone") or {}), None
    return _of_labelled(args, place), None


def _test_features(options: dict[str, Any]) -> Path | None:
    """What `--features` names, where no row of it is for training."""
    from mlis.data.io.csv_file import LABEL
    from mlis.data.io.feature_rows import read_labelled_rows
    from mlis.features.labelled_rows import for_testing

    path = options.get("features_file")
    if path is None or "classes_file" not in options:
        return None if path is None else Path(path)
    labels = options.get("labels_file")
    column = options.get("label_column", LABEL)
    rows = read_labelled_rows(Path(path), None if labels is None else Path(labels), column)
    marks = rows.marks
    if marks is None or not for_testing(marks, Path(path), len(marks)).all():
        return None
    return Path(path)


def _of_dataset(
    args: argparse.Namespace, model: "SavedModel"
) -> "tuple[LabelledRows, GZSLDataset]":
    """The test rows of a dataset: the one that is named, or the run's own."""
    from mlis.features.labelled_rows import LabelledRows
    from mlis.io.run_plan import RunPlan

    if model.run is None or args.dataset is not None:
        if args.dataset is None and not given_options(args):
            raise DataError(
                f"{args.model} does not lie in a run, so it does not know its dataset: name DATA"
            )
        dataset = load(dataset_arguments(args))
    else:
        dataset = load(relocated(RunPlan.read(model.run).dataset, args))
    test, origin = dataset.for_testing(), dataset.provenance
    names = [test.class_names[label] for label in test.labels]
    backbone = origin.sources.get("backbone") or {}
    return LabelledRows(origin.name, test.features, names, backbone), dataset


def _of_labelled(args: argparse.Namespace, place: Path) -> "LabelledRows":
    """Photographs or features with labels, none of them for training."""
    from mlis.cli.progress import ImageBar
    from mlis.features import labelled_rows as labelled
    from mlis.io.saved_models import find_models

    options = given_options(args)
    known = {"features_file", "classes_file", "labels_file", "label_column"}
    if wrong := [FLAGS[name] for name in options if name not in known]:
        raise SettingsError(f"{', '.join(wrong)}: has no meaning with labelled rows of {place}")
    labels = options.get("labels_file")
    table, column = None if labels is None else Path(labels), options.get("label_column", "")
    if not labelled.is_photographs(place):
        if args.backbone is not None or args.workers is not None:
            raise SettingsError("--backbone and --workers have no meaning with features")
        return labelled.read_labelled(place, table, column)
    images = labelled.find_labelled(place, table, column)
    recognizer = _loaded(find_models(args.model)[0].folder, args.device)
    backbone = recognizer.load_backbone(args.backbone, device=args.device)
    bar = ImageBar("images")
    bar.started(len(images), 0)
    try:
        return labelled.embed_labelled(
            str(place), images, backbone, workers=args.workers, done=bar.done
        )
    finally:
        bar.close()


def _loaded(folder: Path, device: str) -> "Recognizer":
    from mlis.compute.precision import Arithmetic
    from mlis.io.checkpoint import load_model

    return load_model(folder, Arithmetic.of("float32", device).device, growth=False)


def _protocol(folder: Path, recognizer: "Recognizer", dataset: "GZSLDataset | None") -> str:
    """The protocol that the model was trained under, where the rows are of a dataset.

    Raises:
        DataError: the dataset tests a class as unseen that the model was trained on.
    """
    if dataset is None:
        return "labelled rows"
    trained = {recognizer.class_names[c] for c in recognizer.seen_mask.nonzero()[0]}
    unseen = [dataset.class_names[c] for c in dataset.unseen_classes]
    if wrong := [name for name in unseen if name in trained]:
        raise DataError(
            f"{folder} and {dataset.provenance.name} have different splits: {wrong[0]!r} is "
            "seen in the model, but unseen in the data, so that training rows would be tested"
        )
    origin = recognizer.record.get("provenance") or {}
    if origin.get("data_sha256") != dataset.sha256:
        logger.warning(
            "%s was trained on other data or another split than these: training images may be "
            "among the test images",
            folder,
        )
    return str(origin.get("protocol", "unknown"))


def _print_evaluation(
    args: argparse.Namespace, result: "Evaluation", retrieved: dict[str, float | None]
) -> None:
    say(result)
    if retrieved:
        shown = {name: number(value) for name, value in retrieved.items()}
        say(
            "retrieval among unseen classes, raw → refined features:"
            f" Recall@1 {shown['recall_at_1_raw']} → {shown['recall_at_1_refined']},"
            f" MAP@R {shown['map_at_r_raw']} → {shown['map_at_r_refined']}"
        )
    for note in result.notes:
        say(f"note: {note}")
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
        say(f"{pair.count} images ({pair.share:.0f}%) of {pair.label} taken for {pair.predicted}")


def _print_summary(
    args: argparse.Namespace,
    models: "list[SavedModel]",
    rows: dict[str, list[dict[str, Any]]],
    protocol: str,
    data: str,
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
        facts = {"dataset": data, "protocol": protocol, "model": str(args.model)}
        result = result_object(summaries, [s for s in seeds if s is not None], **facts)
        if len(models) == 1:
            only = next(iter(rows.values()))[0]
            result |= {name: only[name] for name in ("images", "per_class", "confusions", "notes")}
        print_json(result)
