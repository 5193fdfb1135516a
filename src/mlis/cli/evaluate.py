"""Measure a saved model, or all finished models of a run, on labelled rows that it was not trained
on.

  mlis evaluate runs/mine                          the test rows of the run's own dataset
  mlis evaluate runs/mine test-photos/             images by folder: CLASS/*.jpg
  mlis evaluate runs/mine test.csv                 images in a table: path, class
  mlis evaluate runs/mine features/                what `mlis features images` wrote
  mlis evaluate runs/mine test.npz                 features with labels; also .csv, .parquet
  mlis evaluate runs/mine FLO --data-root DIR      the test rows of a dataset

Labels are matched to the model's classes by name; the model says which classes are seen. A dataset
needs no training rows here; if rows are marked, those marked test are used.

  U, S     mean over unseen (seen) classes of top-1 accuracy, with all classes as candidates
  H        2US / (U + S)
  T1       images of unseen classes, with only unseen classes as candidates
  AUSUC    area under the seen-unseen curve
  overall  fraction of all test images that are classified correctly
  ECE      expected calibration error of the probabilities: the mean of |accuracy - confidence|
           over 15 bins of about equally many images, for images of all, seen and unseen classes

and how well it can be told what to leave unanswered (`mlis predict --reject`): the risk-coverage
curve, the error rate among the images that look most like known classes, and the area under it.
With --unknown, images or features of things that are none of the model's classes, the AUROC of
telling them from the test images, too; those that are answered are errors.

and how well features alone separate unseen classes, raw and refined: Recall@1, the fraction of
images whose nearest neighbour is of the same class, and MAP@R, the mean average precision among the
R nearest, where R is the number of other images of the class.
"""

import argparse
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlis.cli.arguments import Commands, add_command, add_common, at_least, load_recognizer, refuse
from mlis.cli.datasets import (
    BENCHMARK,
    FLAGS,
    LETTERS,
    add_dataset_arguments,
    dataset_arguments,
    given_options,
    kind_of,
    load,
    read_unlabelled,
    relocated,
)
from mlis.cli.output import (
    counted,
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
    from mlis.evaluation import Confidence, Evaluation
    from mlis.features.labelled_rows import LabelledRows
    from mlis.io.saved_models import SavedModel
    from mlis.model.recognizer import Recognizer

TRANSDUCTIVE = (
    "transductive: the model was adapted to unlabelled images, which may be these. Not comparable "
    "with figures of inductive models."
)

logger: logging.Logger = logging.getLogger(__name__)


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        *(commands, "evaluate", run, "measure a saved model on labelled images or a dataset"),
        __doc__,
        usage="mlis evaluate MODEL_OR_RUN [DATA] [options]",
    )
    add_common(parser, "model", metavar="MODEL_OR_RUN", help="folder of a saved model, or of a run")
    add_dataset_arguments(parser, "name or folder; DATA may be labelled images or features, too")
    group = parser.add_argument_group("output")
    group.add_argument("--per-class", action="store_true", help="print the accuracy of each class")
    group.add_argument(
        "--confusions",
        type=at_least(0),
        default=5,
        metavar="N",
        help="most confused pairs to print, at most 10 (default: 5)",
    )
    parser.add_argument(
        "--unknown",
        type=Path,
        metavar="PATH",
        help="a folder of images, or features, of none of the model's classes",
    )
    add_common(parser, "--calibration")
    add_common(parser.add_argument_group("images"), "--backbone", "--workers", "--device")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mlis.io.saved_models import find_models

    started = time.perf_counter()
    models = find_models(args.model)
    data, dataset = _data(args, models[0])
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    metadata: dict[str, Any] = {"dataset": data.name, "model": str(args.model)}
    for model in models:
        recognizer = _recognizer(args, model, data)
        protocol = _protocol(model.folder, recognizer, dataset)
        components = str(recognizer.metadata.record.get("components", "model"))
        if recognizer.transductive:
            protocol, components = f"transductive, {protocol}", f"{components} (transductive)"
        measures, curves = _measured(args, model, recognizer, data)
        rows[components].append(measures)
        metadata |= {"protocol": protocol} | (curves if len(models) == 1 else {})
    _print_summary(args, models, rows, metadata, time.perf_counter() - started)
    bad = [f"{one.path}: {one.reason}" for one in data.bad]
    report_unread(bad, len(data.labels) + len(bad))


