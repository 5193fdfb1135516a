"""Decode the bytes of an image file to upright RGB pixels, or give the reason for failing.

- EXIF orientation is applied. Of animations, the first frame is used.
- Greyscale, palette, CMYK and bilevel images are converted to RGB; transparent pixels become white.
- 16-bit greyscale is divided by 257; 32-bit integers are read as 16-bit if they fit; floating-point
  values are 0..1 or 0..255. Any other range is rejected, as its white level is unknown.
- A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8 of its size (libjpeg's scaling).
- Colour profiles are ignored.
- Truncated files, and files that expand to more than `MAX_PIXELS` (decompression bombs), are
  rejected.
"""

import contextlib
import functools
import hashlib
import io
import os
import stat
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

VERSION = 1
"""Increment when files decode to different pixels; part of a backbone's preprocessing."""
MAX_PIXELS = 178_956_970
"""Maximum number of decoded pixels, the limit of Pillow; about 0.5 GB as RGB."""
MAX_JPEG_PIXELS = 1 << 28
"""Maximum number of pixels in the header of a JPEG, which is scaled while decoding."""
MAX_BYTES = 1 << 30
"""Maximum file size."""
FORMATS = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI")
"""Supported besides JPEG. Formats that run programs (EPS), have no signature (TGA), or are decoded
on opening regardless of their size (ICO) are excluded."""


class ImageError(Exception):
    """An image that cannot be decoded; the message is the reason."""


class ImageMemoryError(ImageError, MemoryError):
    """Not enough memory for the pixels at the moment; the image may be valid."""


@dataclass(frozen=True)
class FileBytes:
    """Content of a file.

    Attributes:
        data: all bytes.
        sha256: of `data`.
        stamp: size, times and inode, which identify the content. None for a recently modified
            file, whose next change might leave them unchanged.
    """

    data: bytes
    sha256: str
    stamp: tuple[int, ...] | None


def read_file(path: Path, now_ns: int) -> FileBytes:
    """Read a regular file. Raises `ImageError`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise ImageError("not a regular file")
        with path.open("rb") as handle:
            before = os.fstat(handle.fileno())
            if before.st_size > MAX_BYTES:
                raise ImageError(f"expected at most {MAX_BYTES:,} bytes, got {before.st_size:,}")
            data = handle.read()
            after = os.fstat(handle.fileno())
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise ImageError("empty file")
    steady = stamp_of(before) == stamp_of(after) and is_settled(after, now_ns)
    return FileBytes(data, hashlib.sha256(data).hexdigest(), stamp_of(after) if steady else None)


def stamp_of(info: os.stat_result) -> tuple[int, ...]:
    """Values that change with the content of a file."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


def is_settled(info: os.stat_result, now_ns: int) -> bool:
    """Whether the last change is old enough for another one to change the times."""
    return max(info.st_mtime_ns, info.st_ctime_ns) < now_ns - 2_000_000_000


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings while images are decoded.

    Warning filters are global: use it around the threads, not inside them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def decode(data: bytes, enough: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the bytes of a file to an upright RGB image.

    Args:
        data: content of the file.
        enough: sufficient size of the shorter side of a JPEG in pixels; default: its full size.
        max_pixels: maximum number of decoded pixels, at most `MAX_PIXELS`.

    Raises:
        ImageError: the image cannot be decoded.
        ImageMemoryError: there is not enough memory.
    """
    with _reasons(data), _open(data) as image:
        if enough is not None and image.format == "JPEG":
            image.draft(image.mode, _at_least(image.size, enough))
        if image.width * image.height > MAX_PIXELS:
            raise _bomb(image.size)
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"expected at most {max_pixels:,} pixels, got {image.width} × {image.height}"
            )
        image.seek(0)
        image.load()
        return _to_rgb(_upright(image))


@contextlib.contextmanager
def _reasons(data: bytes) -> Iterator[None]:
    """Turn whatever decoders raise into `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unknown(data)) from None
    except Image.DecompressionBombError:
        raise ImageError(f"decompression bomb: declares more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise ImageMemoryError("not enough memory to decode it") from None
    except Exception as error:  # decoders raise arbitrary exceptions on damaged files
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImageError(f"damaged or truncated: {reason}") from error


def claimed_pixels(data: bytes) -> int:
    """Number of pixels declared in the header of an image file; 0 if it cannot be read."""
    try:
        with _open(data) as image:
            return image.width * image.height
    except Exception:  # decoding reports the reason
        return 0


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file as `decode` gives it, from its header.

    Raises:
        ImageError: it cannot be read, or is not an image.
    """
    data = read_file(path, time.time_ns()).data
    with quiet_pillow(), _reasons(data), _open(data) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


def rgb(image: Image.Image) -> Image.Image:
    """Convert an open image to an upright RGB image, like `decode`.

    Raises:
        ImageError: the image cannot be decoded.
        ImageMemoryError: there is not enough memory.
    """
    with _reasons(b""):
        image.load()
        return _to_rgb(_upright(image))


def _open(data: bytes) -> Image.Image:
    if data[:3] == b"\xff\xd8\xff":  # Image.open would apply its limit before scaling
        image = JpegImageFile(io.BytesIO(data))
        if image.width * image.height > MAX_JPEG_PIXELS:
            raise _bomb(image.size)
        return image
    return Image.open(io.BytesIO(data), formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    """The `FORMATS` supported by the installed Pillow."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _bomb(size: tuple[int, int]) -> ImageError:
    return ImageError(f"decompression bomb: declares {size[0]} × {size[1]} pixels")


def _at_least(size: tuple[int, int], enough: int) -> tuple[int, int]:
    """The size to request from libjpeg: the shorter side is `enough`."""
    scale = enough / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _unknown(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "HEIC is not supported: convert it to JPEG or PNG"
    return "not an image, or not of a supported format"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data does not affect the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode in ("I", "F"):
        return _grey(_known_range(np.asarray(image).astype(np.float64)))
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _known_range(values: np.ndarray) -> np.ndarray:
    """Scale 32-bit integers or floating-point values to 0..255, according to their range."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return values * 255
    if low >= 0 and high <= 255:
        return values
    if low >= 0 and high <= 65535 and np.array_equal(values, np.floor(values)):
        return values / 257
    raise ImageError(f"32-bit values from {low:g} to {high:g}: unknown white level")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
