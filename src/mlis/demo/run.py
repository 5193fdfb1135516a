"""The demo: train on the letters, test once, compare, write the page."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlis import presets
from mlis.config import Config, resolve
from mlis.data.dataset import GZSLDataset
from mlis.data.letters.dataset import LetterData, load_letters
from mlis.demo.page import Findings, render_page
from mlis.evaluation import Evaluation
from mlis.methods.mlis import MLIS
from mlis.methods.prototype import RidgePrototype
from mlis.model.recognizer import Recognizer
from mlis.protocol import evaluate_on_test
from mlis.provenance import PROTOCOL, provenance
from mlis.storage.atomic import write_json, write_text
from mlis.training.callbacks import Callback

logger: logging.Logger = logging.getLogger(__name__)

MEASURES = ("U", "S", "H", "T1")


def run_demo(
    folder: Path,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    config: Config | None = None,
    data: LetterData | None = None,
    progress: Callable[[str], Callback] | None = None,
) -> dict[str, Any]:
    """Train and test on the letters, and write `index.html` and `result.json`.

    The letters and their split do not depend on `seed`.

    Args:
        folder: of the output; created if absent.
        seed: of training.
        device: "auto", "cpu", "cuda", …
        config: settings; by default the preset `letters`, chosen on validation letters only.
        data: the letters; by default :func:`mlis.data.letters.render.load_letters`.
        progress: makes the callback of each training from its title.

    Returns:
        JSON values: `U`, `S`, `H`, `T1` (per cent), `protocol`, `seconds` (without the page),
        `baselines` (name → the same metrics), `page` (path), `provenance`.

    Raises:
        DivergenceError: training diverged.
    """
    started = time.perf_counter()
    data = data or load_letters()
    config = config or resolve(presets.load("letters"))
    progress = progress or (lambda title: Callback())
    train = _Trainer(data.dataset, config, seed, device, progress)
    recognizer = train("mlis", config.refinement.components)
    baseline = train("softmax", "none")

    mlis = evaluate_on_test(recognizer, data.dataset)
    methods = {
        "chance": chance(data.dataset.seen_mask),
        "ridge prototypes": _measures(_prototypes(data.dataset, config, device)),
        "raw-feature softmax": _measures(evaluate_on_test(baseline, data.dataset)),
        "mlis": _measures(mlis),
    }
    seconds = round(time.perf_counter() - started, 1)
    facts = provenance(data.dataset, config, str(device))
    findings = _findings(data, recognizer, mlis, methods, config, seconds, facts)
    return _write(Path(folder), findings)


@dataclasses.dataclass(frozen=True)
class _Trainer:
    dataset: GZSLDataset
    config: Config
    seed: int
    device: str | torch.device
    progress: Callable[[str], Callback]

    def __call__(self, title: str, components: str) -> Recognizer:
        """Calibrate on validation and train, with these components of the refinement."""
        method = MLIS(self.config.replace({"refinement": {"components": components}}))
        trained = method.choose(
            self.dataset,
            seed=self.seed,
            device=self.device,
            callbacks=[self.progress(title)],
            validation_callbacks=[self.progress(f"{title}, validation letters held out")],
        )
        logger.info("%s: trained in %.1f s", title, trained.seconds)
        return trained.recognizer


def _prototypes(dataset: GZSLDataset, config: Config, device: str | torch.device) -> Evaluation:
    """Nearest ridge prototypes, on unscaled features, as all HOG values have the same unit."""
    unscaled = config.replace({"preprocessing": {"feature_scaling": "none"}})
    chosen = RidgePrototype(unscaled).choose(dataset, device=device)
    return evaluate_on_test(chosen.recognizer, dataset)


def chance(seen_mask: np.ndarray) -> dict[str, float]:
    """Expected metrics in per cent of a random class among all (T1: among the unseen).

    >>> chance(np.array([True, True, True, False]))
    {'U': 25.0, 'S': 25.0, 'H': 25.0, 'T1': 100.0}
    """
    one_of_all = 100 / len(seen_mask)
    return {"U": one_of_all, "S": one_of_all, "H": one_of_all, "T1": 100 / int((~seen_mask).sum())}


def _measures(evaluation: Evaluation) -> dict[str, float]:
    return {name: getattr(evaluation, name) for name in MEASURES}


def _findings(
    data: LetterData,
    recognizer: Recognizer,
    evaluation: Evaluation,
    methods: Mapping[str, Mapping[str, float]],
    config: Config,
    seconds: float,
    facts: Mapping[str, Any],
) -> Findings:
    split = data.dataset.split
    rows = np.concatenate([split.test_seen, split.test_unseen])  # the order of for_testing()
    features = data.dataset.features[rows]
    return Findings(
        data=data,
        rows=rows,
        predicted=recognizer.predict(features),
        refined=recognizer.refine(features),
        evaluation=evaluation,
        methods=methods,
        config=config,
        seconds=seconds,
        provenance=facts,
    )


def _write(folder: Path, findings: Findings) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    write_text(page, render_page(findings))
    baselines = dict(findings.methods)
    result = {
        **baselines.pop("mlis"),
        "protocol": PROTOCOL,
        "seconds": findings.seconds,
        "baselines": baselines,
        "page": str(page),
        "provenance": dict(findings.provenance),
    }
    write_json(folder / "result.json", result)
    return result
