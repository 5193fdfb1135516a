"""One table of what a device does: steps beside the textbook, a fit, inference, memory.

    python benchmarks/gpu.py --device cuda --shape CUB [--tests tests.txt] -o gpu-out

`benchmarks/gpu.sh` runs the tests of GPUs before it. Data are simulated, in a benchmark's shape.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import steps
import torch
from report import markdown
from shapes import SHAPES, Shape, settings

import mlis
from mlis.data.dataset import GZSLDataset
from mlis.methods.mlis import MLIS
from mlis.model.recognizer import Recognizer
from mlis.protocol import evaluate_on_test
from mlis.storage.atomic import atomic_write

STEPS = 200  # of generator and encoder: enough for a rate


def world(shape: Shape) -> GZSLDataset:
    """Features whose class means are linear in the descriptors."""
    rng = np.random.default_rng(0)
    classes = shape.seen + shape.unseen
    descriptors = rng.standard_normal((classes, shape.descriptor), dtype=np.float32)
    look = rng.standard_normal((shape.descriptor, shape.features), dtype=np.float32)
    labels = np.arange(shape.rows * classes // shape.seen) % classes
    features = descriptors[labels] @ look / np.sqrt(np.float32(shape.descriptor))
    features += rng.standard_normal(features.shape, dtype=np.float32)
    unseen = range(shape.seen, classes)
    return GZSLDataset.from_arrays(
        np.maximum(features, 0), labels, descriptors, unseen_classes=unseen
    )


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds, the device's work included."""
    _wait(device)
    started = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fits(shape: str, device: torch.device) -> list[list[object]]:
    """Training from features to the test, and inference, at both precisions."""
    data, rows = world(SHAPES[shape]), list[list[object]]()
    for precision in ("float32", "auto"):
        config = settings(shape, precision=precision).replace(
            {
                "generation": {"steps": STEPS},
                "refinement": {"steps": STEPS},
                "classification": {"calibration": 0.0},
            }
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        trained = MLIS(config).choose(data, device=device, exemplars=False)
        found = evaluate_on_test(trained.recognizer, data)
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else np.nan
        rate = _rate(trained.recognizer, data.features, device)
        rows.append([precision, f"{seconds:.1f}", f"{found.H:.1f}", f"{rate:,.0f}", f"{peak:,.0f}"])
    return rows


def _rate(recognizer: Recognizer, features: object, device: torch.device) -> float:
    """Images per second from features on the device, the fastest of five."""
    x = torch.as_tensor(np.asarray(features), device=device)
    recognizer = recognizer.to(device)
    recognizer.predict(x)
    return len(x) / min(timed(lambda: recognizer.predict(x), device) for _ in range(5))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="CUB", choices=list(SHAPES))
    parser.add_argument("--tests", type=Path, help="output of pytest -m gpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-out"))
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [
        f"{name}, PyTorch {torch.__version__}, mlis {mlis.__version__}, {options.shape}'s shape"
    ]
    if options.tests:
        lines.append(f"`pytest -m gpu`: {options.tests.read_text().strip().splitlines()[-1]}")
    rows = [
        row
        for precision in ("float32", "auto")
        for row in steps.measure(options.shape, precision, 3, False)
    ]
    lines.append(steps.table(rows))
    header = ["precision", "fit and test, s", "H (simulated)", "images/s", "peak memory, MiB"]
    lines.append(
        f"{STEPS} generator and {STEPS} encoder steps:\n\n"
        + markdown(header, fits(options.shape, device))
    )
    options.output.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.output / "gpu.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
