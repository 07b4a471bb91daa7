"""Pickled state dictionaries, read without unpickling.

Python's unpickler imports and calls whatever a file names. Here pickletools only splits the stream into operations
and this module carries out the few that a dictionary of tensors needs, on plain lists, tuples and dictionaries. A
global is an inert name, and one that is not in the short lists below ends the reading: nothing is imported, no
function of the file's choosing is called, no attribute is set. What training programs keep beside the weights
(NumPy's arrays and numbers, the command line's arguments) becomes an `Inert` value: a name without its contents.

The formats are those of `torch.save`: a tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage, which
is referred to by a persistent id ("storage", type, key, device, number of elements).
"""

from __future__ import annotations

import dataclasses
import pickletools
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
DICTIONARY = "collections.OrderedDict"
TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
PARAMETER = "torch._utils._rebuild_parameter"
# What is called, or made and given a state, beside the weights; the outcome is a name and nothing more.
INERT = {
    *(f"numpy.{part}multiarray.{name}" for part in ("", "core.", "_core.") for name in ("_reconstruct", "scalar")),
    *(f"numpy.{part}numeric._frombuffer" for part in ("core.", "_core.")),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode"),
    *("argparse.Namespace", "builtins.set", "__builtin__.set", "torch.Size", "torch.device"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "torch.float32", "torch.float16", "torch.bfloat16"),
}
KNOWN = {DICTIONARY, *TENSORS, PARAMETER, *STORAGES, *INERT}
SCALARS = (str, int, float, bool, bytes, type(None))
# The beginnings of PyTorch's names of other types of numbers, in small letters.
UNREAD_TYPES = ("float8", "float4", "complex", "uint", "untypedstorage")

# A ResNet-50 takes about 10,000; the limit is against files made to keep the reader busy.
MAX_OPERATIONS = 5_000_000
# Operations that push what they carry.
LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class Refused(Exception):
    """A file that is damaged, hostile or of another kind; the message completes the sentence "FILE: ..."."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of elements elsewhere in the file."""

    key: str
    dtype: np.dtype
    length: int  # elements


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Global:
    """One of `KNOWN`: a name, never the thing named."""

    name: str


@dataclasses.dataclass(frozen=True)
class Inert:
    """What calling one of `INERT` would have made; it never was, and what it was to be made of is dropped."""

    name: str


