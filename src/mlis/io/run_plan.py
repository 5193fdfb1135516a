"""The plan of a run, and how its records are written: with a format and a checksum."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlis
from mlis.config import Config
from mlis.errors import ModelFileError, SettingsError
from mlis.methods.base import Method
from mlis.methods.registry import DEFAULT, METHODS, build_method, check_name
from mlis.storage.atomic import CHECK, strict_json, with_checksum, without_checksum, write_json

FORMAT = 1
"""Of `run.json`, `result.json` and `results.json`."""


@dataclass(frozen=True)
class RunPlan:
    """What a run was asked to do.

    Attributes:
        dataset: keyword arguments of :func:`mlis.data.load_dataset`.
        data_sha256: of the dataset when the run began.
        config: settings; `refinement.components` is replaced by each of `components` in turn.
        seeds: one training each.
        components: e.g. ("ml", "ml+is", "ml+is+sfr").
        device: "auto", "cpu", "cuda", …
        method: one of :data:`mlis.methods.registry.METHODS`; one without components is trained
            once per seed, whatever `components`.
        options: the method's own settings, where they are not its defaults.
    """

    dataset: Mapping[str, Any]
    data_sha256: str
    config: Config
    seeds: tuple[int, ...] = (0,)
    components: tuple[str, ...] = ("ml+is+sfr",)
    device: str = "auto"
    method: str = DEFAULT
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not self.method.replace("-", "_").isidentifier():  # it names folders
            raise SettingsError(f"method: expected a name such as eszsl, got {self.method!r}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise SettingsError(f"seeds must be distinct and ≥ 0, but got {list(self.seeds)}")
        if not self.components or len(set(self.components)) < len(self.components):
            raise SettingsError(f"components must be distinct, but got {list(self.components)}")
        for components in self.components:
            self.config.replace({"refinement": {"components": components}})

    @property
    def variants(self) -> tuple[str, ...]:
        """What is trained with each seed: the components, or a method that has none.

        Raises:
            SettingsError: there is no such method.
        """
        check_name(self.method)
        return self.components if METHODS[self.method].has_components else (self.method,)

    def method_of(self, variant: str) -> Method:
        """The method of a variant, with its settings."""
        config = self.config
        if METHODS[self.method].has_components:
            config = config.replace({"refinement": {"components": variant}})
        return build_method(self.method, config, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for `run.json`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            "mlis": mlis.__version__,
            **values,
            "dataset": dict(self.dataset),
            "config": self.config.to_dict(),
            "seeds": list(self.seeds),
            "components": list(self.components),
            "options": dict(self.options),
        }

    @classmethod
    def read(cls, folder: Path) -> "RunPlan":
        """Read `run.json` back.

        Raises:
            ModelFileError: there is none, or it is not what `to_dict` wrote.
        """
        path = folder / "run.json"
        try:
            values = read_sealed(path)
            values.pop("mlis")
            if values.pop("stack_seeds", False):  # earlier versions could train seeds together
                raise ModelFileError(
                    f"{path}: stack_seeds: expected false, got true: seeds are no longer trained "
                    "together. Begin a new run in another folder."
                )
            return cls(
                **{
                    **values,
                    "config": Config.from_dict(values["config"]),
                    "seeds": tuple(values["seeds"]),
                    "components": tuple(values["components"]),
                }
            )
        except FileNotFoundError:
            raise ModelFileError(f"{folder} is not a run folder: {path} does not exist") from None
        except ModelFileError:
            raise
        except OSError as error:
            raise ModelFileError(
                f"{path}: cannot be read: {error.strerror}. Name another run folder."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"{path} is not a run's record: {error}") from None


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write a record with its format and check digits: a number that changes later is noticed."""
    write_json(path, with_checksum({"format": FORMAT, **values}))


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote, or a record from before there were formats.

    Raises:
        ModelFileError: it is of another format.
        ValueError: it is not a record, or not as it was written.
    """
    values = strict_json(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    if not {"format", CHECK} & values.keys():
        return values
    if values.get("format") != FORMAT:
        raise ModelFileError(
            f"{path} has run format {values.get('format')!r}, but this version of mlis "
            f"({mlis.__version__}) reads format {FORMAT}"
        )
    values = without_checksum(values)
    del values["format"]
    return values
