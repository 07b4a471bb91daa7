"""Pixels come out as Pillow gives them, or the file is named."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bdf_jax.api.pictures import gather
from bdf_jax.config import DataConfig
from bdf_jax.data.dataset import open_dataset
from bdf_jax.data.images import FORMATS, SUFFIXES, named_like_an_image, read_pixels, verify
from bdf_jax.data.loader import eval_batches
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
    decoded = read_pixels(encoded, "a.jpg", size)
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
    assert read_pixels(encoded, "a", (8, 8)).shape == (8, 8, 3)


def test_grey_is_replicated():
    decoded = read_pixels(encode(PIXELS[..., 0], "bmp"), "a.bmp", (40, 21))
    assert np.array_equal(decoded, np.repeat(PIXELS[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "zero bytes"),
        (b"hello", "no such format"),
        (encode(PIXELS, "eps"), "no such format"),  # its decoder starts another program
        (encode(PIXELS, "jpeg")[:-300], "truncated"),
        (encode(PIXELS, "png")[:-300], ""),
        (encode(PIXELS, "bmp")[:100], ""),
    ],
)
def test_what_cannot_be_decoded_is_named(encoded, reason):
    with pytest.raises(BdfError, match=r"cam1/0001/0003.jpg.*") as caught:
        read_pixels(encoded, "cam1/0001/0003.jpg", (8, 8))
    assert reason in str(caught.value)
    with pytest.raises(BdfError, match=r"cam1/0001/0003.jpg.*"):
        verify(encoded, "cam1/0001/0003.jpg")


def odd_files() -> dict[str, bytes]:
    """What the readers of a project like to treat differently."""
    alpha = Image.fromarray(PIXELS).convert("RGBA")
    alpha.putalpha(Image.fromarray(PIXELS[..., 0]))
    transparent = Image.fromarray(PIXELS).quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "16 bits": encode(PIXELS[..., 0].astype(np.uint16) * 257, "png"),
        "transparency": encode(np.asarray(alpha), "png"),
        "a palette": saved(transparent, "png", transparency=bytes(range(16))),
        "EXIF rotation": encode(PIXELS, "jpeg", exif=exif.tobytes()),
        "frames": saved(
            Image.fromarray(PIXELS), "gif", save_all=True, append_images=[Image.new("RGB", (21, 40), "red")]
        ),
        "colours of print": encode(PIXELS, "jpeg", "CMYK"),
        "grey levels as floats": encode(PIXELS[..., 0].astype(np.float32) / 255, "tiff"),
    }


def saved(image: Image.Image, kind: str, **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_has_the_same_pixels_wherever_it_is_read(regdb, tmp_path, cached):
    """Training, evaluation, the cache of decoded images, reports, and folders that are embedded."""
    files = odd_files()
    paths = dict(zip(files, sorted(regdb.rglob("*.bmp")), strict=False))
    for kind, path in paths.items():
        path.write_bytes(files[kind])
    config = DataConfig(dataset="regdb", root=str(regdb), dir=str(tmp_path), image_size=(20, 10), decoded_cache=cached)
    data = open_dataset(config, progress=False)
    seen = {}
    for split in (data.train, data.test):
        for batch in eval_batches(split, config.image_size, 8):
            for row, image in zip(batch.rows_V, batch.images_NHWC, strict=False):
                seen[str(split.index.names[row])] = image
                assert np.array_equal(image, split.pixels(int(row), config.image_size))
    embedded = gather(str(regdb))
    for row, name in enumerate(embedded.names):
        assert np.array_equal(seen[name], embedded.pixels(row, config.image_size)), name
    turned = seen[str(paths["EXIF rotation"].relative_to(regdb))]
    upright = read_pixels(np.rot90(PIXELS, -1), "", config.image_size)
    assert np.abs(turned.astype(int) - upright).mean() < 30  # a JPEG of noise
    assert np.array_equal(
        seen[str(paths["16 bits"].relative_to(regdb))],
        read_pixels(PIXELS[..., 0], "", config.image_size),
    )
