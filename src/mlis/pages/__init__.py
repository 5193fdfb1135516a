"""Self-contained HTML pages from templates with a common stylesheet."""

import base64
import functools
import io
import re
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image


def render(template: str, **content: Any) -> str:
    """Render a template; all of `content` is escaped.

    Args:
        template: path in the package, such as "demo/page.html".
        content: variables of the template.
    """
    return _environment().get_template(template).render(content)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("mlis", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def colours() -> dict[str, str]:
    """Names and values of the stylesheet's colours in the light scheme.

    >>> colours()["card"]
    '#ffffff'
    """
    text = resources.files("mlis.pages").joinpath("style.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text.partition("}")[0]))


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    """An image as a data URI; `kind` is "png" or "jpeg", and `options` are those of Pillow.

    >>> data_uri(Image.new("L", (1, 1)), "png")[:22]
    'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
