"""Weight files are read as torch reads them; what is hostile, damaged or of another kind is refused by name."""

import argparse
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch_writer as write
from safetensors.numpy import save_file

from bdf_jax.errors import BdfError
from bdf_jax.models.torch_files import read_tensors

# Written by PyTorch 2.13: zip.pt is a state dictionary, legacy.pt the same in the old format and as entry
# `state_dict` of a training program's checkpoint.
FILES = Path(__file__).parent / "torch_files"
HUGE = b'{"a":{"dtype":"F32","shape":[1073741824,1073741824],"data_offsets":[0,4]}}'
CONTAINERS = {"zip": write.write_zip, "legacy": write.write_legacy}


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_reads_what_torch_wrote(name):
    expected = {
        "weight": np.ones(2, np.float32),
        "bias": np.zeros(2, np.float32),
        "running_mean": np.zeros(2, np.float32),
        "running_var": np.ones(2, np.float32),
        "num_batches_tracked": np.array(0, np.int64),
        "h": np.array([[1, 2.5, -3], [4, 5, 6]], np.float16),
        "b": np.array([1, -2, 0.5], ml_dtypes.bfloat16),
        "t": np.arange(2, 8, dtype=np.float32).reshape(2, 3).T,  # a transposed view into the middle of a storage
        "shared": np.arange(6, 12, dtype=np.float32),  # the rest of that storage
        "p": np.array([3, 4], np.float32),  # a Parameter
        "e": np.zeros((0, 3), np.float32),
        "d": np.array(2.5),
    }
    found = read_tensors(FILES / name)
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


def test_reads_safetensors(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.array([1, 0.5], ml_dtypes.bfloat16)}
    save_file(arrays, tmp_path / "model.safetensors")
    found = read_tensors(tmp_path / "model.safetensors")
    assert set(found) == {"a", "b"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_reads_files_of_the_first_years(tmp_path):
    """Before 0.4 a tensor was a call of _rebuild_tensor, and a storage could be a view of another."""

    def old(view: bytes) -> bytes:
        storage = b"(" + write.text("storage") + write.named("torch", "FloatStorage") + write.text("140")
        storage += write.text("cpu") + write.integer(4) + view + b"tQ"
        arguments = b"(" + storage + write.integer(1) + write.integers([3]) + write.integers([1]) + b"t"
        return write.dictionary({"w": write.named("torch._utils", "_rebuild_tensor") + arguments + b"R"})

    data = np.arange(4, dtype=np.float32)
    path = write.write_legacy(tmp_path / "w.pth", old(b"N"), {"140": data.tobytes()})
    np.testing.assert_array_equal(read_tensors(path)["w"], data[1:])
    view = b"(" + write.text("139") + write.integer(0) + write.integer(4) + b"t"
    path = write.write_legacy(tmp_path / "w.pth", old(view), {"140": data.tobytes()})
    assert "views of others" in refusal(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sparse.pt", "'torch._utils._rebuild_sparse_tensor': it holds a sparse tensor"),
        ("quantised.pt", "'torch._utils._rebuild_qtensor': it holds a quantised tensor"),
        ("model.pt", "'torch.nn.modules.linear.Linear'"),
        ("script.pt", "TorchScript"),
    ],
)
def test_refuses_other_things_torch_writes(name, said):
    assert said in refusal(FILES / name)


