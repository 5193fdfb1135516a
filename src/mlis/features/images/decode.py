"""From the bytes of any image file to upright RGB pixels, or a reason why not.

What is done with each kind, always in the same way:

- EXIF orientation is applied. Animations give their first frame.
- Grey, palette, CMYK and bilevel images become RGB; transparent pixels become white.
- 16-bit grey is divided by 257; 32-bit integers are taken as 16-bit where they fit it; floating
  point numbers are 0..1 or 0..255. Any other range is refused: nothing says what is white.
- A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8 of its size (libjpeg's scaling).
- Colour profiles are not applied.
- Truncated files are refused, and so is anything that would unpack to more pixels than
  `MAX_PIXELS` (a decompression bomb).
"""

import contextlib
import functools
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

VERSION = 1
"""Raise it when the same file gives other pixels; it is part of a backbone's preprocessing."""
MAX_PIXELS = 178_956_970
"""Pixels an image may unpack to: Pillow's own limit for an error, about 0.5 GB as RGB."""
MAX_JPEG_PIXELS = 1 << 28
"""Pixels a JPEG may claim; it is scaled while it is decoded."""
MAX_BYTES = 1 << 30
"""Bytes a file may have."""
FORMATS = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI")
"""Read besides JPEG. Formats that run programs (EPS), have no signature (TGA), or are decoded as
soon as they are opened, whatever their size (ICO), are left out."""


class ImageError(Exception):
    """An image that cannot become pixels; the message is the reason, for a list."""


class ImageMemoryError(ImageError, MemoryError):
    """There was no memory for its pixels just now; the image may be a good one."""


@dataclass(frozen=True)
class FileBytes:
    """Content of a file.

    Attributes:
        data: all bytes.
        sha256: of `data`.
        stamp: size, times and inode; a file with the same stamp later has the same content. None
            where the file changed so lately that its times may not show the next change.
    """

    data: bytes
    sha256: str
    stamp: tuple[int, ...] | None


def read_file(path: Path, now_ns: int) -> FileBytes:
    """Read a file once; only regular files are opened. Raises `ImageError`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise ImageError("not a regular file")
        with path.open("rb") as handle:
            before = os.fstat(handle.fileno())
            if before.st_size > MAX_BYTES:
                raise ImageError(f"{before.st_size:,} bytes: larger than {MAX_BYTES:,}")
            data = handle.read()
            after = os.fstat(handle.fileno())
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise ImageError("empty file: zero bytes")
    steady = stamp_of(before) == stamp_of(after) and is_settled(after, now_ns)
    return FileBytes(data, hashlib.sha256(data).hexdigest(), stamp_of(after) if steady else None)


def stamp_of(info: os.stat_result) -> tuple[int, ...]:
    """What changes when a file's content does."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


def is_settled(info: os.stat_result, now_ns: int) -> bool:
    """Whether the last change is long enough ago that another one would show in the times."""
    return max(info.st_mtime_ns, info.st_ctime_ns) < now_ns - 2_000_000_000


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings while images are decoded: what matters becomes a reason.

    Warning filters are global: enter it around the threads, not inside them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def decode(data: bytes, enough: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Upright RGB image of a file's bytes.

    Args:
        data: the file.
        enough: pixels of the shorter side beyond which a JPEG need not be decoded; its full size
            where absent.
        max_pixels: that it may unpack to; `MAX_PIXELS` or fewer.

    Raises:
        ImageError: why there is no image.
        ImageMemoryError: there is no memory for it.
    """
    try:
        with _open(data) as image:
            if enough is not None and image.format == "JPEG":
                image.draft(image.mode, _at_least(image.size, enough))
            if image.width * image.height > MAX_PIXELS:
                raise _bomb(image.size)
            if image.width * image.height > max_pixels:
                raise ImageError(
                    f"{image.width} × {image.height} pixels: at most {max_pixels:,} are taken"
                )
            image.seek(0)
            image.load()
            return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unknown(data)) from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"decompression bomb refused: it claims more than {MAX_PIXELS:,} pixels"
        ) from None
    except MemoryError:
        raise ImageMemoryError("not enough memory to decode it") from None
    except Exception as error:  # damaged files make decoders raise anything
        raise _damaged(error) from error


def claimed_pixels(data: bytes) -> int:
    """Pixels that the header of an image file claims, undecoded; 0 where it cannot be read."""
    try:
        with _open(data) as image:
            return image.width * image.height
    except Exception:  # damaged files make readers raise anything; decoding says why
        return 0


def rgb(image: Image.Image) -> Image.Image:
    """Upright RGB image of one that is open already; the file's rules apply.

    Raises:
        ImageError: why there is no image.
        ImageMemoryError: there is no memory for it.
    """
    try:
        image.load()
        return _to_rgb(_upright(image))
    except ImageError:
        raise
    except MemoryError:
        raise ImageMemoryError("not enough memory to decode it") from None
    except Exception as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> ImageError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ImageError(f"damaged or truncated: {reason}")


def _open(data: bytes) -> Image.Image:
    if data[:3] == b"\xff\xd8\xff":  # opened directly: it is scaled before any limit counts
        image = JpegImageFile(io.BytesIO(data))
        if image.width * image.height > MAX_JPEG_PIXELS:
            raise _bomb(image.size)
        return image
    return Image.open(io.BytesIO(data), formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _bomb(size: tuple[int, int]) -> ImageError:
    return ImageError(f"decompression bomb refused: it claims {size[0]} × {size[1]} pixels")


def _at_least(size: tuple[int, int], enough: int) -> tuple[int, int]:
    """The size to ask libjpeg for: the shorter side `enough`, the longer in proportion."""
    scale = enough / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _unknown(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "HEIC, which Pillow does not read: convert it to JPEG or PNG"
    return "not an image, or of a kind that is not read"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data says nothing of the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode in ("I", "F"):
        return _grey(_known_range(np.asarray(image).astype(np.float64)))
    if image.mode in ("La", "RGBa"):  # colours multiplied by their alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _known_range(values: np.ndarray) -> np.ndarray:
    """0..255 of 32-bit integers or floating point numbers whose range tells what is white."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return values * 255
    if low >= 0 and high <= 255:
        return values
    if low >= 0 and high <= 65535 and np.array_equal(values, np.floor(values)):
        return values / 257
    raise ImageError(f"32-bit values from {low:g} to {high:g}: nothing says which is white")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
