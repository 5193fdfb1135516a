"""What users import is completely typed: every parameter, every result, no bare container.

basedpyright checks that the types are right; that none is missing, it leaves to this. A slow test
asks it what a user's type checker can know of every public name.
"""

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlis

ROOT = Path(mlis.__file__).parent
BARE = {
    *("Callable", "Iterable", "Iterator", "Mapping", "Sequence"),
    *("dict", "frozenset", "list", "set", "tuple", "type"),
}
FILES = sorted(ROOT.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Functions and methods whose names begin without `_`, and `__init__`, `__call__`, …."""
    for node in body:
        if isinstance(node, Function):
            if not node.name.startswith("_") or node.name.endswith("__"):
                yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{prefix}{node.name}.")


def untyped(name: str, function: Function) -> Iterator[str]:
    """What is not annotated, or with a container that says nothing of what it holds."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    method = "." in name and not any(
        isinstance(one, ast.Name) and one.id == "staticmethod" for one in function.decorator_list
    )
    every = every[1:] if method else every
    every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    for one in every:
        if one.annotation is None:
            yield f"{name}: {one.arg} has no type"
        else:
            yield from bare(f"{name}: {one.arg}", one.annotation)
    if function.returns is not None:
        yield from bare(f"{name}: result", function.returns)
    elif not name.endswith("__init__"):  # whose result is known
        yield f"{name}: the result has no type"


def bare(where: str, annotation: ast.expr) -> Iterator[str]:
    """Names of generic containers that stand without brackets."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    named = {id(node.value) for node in ast.walk(annotation) if isinstance(node, ast.Subscript)}
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and node.id in BARE and id(node) not in named:
            yield f"{where} is a bare {node.id}"


def test_public_functions_are_completely_typed():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [line for name, one in public_functions(tree.body) for line in untyped(name, one)]
        assert not found, "\n".join([str(path), *found])


def test_what_is_missing_is_found():
    code = """
def good(x: int, *, y: "list[int]", **rest: str) -> dict[str, int]: ...
def no_result(x: int): ...
def no_type(x, *rest: int) -> None: ...
def a_bare_one(x: "Callable | None") -> tuple: ...
def _private(x): ...
class A:
    def __init__(self, x: int): ...
    def method(self, x) -> type[int]: ...
    @staticmethod
    def static(x) -> None: ...
"""
    tree = ast.parse(code)
    found = [line for name, one in public_functions(tree.body) for line in untyped(name, one)]
    assert found == [
        "no_result: the result has no type",
        "no_type: x has no type",
        "a_bare_one: x is a bare Callable",
        "a_bare_one: result is a bare tuple",
        "A.method: x has no type",
        "A.static: x has no type",
    ]


UNKNOWN = {
    *("mlis.MLISClassifier", "mlis.estimator.MLISClassifier"),
    *("mlis.GZSLClassifier", "mlis.estimator.GZSLClassifier"),
    "mlis.training.progress.Bar",
}
"""What stands on classes of scikit-learn and tqdm, which ship no types."""


@pytest.mark.slow
def test_a_type_checker_knows_every_public_name():
    """As `basedpyright --verifytypes mlis --ignoreexternal` tells it; half a minute."""
    tool = Path(sys.executable).with_name("basedpyright")
    if not tool.exists():
        pytest.skip("basedpyright is not installed")
    paths = [str(tool.parent), os.environ["PATH"]]
    where = {"PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run(
        [str(tool), "--verifytypes", "mlis", "--ignoreexternal", "--outputjson"],
        env=os.environ | where,
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        timeout=900,
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    assert Path(found["pyTypedPath"]) == ROOT / "py.typed"
    exported = [symbol for symbol in found["symbols"] if symbol["isExported"]]
    assert len(exported) > 2000, "the package was not found whole"
    missing = {symbol["name"] for symbol in exported if not symbol["isTypeKnown"]}
    missing |= {symbol["name"] for symbol in exported if symbol["isTypeAmbiguous"]}
    assert missing == UNKNOWN


def test_what_the_package_offers_is_checked_strictly():
    """The files that the names of `import mlis` come from are in pyproject.toml's strict list."""
    root = ROOT.parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    strict = {root / path for path in settings["tool"]["basedpyright"]["strict"]}
    rest = {"ImageClassifier", "add_classes", "remove_classes", "rename_classes", "from_pretrained"}
    rest |= {"save_dataset", "add_images"}  # checked in standard mode so far
    for name in mlis.__all__:
        if name != "__version__" and name not in rest:
            home = Path(sys.modules[getattr(mlis, name).__module__].__file__ or "")
            assert {home, *home.parents} & strict, f"{name} comes from {home}"
