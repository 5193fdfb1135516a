"""Attacks on `mlis serve` over loopback, and what they cost: seconds, statuses, memory.

    python torture/server.py                          every attack, about five minutes
    python torture/server.py --attacks keys slow      some of them
    python torture/server.py -o server.json           the figures as JSON, too

Each attack gets its own server process with a small model. Meanwhile an honest client asks for
GET /health every 50 ms; its slowest answer is how long the server was blocked. Memory is the
process's resident set: before, at its peak, and two seconds after the attack. Every attack is
bounded in requests and in time (`--seconds`).
"""

import argparse
import contextlib
import http.client
import io
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

FEATURES, ATTRIBUTES, CLASSES, UNSEEN = 1280, 16, 40, 8
JSON = {"Content-Type": "application/json"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
Answer = tuple[int, float]


def make_model(folder: Path) -> None:
    """A model of simulated features that takes photographs and new classes."""
    from mlis import Config, GZSLDataset, fit, save_model
    from mlis.features.backbones import load_backbone
    from mlis.model.recognizer import Metadata

    rng = np.random.default_rng(0)
    descriptors = rng.random((CLASSES, ATTRIBUTES))
    labels = np.repeat(np.arange(CLASSES), 50)
    look = rng.standard_normal((ATTRIBUTES, FEATURES))
    features = np.maximum(descriptors[labels] @ look + rng.standard_normal((len(labels), 1)), 0)
    names = tuple(f"class {i}" for i in range(CLASSES))
    data = GZSLDataset.from_arrays(
        features.astype(np.float32),
        labels,
        descriptors,
        class_names=names,
        unseen_classes=names[-UNSEEN:],
    )
    config = Config().replace({"generation": {"generator": "ridge"}, "refinement": {"steps": 5}})
    trained = fit(data.for_training(), config, seed=0, device="cpu", exemplars=True)
    model, exemplars = trained.recognizer, trained.exemplars
    backbone = load_backbone("efficientnet-lite0", device="cpu")
    model.metadata = Metadata({"backbone": backbone.identity.to_dict()})
    save_model(model, folder, exemplars)


class Server:
    """A server process and what is measured of it.

    Args:
        model: folder.
        flags: more of them for `mlis serve`.
        seconds: that one request may take.
    """

    def __init__(self, model: Path, flags: Sequence[str], seconds: float):
        self.seconds = seconds
        command = [sys.executable, "-m", "mlis", "serve", str(model), "--port", "0", *flags]
        began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self.line_seconds: list[float] = []
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip())
            self.line_seconds.append(time.perf_counter() - began)
            if line.startswith("API:"):
                break
        found = re.search(r"http://[\d.]+:(\d+)", "\n".join(self.lines))
        if found is None:
            raise SystemExit("the server ended:\n" + "\n".join(self.lines))
        self.port = int(found[1])
        threading.Thread(target=self._drain, daemon=True).start()
        self.ask("GET", "/health")
        self.ready_seconds = time.perf_counter() - began
        self.usage = psutil.Process(self.process.pid)

    def _drain(self) -> None:
        self.lines.extend(line.rstrip() for line in self.process.stdout or ())

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict | None = None
    ) -> Answer:
        """Status and seconds of one request; status 0 where the connection was cut off."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.seconds)
        try:
            connection.request(method, path, body, headers or {})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            status = 0
        finally:
            connection.close()
        return status, time.perf_counter() - began

    def memory(self) -> int:
        """Resident set in MiB."""
        return self.usage.memory_info().rss >> 20

    def stop(self) -> float:
        """Send SIGTERM, and return the seconds until the process ended."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.perf_counter() - began


