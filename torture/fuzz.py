"""Damaged files for every reader, by the hundred thousand: `make fuzz`.

    python torture/fuzz.py -o fuzz-out                     100,000 inputs a reader
    python torture/fuzz.py -o fuzz-out --seconds 600       for ten minutes; go on later
    python torture/fuzz.py -o fuzz-out --readers npz,toml --inputs 1000

Each reader runs in a worker process, so that a crash is seen, with a limit on memory and one on
the time of an input. Allowed are: a result, an `MlisError`, an `OSError` that names a file. All
else is a finding, and its input is kept. The same command goes on where it stopped. Exit code 1 if
there is any finding.
"""

import argparse
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from readers import READERS, Target

MEMORY = 512 << 20  # bytes that one input may take beyond what the worker has
RESERVED = {"parquet": 4 << 30}  # Arrow reserves what a page's header claims, and does not touch it
LONGEST = 20.0  # seconds of the processor that one input may take
PATIENCE = 900.0  # seconds of the clock, for one that waits, and to begin with
LONGEST_MESSAGE = 2000


def damaged(targets: list[Target], reader: str, number: int) -> tuple[Target, bytes]:
    """Input `number` of a reader."""
    chance = random.Random(f"{reader} {number}")
    target = chance.choice(targets)
    return target, target.mutate(target.good, chance)


def try_one(target: Target, content: bytes) -> tuple[str, str] | None:
    """Read one input. None if all is well, else what is wrong, in a word and in full."""
    target.path.unlink(missing_ok=True)  # what was mapped before keeps its file
    target.path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read()
    except Exception as error:
        return _judged(error)
    except BaseException as error:  # Rust panics
        return type(error).__name__, _told(error)
    finally:
        target.path.unlink(missing_ok=True)
        target.path.write_bytes(target.good)
    return None


def _judged(error: Exception) -> tuple[str, str] | None:
    from mlis.errors import MlisError
    from mlis.features.decode import ImageError

    text = str(error)
    if isinstance(error, MlisError | ImageError):
        if isinstance(error, MemoryError) or _ran_short(error.__cause__):
            return "memory", _told(error)
        if not text or "\n" in text or len(text) > LONGEST_MESSAGE:
            return f"message of {type(error).__name__}", _told(error)
        return None
    if isinstance(error, OSError) and error.filename:
        return None
    return type(error).__name__, _told(error)


def _ran_short(cause: BaseException | None) -> bool:
    """Whether memory ran out, and not Python's parser: it says so of what nests too deep."""
    if not isinstance(cause, MemoryError):
        return False
    return not any(
        Path(f.filename).name == "ast.py" for f in traceback.extract_tb(cause.__traceback__)
    )


def _told(error: BaseException) -> str:
    own = [f for f in traceback.extract_tb(error.__traceback__) if "/mlis/" in f.filename]
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    return f"{where}: {type(error).__name__}: {str(error)[:300]}"


# --- the worker -----------------------------------------------------------------------------------


def work(reader: str, start: int, stop: int, out: Path, deadline: float) -> None:
    """Try inputs `start` to `stop`; `out/READER.at` has the number that is being tried."""
    import faulthandler

    faulthandler.enable()
    with tempfile.TemporaryDirectory(prefix="mlis-fuzz-") as folder:
        targets = READERS[reader](Path(folder))
        for target in targets:
            try_one(target, target.good)
        limit_memory(RESERVED.get(reader, MEMORY))
        with (out / f"{reader}.at").open("r+b") as handle:
            handle.write(struct.pack("<QB", start, 1))  # a ninth byte: it has begun
            handle.flush()
            place = mmap.mmap(handle.fileno(), 8)
        most = _most()
        for number in range(start, stop):
            place[:] = struct.pack("<Q", number)
            target, content = damaged(targets, reader, number)
            found = try_one(target, content)
            if _most() > most + (MEMORY >> 1):
                found = found or ("memory", f"{(_most() - most) >> 20} MiB more than before")
            most = max(most, _most())
            if found is not None:
                _note(out, reader, number, content, *found)
            if time.time() > deadline:
                break
        place[:] = struct.pack("<Q", number + 1)


def limit_memory(more: int = MEMORY) -> None:
    """Let the address space grow by so many bytes; what is touched of it is looked at besides."""
    import resource

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


