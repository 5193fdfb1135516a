"""Pictures inside a page: data URIs, so that nothing is fetched."""

import base64
import io
from typing import Any

from PIL import Image


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    """An image file as a URI, `kind` being "png" or "jpeg"; options are Pillow's.

    >>> data_uri(Image.new("L", (1, 1)), "png")[:22]
    'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
