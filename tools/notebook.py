"""Run the code cells of a notebook in one process and store what they show.

    python tools/notebook.py examples/letters.ipynb

Jupyter is not needed, and a notebook that runs here runs there: a cell is Python, and the value of
its last expression is shown as HTML, as a picture or as text.
"""

import ast
import base64
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def run(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each code cell, in order, with the outputs of running it after those before it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        tree = ast.parse("".join(cell["source"]), f"cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        outputs: list[dict[str, Any]] = []
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(tree, f"cell {number}", "exec"), namespace)
            value = None
            if isinstance(last, ast.Expr):
                shown = ast.Expression(last.value)
                value = eval(compile(shown, f"cell {number}", "eval"), namespace)
        if text := printed.getvalue():
            outputs.append({"output_type": "stream", "name": "stdout", "text": lines(text)})
        if value is not None:
            data = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
            outputs.append({**data, "data": shown_as(value)})
        yield cell | {"execution_count": number}, outputs


def shown_as(value: Any) -> dict[str, Any]:
    """What a notebook would show, by media type."""
    shown: dict[str, Any] = {"text/plain": lines(repr(value))}
    if hasattr(value, "_repr_html_"):
        shown["text/html"] = lines(value._repr_html_())
    if hasattr(value, "_repr_png_"):
        shown["image/png"] = base64.b64encode(value._repr_png_()).decode()
        shown["text/plain"] = [f"<{type(value).__name__}>"]  # its address would change
    return shown


def lines(text: str) -> list[str]:
    """As notebooks keep text."""
    return text.splitlines(keepends=True)


def main() -> None:
    """Run the notebooks that are named, and write them with their outputs."""
    for path in map(Path, sys.argv[1:]):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        done = iter([cell | {"outputs": outputs} for cell, outputs in run(notebook)])
        notebook["cells"] = [
            next(done) if cell["cell_type"] == "code" else cell for cell in notebook["cells"]
        ]
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