def _most() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _note(out: Path, reader: str, number: int, content: bytes, kind: str, text: str) -> None:
    line = {"reader": reader, "number": number, "kind": kind, "text": text}
    with (out / "findings.jsonl").open("a") as handle:
        handle.write(json.dumps(line) + "\n")
    name = out / "inputs" / f"{reader}-{number}"
    name.parent.mkdir(exist_ok=True)
    name.write_bytes(content)


# --- the parent -----------------------------------------------------------------------------------


def run(reader: str, out: Path, inputs: int, seconds: float) -> dict[str, Any]:
    """Try inputs of one reader, from where the last call stopped."""
    state = out / f"{reader}.json"
    begun = json.loads(state.read_text()) if state.exists() else {"done": 0, "seconds": 0.0}
    at, started = begun["done"], time.monotonic()
    deadline = time.time() + seconds
    while at < inputs and time.time() < deadline:
        at = _watch(reader, out, at, inputs, deadline)
        spent = begun["seconds"] + time.monotonic() - started
        state.write_text(json.dumps({"done": at, "seconds": round(spent, 1)}))
    return {"reader": reader, **json.loads(state.read_text() if state.exists() else '{"done": 0}')}


def _watch(reader: str, out: Path, start: int, stop: int, deadline: float) -> int:
    """Run one worker until it ends or hangs; return the number of the next input."""
    place = out / f"{reader}.at"
    place.write_bytes(struct.pack("<Q", start))
    command = [sys.executable, __file__, "--worker", reader, str(start), str(stop), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with (out / f"{reader}.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, str(deadline)], env=environment, stdout=log, stderr=log
        )
    at, since, spent = start - 1, time.monotonic(), 0.0  # it imports first
    while process.poll() is None:
        time.sleep(0.2)
        now = _number(place)
        if now != at and (now > start or place.stat().st_size > 8):
            at, since, spent = now, time.monotonic(), _processor_seconds(process.pid)
        slow = at >= start and _processor_seconds(process.pid) - spent > LONGEST
        if slow or time.monotonic() - since > PATIENCE:
            process.kill()
            process.wait()
            _note(out, reader, now, _input(reader, now), "hang", f"longer than {LONGEST:g} s")
            return now + 1
    at = _number(place)
    if process.returncode == 0:
        return at
    if place.stat().st_size == 8:
        raise SystemExit(f"the worker of {reader} did not start: see {out / f'{reader}.log'}")
    _note(out, reader, at, _input(reader, at), "crash", f"exit status {process.returncode}")
    return at + 1


def _number(place: Path) -> int:
    return struct.unpack("<Q", place.read_bytes()[:8])[0]


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _input(reader: str, number: int) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mlis-fuzz-") as folder:
        return damaged(READERS[reader](Path(folder)), reader, number)[1]


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Run all readers that are asked for, and say what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("fuzz-out"))
    parser.add_argument("--inputs", type=int, default=100_000, help="of each reader")
    parser.add_argument("--seconds", type=float, default=1e9, help="of all together")
    parser.add_argument("--readers", default=",".join(READERS))
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.seconds
    names = args.readers.split(",")
    for i, name in enumerate(names):
        share = (end - time.monotonic()) / (len(names) - i)
        done = run(name, args.output.resolve(), args.inputs, max(share, 0))
        say(f"{name:15} {done['done']:>9,} inputs  {done.get('seconds', 0):>8.1f} s")
    return _report(args.output, names, say)


def _report(out: Path, names: list[str], say: Callable[[str], None]) -> int:
    path = out / "findings.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lines = [line for line in lines if line["reader"] in names]
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for line in lines:
        place = ":".join(line["text"].split(":")[:2])
        kinds.setdefault((line["reader"], line["kind"], place), []).append(line)
    for (reader, kind, _), group in kinds.items():
        say(
            f"{reader}: {kind}, {len(group)} inputs, first {group[0]['number']}: {group[0]['text']}"
        )
    say(f"{len(lines)} findings" if lines else "no finding")
    return 1 if lines else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        name, first, last, place, until = sys.argv[2:]
        work(name, int(first), int(last), Path(place), float(until))
    else:
        raise SystemExit(main())
