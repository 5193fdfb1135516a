"""Damage that is steered by coverage, for the readers that are written in Python; needs atheris.

    python torture/guided.py mat-5 -runs=100000
    python torture/guided.py dataset-folder -max_total_time=600

It goes on with whatever reached a new line, and so finds its way through checks that damage by
chance seldom passes. Flags behind the reader's name are libFuzzer's. What is allowed is as in
fuzz.py; a finding ends it, and its input is kept in the current folder.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import atheris

import fuzz
from readers import READERS

WATCHED = ["mlis.data", "mlis.features", "mlis.storage.atomic", "mlis.config"]
IN_PYTHON = ("mat-5", "npy", "npz", "csv", "dataset-folder", "feature-folder", "toml")


def main() -> None:
    name, *flags = sys.argv[1:] or [""]
    if name not in IN_PYTHON:
        raise SystemExit(f"expected one of {', '.join(IN_PYTHON)}, got {name!r}")
    with tempfile.TemporaryDirectory(prefix="mlis-guided-") as folder:
        with atheris.instrument_imports(include=WATCHED):  # of all that the reader imports
            targets = READERS[name](Path(folder))
            for target in targets:
                fuzz.try_one(target, target.good)
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, target in enumerate(targets):  # which file is damaged: the first byte says
            (corpus / str(number)).write_bytes(bytes([number]) + target.good)

        def one(data: bytes) -> None:
            target = targets[data[0] % len(targets)] if data else targets[0]
            found = fuzz.try_one(target, data[1:])
            if found is not None:
                raise AssertionError(found)

        atheris.Setup([sys.argv[0], "-timeout=20", "-rss_limit_mb=4096", *flags, str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
