"""Files and columns that are not what a feature file has: each is told what it is, and nothing is read in silence."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import protocol_definitions as definitions
import pytest
import scipy.io as scipy_io
from feature_files import arrays_of, good, rows_of
from PIL import Image

from bdf_jax.errors import BdfError
from bdf_jax.evaluation.feature_file import load_features, save_features
from bdf_jax.evaluation.feature_rows import evaluate_files


def image(suffix):
    def write(path):
        Image.new("RGB", (8, 8)).save(path, suffix)

    return write


def content(data):
    return lambda path: path.write_bytes(data)


def saved(save, value):
    def write(path):
        with path.open("wb") as file:
            save(file, value)

    return write


def zipped(**members):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name.replace("__", "/"), data)

    return write


def cut_off(path):
    np.savez(path, **good())
    path.write_bytes(path.read_bytes()[:-40])


def damaged_inside(path):
    np.savez(path, **good())
    data = bytearray(path.read_bytes())
    data[600:700] = bytes(100)
    path.write_bytes(data)


def longer_than_it_is(path):
    """A header that promises more numbers than memory holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10**6)})
    zipped(**{"features.npy": file.getvalue(), "names.npy": b"", "pids.npy": b"", "cams.npy": b""})(path)


def encrypted(path):
    np.savez(path, **good())
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def tarred(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("features.npy"))


def folder(*names):
    def write(path):
        path.mkdir()
        for name in names:
            (path / name).touch()

    return write


MAT73 = b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(124) + b"\0\x02IM" + b"\0" * 384 + b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (content(b""), "found an empty file"),
        (content(bytes(5000)), "found a file that begins with zeros only"),
        (content(b"\xde\xad\xbe\xef" * 9), r"found a file of an unknown kind that begins with b'\\xde"),
        (saved(np.save, np.zeros((3, 4))), r"found a single NumPy array .*'shape': \(3, 4\)"),
        (saved(np.save, np.array([{}])), r"found a single NumPy array .*'descr': '\|O'"),
        (saved(scipy_io.savemat, {"features": np.eye(3)}), "found a MATLAB 5 file"),
        (content(MAT73), "found a MATLAB 7.3 file"),
        (content(b"\x89HDF\r\n\x1a\n" + bytes(99)), "found an HDF5 file"),
        (zipped(archive__data="x", **{"archive__data.pkl": "x"}), "found a PyTorch file"),
        (content(pickle.dumps({"features": [1.0]})), "found a pickle"),
        (content(struct.pack("<Q", 2) + b"{}      "), "found a safetensors file"),
        (content(b"name,pid\ncam1/0001.jpg,1\n"), r"found text \(it begins with 'name,pid"),
        (content("name\t身份\n".encode() * 99), r"found text \(it begins with 'name"),
        (content("name,pid".encode("utf-16")), r"found text \(it begins with 'name,pid'"),
        (content(b'{"features": []}'), "found JSON"),
        (content(b"<!DOCTYPE html><html>"), "found a web page or XML, perhaps of a failed download"),
        (content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "found a Git LFS pointer"),
        (image("JPEG"), "found a JPEG image"),
        (image("PNG"), "found a PNG image"),
        (image("BMP"), "found a BMP image"),
        (image("TIFF"), "found a TIFF image"),
        (image("WEBP"), "found a WebP image"),
        (zipped(), "found an empty zip archive"),
        (zipped(**{"a.txt": "x", "b.txt": "y"}), r"found a zip archive of other files \(a\.txt, b\.txt\)"),
        (content(b"\x1f\x8b\x08" + bytes(9)), "found a gzip archive"),
        (tarred, "found a tar archive"),
        (cut_off, "found a zip archive .* that is cut off"),
        (damaged_inside, "found a damaged .npz"),
        (longer_than_it_is, r"found a damaged .npz \(features is not as long as its header says\)"),
        (encrypted, "found a damaged .npz .*encrypted"),
        (zipped(**{"features.npy": b"no array", "names.npy": b"no array"}), "found a damaged .npz"),
        (lambda path: None, "found nothing"),
        (folder(), r"found a folder \(empty\)"),
        (folder("a.jpg", "b.jpg"), r"found a folder \(a\.jpg, b\.jpg\)"),
        (folder("checkpoints", "config.json"), "found a folder of a training run or of a checkpoint"),
        (lambda path: os.mkfifo(path), "found a pipe or a device"),
    ],
)  # fmt: skip
def test_another_file_is_told_what_it_is(write, said, tmp_path):
    path = tmp_path / "F.npz"
    write(path)
    with pytest.raises(BdfError, match="expected a feature file: an .npz with the arrays .*" + said) as caught:
        evaluate_files("sysu_mm01", str(path), galleries=["agw"])
    assert str(path) in str(caught.value)
    assert "pickle" not in str(caught.value) or "found a pickle" in str(caught.value)  # nobody is told to load it


