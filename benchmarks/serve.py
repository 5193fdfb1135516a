"""Requests a second, and how long they take, of `mlis serve` on this machine's loopback.

    python benchmarks/serve.py [--requests 2000] [--concurrency 16] [--seconds 300] [-o serve.json]

The server is a process of its own with the API alone and no limit of the rate; the clients are
threads of this one, each with a connection that it keeps. Weights are random: speed does not
depend on them. `features`: one row of 2048 numbers as JSON, 200 classes, hidden size 2048.
`images`: one JPEG of 256 × 256 pixels through EfficientNet-Lite0. It stops when all requests are
answered, or after `--seconds` of a case.
"""

import argparse
import contextlib
import http.client
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from report import Rows, markdown, write

from mlis.io.checkpoint import save_model
from mlis.model.heads import LinearHead
from mlis.model.preprocessing import FeatureScaler
from mlis.model.recognizer import Metadata, Recognizer
from mlis.model.refiners import LinearReLU

CLASSES, HIDDEN, FEATURES = 200, 2048, 2048
BOUNDARY = "mlis-benchmark"
VARIANTS = 16
"""Different requests that take turns."""


@dataclass(frozen=True)
class Case:
    """What is asked: path, media type and bodies that take turns."""

    name: str
    path: str
    kind: str
    bodies: tuple[bytes, ...]


def recognizer(num_features: int, backbone: str | None) -> Recognizer:
    """Of random weights."""
    rng = torch.Generator().manual_seed(0)

    def weights(*shape: int) -> torch.Tensor:
        return 0.02 * torch.randn(*shape, generator=rng)

    sources = {}
    if backbone is not None:
        from mlis.features.backbones import load_backbone

        sources = {"backbone": load_backbone(backbone, device="cpu").identity.to_dict()}
    return Recognizer(
        FeatureScaler("none", torch.zeros(num_features), torch.ones(num_features)),
        LinearReLU(weights(HIDDEN, num_features), weights(HIDDEN)),
        LinearHead(weights(CLASSES, HIDDEN), weights(CLASSES)),
        tuple(f"class {i}" for i in range(CLASSES)),
        np.arange(CLASSES) < 150,
        np.ones((CLASSES, 4), dtype=np.float32),
        metadata=Metadata(sources),
    )


def feature_case() -> Case:
    """One row a request."""
    rows = np.random.default_rng(0).random((VARIANTS, FEATURES)).round(4)
    bodies = tuple(json.dumps({"rows": [row.tolist()]}).encode() for row in rows)
    return Case("features", "/predict/features", "application/json", bodies)


def image_case() -> Case:
    """One picture a request."""
    rng, bodies = np.random.default_rng(0), []
    for _ in range(VARIANTS):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((256, 256)).save(file, "JPEG", quality=85)
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        bodies.append(head.encode() + file.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode())
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return Case("images", "/predict/images", kind, tuple(bodies))


@contextlib.contextmanager
def served(model: Path, flags: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Host and port of a server of a model."""
    command = [sys.executable, "-m", "mlis", "serve", str(model), "--port", "0", "--no-page"]
    process = subprocess.Popen(
        [*command, "--rate", "0", *flags], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://([\d.]+):(\d+)", line):
                yield found[1], int(found[2])
                return
        raise SystemExit("the server ended")
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # on a machine with much else to do
            process.kill()
            process.wait()


def ask(place: tuple[str, int], case: Case, requests: int, threads: int, seconds: float) -> dict:
    """Send requests from several threads; latencies in order, and what went wrong."""
    numbers, end = itertools.count(), time.perf_counter() + seconds
    latencies: list[float] = []
    errors: list[str] = []

    def work() -> None:
        connection = http.client.HTTPConnection(*place, timeout=120)
        while (number := next(numbers)) < requests and time.perf_counter() < end:
            body = case.bodies[number % len(case.bodies)]
            began = time.perf_counter()
            try:
                connection.request("POST", case.path, body, {"Content-Type": case.kind})
                answer = connection.getresponse()
                told = json.loads(answer.read())
                if answer.status != 200 or not told["results"][0]["predictions"]:
                    errors.append(f"{answer.status} {told}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                errors.append(repr(error))
                connection.close()
            latencies.append(time.perf_counter() - began)
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - began
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]) * 1000
    return {
        "case": case.name,
        "requests": len(latencies),
        "asked_for": requests,
        "concurrency": threads,
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "seconds": took,
        "requests_per_s": len(latencies) / took,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": max(latencies) * 1000,
    }


def rows_a_batch(place: tuple[str, int]) -> float:
    """Mean rows of a batch, as the server counted them."""
    connection = http.client.HTTPConnection(*place, timeout=120)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    total, count = (
        float(re.search(rf"^mlis_batch_rows_{name} (\S+)", text, re.M)[1])  # pyright: ignore
        for name in ("sum", "count")
    )
    return total / count


def measure(case: Case, model: Recognizer, options: argparse.Namespace) -> dict:
    """One row: warm up with one request a variant, then all."""
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        save_model(model, folder)
        with served(Path(folder), options.flags) as place:
            ask(place, case, VARIANTS, 1, options.seconds)
            row = ask(place, case, options.requests, options.concurrency, options.seconds)
            return {**row, "rows_a_batch": rows_a_batch(place)}


def table(rows: Rows) -> str:
    """All rows as Markdown."""
    header = ["asked for", "requests", "errors", "requests/s", "p50, ms", "p95, ms", "p99, ms"]
    body = []
    for row in rows:
        times = (f"{row[name]:.1f}" for name in ("requests_per_s", "p50_ms", "p95_ms", "p99_ms"))
        batch = f"{row['rows_a_batch']:.1f}"
        body.append([row["case"], row["requests"], row["errors"], *times, batch])
    return markdown([*header, "rows a batch"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=["features", "images"])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=300, help="of a case, at most")
    parser.add_argument("--flags", nargs="*", default=[], help="more, for `mlis serve`, after all")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for name in options.cases or ("features", "images"):
        images = name == "images"
        model = recognizer(1280 if images else FEATURES, "efficientnet-lite0" if images else None)
        rows.append(measure(image_case() if images else feature_case(), model, options))
    print(table(rows))
    write(options.output, arguments, rows)
    if any(row["errors"] for row in rows):
        raise SystemExit(f"errors: {[row['first_error'] for row in rows]}")


if __name__ == "__main__":
    main()