def _recognizer(
    args: argparse.Namespace, model: "SavedModel", data: "LabelledRows"
) -> "Recognizer":
    """A saved model, with the constant that is asked for, which must be made for such rows."""
    from mlis.image_classifier import check_backbone
    from mlis.model.calibrate import constant_of

    recognizer = load_recognizer(model.folder, args.device)
    if args.calibration is not None:
        recognizer.calibration = constant_of(recognizer, args.calibration)
    check_backbone(recognizer, data.backbone, data.name)
    return recognizer


def _measured(
    args: argparse.Namespace, model: "SavedModel", recognizer: "Recognizer", data: "LabelledRows"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate one model and print what was found: its measures, and the curves of rejection."""
    from mlis.evaluation import evaluate, evaluate_confidence, evaluate_rejection
    from mlis.experiments.retrieval import retrieved

    test = data.for_model(recognizer)
    scores = recognizer.scores(test.features)
    result = evaluate(scores, test.labels, test.seen_mask, test.class_names)
    confidence = evaluate_confidence(
        *(scores, test.labels, test.seen_mask), temperature=recognizer.temperature
    )
    nearest = retrieved(recognizer, test)
    say(f"{model.folder} on {data.name}: {result.images} test images")
    if recognizer.transductive:
        say(TRANSDUCTIVE)
    _print_evaluation(args, result, confidence, nearest)
    measures, curves = result.to_dict() | confidence.to_dict() | nearest, {}
    if len(scores):
        right, unknown = scores.argmax(axis=1) == test.labels, None
        if args.unknown is not None:
            rows = read_unlabelled("--unknown", args.unknown, recognizer, args)
            unknown = recognizer.known_scores(rows)
        rejection = evaluate_rejection(recognizer.known_scores(test.features), right, unknown)
        say(rejection)
        curves = rejection.to_dict()
    return measures, curves


def _data(
    args: argparse.Namespace, model: "SavedModel"
) -> "tuple[LabelledRows, GZSLDataset | None]":
    """The rows to recognise, and their dataset if it has training rows."""
    from mlis.data.io.folder import METADATA, read_test_only
    from mlis.features.labelled_rows import LabelledRows

    options = given_options(args)
    places = () if args.dataset is None else (Path(args.dataset),)
    if not places and model.run is None and not {"split_file", "data_root"} & options.keys():
        places = _test_features(options)
    named = args.dataset is not None and kind_of(args.dataset, options) in (BENCHMARK, LETTERS)
    if not places or named or not places[0].exists():
        return _of_dataset(args, model)
    place = places[0]
    if len(places) > 1 or not (place / METADATA).exists():
        return _of_labelled(args, places), None
    if (found := read_test_only(place)) is None:
        return _of_dataset(args, model)
    features, names, sources = found
    return LabelledRows(place.name, features, names, sources.get("backbone") or {}), None


def _test_features(options: dict[str, Any]) -> tuple[Path, ...]:
    """The files or folders of `--features`, if none of their rows is for training."""
    from mlis.data.io.csv_file import LABEL
    from mlis.data.io.joined import file_paths, read_joined_rows
    from mlis.features.labelled_rows import chosen_rows

    if "features_file" not in options:
        return ()
    paths = file_paths(options["features_file"])
    if "classes_file" not in options:
        return paths
    labels = Path(options["labels_file"]) if "labels_file" in options else None
    marks = read_joined_rows(paths, labels, options.get("label_column", LABEL)).marks
    only_test = marks is not None and chosen_rows(marks, paths[0], len(marks), testing=True).all()
    return paths if only_test else ()


def _of_dataset(
    args: argparse.Namespace, model: "SavedModel"
) -> "tuple[LabelledRows, GZSLDataset]":
    """The test rows of a dataset: the one that is named, or the run's own."""
    from mlis.features.labelled_rows import LabelledRows
    from mlis.io.run_plan import RunPlan

    if model.run is not None and args.dataset is None:
        dataset = load(relocated(RunPlan.read(model.run).dataset, args))
    elif args.dataset is None and not given_options(args):
        raise DataError(
            f"{args.model}: is not in a run folder, so its dataset is unknown. Name DATA: name "
            "images, features or a dataset."
        )
    else:
        dataset = load(dataset_arguments(args))
    test, origin = dataset.for_testing(), dataset.provenance
    names = [test.class_names[label] for label in test.labels]
    backbone = origin.sources.get("backbone") or {}
    return LabelledRows(origin.name, test.features, names, backbone), dataset


def _of_labelled(args: argparse.Namespace, places: Sequence[Path]) -> "LabelledRows":
    """Images or features (of several files: joined) with labels, none of them for training."""
    from mlis.cli.progress import ImageBar
    from mlis.features import labelled_rows as labelled
    from mlis.image_classifier import ImageClassifier
    from mlis.io.saved_models import find_models

    options = given_options(args)
    place = places[0]
    known = {"features_file", "classes_file", "labels_file", "label_column"}
    if wrong := [FLAGS[name] for name in options if name not in known]:
        raise SettingsError(f"{', '.join(wrong)}: not allowed with labelled rows ({place}).")
    table = Path(options["labels_file"]) if "labels_file" in options else None
    column = options.get("label_column", "")
    if len(places) > 1 or not labelled.is_photographs(place):
        refuse(args, ("backbone", "workers"), "with features, which are already computed")
        return labelled.read_labelled(places, table, column)
    images = labelled.find_labelled(place, table, column)
    recognizer = load_recognizer(find_models(args.model)[0].folder, args.device)
    backbone = ImageClassifier(recognizer, args.backbone, device=args.device).backbone
    with ImageBar() as bar:
        bar.started(len(images), 0)
        return labelled.embed_labelled(
            str(place), images, backbone, workers=args.workers, done=bar.done
        )


def _protocol(folder: Path, recognizer: "Recognizer", dataset: "GZSLDataset | None") -> str:
    """The protocol that the model was trained under, if the rows are of a dataset.

    Raises:
        DataError: the dataset tests a class as unseen that the model was trained on.
    """
    if dataset is None:
        return "labelled rows"
    trained = {recognizer.class_names[c] for c in recognizer.seen_mask.nonzero().flatten()}
    unseen = [dataset.class_names[c] for c in dataset.unseen_classes]
    if wrong := [name for name in unseen if name in trained]:
        raise DataError(
            f"{folder} and {dataset.provenance.name} have different splits: {wrong[0]!r} is seen "
            "in the model, but unseen in the data, so training rows would be tested. Use the split "
            "of the training."
        )
    origin = recognizer.metadata.record.get("provenance") or {}
    if origin.get("data_sha256") != dataset.sha256:
        logger.warning(
            "%s was trained on other data or another split: training images may be among the test "
            "images",
            folder,
        )
    return str(origin.get("protocol", "unknown"))


def _print_evaluation(
    args: argparse.Namespace,
    result: "Evaluation",
    confidence: "Confidence",
    retrieved: dict[str, float | None],
) -> None:
    from mlis.evaluation import in_words

    if words := in_words(result.U, result.S, result.H):
        say(words)
    say(result)
    say(confidence)
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
    for pair in result.confusions[: args.confusions]:
        share = f"{counted(pair.count, 'image')} ({pair.share:.0f}%)"
        say(f"{share} of {pair.label} classified as {pair.predicted}")


def _print_summary(
    args: argparse.Namespace,
    models: "list[SavedModel]",
    rows: dict[str, list[dict[str, Any]]],
    metadata: dict[str, Any],
    seconds: float,
) -> None:
    from mlis.evaluation import summarise

    each = round(seconds / len(models), 3)
    summaries = {
        components: {**summarise(group), "seconds": [each] * len(group)}
        for components, group in rows.items()
    }
    if len(models) > 1:
        print_summaries(summaries)
    if args.json:
        first = next(iter(rows))
        seeds = [m.seed for m in models if m.components == first and m.seed is not None]
        result = result_object(summaries, seeds, **metadata)
        if len(models) == 1:
            only = rows[first][0]
            result |= {name: only[name] for name in ("images", "per_class", "confusions", "notes")}
        print_json(result)
