"""One file of each kind that people have, made here."""

import io
import os
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

RED, GREEN, BLUE = (220, 30, 20), (20, 200, 60), (10, 40, 230)
SIDE = 48


def picture(mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Red in the upper half, blue in the lower, in any mode that Pillow converts to."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (0, size[1] // 2, *size))
    return image if mode == "RGB" else image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large, whole as far as its header goes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


STORED = {  # EXIF orientation → how an upright picture is turned before it is stored
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def with_orientation(value: int, upright: Image.Image | None = None) -> bytes:
    """A JPEG that looks like `upright` once its EXIF orientation is applied."""
    image, turn = upright or picture(), STORED[value]
    exif = Image.Exif()
    exif[0x0112] = value
    stored = image if turn is None else image.transpose(turn)
    return encoded(stored, "JPEG", exif=exif, quality=95, subsampling=0)


def with_profile() -> bytes:
    """A JPEG with an embedded colour profile."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(picture(), "JPEG", icc_profile=profile)


@cache
def good() -> dict[str, bytes]:
    """Files whose upper half is reddish and whose lower half is bluish (grey: darker)."""
    alpha = picture("RGBA")
    frames = [picture(), Image.new("RGB", (SIDE, SIDE), GREEN)]
    animated = {"save_all": True, "append_images": frames[1:]}
    return {
        "plain.jpg": encoded(picture(), "JPEG"),
        "plain.png": encoded(picture(), "PNG"),
        "wrong-suffix.gif": encoded(picture(), "PNG"),
        "no-suffix": encoded(picture(), "JPEG"),
        "UPPER.JPG": encoded(picture(), "JPEG"),
        **{f"orientation-{value}.jpg": with_orientation(value) for value in STORED},
        "profile.jpg": with_profile(),
        "pages.tif": encoded(frames[0], "TIFF", **animated),
        "transparent-palette.png": encoded(picture("P"), "PNG", transparency=7),
        "two-pixels.png": encoded(picture(size=(1, 2)), "PNG"),
        "huge.png": encoded(picture(size=(3000, 2500)), "PNG", compress_level=1),
        "progressive.jpg": encoded(picture(), "JPEG", progressive=True),
        "cmyk.jpg": encoded(picture("CMYK"), "JPEG"),
        "palette.png": encoded(picture("P"), "PNG"),
        "palette.gif": encoded(picture(), "GIF"),
        "alpha.png": encoded(alpha, "PNG"),
        "animated.gif": encoded(frames[0], "GIF", **animated),
        "animated.png": encoded(frames[0], "PNG", **animated),
        "animated.webp": encoded(frames[0], "WEBP", **animated, lossless=True),
        "plain.webp": encoded(picture(), "WEBP"),
        "plain.bmp": encoded(picture(), "BMP"),
        "plain.tif": encoded(picture(), "TIFF"),
        "cmyk.tif": encoded(picture("CMYK"), "TIFF"),
        "plain.ppm": encoded(picture(), "PPM"),
        "large.jpg": encoded(picture(size=(3000, 2000)), "JPEG"),
        "long.png": encoded(picture(size=(4, 400)), "PNG"),
        "花の写真 🌸.png": encoded(picture(), "PNG"),
        "цветок.jpg": encoded(picture(), "JPEG"),
        'with, comma "and quotes".jpg': encoded(picture(), "JPEG"),
        "new\nline.jpg": encoded(picture(), "JPEG"),
        "زهرة.jpg": encoded(picture(), "JPEG"),
        "caf\udce9.jpg": encoded(picture(), "JPEG"),  # a byte that is no UTF-8
        "-o": encoded(picture(), "JPEG"),
        "folder.jpg/inside.jpg": encoded(picture(), "JPEG"),
    }


@cache
def grey() -> dict[str, bytes]:
    """The same in shades of grey: light above, dark below."""
    shades = np.full((SIDE, SIDE), 200, dtype=np.uint8)
    shades[SIDE // 2 :] = 40
    return {
        "grey.jpg": encoded(Image.fromarray(shades), "JPEG", quality=95),
        "grey-alpha.png": encoded(Image.fromarray(shades).convert("LA"), "PNG"),
        "bilevel.png": encoded(Image.fromarray(shades > 100), "PNG"),
        "sixteen.png": encoded(Image.fromarray(shades.astype(np.uint16) * 257), "PNG"),
        "sixteen.tif": encoded(Image.fromarray(shades.astype(np.uint16) * 257), "TIFF"),
        "float.tif": encoded(Image.fromarray((shades / 255).astype(np.float32)), "TIFF"),
    }


@cache
def bad() -> dict[str, tuple[bytes, str]]:
    """Files that can give no row, with a word of the reason."""
    jpeg, png = encoded(picture(), "JPEG"), encoded(picture(), "PNG")
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    noisy = encoded(Image.fromarray(noise), "JPEG")
    unknown = np.array([[-4.0, 1e6]], dtype=np.float32)
    return {
        "empty.jpg": (b"", "empty file"),
        "truncated.jpg": (noisy[: len(noisy) // 2], "truncated"),
        "truncated.png": (png[: len(png) // 2], "truncated"),
        "only-header.jpg": (jpeg[:20], "truncated"),
        "text.jpg": (b"this is no image at all, whatever its name", "not an image"),
        "page.html": (b"<html><body>404</body></html>", "not an image"),
        "noise.png": (bytes(noise.ravel()[:3000]), "not an image"),
        "bomb.png": (bomb(30_000, 30_000), "bomb"),
        "wide-bomb.png": (bomb(2_000_000_000, 1), "bomb"),
        "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        "float-range.tif": (encoded(Image.fromarray(unknown), "TIFF"), "unknown white level"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    }


def write_all(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Write every kind into a folder.

    Returns the names of the good ones, sorted, and the bad ones with a word of their reasons.
    """
    fine = good() | grey()
    for name, data in fine.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    reasons = {}
    for name, (data, reason) in bad().items():
        (folder / name).write_bytes(data)
        reasons[name] = reason
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    (folder / "up").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.jpg")
    (folder / ".hidden").write_bytes(b"not meant")
    (folder / "Thumbs.db").write_bytes(b"not meant")
    (folder / "secret.jpg").write_bytes(fine["plain.jpg"])
    (folder / "secret.jpg").chmod(0)
    reasons |= {"dangling.jpg": "cannot be read", "itself.jpg": "cannot be read"}
    reasons |= {"up": "link", "pipe.jpg": "not a regular file"}
    if os.access(folder / "secret.jpg", os.R_OK):  # root reads everything
        return sorted([*fine, "secret.jpg"]), reasons
    return sorted(fine), reasons | {"secret.jpg": "Permission denied"}