def in_protocol_2(value) -> bytes:
    """A value as Python pickles it, without the protocol's number and the end."""
    return pickle.dumps(value, 2)[2:-1]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "wrapper", ["state_dict", "model", "net", "network", "model_state_dict", "teacher", "ema", "xyz"]
)
def test_a_wrapped_state_dictionary_with_anything_beside_it(tmp_path, container, wrapper):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}
    state, storages = write.state(arrays)
    beside = {
        "epoch": 90,
        "cmc": np.linspace(0, 1, 20),
        "mAP": np.float64(0.5),
        "mINP": np.float32(0.25),
        "names": np.array(["a", "b"]),
        "rng": np.random.default_rng(0).bit_generator.state,
        "history": {0.1: 3, 7: "x", (1, "a"): None, None: True},
        "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(seen={1, 2})),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }
    metric = write.tensor("9", "FloatStorage", (), (), length=1)
    entries = {name: in_protocol_2(value) for name, value in beside.items()}
    value = write.dictionary({"best_acc1": metric, **entries, wrapper: state})
    path = CONTAINERS[container](tmp_path / "w.pth.tar", value, {**storages, "9": bytes(4)})
    found = read_tensors(path)
    assert list(found) == ["a", "b"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("part", ["numpy.core", "numpy._core"])
def test_arrays_of_either_numpy_are_names_without_contents(tmp_path, part):
    state, storages = write.state({"a": np.ones(2, np.float32)})
    scalar = in_protocol_2(np.float64(1)).replace(b"numpy._core", part.encode())
    array = in_protocol_2(np.arange(3)).replace(b"numpy._core", part.encode())
    assert part.encode() in scalar
    assert part.encode() in array
    value = write.dictionary({"mAP": scalar, "cmc": array, "net": state})
    assert list(read_tensors(write.write_zip(tmp_path / "w.t", value, storages))) == ["a"]
    alone = refusal(write.write_zip(tmp_path / "w.t", array, {}))
    assert f"expected a state dictionary, found '{part}.multiarray._reconstruct'" in alone


def test_an_array_of_objects_hides_nothing(tmp_path):
    trace = tmp_path / "it_ran"
    state, storages = write.state({"a": np.ones(2, np.float32)})
    array = in_protocol_2(np.array([Malicious(trace), None], object))
    path = write.write_zip(tmp_path / "w.pth", write.dictionary({"net": state, "cmc": array}), storages)
    assert f"'{os.system.__module__}.system'" in refusal(path)
    assert not trace.exists()


def test_the_weights_are_preferred_to_what_follows_them(tmp_path):
    (state, storages), ema = (
        write.state({"a": np.ones(2, np.float32)}),
        write.tensor("0", "FloatStorage", [1], [1], length=2),
    )
    value = write.dictionary(
        {"ema": write.dictionary({"b": ema}), "model": state, "loss": write.dictionary({"c": ema})}
    )
    assert list(read_tensors(write.write_zip(tmp_path / "w.pth", value, storages))) == ["a"]


def test_wrappers_in_wrappers_and_several_networks(tmp_path):
    state, storages = write.state({"a": np.ones(2, np.float32)})
    nested = write.dictionary({"state_dict": write.dictionary({"model": state})})
    assert list(read_tensors(write.write_zip(tmp_path / "w.pth", nested, storages))) == ["a"]
    several = write.dictionary({"gen_a": state, "gen_b": state})
    assert "expected one state dictionary, found 2: 'gen_a', 'gen_b'" in refusal(
        write.write_zip(tmp_path / "w.pth", several, storages)
    )
    nothing = write.dictionary({f"entry{i}": write.integer(i) for i in range(1000)})
    said = refusal(write.write_zip(tmp_path / "w.pth", nothing, {}))
    assert "found no tensor among 'entry0' (int)" in said
    assert "and 995 more" in said


@pytest.mark.parametrize(
    ("module", "name"),
    [("torch._utils", "_rebuild_tensor_v3"), ("torch", "ComplexFloatStorage"), ("torch", "float8_e4m3fn")],
)
def test_types_of_numbers_that_are_not_read_are_not_damage(tmp_path, module, name):
    said = refusal(write.write_zip(tmp_path / "w.pth", write.named(module, name) + b")R", {}))
    assert "a type that is not read here" in said
    assert "damaged" not in said


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_types_of_safetensors_that_are_not_read_are_not_damage(tmp_path, kind):
    head = json.dumps({"conv1.weight": {"dtype": kind, "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"\0")
    assert f"the tensor 'conv1.weight' is of type {kind}, which is not read here" in refusal(path)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_pickles_run_in_python_and_not_here(tmp_path, protocol):
    trace, path = tmp_path / "it ran".replace(" ", "_"), tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Malicious(trace), protocol))
    assert f"'{os.system.__module__}.system'" in refusal(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("place", ["alone", "entry", "nested", "key", "argument", "state"])
def test_malicious_pickles_in_a_container(tmp_path, container, place):
    trace = tmp_path / "it_ran"
    call = pickle.dumps(Malicious(trace), 2)[2:-1]  # without the protocol's number and the end
    good = write.tensor("0", "FloatStorage", [2], [1], length=2)
    value = {
        "alone": call,
        "entry": write.dictionary({"weight": good, "bias": call}),
        "nested": write.dictionary({"weight": good, "more": b"](}(" + write.text("deep") + call + b"ue"}),
        "key": write.named("collections", "OrderedDict") + b")R(" + call + good + b"u",
        "argument": write.named("torch._utils", "_rebuild_tensor_v2") + b"(" + call + b"tR",
        "state": write.dictionary({"weight": good}) + call + b"b",
    }[place]
    path = CONTAINERS[container](tmp_path / "weights.pth", value, {"0": bytes(8)})
    assert f"'{os.system.__module__}.system'" in refusal(path)
    assert not trace.exists()


def test_a_malicious_pickle_in_any_part_of_a_legacy_file(tmp_path):
    trace, path = tmp_path / "it_ran", tmp_path / "weights.pth"
    bad = pickle.dumps(Malicious(trace), 2)
    parts = [write.MAGIC, write.pickled(write.integer(1001)), write.SYSTEM, write.pickled(b"}"), write.pickled(b"]")]
    for i in range(len(parts)):
        path.write_bytes(b"".join([*parts[:i], bad, *parts[i + 1 :]]))
        assert ".system'" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),  # a way around lists of allowed names
        ("collections", "OrderedDict.__init__"),
        ("torch", "FloatStorage.from_file"),
        ("numpy.core.multiarray", "scalar"),
        ("os\x1b[31m", "system"),
    ],
)
def test_names_what_it_refuses(tmp_path, module, name):
    said = refusal(write.write_zip(tmp_path / "w.pth", write.named(module, name) + b")R", {}))
    assert ascii(f"{module}.{name}") in said
    assert said.isprintable()
    stacked = write.text(module) + write.text(name) + b"\x93)R"
    assert said == refusal(write.write_zip(tmp_path / "w.pth", stacked, {}))


@pytest.mark.parametrize(
    "value",
    [
        write.named("torch", "FloatStorage") + b"(K\x08tR",  # calls of what may be named but not called
        write.named("torch._utils", "_rebuild_parameter") + b"}b",  # attributes of a function
        write.named("collections", "OrderedDict") + b")\x81",  # NEWOBJ
        b"(" + b"icollections\nOrderedDict\n",  # INST
        b"(" + write.named("collections", "OrderedDict") + b"o",  # OBJ
        b"\x82\x01",  # EXT1
        b"Pstorage\n",  # PERSID
        b"(X\x01\x00\x00\x00aK\x01tQ",  # a persistent id of nothing
        b"}h\x07",  # a memo that was never kept
        b"R",
        b"t",
        b"}(]K\x01u",  # an unhashable name
        b"}(" + b")" + b"\x85" * 100_000 + b"K\x01u",  # a name that is very deep to hash
        write.named("argparse", "Namespace") + b"}b",  # attributes of a class
        write.named("argparse", "Namespace") + b")\x81(X\x01\x00\x00\x00aK\x01u",  # contents of what was never made
        b"\x8b\xff\xff\xff\x7f",  # a number of 2 GiB
        b"\x8e" + struct.pack("<Q", 2**62),  # bytes of 4 EiB
        b"X\xff\xff\xff\xff",
        b"X\x02\x00\x00\x00\xff\xfe",  # no UTF-8
        b"I" + b"9" * 10_000 + b"\n",
        b"2" * 100,
        b"(" * 10_000,
        b"K\x01",
        b"]",
        b"}",
    ],
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_refuses_pickles_that_are_no_state_dictionary(tmp_path, container, value):
    with memory_below(16 << 20):
        said = refusal(CONTAINERS[container](tmp_path / "w.pth", value, {}))
    assert "its pickle" in said or "expected a state dictionary" in said


def test_refuses_a_dictionary_that_holds_itself(tmp_path):
    value = b"}q\x00(" + write.text("state_dict") + b"h\x00u"
    assert "expected a state dictionary" in refusal(write.write_zip(tmp_path / "w.pth", value, {}))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("shape", "strides", "offset", "length"),
    [
        ([2**40], [1], 0, 2),  # larger than its storage
        ([2**20, 2**20], [0, 0], 0, 2),  # 4 TiB of one element
        ([2], [1], 1, 2),  # past the end
        ([2], [2**46], 0, 2),
        ([-2], [1], 0, 2),
        ([2], [-1], 1, 2),
        ([2], [1], -1, 2),
        ([2, 1], [1], 0, 2),
        ([2**62], [1], 0, 2),
        ([2**45], [1], 0, 2**45),  # a storage larger than the file
        ([1] * 100, [1] * 100, 0, 2),
    ],
)
def test_refuses_claims_that_the_file_cannot_meet(tmp_path, container, shape, strides, offset, length):
    value = write.dictionary({"w": write.tensor("0", "FloatStorage", shape, strides, offset=offset, length=length)})
    with memory_below(16 << 20):
        refusal(CONTAINERS[container](tmp_path / "w.pth", value, {"0": bytes(8)}))


@pytest.mark.parametrize(
    "extra",
    [
        {"../../etc/cron.d/job": b"x"},
        {"/etc/passwd": b"x"},
        {"archive/data/../../out": b"x"},
        {"archive\\..\\out": b"x"},
        {"C:/out": b"x"},
    ],
)
def test_refuses_zip_entries_that_lead_out(tmp_path, extra):
    path = write.write_zip(tmp_path / "w.pth", *write.state({"w": np.ones(2, np.float32)}), extra)
    assert ascii(next(iter(extra))) in refusal(path)
    assert os.listdir(tmp_path) == ["w.pth"]


def test_refuses_a_storage_key_that_leads_out(tmp_path):
    value = write.dictionary({"w": write.tensor("../byteorder", "CharStorage", [6], [1], length=6)})
    assert "'archive/data/../byteorder' is missing" in refusal(write.write_zip(tmp_path / "w.pth", value, {}))


def test_refuses_compressed_repeated_and_foreign_zip_entries(tmp_path):
    value, storages = write.state({"w": np.zeros(1_000_000, np.float32)})
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # 4 MB in 4 kB
        archive.writestr("archive/data.pkl", write.pickled(value))
        archive.writestr("archive/data/0", storages["0"])
    assert "compressed" in refusal(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        write.write_zip(path, value, storages, {"archive/data/0": b"other"})
    assert "'archive/data/0' 2 times" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    assert "not one of torch.save" in refusal(path)
    assert "missing" in refusal(write.write_zip(path, value, {}))
    assert "4000000" in refusal(write.write_zip(path, value, {"0": bytes(12)}))
    path.write_bytes(write.write_zip(path, value, storages).read_bytes().replace(b"little", b"biggie"))
    assert "w.pth" in refusal(path)  # by the checksum


def weight_file(tmp_path: Path, container: str) -> Path:
    arrays = {"a": np.arange(60, dtype=np.float32).reshape(3, 20), "b": np.ones(4, np.float32)}
    path = tmp_path / f"whole.{container}"
    if container == "safetensors":
        save_file(arrays, path)
        return path
    return CONTAINERS[container](path, *write.state(arrays))


@pytest.mark.parametrize("container", [*CONTAINERS, "safetensors"])
def test_refuses_files_cut_off_anywhere(tmp_path, container):
    whole = weight_file(tmp_path, container).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize("container", [*CONTAINERS, "safetensors"])
def test_damage_is_noticed_or_harmless(tmp_path, container):
    whole = weight_file(tmp_path, container).read_bytes()
    path = tmp_path / "damaged.pth"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except BdfError:
            refused += 1
    assert refused > 100


def test_refuses_what_is_no_weight_file(tmp_path):
    path = tmp_path / "weights.pth"
    assert "no such file" in refusal(path)
    for contents, said in [
        (b"", "empty"),
        (b"These are weights.\n", "begins with 'These are weights.\\n'"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"PK\x03\x04 and no archive", "zip"),
        (pickle.dumps([1, 2]), "not one of torch.save"),
        (b"\x93NUMPY\x01\x00", "begins with"),
        (struct.pack("<Q", 2**60) + b"{}", "safetensors"),
        (struct.pack("<Q", len(HUGE)) + HUGE + bytes(4), "safetensors"),
        (struct.pack("<Q", 80_000) + b"{" * 80_000, "safetensors"),
    ]:
        path.write_bytes(contents)
        with memory_below(16 << 20):
            assert said in refusal(path)
    assert "folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "expected a file" in refusal(tmp_path / "pipe")


def refusal(path: Path) -> str:
    """What the reader says against this file; it must name it."""
    with pytest.raises(BdfError) as caught:
        read_tensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


class memory_below:
    """Fails where more is allocated inside, at its highest."""

    def __init__(self, limit: int):
        self.limit = limit

    def __enter__(self):
        tracemalloc.start()

    def __exit__(self, *_):
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < self.limit
