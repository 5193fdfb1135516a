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

Each measure is printed in plain words with its symbol. ECE is the expected calibration error: the
mean of |accuracy - confidence| over 15 bins of about equally many images. The risk is that of
answering only the images that look most like known classes; its area is that under the
risk-coverage curve (`mlis predict --reject`). With --unknown, images or features of things that are
none of the model's classes, those that are answered are errors, too. Recall@1 and MAP@R are of
features alone, raw and refined: the mean average precision is that among the R nearest images,
where R is the number of other images of the class.

--html FILE writes a page of all this: reliability diagram, risk-coverage curve, every class, and
the most frequent mistakes with photographs and reasons.
"""

import argparse
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    MEASURES,
    check_file,
    counted,
    number,
    print_json,
    print_list,
    print_summaries,
    print_table,
    report_unread,
    result_object,
    say,
)
from mlis.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mlis.cli.measured import Measured
    from mlis.data.dataset import GZSLDataset
    from mlis.features.labelled_rows import LabelledRows
    from mlis.io.saved_models import SavedModel
    from mlis.model.recognizer import Recognizer

TRANSDUCTIVE = (
    "transductive: the model was adapted to unlabelled images, which may be these. Not comparable "
    "with figures of inductive models."
)

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Data:
    """What is measured on: labelled rows, and the dataset with training rows that they are of.

    `arguments` are those of `load_dataset`, which gave it.
    """

    rows: "LabelledRows"
    dataset: "GZSLDataset | None" = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


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
    group.add_argument("--html", type=Path, metavar="FILE.html", help="write a page, too")
    add_common(parser, "--calibration")
    add_common(parser.add_argument_group("images"), "--backbone", "--workers", "--device")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mlis.io.saved_models import find_models, one_model

    if args.html is not None:
        check_file(args.html, ".html", new_folder=True)
        one_model(args.model)
    started = time.perf_counter()
    models = find_models(args.model)
    found_data = _data(args, models[0])
    data, dataset = found_data.rows, found_data.dataset
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    metadata: dict[str, Any] = {"dataset": data.name, "model": str(args.model)}
    for model in models:
        recognizer = _recognizer(args, model, data)
        protocol = _protocol(model.folder, recognizer, dataset)
        components = str(recognizer.metadata.record.get("components", "model"))
        if recognizer.transductive:
            protocol, components = f"transductive, {protocol}", f"{components} (transductive)"
        found = _measured(args, model, recognizer, data)
        rows[components].append(found.to_dict())
        metadata |= {"protocol": protocol} | (found.curves() if len(models) == 1 else {})
        if args.html is not None:
            _write_page(args.html, model, found, found_data, protocol)
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
) -> "Measured":
    """Evaluate one model and print what was found."""
    from mlis.cli.measured import Measured

    test, unknown = data.for_model(recognizer), None
    if args.unknown is not None and len(test.labels):
        unknown = read_unlabelled("--unknown", args.unknown, recognizer, args)
    found = Measured.of(recognizer, test, unknown)
    say(f"{model.folder} on {data.name}: {found.tested.result.images} test images")
    if recognizer.transductive:
        say(TRANSDUCTIVE)
    _print_evaluation(args, found)
    return found


def _write_page(
    output: Path, model: "SavedModel", found: "Measured", data: Data, protocol: str
) -> None:
    """The page, with the photographs of the test rows and training images, where they are known."""
    from mlis.experiments.report import material, pictures
    from mlis.experiments.report.evaluated import write_evaluation
    from mlis.io.checkpoint import load_exemplars

    recognizer, dataset = found.tested.recognizer, data.dataset
    if dataset is None:
        shown = pictures.pictures_of_files(data.rows.files or [None] * len(data.rows.labels))
    else:
        every = pictures.pictures_of(data.arguments, dataset, None)
        shown = every.of(material.test_rows(dataset))
    if dataset is not None and dataset.class_names == recognizer.class_names:
        compared = material.training_examples(dataset)
    else:
        compared = load_exemplars(model.folder)
    facts = {"model": str(model.folder), "data": data.rows.name, "protocol": protocol}
    warning = TRANSDUCTIVE if recognizer.transductive else ""
    answers = material.Answers(**vars(found.tested), pictures=shown, compared=compared)
    write_evaluation(output, answers, found.table(), facts, warning)
    say(f"page: {output}")


def _data(args: argparse.Namespace, model: "SavedModel") -> Data:
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
        return Data(_of_labelled(args, places))
    if (found := read_test_only(place)) is None:
        return _of_dataset(args, model)
    features, names, sources = found
    return Data(LabelledRows(place.name, features, names, sources.get("backbone") or {}))


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


def _of_dataset(args: argparse.Namespace, model: "SavedModel") -> Data:
    """The test rows of a dataset: the one that is named, or the run's own."""
    from mlis.features.labelled_rows import LabelledRows
    from mlis.io.run_plan import RunPlan

    if model.run is not None and args.dataset is None:
        arguments = relocated(RunPlan.read(model.run).dataset, args)
    elif args.dataset is None and not given_options(args):
        raise DataError(
            f"{args.model}: is not in a run folder, so its dataset is unknown. Name DATA: name "
            "images, features or a dataset."
        )
    else:
        arguments = dataset_arguments(args)
    dataset = load(arguments)
    test, origin = dataset.for_testing(), dataset.provenance
    names = [test.class_names[label] for label in test.labels]
    backbone = origin.sources.get("backbone") or {}
    rows = LabelledRows(origin.name, test.features, names, backbone)
    return Data(rows, dataset, arguments)


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


def _print_evaluation(args: argparse.Namespace, found: "Measured") -> None:
    from mlis.evaluation import in_words

    result, display = found.tested.result, found.tested.recognizer.display_names
    if words := in_words(result.U, result.S, result.H):
        say(words)
    say("per cent:")
    for line in found.lines():
        say(line)
    say(f"temperature of the probabilities: {found.tested.confidence.temperature:.4g}")
    for note in result.notes:
        say(f"note: {note}")
    if args.per_class:
        ranked = sorted(
            result.per_class,
            key=lambda row: (row.seen, row.accuracy is None, row.accuracy or 0.0, row.name),
        )
        rows = [["class", "", "images", "accuracy"]]
        for row in ranked:
            name, kind = display.get(row.name, row.name), "seen" if row.seen else "unseen"
            rows.append([name, kind, str(row.images), number(row.accuracy)])
        print_table(rows)
    for pair in result.confusions[: args.confusions]:
        share = f"{counted(pair.count, 'image')} ({pair.share:.0f}%)"
        names = [display.get(name, name) for name in (pair.label, pair.predicted)]
        say(f"{share} of {names[0]} classified as {names[1]}")


def _print_summary(
    args: argparse.Namespace,
    models: "list[SavedModel]",
    rows: dict[str, list[dict[str, Any]]],
    metadata: dict[str, Any],
    seconds: float,
) -> None:
    from mlis.evaluation import summarise
    from mlis.evaluation.words import legend

    each = round(seconds / len(models), 3)
    summaries = {
        components: {**summarise(group), "seconds": [each] * len(group)}
        for components, group in rows.items()
    }
    if len(models) > 1:
        print_summaries(summaries)
        print_list("in words:", legend(MEASURES))
    if args.json:
        first = next(iter(rows))
        seeds = [m.seed for m in models if m.components == first and m.seed is not None]
        result = result_object(summaries, seeds, **metadata)
        if len(models) == 1:
            only = rows[first][0]
            result |= {name: only[name] for name in ("images", "per_class", "confusions", "notes")}
        print_json(result)