def test_a_weight_file_of_pytorch_is_recognised():
    files = sorted((Path(__file__).parents[1] / "models" / "torch_files").glob("*.pt*"))
    assert files
    for path in files:
        with pytest.raises(BdfError, match=r"found a (PyTorch file|pickle)"):
            load_features(path)


def test_an_npz_with_other_arrays_names_them(tmp_path):
    path = tmp_path / "F.npz"
    np.savez(path, feats=np.eye(3), labels=np.arange(3), camids=np.arange(3))
    with pytest.raises(BdfError, match=r"expected the arrays features, .*missing .*, found camids, feats, labels"):
        load_features(path)
    np.savez(path, np.eye(3), np.arange(3))
    with pytest.raises(BdfError, match="found arr_0, arr_1"):
        load_features(path)


def changed(**changes):
    arrays = good()
    return {**arrays, **{key: change(arrays[key]) for key, change in changes.items()}}


def at(row, value, dtype=None):
    def change(column):
        column = column.astype(dtype or column.dtype)
        column[row] = value
        return column

    return change


FIRST = r"cam1/0001/0001\.jpg"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        # Identities: every digit is kept, or the rows are named.
        ({"pids": at(0, 10**18, np.int64)}, rf"pids: .* at most 18 digits.*{FIRST} has 1000000000000000000"),
        ({"pids": at(0, 2**64 - 1, np.uint64)}, rf"pids: .* 1 of 210 rows .*{FIRST} has 18446744073709551615"),
        ({"pids": at(0, -1)}, rf"pids: expected integers from 0 on.*{FIRST} has -1"),
        ({"pids": at(0, 1.5, float)}, rf"found \(210,\) float64; 1 of 210 rows are no whole numbers: {FIRST} has 1\.5"),
        ({"pids": at(0, np.nan, float)}, rf"no whole numbers: {FIRST} has nan"),
        ({"pids": at(0, np.inf, np.float16)}, rf"no whole numbers: {FIRST} has inf"),
        ({"pids": at(0, 2.0**53, float)}, rf"1 rows have more digits than float64 keeps: {FIRST} has 9007199254740992"),
        ({"pids": at(0, 2.0**24, np.float32)}, rf"more digits than float32 keeps: {FIRST} has 16777216"),
        ({"pids": lambda p: p.astype(float)}, r"all are whole: write pids\.astype\(np\.int64\)"),
        ({"pids": lambda p: p.astype(str)}, r"found \(210,\) <U11; the first is .*'1'.*Number them"),
        ({"pids": lambda p: p > 3}, r"pids: expected \(210,\) integers.*bool"),
        ({"pids": lambda p: p.astype(complex)}, r"pids: expected .*complex128"),
        ({"pids": lambda p: p.astype("datetime64[D]")}, r"pids: expected .*datetime64"),
        ({"pids": lambda p: p.astype(object)}, "pids is an array of Python objects"),
        ({"pids": lambda p: np.asarray(5)}, r"pids: expected \(210,\) integers, as many as names; found \(\) int"),
        # Cameras and modalities.
        ({"cams": at(0, -3)}, rf"cams: expected integers from 0 on.*{FIRST} has -3"),
        ({"cams": at(0, 2**32 + 1, np.int64)}, rf"cams: .*{FIRST} has 4294967297"),
        ({"cams": at(0, np.nan, float)}, rf"cams: .*no whole numbers: {FIRST} has nan"),
        ({"modality": at(0, 2)}, rf"modality is 0 \(visible\) or 1 \(infrared\); 1 of 210 .*{FIRST} has 2"),
        ({"modality": at(0, 256, np.int64)}, rf"{FIRST} has 256"),
        ({"modality": at(0, 0.5, float)}, rf"modality: .*no whole numbers: {FIRST} has 0\.5"),
        ({"modality": lambda m: np.where(m == 0, "rgb", "ir")}, r"modality: .* the first is .*'rgb'"),
        # Features of other types and shapes.
        ({"features": lambda f: f.astype(np.int32)}, r"found \(210, 32\) int32; write features\.astype"),
        ({"features": lambda f: f.astype(np.complex64)}, r"complex64; which real numbers"),
        ({"features": lambda f: f.astype(np.float16).view("V2")}, r"\|V2 \(bfloat16, perhaps"),
        ({"features": lambda f: f[0]}, r"expected \(210, D\) floating point; found \(32,\)"),
        ({"features": lambda f: f[:, :, None]}, r"expected \(210, D\) floating point; found \(210, 32, 1\)"),
        ({"features": lambda f: f[:, :0]}, r"expected \(210, D\) floating point; found \(210, 0\)"),
        ({"features": lambda f: f[1:]}, r"expected \(210, D\) floating point; found \(209, 32\)"),
        ({"features": lambda f: list(map(str, f[:, 0]))}, r"expected \(210, D\) floating point; found \(210,\) <U"),
        # Names that no path can have.
        ({"names": at(4, "")}, r"names: 1 of 210 are empty: row 4, ''"),
        ({"names": at(4, b"", "S40")}, r"names: 1 of 210 are empty: row 4, ''"),
        ({"names": at(4, "cam1/\0/1.jpg")}, r"names: 1 of 210 hold a zero byte.*row 4, 'cam1/\\x00/1\.jpg'"),
        ({"names": at(4, "cam1/1.jpg".encode("utf-16-le"), "S40")}, r"names: 1 of 210 hold a zero byte.*UTF-16.*row 4"),
        ({"names": at(4, "cam1/\ud800.jpg")}, r"names: 1 of 210 hold lone surrogates.*row 4, 'cam1/\\ud800\.jpg'"),
        ({"names": lambda n: np.array(["x" * 5000 + name for name in n])}, r"210 of 210 are longer than 4096"),
        ({"names": lambda n: n.view(np.uint32).reshape(210, -1)}, r"names: expected \(N,\) strings .* uint32"),
        ({"names": lambda n: np.array([""] * 210).view("V4")}, r"names: expected \(N,\) strings .* \|V4"),
        ({"names": lambda n: n[:0]}, r"names: expected \(N,\) strings with N > 0"),
        # What the file says of itself.
        ({"names": lambda n: n, "cams": lambda c: c[:-1]}, r"cams: expected \(210,\) integers, as many as names"),
    ],
)  # fmt: skip
def test_a_column_of_another_kind_is_named_with_its_rows(change, said, tmp_path):
    with pytest.raises(BdfError, match=said) as caught:
        rows_of(tmp_path / "F.npz", changed(**change))
    assert str(tmp_path / "F.npz") in str(caught.value)