@contextlib.contextmanager
def watched(server: Server) -> Iterator[dict]:
    """Ask GET /health all along, and look at the memory."""
    found: dict = {"memory_before": server.memory()}
    end = threading.Event()
    answers: list[Answer] = []
    peak = [found["memory_before"]]

    def ask() -> None:
        while not end.wait(0.05):
            answers.append(server.ask("GET", "/health"))

    def look() -> None:
        while not end.wait(0.02):
            peak[0] = max(peak[0], server.memory())

    threads = [threading.Thread(target=each) for each in (ask, look)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - began
        end.set()
        for thread in threads:
            thread.join()
        time.sleep(2)
        found["memory_peak"], found["memory_after"] = peak[0], server.memory()
        found["health_slowest"] = max((seconds for _, seconds in answers), default=0.0)
        found["health_statuses"] = dict(Counter(status for status, _ in answers))


def many(server: Server, count: int, *request) -> dict:
    """The same request by `count` clients at once."""
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda _: server.ask(*request), range(count)))
    return {
        "statuses": dict(Counter(status for status, _ in answers)),
        "slowest": max(seconds for _, seconds in answers),
    }


def form(*files: bytes) -> bytes:
    """Picture files as a browser sends them."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--x--\r\n"


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    """A picture of one colour: few bytes, many pixels."""
    file = io.BytesIO()
    Image.new(mode, (width, height), "orange").save(file, "PNG", compress_level=1)
    return file.getvalue()


# --- attacks -------------------------------------------------------------------------------------


def start(server: Server) -> dict:
    """How long it takes to begin, and how long nothing is said meanwhile."""
    times = [0.0, *server.line_seconds, server.ready_seconds]
    quiet = max(after - before for before, after in itertools.pairwise(times))
    return {"first_line": server.line_seconds[0], "ready": server.ready_seconds, "quiet": quiet}


def invalid_items(server: Server) -> dict:
    """3.9 MB of rows of the right size in which no item is a number."""
    row = b"[" + b",".join([b"[]"] * FEATURES) + b"]"
    rows = b'{"rows": [' + b",".join([row] * 1000) + b"]}"
    body = b'{"name": "a", "attributes": {'
    body += b",".join(b'"%d":[]' % i for i in range(300_000)) + b"}}"
    with watched(server) as found:
        found["classes"] = server.ask("POST", "/classes", body, JSON)
        found["features"] = server.ask("POST", "/predict/features", rows, JSON)
    return found


def keys(server: Server) -> dict:
    """2.5 million keys that are not known."""
    body = b"{" + b",".join(b'"%d":1' % i for i in range(2_500_000)) + b"}"
    with watched(server) as found:
        found["classes"] = server.ask("POST", "/classes", body, JSON)
        found["features"] = server.ask("POST", "/predict/features", body, JSON)
    return found


def pictures(server: Server) -> dict:
    """40 requests of 32 pictures of 3 million pixels each; then one honest picture."""
    flood, honest = form(*[png(2000, 1500)] * 32), form(png(256, 256))
    request = ("POST", "/predict/images", flood, MULTIPART)
    with watched(server) as found, ThreadPoolExecutor(1) as pool:
        attack = pool.submit(many, server, 40, *request)
        time.sleep(1)
        tries, began = [], time.perf_counter()
        while (not tries or tries[-1][0] != 200) and time.perf_counter() - began < 60:
            tries.append(server.ask("POST", "/predict/images", honest, MULTIPART))
            time.sleep(0.5)
        found["honest_first"], found["honest_tries"] = tries[0], len(tries)
        found["honest_served_after"] = time.perf_counter() - began - 0.5
        found |= attack.result()
    return found


def large(server: Server) -> dict:
    """8 pictures of 49 million pixels with transparency at once."""
    body = form(png(7000, 7000, "RGBA"))
    with watched(server) as found:
        found |= many(server, 8, "POST", "/predict/images", body, MULTIPART)
    return found


def additions(server: Server) -> dict:
    """30 classes, one after the other; then 8 at once."""
    rng = np.random.default_rng(1)

    def add(i: int) -> Answer:
        new = {"name": f"new {i}", "vector": rng.random(ATTRIBUTES).tolist()}
        return server.ask("POST", "/classes", json.dumps(new).encode(), JSON)

    with watched(server) as found:
        answers = [add(i) for i in range(30)]
        found["first"], found["last"] = answers[0], answers[-1]
        began = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(add, range(30, 38)))
        found["eight_at_once"] = time.perf_counter() - began
        found["statuses"] = dict(Counter(status for status, _ in [*answers, *together]))
    return found


def slow(server: Server) -> dict:
    """300 connections whose headers never end, then 300 whose bodies do not."""
    post = b"POST /predict/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
    post += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"
    honest = ("POST", "/predict/images", form(png(64, 64)), MULTIPART)
    found: dict = {}
    for name, begun in (("headers", b"GET /health HTTP/1.1\r\nHost: lo"), ("bodies", post)):
        with contextlib.ExitStack() as sockets:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    each = socket.create_connection(("127.0.0.1", server.port), timeout=5)
                    sockets.enter_context(each)
                    each.sendall(begun)
            time.sleep(0.5)
            found[f"{name}_honest"] = [server.ask(*honest) for _ in range(3)]
    return found


def strangers(server: Server) -> dict:
    """What a website of someone else, or a name that points here, may ask; statuses."""
    new = json.dumps({"name": "evil", "vector": [0.5] * ATTRIBUTES}).encode()
    evil = {**JSON, "Host": "evil.example"}
    asked: dict[str, tuple] = {
        "other_name": ("GET", "/classes", None, {"Host": "evil.example"}),
        "other_name_adds": ("POST", "/classes", new, {**evil, "Origin": "http://evil.example"}),
        "no_token_adds": ("POST", "/classes", new, JSON),
        "page_fetches": ("GET", "/page/gradio_api/file=http://127.0.0.1:9/", None, {}),
        "page_cors": ("GET", "/page/config", None, {"Origin": "http://localhost:1"}),
        "unknown_function": (
            "POST",
            "/page/gradio_api/queue/join",
            b'{"fn_index": 99, "data": []}',
            JSON,
        ),
    }
    return {name: server.ask(*request)[0] for name, request in asked.items()}


def stop(server: Server) -> dict:
    """SIGTERM while six additions and many pictures are queued."""
    flood = ("POST", "/predict/images", form(*[png(2000, 1500)] * 16), MULTIPART)
    with ThreadPoolExecutor(20) as pool:
        asked = []
        for i in range(6):
            new = {"name": f"n {i}", "vector": [0.1 * i + 0.1] * (ATTRIBUTES - 1) + [0.9]}
            asked.append(
                pool.submit(server.ask, "POST", "/classes", json.dumps(new).encode(), JSON)
            )
        asked += [pool.submit(server.ask, *flood) for _ in range(8)]
        time.sleep(1.0)
        seconds = server.stop()
        statuses = Counter(each.result()[0] for each in asked)
    return {"seconds": seconds, "exit": server.process.returncode, "statuses": dict(statuses)}


ATTACKS: dict[str, Callable[[Server], dict]] = {
    each.__name__: each
    for each in (
        *(start, invalid_items, keys, pictures, large),
        *(additions, slow, strangers, stop),
    )
}
FLAGS = {"strangers": ("--host", "0.0.0.0")}
"""Of a server that others reach; only loopback is asked."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=90, help="for one request, at most")
    parser.add_argument("--flags", nargs="*", default=[], help="more of them for `mlis serve`")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="mlis-torture-") as folder:
        make_model(Path(folder) / "model")
        for name in options.attacks:
            flags = [*FLAGS.get(name, ()), *options.flags]
            server = Server(Path(folder) / "model", flags, options.seconds)
            try:
                figures[name] = rounded(ATTACKS[name](server))
            finally:
                server.stop()
            errors = sum("Traceback" in line for line in server.lines)
            figures[name]["tracebacks"] = errors
            print(f"{name}: {json.dumps(figures[name])}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1))


def rounded(value):
    """Floats to two decimals, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return round(value, 2) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