def read_pickle(stream: Any) -> tuple[Any, dict[str, Storage]]:
    """The value of the pickle at the stream's position, which is left behind it, and the storages it refers to.

    Args:
      stream: a binary stream with `read`, `readline` and `tell`.

    Returns:
      The value: None, bool, int, float, str, bytes, tuple, list, dict, `Tensor`, `Storage`, `Global` or `Inert`; and
      the storages by key.

    Raises:
      Refused: names something outside `KNOWN` (by name), is damaged, or uses an operation no state dictionary needs.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPERATIONS:
                raise Refused(
                    f"its pickle has more than {MAX_OPERATIONS:,} operations, which no state dictionary needs"
                )
            if operation.name == "STOP":
                break
            _carry_out(operation.name, argument, stack, marks, memo, storages)
        return stack.pop(), storages
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise Refused(f"its pickle is damaged or cut off ({type(error).__name__}: {str(error)[:120]})") from error


def printable(name: object) -> str:
    """A name out of a file, quoted, without control characters and not too long."""
    text = ascii(str(name)[:200])
    return text if len(text) <= 120 else text[:120] + "...'"


def _carry_out(
    operation: str,
    argument: Any,
    stack: list[Any],
    marks: list[int],
    memo: dict[int, Any],
    storages: dict[str, Storage],
) -> None:
    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    if operation in LITERALS:
        stack.append(argument)
        return
    if operation in CONSTANTS:
        stack.append(CONSTANTS[operation])
        return
    match operation:
        case "PROTO" | "FRAME":
            pass
        case "MARK":
            marks.append(len(stack))
        case "EMPTY_DICT":
            stack.append({})
        case "EMPTY_LIST":
            stack.append([])
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(_pop(stack, int(operation[-1]))))
        case "TUPLE":
            stack.append(tuple(since_mark()))
        case "LIST":
            stack.append(since_mark())
        case "APPEND" | "APPENDS":
            items = _pop(stack, 1) if operation == "APPEND" else since_mark()
            _expect(stack[-1], list).extend(items)
        case "SETITEM" | "SETITEMS":
            items = _pop(stack, 2) if operation == "SETITEM" else since_mark()
            _fill(_expect(stack[-1], dict), list(zip(items[::2], items[1::2], strict=True)))
        case "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case "GLOBAL":
            stack.append(_global(*argument.split(" ", 1)))
        case "INST":
            raise TypeError(f"an old-style call of {_global(*argument.split(' ', 1)).name}")
        case "STACK_GLOBAL":
            stack.append(_global(*_pop(stack, 2)))
        case "BINPERSID":
            storage = _storage(stack.pop())
            storages[storage.key] = storage
            stack.append(storage)
        case "REDUCE":
            function, arguments = _pop(stack, 2)
            stack.append(_call(function, _expect(arguments, tuple)))
        case "NEWOBJ" if len(stack) > 1 and isinstance(stack[-2], Global) and stack[-2].name in INERT:
            made, _ = _pop(stack, 2)
            stack.append(Inert(made.name))
        case "BUILD":
            # A state dictionary's version numbers (`_metadata`) or an inert value's contents, which are not needed.
            stack.pop()
            if not isinstance(stack[-1], Inert):
                _expect(stack[-1], dict)
        case _:
            shown = "" if argument is None else f" {printable(argument)}"
            raise Refused(f"its pickle uses the operation {operation}{shown}, which no state dictionary needs")


def _pop(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise IndexError("stack is empty")
    items = stack[-count:]
    del stack[-count:]
    return items


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _fill(target: dict[Any, Any], items: list[Any]) -> None:
    for key, value in items:
        # A tuple inside a tuple is not looked into: the depth could be of the file's choosing.
        if type(key) not in SCALARS and not (type(key) is tuple and all(type(part) in SCALARS for part in key)):
            raise Refused(
                f"a dictionary in its pickle has a key that is a {type(key).__name__}, which no state dictionary needs"
            )
        target[key] = value


def _global(module: Any, attribute: Any) -> Global:
    name = f"{_expect(module, str)}.{_expect(attribute, str)}"
    if name in KNOWN:
        return Global(name)
    lower = attribute.lower()
    if "sparse" in name.lower():
        reason = "it holds a sparse tensor, which cannot be read; save `tensor.to_dense()`"
    elif "qtensor" in lower or lower.startswith(("qint", "quint", "per_tensor_", "per_channel_")):
        reason = "it holds a quantised tensor, which cannot be read; save `tensor.dequantize()`"
    elif name == "torch._utils._rebuild_tensor_v3" or (module == "torch" and lower.startswith(UNREAD_TYPES)):
        reason = "it holds a tensor of a type that is not read here (float8, complex, ...); save `tensor.float()`"
    else:
        reason = (
            "loading it would have to import and perhaps run that, so it is refused and nothing was run. "
            "A plain state dictionary can be read: torch.save(model.state_dict(), FILE)"
        )
    raise Refused(f"its pickle names {printable(name)}: {reason}")


def _storage(identity: Any) -> Storage:
    tag, kind, key, _, length = _expect(identity, tuple)[:5]
    if tag != "storage" or type(kind) is not Global or kind.name not in STORAGES:
        raise TypeError("a persistent id that is no storage")
    if len(identity) > 5 and identity[5] is not None:
        raise Refused(
            "its storages are views of others, as PyTorch before 0.4 wrote them; save it again with a newer one"
        )
    return Storage(_expect(key, str), STORAGES[kind.name], _size(length))


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    name = _expect(function, Global).name
    if name == DICTIONARY:
        made: dict[Any, Any] = {}
        _fill(made, _expect(arguments[0], list) if arguments else [])
        return made
    if name in TENSORS:
        storage, offset, shape, strides = arguments[:4]
        return _tensor(_expect(storage, Storage), _size(offset), _expect(shape, tuple), _expect(strides, tuple))
    if name == PARAMETER:
        return _expect(arguments[0], Tensor)
    if name in INERT:
        return Inert(name)
    raise TypeError(f"a call of {name}")


def _tensor(storage: Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> Tensor:
    if len(shape) != len(strides) or len(shape) > 8:
        raise ValueError(f"a tensor with {len(shape)} sizes and {len(strides)} strides")
    shape, strides = tuple(map(_size, shape)), tuple(map(_size, strides))
    elements = 1
    for size in shape:
        elements *= size
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # The first bound is against views that repeat a small storage into an enormous tensor.
    if elements and (elements > storage.length or last >= storage.length):
        raise Refused(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} does not fit its storage of "
            f"{storage.length} elements"
        )
    return Tensor(storage, offset, shape, strides)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError("a size that is no sensible number")
    return value
