"""Finds saved models in a model folder or a run folder."""

from dataclasses import dataclass
from pathlib import Path

from mlis.errors import ModelFileError
from mlis.io.checkpoint import RECORD, is_model
from mlis.io.run_plan import RunPlan


@dataclass(frozen=True)
class SavedModel:
    """Where a model is, and which training of a run made it (None where it is on its own)."""

    folder: Path
    run: Path | None = None
    seed: int | None = None
    components: str | None = None


def find_models(path: Path) -> list[SavedModel]:
    """The model in a folder, or the finished ones of a run, components by components.

    Raises:
        ModelFileError: there is neither.
    """
    if (path / "run.json").exists():
        plan = RunPlan.read(path)
        done = [
            (seed, components)
            for components in plan.variants
            for seed in plan.seeds
            if (path / f"seed-{seed}" / components / "result.json").exists()
        ]
        if not done:
            raise ModelFileError(
                f"{path} has no finished training: continue it with `mlis fit --resume {path}`"
            )
        return [
            SavedModel(path / f"seed-{seed}" / components / "model", path, seed, components)
            for seed, components in done
        ]
    if is_model(path):
        return [SavedModel(path, run_of(path))]
    missing = "is not there" if not path.exists() else f"holds neither {RECORD} nor run.json"
    raise ModelFileError(f"no saved model: {path} {missing}")


def run_of(model: Path) -> Path | None:
    """The run that a model's folder lies in: RUN/seed-0/ml+is+sfr/model."""
    above = model.absolute().parents
    run = above[2] if len(above) > 2 else None
    return run if run is not None and (run / "run.json").exists() else None


def one_model(path: Path) -> Path:
    """The folder of the only model at `path`.

    Raises:
        ModelFileError: there is none, or a run has several.
    """
    found = find_models(path)
    if len(found) > 1:
        raise ModelFileError(
            f"{path} has {len(found)} models: name one of "
            f"{', '.join(str(model.folder) for model in found)}"
        )
    return found[0].folder
