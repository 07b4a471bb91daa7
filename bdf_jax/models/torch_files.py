"""Weight files of the PyTorch world, read into NumPy arrays without PyTorch and without running what is in them.

Three formats, told apart by their first bytes: safetensors; the zip archives that `torch.save` writes since 1.6
(a pickle and one file for each storage); and the older sequence of pickles followed by the storages.
"""

from __future__ import annotations

import functools
import io
import mmap
import re
import struct
import zipfile
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.models.torch_pickle import Inert, Refused, Storage, Tensor, printable, read_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
# Where training programs put the state dictionary among other things: the first of these that is there is taken,
# so that weights come before their moving averages.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "net_state_dict", "module", "weights", "params"),
    *("backbone", "encoder", "teacher", "ema", "model_ema", "ema_state_dict", "state_dict_ema", "student"),
)
# Dictionaries inside dictionaries that are looked into.
MAX_DEPTH = 4
# As `safetensors` calls the types of numbers that NumPy and ml_dtypes have and weights come in.
SAFETENSORS_TYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
# The start of a pickle: protocol 2 and later, or an older one that names something at once.
PICKLE = re.compile(rb"\x80[\x02-\x05]|[(\]}]{0,2}[ci][\w.]+\n[\w.]+\n")


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a weight file by its name, in the file's type and layout; arrays may share memory.

    Args:
      path: safetensors, or a state dictionary by `torch.save`, alone or as an entry (`WRAPPERS`, or the only one with
        tensors) of what a training program saved; the rest of that is left out.

    Raises:
      BdfError: no such file, another format, damaged, hostile (naming what it wanted to run), several state
        dictionaries, or tensors that are sparse, quantised or of a type not read here.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise Refused("there is no such file")
        if not path.is_file():
            raise Refused(f"expected a file, found {'a folder; name a file in it' if path.is_dir() else 'none'}")
        with path.open("rb") as file:
            head = file.read(256)
        return _reader(path, head)(path)
    except Refused as refused:
        raise BdfError(f"{path}: {refused}") from refused
    except (OSError, MemoryError, ValueError, OverflowError) as error:
        raise BdfError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def _reader(path: Path, head: bytes) -> Callable[[Path], dict[str, np.ndarray]]:
    if not head:
        raise Refused("the file is empty")
    if head.startswith(b"PK\x03\x04"):
        return _read_zip
    if PICKLE.match(head):
        return _read_legacy
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors
    hint = ""
    if head.startswith(b"version https://git-lfs"):
        hint = "; this is a Git LFS pointer: `git lfs pull` fetches the file itself"
    elif head.lstrip()[:1] == b"<":
        hint = "; this is a web page, perhaps of a failed download"
    raise Refused(
        "expected a weight file (safetensors, or .pth/.pt by torch.save), found one that begins with "
        f"{head[:24].decode('latin-1')!a}{hint}"
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise Refused("reading safetensors needs a package: pip install safetensors") from error

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            for name in names:
                if (kind := str(file.get_slice(name).get_dtype())) not in SAFETENSORS_TYPES:
                    raise Refused(
                        f"the tensor {printable(name)} is of type {kind}, which is not read here; save it as float32"
                    )
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"not a safetensors file, damaged or cut off ({str(error)[:200]})") from error


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            root = _check_archive(archive, path.stat().st_size)
            value, _ = read_pickle(io.BytesIO(archive.read(f"{root}/data.pkl")))

            @functools.cache
            def read(storage_key: str) -> bytes:
                name = f"{root}/data/{storage_key}"
                if name not in archive.namelist():
                    raise Refused(f"the storage {printable(name)} is missing from the archive")
                return archive.read(name)

            return _arrays(_state(value), read)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error) as error:
        raise Refused(f"not a zip archive, damaged or cut off ({type(error).__name__}: {str(error)[:200]})") from error