def test_characters_beyond_unicode_are_named(tmp_path):
    arrays = good()
    codes = arrays["names"].view(np.uint32).reshape(210, -1).copy()
    codes[7, 2] = 0x7FFFFFFF
    np.savez(tmp_path / "F.npz", **{**arrays, "names": codes.view(arrays["names"].dtype)[:, 0]})
    with pytest.raises(BdfError, match=r"1 of 210 hold lone surrogates or other numbers.*row 7, 'ca<0x7fffffff>1/0001"):
        load_features(tmp_path / "F.npz")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, ">i8", ">u4", np.int16])
def test_integers_of_every_type_are_the_same_numbers(dtype, tmp_path):
    (plain,) = rows_of(tmp_path / "F.npz", good())
    cast = {key: (lambda column: column.astype(dtype)) for key in ("pids", "cams", "modality")}
    assert rows_of(tmp_path / "F.npz", changed(**cast)) == [plain]


def test_identities_of_eighteen_digits_keep_each_digit(tmp_path):
    index = definitions.small_regdb()
    (plain, _) = rows_of_regdb(tmp_path, index, index.pids)
    for step in (1, 2**32, 10**16):  # in 32 bits the second would make everyone the same person
        (row, _) = rows_of_regdb(tmp_path, index, 10**17 + index.pids.astype(np.int64) * step)
        assert row["mAP"] == plain["mAP"]
    known = load_features(tmp_path / "F.npz").index.pids
    assert known.dtype == np.int64
    assert known.max() == 10**17 + 7 * 10**16


