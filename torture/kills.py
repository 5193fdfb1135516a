"""kill -9 at random moments, the same command again, and the same files at the end: `make torture`.

    python torture/kills.py -o torture-out                       50 kills of each command
    python torture/kills.py -o torture-out --kills 5 --cases fit

Each command first runs undisturbed. Then it is killed at a random moment (by `--seed`) and given
again, until it ends; its files must be those of the undisturbed run, bit for bit. A command that
ended begins anew in an empty folder, until it was killed as often as asked. The commands run in
forks of one process that has imported everything, so that moments are spread over the work and not
over imports. After `--seconds` (half an hour) nothing more is killed; the line of each command says
how often it was. Exit code 1 if anything differs.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

PATIENCE = 600.0  # seconds until a command counts as hanging
TIMES = ("seconds", "check", "finished", "reused", "generator_reused")


@dataclass(frozen=True)
class Case:
    """A command, and what it must leave.

    Attributes:
        first, again: arguments of `mlis`, the output folder as OUT; `again` after a kill.
        found: reads the output and the cache folder: what must be equal, by name.
    """

    first: tuple[str, ...]
    again: tuple[str, ...]
    found: Callable[[Path, Path], Mapping[str, Any]]


def prepare(folder: Path) -> dict[str, Case]:
    """Make the data of all cases."""
    from cli_cases import QUICK, save_small
    from standins import write_tiny

    data = str(save_small(folder / "data"))
    features, split = map(str, write_tiny(folder / "mat", hdf5=True))
    _photographs(folder / "photos")
    gan = ("--generator", "wgan-gp", "--generation-hidden", "16", "--noise", "4")
    gan += ("--batch-size", "16", "--critic-steps", "1", "--generation-steps", "40")
    gan += ("--refinement-steps", "40", "--calibration", "validation")
    fit = ("fit", data, "-o", "OUT", *QUICK, *gan, "--snapshot-every", "0")
    images = ("features", "images", str(folder / "photos"), "-o", "OUT", "--device", "cpu")
    images += ("--backbone", "efficientnet-lite0", "--shard-images", "2", "--workers", "1")
    tables = ("reproduce", "table3", "--datasets", data, "--budget", "quick", "-o", "OUT")
    convert = ("data", "convert", "--features", features, "--split", split, "-o", "OUT")
    return {
        "fit": Case(fit, ("fit", "--resume", "OUT", "--snapshot-every", "0"), _of_fit),
        "features": Case(images, images, _of_features),
        "reproduce": Case((*tables, "--device", "cpu"), (*tables, "--device", "cpu"), _of_tables),
        "convert": Case(convert, (*convert, "--force"), _of_convert),
    }


def _photographs(folder: Path) -> None:
    from PIL import Image

    chance = random.Random(0)
    for number in range(10):
        place = folder / f"class {number % 3}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (24, 24), chance.randbytes(24 * 24 * 3)).save(place)
    time.sleep(2.5)  # files that changed just now are looked at twice


def _of_fit(out: Path, cache: Path) -> dict[str, Any]:
    results = json.loads((out / "results.json").read_text())
    return {
        **_bytes(out, "seed-*/*/model/model.safetensors"),
        **{path: _steps(out / path) for path in _names(out) if path.endswith(".jsonl")},
        "results": _timeless(results),
        "files": _names(out),
        "generators": _names(cache / "generators"),
    }


def _of_features(out: Path, cache: Path) -> dict[str, Any]:
    names = "features.safetensors", "images.csv", "features.json", "bad.csv"
    return {name: _content(out / name) for name in names} | {"files": _names(out)}


def _of_tables(out: Path, cache: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    chosen = ("key", "protocol", "test", "validation", "calibration", "chosen", "task")
    return {
        "rows": sorted(json.dumps({n: row[n] for n in chosen}) for row in rows),
        "table": _content(out / "tables" / "table3.csv"),
        "models": sorted(_bytes(out, "runs/*/model/model.safetensors").items()),
        "files": [name for name in _names(out) if not name.startswith("work/")],
    }


def _of_convert(out: Path, cache: Path) -> dict[str, Any]:
    return {
        **_bytes(out, "*"),
        **_bytes(cache, "arrays-*/*"),
        "files": _names(out),
        "cache": [name for name in _names(cache) if not name.startswith("file-hashes/")],
    }


def _bytes(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob(pattern))}


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return value


# --- running ------------------------------------------------------------------------------------


def begin(arguments: tuple[str, ...], out: Path, cache: Path, log: Path) -> int:
    """Start a command in a fork; return its process number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with log.open("ab", buffering=0) as handle:
            for stream in (1, 2):
                os.dup2(handle.fileno(), stream)
        os.environ["MLIS_CACHE"] = str(cache)
        from mlis.cli import main as command

        code = command([str(out) if word == "OUT" else word for word in arguments])
    finally:
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """Exit status of a process, or None after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(min(0.002, max(0.0, end - time.monotonic())))


def run_case(
    name: str, case: Case, folder: Path, kills: int, seed: int, end: float
) -> dict[str, Any]:
    """Kill one command `kills` times, or until the clock says `end`; counts, and what differed."""
    chance, began, log = random.Random(f"{seed} {name}"), time.monotonic(), folder / f"{name}.log"
    calm, calm_cache = folder / name / "calm", folder / name / "calm-cache"
    start = time.monotonic()
    status = wait(begin(case.first, calm, calm_cache, log), PATIENCE)
    length = time.monotonic() - start
    if status != 0:
        raise SystemExit(f"{name}: the undisturbed run ended with {status}: see {log}")
    expected = case.found(calm, calm_cache)
    killed, finished, faults = 0, 0, []
    while (killed < kills and time.monotonic() < end) or finished == 0:
        place = folder / name / f"rough-{finished}"
        faults += _rough(case, place, length, chance, log, (kills - killed, end), expected)
        killed += json.loads((place.parent / "killed.json").read_text())
        finished += 1
        shutil.rmtree(place)
        if faults:
            break
    seconds = round(time.monotonic() - began, 1)
    return {"kills": killed, "finished": finished, "seconds": seconds, "faults": faults}


def _rough(
    case: Case,
    place: Path,
    length: float,
    chance: random.Random,
    log: Path,
    until: tuple[int, float],
    expected: Mapping[str, Any],
) -> list[str]:
    """Kill and go on until the command ends; so often or so long at most. Return what differs."""
    out, cache = place / "calm", place / "cache"  # named as the undisturbed run's folder is
    place.mkdir(parents=True)
    arguments, killed = case.first, 0
    while True:
        child = begin(arguments, out, cache, log)
        patient = killed >= until[0] or time.monotonic() > until[1]
        moment = PATIENCE if patient else chance.uniform(0, length)
        status = wait(child, moment)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if patient:
                (place.parent / "killed.json").write_text(str(killed))
                return [f"hangs: longer than {PATIENCE:g} s"]
            killed += 1
            arguments = case.again if _begun(case, out) else case.first
            continue
        (place.parent / "killed.json").write_text(str(killed))
        if status != 0:
            return [f"ended with {status} after {killed} kills: see {log}"]
        found = case.found(out, cache)
        return [
            f"{key} differs after {killed} kills"
            for key in expected
            if _differ(key, expected, found)
        ]


def _begun(case: Case, out: Path) -> bool:
    """Whether there is something to continue; a run's record is its first file."""
    return case.again[:2] != ("fit", "--resume") or (out / "run.json").exists()


def _differ(key: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return key not in found or found[key] != expected[key]


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; print one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("torture-out"))
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--cases", default="fit,features,reproduce,convert")
    parser.add_argument("--seconds", type=float, default=1800.0, help="of all together")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    _import_all()
    folder = args.output.resolve() / "kills"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cases, bad = prepare(folder), False
    names, end = args.cases.split(","), time.monotonic() + args.seconds
    for i, name in enumerate(names):
        now = time.monotonic()
        share = now + max(0.0, end - now) / (len(names) - i)
        found = run_case(name, cases[name], folder, args.kills, args.seed, share)
        bad |= bool(found["faults"])
        print(json.dumps({"case": name, **found}), flush=True)
    return 1 if bad else 0


def _import_all() -> None:
    import torch

    with contextlib.suppress(RuntimeError):
        torch.set_num_threads(1)


if __name__ == "__main__":
    raise SystemExit(main())
