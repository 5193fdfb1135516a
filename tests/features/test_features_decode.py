"""Every kind of image people have becomes the right pixels, or a reason."""

import io
import time

import numpy as np
import pytest
from PIL import Image

import odd_images
from mlis.features import decode
from mlis.features.decode import ImageError, read_file
from mlis.features.decode import decode as to_image


def halves(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour of the upper and the lower half."""
    pixels = np.asarray(image).astype(float)
    middle = len(pixels) // 2
    return pixels[:middle].mean((0, 1)), pixels[middle:].mean((0, 1))


@pytest.mark.parametrize("name", odd_images.good())
def test_good_files(name):
    with decode.quiet_pillow():
        image = to_image(odd_images.good()[name], enough=64)
    assert image.mode == "RGB"
    upper, lower = halves(image)
    assert upper[0] > upper[2] + 80, upper
    assert lower[2] > lower[0] + 80, lower


@pytest.mark.parametrize("name", odd_images.grey())
def test_grey_files(name):
    with decode.quiet_pillow():
        upper, lower = halves(to_image(odd_images.grey()[name]))
    light, dark = (255, 0) if name.startswith("bilevel") else (200, 40)
    np.testing.assert_allclose(upper, light, atol=4)
    np.testing.assert_allclose(lower, dark, atol=4)


@pytest.mark.parametrize("name", odd_images.bad())
def test_bad_files_have_a_reason(name, tmp_path):
    data, reason = odd_images.bad()[name]
    (tmp_path / name).write_bytes(data)
    with decode.quiet_pillow(), pytest.raises(ImageError, match=reason):
        to_image(read_file(tmp_path / name, time.time_ns()).data)


def test_reading_refuses_what_is_no_regular_file(tmp_path):
    names, reasons = odd_images.write_all(tmp_path)
    for name in ("dangling.jpg", "itself.jpg", "pipe.jpg"):
        with pytest.raises(ImageError, match=reasons[name]):
            read_file(tmp_path / name, time.time_ns())
    assert read_file(tmp_path / names[0], time.time_ns()).data


def test_a_young_file_is_not_trusted_by_its_stamp(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"x")
    now = time.time_ns()
    assert read_file(file, now).stamp is None
    assert read_file(file, now + 10**10).stamp == decode.stamp_of(file.stat())


@pytest.mark.parametrize("value", odd_images.STORED)
def test_every_exif_orientation_is_applied(value):
    upright = Image.new("RGB", (40, 24), "white")
    upright.paste((255, 0, 0), (0, 0, 16, 8))  # one corner, so that all eight ways differ
    result = np.asarray(to_image(odd_images.with_orientation(value, upright))).astype(int)
    np.testing.assert_allclose(result, np.asarray(upright).astype(int), atol=40)


def test_transparent_pixels_are_white_and_opaque_ones_kept():
    image = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 5, 10))
    result = np.asarray(to_image(odd_images.encoded(image, "PNG")))
    assert (result[:, 7] == 255).all()
    assert (result[:, 2] == (255, 0, 0)).all()


def test_a_large_jpeg_is_scaled_while_decoded_and_never_below_what_is_enough():
    data = odd_images.good()["large.jpg"]
    assert to_image(data).size == (3000, 2000)
    scaled = to_image(data, enough=400)
    assert scaled.size == (750, 500)
    assert to_image(data, enough=1900).size == (3000, 2000)


def test_a_jpeg_that_claims_too_much_is_refused():
    data = bytearray(odd_images.good()["plain.jpg"])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match=r"bomb.*60000 × 60000"):
        to_image(bytes(data), enough=100)


def test_damaged_exif_data_do_not_cost_the_picture():
    file = io.BytesIO()
    odd_images.picture().save(file, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    with decode.quiet_pillow():
        upper, _ = halves(to_image(file.getvalue()))
    assert upper[0] > 150
