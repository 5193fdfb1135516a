"""What is built and installed: the wheel's files, the sdist's, the bounds, the quick imports."""

import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mlis

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]

# Nobody who leaves an extra out may need one of these.
OPTIONAL = {
    *("efficientnet_lite_pytorch", "fastapi", "onnx", "onnxruntime", "optuna", "pandas"),
    *("pyarrow", "pytorch_metric_learning", "ray", "sentence_transformers", "transformers"),
}


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed, apart from this interpreter's path."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**clean, **environment},
        check=True,
    )


def wheel_files() -> set[str]:
    """Paths in the wheel, without building one."""
    builder = WheelBuilder(str(ROOT))
    return {file.distribution_path for file in builder.recurse_included_files()}


# --- what is in the wheel and the sdist ---------------------------------------------------------


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else():
    package = ROOT / "src" / "mlis"
    expected = {
        f"mlis/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wheel_files() == expected


def test_the_sdist_holds_all_that_its_tests_read():
    builder = SdistBuilder(str(ROOT))
    paths = {file.distribution_path for file in builder.recurse_included_files()}
    assert {path.split("/")[0] for path in paths} | {"pyproject.toml"} >= {
        *("src", "tests", "docs", "examples", "benchmarks", "mkdocs.yml", "Makefile", "LICENSE"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"),
        *("constraints.txt", "constraints-lowest.txt", "constraints-lowest-extras.txt"),
    }
    assert not [path for path in paths if path.endswith(".pyc") or ".venv" in path]


# --- bounds ------------------------------------------------------------------------------------


def bounds(requirements: list[str]) -> dict[str, str]:
    """Lowest version of each requirement; the package's own extras are left out."""
    lowest = {}
    for line in requirements:
        one = Requirement(line)
        if one.name != "mlis":
            (specifier,) = [each for each in one.specifier if each.operator in (">=", "==")]
            lowest[canonicalize_name(one.name)] = specifier.version
    return lowest


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): pinned for name, pinned in pairs}


def test_the_lowest_set_is_what_is_declared():
    declared = bounds([*PROJECT["dependencies"], *EXTRAS["parquet"], *EXTRAS["metric"]])
    del declared["torch"]  # no CPU build of the lowest one is at hand: docs/testing.md
    tools = ("pytest", "pytest-xdist", "hypothesis", "psutil")
    declared |= {name: low for name, low in bounds(EXTRAS["dev"]).items() if name in tools}
    assert pins("constraints-lowest.txt").keys() == declared.keys()
    for name, low in pins("constraints-lowest.txt").items():
        assert Version(low) == Version(declared[name]), name


def test_the_lowest_set_of_the_extras_is_what_is_declared():
    found = pins("constraints-lowest-extras.txt")
    assert found.pop("torch") == pins("constraints.txt")["torch"]
    extras = ("images", "text", "serve", "tune", "onnx")
    declared = bounds([line for name in extras for line in EXTRAS[name]])
    packaged = {name for name in declared if "efficientnet" in name or "minilm" in name}
    assert found.keys() == declared.keys() - packaged
    for name, low in found.items():
        assert Version(low) == Version(declared[name]), name


def test_every_declared_dependency_is_pinned():
    declared = bounds([*PROJECT["dependencies"], *itertools.chain(*EXTRAS.values())])
    assert declared.keys() <= pins("constraints.txt").keys()


# --- imports -----------------------------------------------------------------------------------


def test_no_public_name_loads_an_extra():
    """One process for all names, in turn: whatever the first of them loads, it is charged with."""
    names = sorted(
        set(mlis.__all__) - {"__version__"}, key=lambda name: name.endswith("Classifier")
    )
    code = (
        "import json, sys, mlis\n"
        f"for name in {['__version__', *names]}:\n"
        "    getattr(mlis, name)\n"
        "    print(json.dumps([name, [module.split('.')[0] for module in sys.modules]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(mlis.__all__)
    for name, modules in lines:
        loaded = set(modules) & OPTIONAL
        if name.endswith("Classifier"):  # scikit-learn loads pandas where it is installed
            loaded -= {"pandas", "pyarrow"}
        assert not loaded, name


# --- built, installed, run ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "-o", folder, ROOT, cwd=folder)
    return folder


@pytest.mark.slow
def test_the_wheel_from_the_sdist_is_the_wheel_from_the_tree(built: Path):
    (wheel,) = built.glob("*.whl")
    inside = {path for path in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in path}
    assert inside == wheel_files()


@pytest.mark.slow
def test_the_tests_of_the_sdist_are_found_in_it(built: Path, tmp_path: Path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    source = f"{tree / 'src'}"
    done = run(
        *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"),
        cwd=tree,
        PYTHONPATH=source,
    )
    here = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert set(re.findall(r"tests/(test_\w+\.py)", done.stdout)) == here


@pytest.mark.slow
def test_the_wheel_installs_without_extras_and_runs(built: Path, tmp_path: Path):
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    try:
        run(binaries / "pip", "install", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    except subprocess.CalledProcessError as error:
        if re.search("NewConnectionError|Temporary failure in name resolution", error.stderr):
            pytest.skip("pip reaches no package index from here")
        raise AssertionError(error.stderr) from None
    listed = json.loads(run(binaries / "pip", "list", "--format", "json", cwd=tmp_path).stdout)
    assert not {each["name"].replace("-", "_") for each in listed} & OPTIONAL
    assert "usage: mlis" in run(binaries / "mlis", "--help", cwd=tmp_path).stdout
    cache = str(tmp_path / "cache")
    run(binaries / "mlis", "demo", "-o", "out", cwd=tmp_path, MLIS_CACHE=cache)
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["U"] > 80
    assert (tmp_path / "out" / "index.html").stat().st_size > 10_000