def _check_archive(archive: zipfile.ZipFile, size: int) -> str:
    """The folder in which `torch.save` put everything. Nothing is ever extracted to a disk."""
    entries = archive.infolist()
    names = Counter(entry.filename for entry in entries)
    for name, count in names.items():
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise Refused(f"the archive has an entry {printable(name)} that leads out of it; torch.save writes none")
        if count > 1:
            raise Refused(f"the archive has the entry {printable(name)} {count} times")
    roots = [name.removesuffix("/data.pkl") for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise Refused("a zip archive, but not one of torch.save (no FOLDER/data.pkl)")
    root = roots[0]
    if f"{root}/constants.pkl" in names:
        raise Refused("a TorchScript program; save its weights instead: torch.save(model.state_dict(), FILE)")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Refused(f"{printable(entry.filename)} in it is compressed or encrypted; torch.save does neither")
    claimed = sum(entry.file_size for entry in entries)
    if claimed > size:
        raise Refused(f"the archive claims {claimed} bytes of contents, the file has {size}")
    if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
        raise Refused("written on a big-endian machine, which is not supported")
    return root


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        magic, _ = read_pickle(stream)
        if magic != LEGACY_MAGIC:
            raise Refused("a pickle, but not one of torch.save")
        version, _ = read_pickle(stream)
        system, _ = read_pickle(stream)
        if version != LEGACY_VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused(f"expected format version {LEGACY_VERSION} and little-endian numbers")
        value, storages = read_pickle(stream)
        keys, _ = read_pickle(stream)
        contents = {}
        for key in keys if isinstance(keys, list) else [None]:
            if key not in storages:
                raise Refused("its list of storages is damaged")
            contents[key] = _next_storage(stream, storages[key])

        def read(storage_key: str) -> bytes:
            if storage_key not in contents:
                raise Refused(f"the storage {printable(storage_key)} is missing from the file")
            return contents[storage_key]

        return _arrays(_state(value), read)


def _next_storage(stream: mmap.mmap, storage: Storage) -> bytes:
    length = int.from_bytes(stream.read(8), "little", signed=True)
    if length != storage.length:
        raise Refused(f"storage {printable(storage.key)} has {length} elements where {storage.length} are announced")
    return stream.read(length * storage.dtype.itemsize)


def _state(value: Any) -> dict[str, Tensor]:
    """The state dictionary in what was saved: its named tensors, without what else it holds."""
    if not isinstance(value, dict):
        raise Refused(f"expected a state dictionary, found {_kind(value)}")
    states = _states(value)
    if not states and {"state", "param_groups"} <= set(value):
        raise Refused(
            "expected the weights of a network, found the state of an optimiser alone; name the file of weights"
        )
    if not states:
        shown = [f"{printable(name)} ({_kind(entry)})" for name, entry in list(value.items())[:5]]
        more = f" and {len(value) - 5} more" if len(value) > 5 else ""
        raise Refused(
            f"expected a state dictionary, that is named tensors, found no tensor"
            f"{' among ' if shown else ''}{', '.join(shown)}{more}"
        )

    def order(path: tuple[str, ...]) -> tuple[int, int]:
        known = [WRAPPERS.index(name) for name in path if name in WRAPPERS]
        return min(known, default=len(WRAPPERS)), -len(states[path])

    # One with far fewer tensors is no network beside the others: a loss, a metric.
    most = max(map(len, states.values()))
    best = sorted((path for path, state in states.items() if 2 * len(state) >= most), key=order)
    unknown = [path for path in best if path and order(path)[0] == len(WRAPPERS)]
    if best[0] in unknown and len(unknown) > 1:
        names = ", ".join(printable(".".join(path)) for path in unknown[:8])
        raise Refused(f"expected one state dictionary, found {len(unknown)}: {names}; save one of them alone")
    return states[best[0]]


def _states(value: dict[Any, Any]) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """The named tensors of each dictionary that has some, by the names that lead to it."""
    found: dict[tuple[str, ...], dict[str, Tensor]] = {}
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], dict[Any, Any]]] = deque([((), value)])
    while waiting:
        path, dictionary = waiting.popleft()
        if id(dictionary) in seen or len(path) > MAX_DEPTH:
            continue
        seen.add(id(dictionary))
        named = {name: entry for name, entry in dictionary.items() if isinstance(name, str)}
        if tensors := {name: entry for name, entry in named.items() if isinstance(entry, Tensor)}:
            found[path] = tensors
        waiting += [((*path, name), entry) for name, entry in named.items() if isinstance(entry, dict)]
    return found


def _kind(value: Any) -> str:
    return printable(value.name) if isinstance(value, Inert) else type(value).__name__


def _arrays(state: dict[str, Tensor], read: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in state.items():
        storage, contents = tensor.storage, read(tensor.storage.key)
        itemsize = storage.dtype.itemsize
        if len(contents) != storage.length * itemsize:
            raise Refused(
                f"the storage of {printable(name)} has {len(contents)} bytes where {storage.length * itemsize} are "
                "announced: cut off or damaged"
            )
        elements = np.frombuffer(contents, storage.dtype)[tensor.offset :]
        arrays[name] = np.lib.stride_tricks.as_strided(
            elements, tensor.shape, [stride * itemsize for stride in tensor.strides], writeable=False
        )
    return arrays
