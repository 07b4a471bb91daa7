"""Pixels come out as Pillow gives them, or the file is named."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bdf_jax.data.images import FORMATS, SUFFIXES, decode, named_like_an_image
from bdf_jax.errors import BdfError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 21, 3), np.uint8)


def encode(pixels: np.ndarray, kind: str, mode: str | None = None, **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **kwargs)
    return buffer.getvalue()


def test_every_ending_that_pillow_knows_for_a_format_that_is_read_is_listed():
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert known <= set(SUFFIXES)
    assert named_like_an_image("a.b.TiFF")
    assert not any(map(named_like_an_image, ("._1.jpg", "jpg", "1.jpg.txt", "Thumbs.db", ".webp")))


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp"])
@pytest.mark.parametrize("size", [(40, 21), (16, 32), (100, 50)])
def test_equals_plain_pillow(kind, size):
    encoded = encode(PIXELS, kind)
    plain = Image.open(io.BytesIO(encoded)).convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    decoded = decode(encoded, "a.jpg", size)
    assert decoded.shape == (*size, 3)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, np.asarray(plain))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(mode):
    if mode == "LA":
        alpha = Image.merge("LA", (Image.fromarray(PIXELS[..., 0]), Image.fromarray(PIXELS[..., 1])))
        encoded = encode(np.asarray(alpha), "png")
    else:
        encoded = encode(PIXELS, "jpeg" if mode == "CMYK" else "png", mode)
    assert decode(encoded, "a", (8, 8)).shape == (8, 8, 3)


def test_grey_is_replicated():
    decoded = decode(encode(PIXELS[..., 0], "bmp"), "a.bmp", (40, 21))
    assert np.array_equal(decoded, np.repeat(PIXELS[..., :1], 3, axis=2))


def test_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(
        decode(encode(PIXELS, "jpeg", exif=exif.tobytes()), "a", (40, 21)),
        decode(encode(PIXELS, "jpeg"), "a", (40, 21)),
    )


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "zero bytes"),
        (b"hello", "none of AVIF, BMP"),
        (encode(PIXELS, "eps"), "none of AVIF, BMP"),  # its decoder starts another program
        (encode(PIXELS, "jpeg")[:-300], "truncated"),
        (encode(PIXELS, "png")[:-300], ""),
        (encode(PIXELS, "bmp")[:100], ""),
        (encode((PIXELS[..., 0].astype(np.uint16) << 8), "png"), "8 bits"),
    ],
)
def test_what_cannot_be_decoded_is_named(encoded, reason):
    with pytest.raises(BdfError, match=r"cam1/0001/0003.jpg.*") as caught:
        decode(encoded, "cam1/0001/0003.jpg", (8, 8))
    assert reason in str(caught.value)