def rows_of_regdb(folder, index, pids):
    np.savez(folder / "F.npz", **{**arrays_of(index, definitions.coarse_features(index, seed=1)), "pids": pids})
    return evaluate_files("regdb", str(folder / "F.npz"))


def test_names_in_bytes_are_those_of_the_tree(tmp_path):
    """A file may hold names as the bytes of the disk, or as Python reads them from there; in any encoding."""
    index = definitions.small_regdb()
    features_ND = definitions.coarse_features(index, seed=1)
    for encoding in ("utf-8", "gbk", "shift-jis", "utf-16-be"):
        folder = "男".encode(encoding).replace(b"\0", b"\x01").replace(b"/", b"_")
        on_disk = [name.encode().replace(b"/", b"/" + folder, 1) for name in index.names.tolist()]
        as_python_reads = np.array([os.fsdecode(name) for name in on_disk])
        np.savez(tmp_path / "bytes.npz", **{**arrays_of(index, features_ND), "names": np.array(on_disk)})
        save_features(tmp_path / "text.npz", features_ND, type(index)(as_python_reads, *list(vars(index).values())[1:]))
        for name in ("bytes.npz", "text.npz"):
            assert load_features(tmp_path / name).index.names.tolist() == as_python_reads.tolist()
        rows = evaluate_files("regdb", str(tmp_path / "bytes.npz"), compare=str(tmp_path / "text.npz"))
        assert rows[0]["mAP"] == rows[2]["mAP"]


def test_names_in_bytes_that_a_tree_does_not_have_are_named_legibly(tmp_path):
    index = definitions.small_regdb()
    arrays = arrays_of(index, definitions.coarse_features(index, seed=1))
    arrays["names"] = np.array([f"图像/{name}".encode("gbk") for name in index.names.tolist()])
    np.savez(tmp_path / "G.npz", **arrays)
    np.savez(tmp_path / "F.npz", **arrays_of(index, arrays["features"]))
    with pytest.raises(BdfError, match=r"only the second has 56 .*Thermal/1/0_1\.bmp") as caught:
        evaluate_files("regdb", str(tmp_path / "F.npz"), compare=str(tmp_path / "G.npz"))
    str(caught.value).encode()  # can be written anywhere


def test_two_files_that_are_compared_tell_the_same_of_every_image(tmp_path):
    arrays = good()
    arrays["names"] = np.array([f"{row}.jpg" for row in range(210)])  # names that tell nothing
    np.savez(tmp_path / "F.npz", **arrays)
    for column, word, value in (("pids", "identity", 6), ("cams", "camera", 4), ("modality", "modality", 1)):
        other = {**arrays, column: arrays[column].copy()}
        other[column][0] = value
        if column == "modality":
            other["cams"] = arrays["cams"].copy()
            other["cams"][0] = 3
        np.savez(tmp_path / "G.npz", **other)
        with pytest.raises(BdfError, match="--compare: 1 of 210 images have another") as caught:
            evaluate_files("sysu_mm01", str(tmp_path / "F.npz"), compare=str(tmp_path / "G.npz"), galleries=["agw"])
        assert word in str(caught.value) or column == "modality"


def test_a_similarity_in_bytes_or_in_a_list(tmp_path):
    assert rows_of(tmp_path / "F.npz", {**good(), "similarity": np.array(b"dot")})[0]["similarity"] == "dot"
    with pytest.raises(BdfError, match=r"similarity: expected one string, found \(1,\) <U3"):
        rows_of(tmp_path / "F.npz", {**good(), "similarity": np.array(["dot"])})
