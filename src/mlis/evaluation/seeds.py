"""Mean and standard deviation of results over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlis.errors import DataError

RETRIEVAL = ("recall_at_1_raw", "recall_at_1_refined", "map_at_r_raw", "map_at_r_refined")
CONFIDENCE = ("ECE", "ECE_seen", "ECE_unseen")
METRICS = ("U", "S", "H", "T1", "AUSUC", "overall", "best_H_optimistic", *RETRIEVAL, *CONFIDENCE)


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Combine one result per seed (:meth:`Evaluation.to_dict`) to lists, means and deviations.

    For each name in `METRICS` that the results contain: `name`, the list of values in the order of
    `results`, `name_mean`, and `name_std`, the sample standard deviation over seeds (ddof=1), which
    is None for a single seed. Mean and deviation are also None if any value is None.

    Raises:
        DataError: there are no results, they contain different metrics, or a value is not a number.

    >>> summarise([{"H": 60.0}, {"H": 63.0}, {"H": 66.0}])
    {'H': [60.0, 63.0, 66.0], 'H_mean': 63.0, 'H_std': 3.0}
    """
    if not results:
        raise DataError("results: expected at least one seed, got none")
    summary: dict[str, Any] = {}
    for name in METRICS:
        have = [name in result for result in results]
        if not any(have):
            continue
        if not all(have):
            raise DataError(
                f"results: expected {name!r} for every seed, got only "
                f"{sorted(results[have.index(False)])} in result {have.index(False)}"
            )
        values = [_measure(name, result[name]) for result in results]
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)
        summary[name] = values
        summary[f"{name}_mean"] = float(np.mean(known)) if whole else None
        summary[f"{name}_std"] = float(np.std(known, ddof=1)) if whole and len(known) > 1 else None
    return summary


def _measure(name: str, value: Any) -> float | None:
    """Validate a value, as results are read from files."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise DataError(f"{name}: expected a number or nothing, got {value!r}")
    return float(value)
