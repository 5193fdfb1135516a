"""A run: one dataset and one set of settings, for one or more seeds and components.

The folder of a run holds

    run.json                        what was asked for, written before any training
    seed-0/generation.jsonl         the generator's losses, if it was trained in this run; the
                                    generator is in the user's cache folder for any run
                                    (:mod:`mlis.training.generator_cache`), or here, in
                                    generation.safetensors, with `reuse=False`
    seed-0/ml+is+sfr/refinement.*   the encoder's
    seed-0/ml+is+sfr/validation/    the same for the run that holds validation classes out
    seed-0/ml+is+sfr/model/         the saved recognizer
    seed-0/ml+is+sfr/result.json    its test, written once
    results.json                    all of them, with means and deviations

A run of a method without components has `seed-0/METHOD/` in place of `seed-0/ml+is+sfr/`.

What is finished is kept and not repeated; an interrupted training continues from its last snapshot.
Only an automatic choice (:mod:`mlis.methods.auto`) begins again, and validation on further splits.
A run that was killed and resumed ends with the same bits as one that was not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlis.data.dataset import GZSLDataset, TrainingSplit
from mlis.errors import DataError, ModelFileError, SettingsError
from mlis.evaluation import summarise
from mlis.io.checkpoint import save_model
from mlis.io.run_plan import RunPlan, read_sealed, write_sealed
from mlis.methods.base import Method
from mlis.protocol import Chosen, evaluate_on_test
from mlis.provenance import PROTOCOL, generation_key, provenance
from mlis.storage.atomic import clear_all_leftovers
from mlis.storage.locks import held
from mlis.training.callbacks import Callback, LossLog
from mlis.training.checkpoints import CheckpointFolder

__all__ = ["RunPlan", "begin", "execute"]


def begin(folder: Path, plan: RunPlan) -> None:
    """Write `run.json`, before anything is trained.

    Raises:
        SettingsError: the folder holds a run of another plan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "run.json").exists():
        if RunPlan.read(folder).to_dict() != plan.to_dict():
            raise SettingsError(
                f"{folder} holds a run with other settings, seeds or data: choose another folder, "
                f"or continue that run with --resume {folder}"
            )
        return
    if (folder / "results.json").exists():
        raise SettingsError(
            f"{folder} holds results.json, but no run.json: it is not of a run. Choose another "
            "folder, or rename that file."
        )
    write_sealed(folder / "run.json", plan.to_dict())


def execute(
    folder: Path,
    plan: RunPlan,
    dataset: GZSLDataset,
    *,
    listen: Callable[[str], Callback] | None = None,
    snapshot_every: float = 30.0,
    reuse: bool = True,
    exemplars: bool = True,
) -> dict[str, Any]:
    """Do what is left to do of a run, and return its results.

    Args:
        folder: of the run, which `begin` wrote.
        plan: what `begin` wrote there.
        dataset: the one of the plan.
        listen: given the title of a training ("seed 0, ml+is"), returns its callback.
        snapshot_every: seconds between snapshots.
        reuse: whether generators are taken from the user's cache folder or trained there; else
            they are trained in the run's own folder. Does not change the measures.
        exemplars: whether each model is saved with the state needed to add classes later
            (:mod:`mlis.incremental.exemplar_buffer`).

    Returns:
        What `results.json` holds: for each components string, or for the name of a method without
        components, the measures as lists over seeds with mean and deviation, seconds (wall time of
        the training in the process that finished it), whether a generator came from the cache, and
        the provenance.

    Raises:
        DataError: the dataset is not the one that the run began with.
        SettingsError: the folder is in use by another process.
        DivergenceError: a training diverged; finished ones are kept.
    """
    if dataset.sha256 != plan.data_sha256:
        raise DataError(
            f"the data are not those that the run in {folder} began with: expected SHA-256 "
            f"{plan.data_sha256[:16]}…, but got {dataset.sha256[:16]}…; begin a new run"
        )

    run = _Run(folder, plan, dataset, listen, snapshot_every, reuse, exemplars)
    with held(folder):
        for seed in plan.seeds:
            clear_all_leftovers(folder / f"seed-{seed}")
        rows = {
            variant: [run.row(seed, variant) for seed in plan.seeds] for variant in plan.variants
        }
        results = _results(plan, rows, provenance(dataset, plan.config, plan.device))
        write_sealed(folder / "results.json", results)
    return results


