"""Cameras of 10, 12 and 14 bits, and radiometric ones: said, and read right once it is known what is white."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdf_jax.config import Config, DataConfig, vary
from bdf_jax.data.check import check_tree
from bdf_jax.data.dataset import open_dataset
from bdf_jax.data.images import read_pixels, verify
from bdf_jax.data.levels import AS_STORED, Levels, Notes
from bdf_jax.data.loader import eval_batches
from bdf_jax.data.prepare import main
from bdf_jax.errors import BdfError

GREY = np.random.default_rng(0).integers(0, 256, (24, 12)).astype(np.uint16)
GREY[0, :2] = 0, 255


def png(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


def said_of(item: object, levels: Levels = AS_STORED) -> str:
    notes = Notes()
    read_pixels(item, "a.png", GREY.shape, levels, notes)
    return str(notes)


CAMERAS = {
    "10 bits": (GREY * 4, Levels(1020), "0 to 1020, which a network sees as grey levels 0 to 3 of 255", "--white=1023"),
    "12 bits": (GREY * 16, Levels(4080), "0 to 4080, which a network sees as grey levels 0 to 15", "--white=4095"),
    "14 bits": (GREY * 64, Levels(16320), "0 to 16320, which a network sees as grey levels 0 to 63", "--white=16383"),
    "8 bits in a file of 16": (
        GREY,
        Levels(255),
        "0 to 255, which a network sees as grey levels 0 to 0",
        "--white=255",
    ),
    "a band of temperatures": (
        51241 + GREY * 4,
        Levels(52261, 51241),
        "51241 to 52261, which a network sees as grey levels 200 to 204",
        "--black=51241 --white=52261 (black=51241, white=52261 in Python, --config.data.black=51241 --config",
    ),
}


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_narrow_range_is_told_with_what_helps_and_a_white_level_mends_it(camera):
    values, levels, found, remedy = CAMERAS[camera]
    for item in (png(values), values):
        said = said_of(item)
        assert said.startswith("a.png: ")
        assert found in said
        assert remedy in said
        assert said_of(item, levels) == ""
        expected = read_pixels(GREY.astype(np.uint8), "", GREY.shape)
        np.testing.assert_array_equal(read_pixels(item, "", GREY.shape, levels), expected)


def test_nothing_is_said_of_a_wide_range_or_of_8_bits():
    assert said_of(png(GREY * 257)) == said_of(png(GREY.astype(np.uint8) // 4)) == said_of(GREY / 255) == ""
    np.testing.assert_array_equal(
        read_pixels(GREY.astype(np.uint8), "", GREY.shape, Levels(1023)),
        read_pixels(GREY.astype(np.uint8), "", GREY.shape),
    )


def test_one_image_is_named_and_the_others_are_counted():
    notes = Notes()
    for name in ("b.png", "a.png", "c.png", "b.png"):
        read_pixels(GREY * 4, name, (8, 8), notes=notes)
    assert str(notes).startswith("a.png: its values")
    assert str(notes).endswith("(2 more such images)")


def test_a_white_level_that_most_values_lie_beyond_is_told():
    said = said_of(GREY * 64, Levels(1023))
    assert said.startswith("a.png: its values go from 0 to 16320, which a network sees as grey levels 0 to 255 of 255")
    assert "where black is 0 and white 1023, 9" in said
    said = said_of(GREY / 255, Levels(1023))
    assert "its values go from 0 to 1, which a network sees as grey levels 0 to 0" in said


def test_integers_and_floats_of_any_range_have_a_white_level_too():
    expected = read_pixels(GREY.astype(np.uint8), "", GREY.shape)
    for values, levels in (
        (GREY.astype(np.float32), Levels(255)),
        (GREY.astype(np.float32) / 10 + 20, Levels(45.5, 20)),
        (GREY.astype(np.int64) - 300, Levels(-45, -300)),
        (GREY.astype(np.uint32) * 65536, Levels(255 * 65536)),
        (GREY.astype(np.float32) / 10 - 25.5, Levels.of(0, -25.5)),
    ):
        found = read_pixels(values, "", GREY.shape, levels)
        np.testing.assert_allclose(found.astype(int), expected, atol=1)
        with pytest.raises(BdfError, match=r"say.*: --white=VALUE \(white=VALUE in Python\)"):
            read_pixels(values, "", GREY.shape)
    with pytest.raises(BdfError, match="a: expected finite values"):
        read_pixels(np.float32([[np.nan, 1]]), "a", (1, 2), Levels(255))
    assert "0 to 0.06" in said_of((GREY.astype(np.float32) / 255 * 0.06).astype(np.float32))


def colour_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG by hand: Pillow writes none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_of_colour_in_16_bits_a_narrow_range_is_told_and_a_white_level_refused():
    """Pillow reads its upper bytes alone."""
    narrow = colour_of_16_bits(np.dstack([GREY * 16] * 3))
    said = said_of(narrow)
    assert "grey levels 0 to 15 of 255: convert the images to 8 bits" in said
    assert "--white" not in said
    assert said_of(colour_of_16_bits(np.dstack([GREY * 257] * 3))) == ""
    with pytest.raises(BdfError, match="a: of colour in 16 bits the upper bytes alone are read"):
        read_pixels(narrow, "a", (8, 8), Levels(4095))


@pytest.mark.parametrize(
    ("white", "black", "message"),
    [
        (100, 100, "white: expected a value above black .100., found 100"),
        (None, 5, "expected a value above black .5., found no white"),
        (float("nan"), None, "white: expected a number"),
        ("1023", None, "white: expected a number such as 1023, found '1023'"),
        (True, None, "white: expected a number"),
        (-3, None, "above black .0., found -3"),
    ],
)
def test_impossible_levels_are_refused(white, black, message):
    with pytest.raises(BdfError, match=f"--.*{message}"):
        Levels.of(white, black, "--")


def test_impossible_levels_of_a_configuration_are_refused():
    with pytest.raises(BdfError, match=r"data\.white: expected a value above data\.black = 7"):
        vary(Config(), {"data.black": 7.0})


@pytest.mark.parametrize("colour", [False, True])
def test_files_that_say_what_is_white_need_no_level(colour):
    """PPM has a field for it."""
    values = np.dstack([GREY * 16] * 3) if colour else GREY * 16
    head = b"P6" if colour else b"P5"
    said, silent = (head + b" 12 24 %d\n" % white + values.astype(">u2").tobytes() for white in (4080, 65535))
    expected = read_pixels(GREY.astype(np.uint8), "", GREY.shape)
    np.testing.assert_allclose(read_pixels(said, "", GREY.shape).astype(int), expected, atol=1)
    assert said_of(said) == ""
    assert "which a network sees as grey levels 0 to 1" in said_of(silent)
    if not colour:
        for each in (said, silent):
            np.testing.assert_array_equal(read_pixels(each, "", GREY.shape, Levels(4080)), expected)


def twelve_bits_packed(values: np.ndarray) -> bytes:
    """A TIFF by hand: two values in three bytes."""
    pairs = values.reshape(-1, 2).astype(int)
    data = b"".join(bytes([x >> 4, (x & 15) << 4 | y >> 8, y & 255]) for x, y in pairs)
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))]]
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(entries))
        + b"".join(entries)
        + bytes(4)
    )


def test_twelve_bits_in_a_file_of_twelve_are_what_they_are():
    expected = read_pixels(GREY.astype(np.uint8), "", GREY.shape)
    found = read_pixels(twelve_bits_packed(GREY * 16), "", GREY.shape)
    np.testing.assert_allclose(found.astype(int), expected, atol=1)
    assert said_of(twelve_bits_packed(GREY * 16)) == ""


# Trees.


@pytest.fixture
def twelve_bits(regdb: Path) -> Path:
    """Thermal images of a camera of 12 bits, in files of 16; the originals lie in Thermal8."""
    for path in sorted((regdb / "Thermal").rglob("*.bmp")):
        copy = regdb / "Thermal8" / path.relative_to(regdb / "Thermal")
        copy.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.open(path).convert("L")
        grey.load()
        path.rename(copy)
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 16).save(path, "PNG")
    return regdb


@pytest.mark.parametrize("cached", [False, True])
def test_a_training_is_told_and_sees_the_pixels_of_8_bits_with_a_white_level(twelve_bits, tmp_path, caplog, cached):
    config = DataConfig(
        dataset="regdb", root=str(twelve_bits), dir=str(tmp_path), image_size=(24, 16), decoded_cache=cached
    )
    open_dataset(config, progress=False)
    (told,) = (record.getMessage() for record in caplog.records if record.name == "bdf_jax")
    assert told.startswith("of 16 images of each modality: Thermal/1/male_front_t_00000_1.bmp: its values go from ")
    assert "--config.data.white=4095 of a training" in told
    open_dataset(config, progress=False)
    assert len([record for record in caplog.records if record.name == "bdf_jax"]) == 2  # whenever it starts
    caplog.clear()
    data = open_dataset(dataclasses.replace(config, white=4080.0), progress=False)
    assert not [record for record in caplog.records if record.name == "bdf_jax"]
    for batch in eval_batches(data.train, config.image_size, 8):
        for row, image in zip(batch.rows_V, batch.images_NHWC, strict=False):
            original = twelve_bits / str(data.train.index.names[row]).replace("Thermal/", "Thermal8/")
            np.testing.assert_array_equal(image, read_pixels(original.read_bytes(), "", config.image_size))
            np.testing.assert_array_equal(image, data.train.pixels(int(row), config.image_size))


def test_looking_over_and_preparing_a_tree_tell_it_too(twelve_bits, tmp_path, caplog, capsys):
    (warning,) = (w for w in check_tree("regdb", twelve_bits, progress=False).warnings if "white" in w)
    assert warning.startswith("Thermal/1/male_front_t_00000_1.bmp: its values")
    assert warning.endswith("(15 more such images)")
    levels = Levels(4080)
    assert not [w for w in check_tree("regdb", twelve_bits, levels=levels, progress=False).warnings if "white" in w]
    main("regdb", str(twelve_bits), str(tmp_path / "a"), progress=False)
    main("regdb", str(twelve_bits), str(tmp_path / "a"), levels, progress=False)
    assert len([record for record in caplog.records if record.name == "bdf_jax"]) == 1


def test_temperatures_are_prepared_once_their_white_is_known(regdb, tmp_path):
    for path in (regdb / "Thermal").rglob("*.bmp"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.float32)
        Image.fromarray(grey / 10 + 20).save(path, "TIFF")
    with pytest.raises(BdfError, match=r"16 images of the tree cannot be used.*(\n.*)* say it: --white=VALUE"):
        main("regdb", str(regdb), str(tmp_path / "a"), progress=False)
    main("regdb", str(regdb), str(tmp_path / "a"), Levels(45.5, 20), progress=False)
    verify((next((regdb / "Thermal").rglob("*.bmp"))).read_bytes(), "", Levels(45.5, 20))
