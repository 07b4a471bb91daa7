"""What torch.save writes, written without torch: pickles operation by operation, and the two containers."""

import struct
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
SYSTEM = b"\x80\x02}(X\x0d\x00\x00\x00little_endian\x88u."


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + data


def integers(values) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tensor(key: str, kind: str, shape, strides, *, offset: int = 0, length: int) -> bytes:
    """A call of _rebuild_tensor_v2 on a storage of `length` elements."""
    storage = b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + integer(length) + b"tQ"
    hooks = named("collections", "OrderedDict") + b")R"
    arguments = storage + integer(offset) + integers(shape) + integers(strides) + b"\x89" + hooks
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def dictionary(entries: dict[str, bytes]) -> bytes:
    items = b"".join(text(name) + value for name, value in entries.items())
    return named("collections", "OrderedDict") + b")R(" + items + b"u"


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def state(arrays: dict[str, np.ndarray]) -> tuple[bytes, dict[str, bytes]]:
    """A state dictionary's pickle (without container) and its storages; the same array twice shares one."""
    entries, storages, keys = {}, {}, {}
    for name, array in arrays.items():
        strides = [stride // array.itemsize for stride in np.ascontiguousarray(array).strides]
        kind, key = STORAGES[array.dtype.name], keys.setdefault(id(array), str(len(keys)))
        entries[name] = tensor(key, kind, array.shape, strides[: array.ndim], length=array.size)
        storages.setdefault(key, array.tobytes())
    return dictionary(entries), storages


def write_zip(path: Path, value: bytes, storages: dict[str, bytes], extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def write_legacy(path: Path, value: bytes, storages: dict[str, bytes], itemsize: int = 4) -> Path:
    keys = pickled(b"](" + b"".join(map(text, storages)) + b"e")
    data = b"".join(struct.pack("<q", len(data) // itemsize) + data for data in storages.values())
    path.write_bytes(MAGIC + pickled(integer(1001)) + SYSTEM + pickled(value) + keys + data)
    return path