def _results(
    plan: RunPlan, rows: Mapping[str, Sequence[Mapping[str, Any]]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `results.json`, from the rows of each components string (one per seed)."""
    return {
        "protocol": PROTOCOL,
        "seeds": list(plan.seeds),
        "components": {
            components: {
                **summarise([row["test"] for row in group]),
                **{name: [row[name] for row in group] for name in _LISTED},
            }
            for components, group in rows.items()
        },
        "provenance": facts,
    }


@dataclass(frozen=True)
class _Run:
    """What every training of a run has in common; see `execute`."""

    folder: Path
    plan: RunPlan
    dataset: GZSLDataset
    listen: Callable[[str], Callback] | None
    snapshot_every: float
    reuse: bool
    exemplars: bool

    def row(self, seed: int, variant: str) -> dict[str, Any]:
        """Train, test and save, unless there is a `result.json`; return what that holds."""
        place = self.folder / f"seed-{seed}" / variant
        if not (place / "result.json").exists():
            found = self.train(place, self.plan.method_of(variant), seed)
            about = {"seed": seed, "method": self.plan.method, "components": variant}
            self.save(found, {**about, "options": found.method.options}, place)
        return _read_result(place / "result.json")

    def train(self, place: Path, method: Method, seed: int) -> Chosen:
        """Train with snapshots, losses and progress; the generator's in the seed's folder."""
        title = f"seed {seed}, {place.name}"
        hooks = self.hooks(title, self.dataset.for_training(), method, seed, place, place.parent)
        if method.chooses:
            split = self.dataset.for_validation()[0]
            places = place / "validation", place.parent / "validation"
            found = self.hooks(f"{title}, validation", split, method, seed, *places)
            hooks |= {f"validation_{name}": value for name, value in found.items()}
        how = {"seed": seed, "device": self.plan.device}
        return method.choose(
            self.dataset, **how, reuse=self.reuse, exemplars=self.exemplars, **hooks
        )

    def hooks(
        self,
        title: str,
        training: TrainingSplit,
        method: Method,
        seed: int,
        own: Path,
        shared: Path,
    ) -> dict[str, Any]:
        """Callbacks and snapshots of one training; `shared` is the generator's folder."""
        generator = generation_key(training, method.config, seed, self.plan.device)
        checkpoints = CheckpointFolder(
            own,
            method.key(training, seed, self.plan.device),
            shared={"generation": (shared, generator)},
            every=self.snapshot_every,
        )
        callbacks: list[Callback] = [LossLog(own, {"generation": shared})]
        if self.listen is not None:
            callbacks.append(self.listen(title))
        return {"callbacks": callbacks, "checkpoints": checkpoints}

    def save(self, found: Chosen, about: Mapping[str, Any], place: Path) -> None:
        """Test a recognizer, save it, and write its `result.json`."""
        config = found.method.config
        row = {
            **about,
            "calibration": found.recognizer.calibration,
            "validation": None if found.validation is None else found.validation.to_dict(),
            "test": evaluate_on_test(found.recognizer, self.dataset).to_dict(),
            **({"choice": dict(found.report)} if found.report else {}),
            "seconds": round(found.seconds, 3),
            "generator_reused": found.reused,
            "provenance": provenance(self.dataset, config, self.plan.device),
        }
        record = {**row, "config": config.to_dict()}
        save_model(found.recognizer, place / "model", found.exemplars, record)
        write_sealed(place / "result.json", row)
        for folder in (place, place / "validation"):  # snapshots, which may be large
            for path in folder.glob(f"*-{'[0-9a-f]' * 12}.safetensors"):
                path.unlink(missing_ok=True)


_LISTED = ("seconds", "generator_reused", "calibration")
_ROW = {"seed", "test", *_LISTED}


def _read_result(path: Path) -> dict[str, Any]:
    try:
        row = read_sealed(path)
        if not row.keys() >= _ROW:
            raise ValueError("fields are missing")
        summarise([row["test"]])  # its measures are numbers
        return row
    except ModelFileError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ModelFileError(
            f"{path} is damaged ({error}): delete it to have that training tested again"
        ) from None
