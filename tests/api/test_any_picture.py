"""Any picture is converted as the table in bdf_jax/data/images.py says, or refused by name."""

import io
import os
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bdf_jax.api.pictures import gather, pillow_silent
from bdf_jax.data import images
from bdf_jax.data.images import BACKGROUND, LIMIT, read_pixels
from bdf_jax.errors import BdfError

H, W = SIZE = 12, 8
RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (H, W), dtype=np.uint8)
GREY16 = RANDOM.integers(0, 65536, (H, W), dtype=np.uint16)


def written(image, kind="PNG", **options):
    """The bytes of a file; `image` is a Pillow image or an array."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def read(item, size=SIZE):
    with pillow_silent():
        return read_pixels(item, "the image", size)


def plain(encoded, size=SIZE):
    rgb = Image.open(io.BytesIO(encoded)).convert("RGB")
    return np.asarray(rgb.resize(size[::-1], Image.Resampling.BILINEAR))


def three(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def test_colour_and_grey_files_are_what_they_are():
    np.testing.assert_array_equal(read(written(COLOUR)), COLOUR)
    np.testing.assert_array_equal(read(written(GREY)), three(GREY))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_an_ordinary_image_has_the_pixels_that_pillow_gives(kind):
    encoded = written(RANDOM.integers(0, 256, (50, 41, 3), dtype=np.uint8), kind)
    np.testing.assert_array_equal(read(encoded, (32, 16)), plain(encoded, (32, 16)))


def test_a_progressive_jpeg_is_read():
    encoded = written(COLOUR, "JPEG", progressive=True, quality=90)
    np.testing.assert_array_equal(read(encoded), plain(encoded))


def test_of_sixteen_bits_the_upper_byte_counts():
    upper = three(GREY16 // 256)
    np.testing.assert_array_equal(read(written(GREY16)), upper)
    np.testing.assert_array_equal(read(written(GREY16, "TIFF")), upper)
    np.testing.assert_array_equal(read(b"P5 8 12 65535\n" + GREY16.astype(">u2").tobytes()), upper)
    np.testing.assert_array_equal(read(GREY16), upper)


def test_sixteen_bit_colour_is_read_as_sixteen_bit_grey_is():
    values = RANDOM.integers(0, 65536, (H, W, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(read(png), values // 256)
    np.testing.assert_array_equal(read(values), values // 256)


def test_one_bit_is_black_and_white():
    bits = RANDOM.random((H, W)) > 0.5
    expected = three(np.where(bits, 255, 0).astype(np.uint8))
    np.testing.assert_array_equal(read(written(Image.fromarray(bits))), expected)
    np.testing.assert_array_equal(read(bits), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_grey(mode):
    alpha = RANDOM.integers(0, 256, (H, W), dtype=np.uint8)
    base = COLOUR if mode == "RGBA" else three(GREY)
    image = Image.fromarray(base).convert("RGB" if mode == "RGBA" else "L")
    image.putalpha(Image.fromarray(alpha))
    share = alpha[..., None] / 255
    expected = share * base + (1 - share) * BACKGROUND
    np.testing.assert_allclose(read(written(image)).astype(float), expected, atol=1.01)
    if mode == "RGBA":
        np.testing.assert_array_equal(read(np.dstack([COLOUR, alpha])), read(written(image)))


def test_a_transparent_entry_of_a_palette_is_grey():
    image = Image.fromarray(np.where(GREY > 128, 1, 0).astype(np.uint8), mode=None).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    for transparency in (0, bytes([0, 255])):
        found = read(written(image, transparency=transparency))
        assert (found[GREY <= 128] == BACKGROUND).all()
        assert (found[GREY > 128] == (0, 0, 255)).all()
    opaque = read(written(image))
    assert (opaque[GREY <= 128] == (255, 0, 0)).all()


def test_a_transparent_level_of_grey_and_of_sixteen_bit_grey_is_grey():
    assert (read(written(np.full((H, W), 7, np.uint8), transparency=7)) == BACKGROUND).all()
    image = Image.open(io.BytesIO(written(np.full((H, W), 700, np.uint16))))
    image.load()
    image.info["transparency"] = 700
    assert (read(image) == BACKGROUND).all()


def test_print_and_video_colours_become_rgb():
    for mode in ("CMYK", "YCbCr"):
        image = Image.fromarray(COLOUR).convert(mode)
        np.testing.assert_array_equal(read(written(image, "TIFF")), np.asarray(image.convert("RGB")))
    encoded = written(Image.fromarray(COLOUR).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_array_equal(read(encoded), plain(encoded))


def test_floating_point_goes_from_black_0_to_white_1():
    values = RANDOM.random((H, W)).astype(np.float32)
    expected = three(np.round(values * 255).astype(np.uint8))
    np.testing.assert_array_equal(read(written(values, "TIFF")), expected)
    np.testing.assert_array_equal(read(values.astype(np.float64)), expected)
    np.testing.assert_array_equal(read(np.float32([[0.5]]), (1, 1)), [[[128, 128, 128]]])
    # bfloat16 keeps 8 bits of a number.
    coarse = read(np.asarray(jnp.asarray(values, jnp.bfloat16)))
    np.testing.assert_allclose(coarse.astype(float), expected.astype(float), atol=2)


@pytest.mark.parametrize("values", [[[0.0, 255.0]], [[-0.5, 0.5]], [[np.nan, 0.5]], [[np.inf, 0.5]]])
def test_floating_point_without_a_known_white_is_refused(values):
    for item in (np.float32(values), written(np.float32(values), "TIFF")):
        with pytest.raises(BdfError, match="the image: expected floating point from 0"):
            read(item)


@pytest.mark.parametrize("item", [np.zeros((4, 4), np.int64), np.zeros((4, 4), np.uint32), np.zeros((4, 4), complex)])
def test_other_types_are_refused(item):
    with pytest.raises(BdfError, match=r"the image: expected .* found"):
        read(item)


def test_thirty_two_bit_files_are_refused():
    with pytest.raises(BdfError, match="8 or 16 bits"):
        read(written(np.full((4, 4), 2**20, np.int32), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(kind, orientation):
    """An image whose upper left quarter is white, stored as a camera held in eight ways would."""
    upright = np.zeros((32, 16, 3), np.uint8)
    upright[:16, :8] = 255
    stored = {  # https://www.cipa.jp/std/documents/download_e.html?CIPA_DC-008, what row 0 and column 0 are
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(written(np.ascontiguousarray(stored), kind, exif=exif), (32, 16))
    np.testing.assert_allclose(found.astype(int), upright, atol=12)


def test_exif_that_cannot_be_read_says_nothing():
    encoded = written(COLOUR, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xff\xff\xff\xff\xff")
    np.testing.assert_array_equal(read(encoded), read(written(COLOUR, "JPEG")))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_read(kind):
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (read(written(frames[0], kind, save_all=True, append_images=frames[1:], **options)) == (255, 0, 0)).all()


def test_tiny_and_stretched_images_are_read():
    assert (read(written(np.full((1, 1, 3), 9, np.uint8))) == 9).all()
    assert read(written(np.zeros((1, 20_000), np.uint8))).shape == (H, W, 3)
    assert read(np.zeros((20_000, 1, 3), np.uint8)).shape == (H, W, 3)


def test_a_large_image_is_read_and_one_beyond_the_limit_is_refused(monkeypatch):
    assert read(written(np.zeros((5000, 4000), np.uint8)), (2, 2)).shape == (2, 2, 3)
    monkeypatch.setattr(images, "LIMIT", 95)
    with pytest.raises(BdfError, match="the image: expected an image of at most 95 pixels: found 8 x 12"):
        read(written(COLOUR))


@pytest.mark.parametrize("side", [10_000, 30_000, 65_000])
def test_a_bomb_is_refused_before_it_is_unpacked(side):
    """A few kilobytes that would unpack to hundreds of megabytes or more; Pillow warns of the first, refuses others."""
    assert side * side > LIMIT
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    bomb += struct.pack(">I", zlib.crc32(b"IHDR" + header)) + struct.pack(">I", 8) + b"IDAT" + bytes(8)
    with pytest.raises(BdfError, match="the image: expected an image of at most 89,478,485 pixels"):
        read(bomb)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM"])
def test_a_truncated_file_is_refused_by_name(kind):
    encoded = written(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(BdfError, match=r"the image: (damaged|expected an image)"):
            read(encoded[: int(share * len(encoded))])


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (b"", "zero bytes"),
        (b"no image at all", "no such format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no such format"),  # would start another program
        (written(COLOUR)[:60] + bytes(40) + written(COLOUR)[100:], "damaged"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, damaged, problem):
    with pytest.raises(BdfError, match=f"the image: .*{problem}"):
        read(damaged)
    (tmp_path / "x.png").write_bytes(damaged)
    with pytest.raises(BdfError, match=f"the image: .*{problem}"):
        read(str(tmp_path / "x.png"))


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    for name, problem in (("pipe.jpg", "special file"), ("loop.jpg", "symbolic links"), ("none.jpg", "No such file")):
        with pytest.raises(BdfError, match=problem):
            read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("given", "count", "single"),
    [
        (COLOUR, 1, True),
        (GREY, 1, True),
        (GREY[..., None], 1, True),
        (np.zeros((4, H, W, 3), np.uint8), 4, False),
        (np.zeros((4, H, W, 1), np.uint16), 4, False),
        ([COLOUR, GREY16, Image.fromarray(GREY), written(COLOUR)], 4, False),
        ((COLOUR,), 1, False),
        (iter([COLOUR, GREY]), 2, False),
        (jnp.zeros((2, H, W, 3)), 2, False),
        (Image.fromarray(COLOUR), 1, True),
        ([np.zeros((2, H, W, 3), np.uint8), COLOUR], 3, False),
    ],
)
def test_what_counts_as_images(given, count, single):
    gathered = gather(given)
    assert (len(gathered), gathered.single) == (count, single)
    assert all(gathered.pixels(row, SIZE).shape == (H, W, 3) for row in range(count))
    assert gathered.names == [f"image {row}" for row in range(count)]


@pytest.mark.parametrize(
    "given", [np.zeros((3, 20, 10)), np.zeros(5), np.zeros((2, 3, 8, 8)), np.zeros((1, 1, 4, 4, 3))]
)
def test_arrays_of_other_shapes_are_refused(given):
    with pytest.raises(BdfError, match=r"image 0: expected an array .* found \("):
        gather(given)


@pytest.mark.parametrize("given", [[], (), None, 5, [None], {"a": 1}, np.zeros((0, 4, 4, 3))])
def test_what_is_no_image_is_refused(given):
    with pytest.raises(BdfError, match="expected"):
        gather(given)


def test_an_array_without_pixels_is_refused():
    with pytest.raises(BdfError, match="image 0: expected an image of at least one pixel"):
        gather(np.zeros((0, 4, 3))).pixels(0, SIZE)
