"""What the tests of the report share: rows without training."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlis.config import Config, hash_of
from mlis.experiments.report.series import Series, Study, read_rows, series_of, studies_of
from mlis.experiments.store import Row, Store

CLASSES = ("sparrow", "gull & <tern>", 'the "great" auk')


def row(
    seed: int = 0,
    H: float = 50.0,
    *,
    settings: Mapping[str, Any] | None = None,
    method: str = "mlis",
    name: str = "birds",
    protocol: str = "H@val",
    dataset: Mapping[str, Any] | None = None,
    classes: Iterable[str] = CLASSES,
    notes: tuple[str, ...] = (),
    **changes: Any,
) -> Row:
    """A row as a run leaves it; `settings` change the paper's budget of defaults."""
    config = Config().replace({"classification": {"calibration": "validation"}})
    config = config.replace(settings or {})
    names = list(classes)
    task = {
        "name": name,
        "dataset": dict(dataset or {"name_or_path": f"/nowhere/{name}"}),
        "data_sha256": hash_of(name),
        "method": method,
        "config": config.to_dict(),
        "seed": seed,
        "device": "cpu",
        "options": {},
        "protocol": protocol,
    }
    per_class = [
        {"name": one, "seen": i > 0, "images": 10, "accuracy": H + i} for i, one in enumerate(names)
    ]
    pair = {"label": names[0], "predicted": names[-1], "count": 3, "share": 30.0}
    values: dict[str, Any] = {
        "key": hash_of([task, changes.pop("again", 0)]),
        "protocol": protocol,
        "task": task,
        "test": {
            **{"U": H - 10, "S": H + 10, "H": H, "T1": H, "AUSUC": H, "overall": H},
            **{"best_H_optimistic": H, "images": 30, "per_class": per_class},
            **{"confusions": [pair], "without_images": [], "notes": []},
            **{"recall_at_1_raw": 40.0, "recall_at_1_refined": 60.0},
            **{"map_at_r_raw": 20.0, "map_at_r_refined": 30.0},
        },
        "validation": None,
        "calibration": 0.5,
        "chosen": {},
        "cost": {"seconds": 1.5},
        "provenance": {
            **{"notes": list(notes), "features": "made.mat", "descriptors": "att", "data": name},
            **{"data_sha256": hash_of(name), "device": "cpu", "machine": "x86_64, 1 threads"},
            **{"product_dtype": "float32", "versions": {"mlis": "0.1.0"}, "cpu": "a cpu"},
        },
        "finished": "2020-01-02T00:00:00+00:00",
    }
    return Row(**{**values, **changes})


def variants(**common: Any) -> list[Row]:
    """Rows of table 3, table 4 and both figures around one base, one seed each."""
    refinement = [
        *({"components": one} for one in ("ml", "ml+is", "ml+is+sfr")),
        *({"components": "ml+is", "loss": one} for one in ("contrastive", "multi_similarity")),
        *({"margin": one} for one in (0.0, 0.5)),
        *({"gamma": one} for one in (16.0, 64.0)),
        *({"synthetic_per_unseen": one} for one in (0, 10)),
    ]
    settings = [{"refinement": one} for one in refinement]
    settings += [{"classification": {"synthetic_per_unseen": one}} for one in (10, 1000)]
    return [row(H=40.0 + i, settings=one, **common) for i, one in enumerate(settings)]


def stored(folder: Path, rows: Iterable[Row]) -> Path:
    """A results folder that holds these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = b"".join(one.to_line() for one in rows)
    (folder / "results.jsonl").write_bytes(lines)
    assert len(list(Store(folder / "results.jsonl"))) == lines.count(b"\n")
    return folder


def studies(folder: Path, rows: Iterable[Row]) -> list[Study]:
    return studies_of(series_of(read_rows(stored(folder, rows))))


def series(folder: Path, rows: Iterable[Row]) -> list[Series]:
    return series_of(read_rows(stored(folder, rows)))
