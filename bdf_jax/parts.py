"""Typed values and their form as nested dictionaries: what a configuration is made of.

A part is a frozen dataclass. Where several kinds of a part fit in one place (losses, trunks, optimisers), they share a
base class that derives from `Family`, and their dictionary says which one it is under `kind`. Parts that a method names
itself (its views, its losses) stand in a `Named`, which keeps their order: the order is part of the value.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import pkgutil
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

from bdf_jax.errors import BdfError

T = TypeVar("T")
KIND = "kind"
NONE = ("none", "None")


class Named(Mapping[str, T], Generic[T]):
    """Parts by name: ordered, hashable, and equal only to the same parts in the same order."""

    def __init__(self, parts: Mapping[str, T] | None = None, /, **more: T):
        self._parts = dict(parts or {}) | more

    def __getitem__(self, name: str) -> T:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self.items()))

    def __repr__(self) -> str:
        return f"Named({', '.join(f'{name}={part!r}' for name, part in self.items())})"

    def __getattr__(self, name: str) -> T:
        try:
            return self.__dict__["_parts"][name]
        except KeyError:
            raise AttributeError(name) from None


class Family:
    """Base of the base classes whose subclasses are the kinds of one part.

    A kind is written by the name of its class; one that is not of this package also by its module,
    `my_method:EdgeLoss`, which is imported when a configuration is read.
    """

    kinds: ClassVar[dict[str, type]]

    def __init_subclass__(cls, abstract: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        if Family in cls.__bases__:
            cls.kinds = {}
        elif not abstract:
            cls.kinds[kind_of(cls)] = cls


def kind_of(cls: type) -> str:
    """How a kind is written."""
    return cls.__name__ if cls.__module__.split(".")[0] == "bdf_jax" else f"{cls.__module__}:{cls.__qualname__}"


def to_dict(value: Any) -> Any:
    """A part, and everything in it, as JSON-ready dictionaries and lists; `from_dict` is the inverse."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {KIND: kind_of(type(value)), **fields} if isinstance(value, Family) else fields
    if isinstance(value, Named):
        return {name: to_dict(part) for name, part in value.items()}
    return [to_dict(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_dict(cls: Any, values: Any, path: str = "") -> Any:
    """A part from dictionaries.

    Args:
      cls: the annotation of the place where the part stands.
      values: as `to_dict` makes them, or parts.
      path: of that place, for messages.

    Raises:
      BdfError: an unknown field or kind (with the nearest names), a wrong type, a field that is missing.
    """
    inner = _optional(cls)
    if inner is not None:
        return None if values is None else from_dict(inner, values, path)
    item = _named(cls)
    if item is not None:
        names = _section(values, path)
        return Named({name: from_dict(item, value, f"{path}.{name}") for name, value in names.items()})
    if not dataclasses.is_dataclass(cls) and not _is_family(cls):
        return _value(cls, values, path)
    if isinstance(values, cls):
        return values
    values = dict(_section(values, path))
    if _is_family(cls):
        cls = find_kind(cls, values.pop(KIND, None), path)
    place: Any = cls
    hints = _hints(place)
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    for name in values:
        if name not in known:
            raise unknown(f"{path}.{name}".lstrip("."), [f"{path}.{other}".lstrip(".") for other in known])
    missing = [f.name for f in dataclasses.fields(cls) if f.init and f.name not in values and _required(f)]
    if missing:
        raise BdfError(f"{path}: {cls.__name__} needs {' and '.join(missing)}; give --config.{path}.{missing[0]}=...")
    return cls(**{name: from_dict(hints[name], value, f"{path}.{name}".lstrip(".")) for name, value in values.items()})


def changed(value: Any, changes: Mapping[str, Any], *, texts: bool = False) -> Any:
    """A part with other values at some paths.

    Args:
      value: a part.
      changes: path -> value, such as {"losses.mdl.weight": 1.0}. `PATH.kind` comes first: it makes a part of another
        kind, which keeps what its family declares; on a new name of a `Named` it adds a part. None removes a named one.
      texts: whether the values are words of a command line.

    Raises:
      BdfError: see `from_dict`.
    """
    values = to_dict(value)
    for path, new in sorted(changes.items(), key=lambda change: not change[0].endswith("." + KIND)):
        _set(type(value), values, path.split("."), new, path, texts, value)
    return from_dict(type(value), values)


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every field that can be set, as it is written on the command line, with its value."""
    if isinstance(value, Named):
        items = list(value.items())
    elif dataclasses.is_dataclass(value):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if field.init]
        if isinstance(value, Family):
            items.insert(0, (KIND, kind_of(type(value))))
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, item in items:
        found |= leaves(item, f"{prefix}.{name}".lstrip("."))
    return found


def find_kind(family: Any, kind: Any, path: str) -> type:
    """The class of a kind; raises BdfError where there is none, or where its module cannot be imported."""
    if kind not in family.kinds:
        _import_neighbours(getattr(family, "packages", (family.__module__.rpartition(".")[0],)))
    if kind in family.kinds:
        return family.kinds[kind]
    module, colon, _ = str(kind).partition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise BdfError(
                f"{path}: {kind} is a part of a file of yours, and the module {module!r} cannot be imported here "
                f"({error}); put {module}.py on the Python path, beside the notebook say"
            ) from error
        if kind in family.kinds:
            return family.kinds[kind]
    near = difflib.get_close_matches(str(kind), family.kinds, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near and kind else ""
    raise BdfError(f"{path}.{KIND}: expected one of {', '.join(family.kinds)}, found {kind!r}{hint}")


def unknown(path: str, known: Sequence[str]) -> BdfError:
    """The error for a field that is not there, with the nearest ones."""
    last: dict[str, list[str]] = {}
    for name in known:
        last.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    initials = {"".join(word[0] for word in name.split("_")): name for name in last if "_" in name}
    short = path.rsplit(".", 1)[-1]
    near = last.get(initials.get(short, short), [])[:3]  # lr, wd; the same name in another section
    near += difflib.get_close_matches(path, known, n=3, cutoff=0.6)
    near += [last[name][0] for name in difflib.get_close_matches(short, last, n=2, cutoff=0.6)]
    sections = dict.fromkeys(name.split(".")[0] for name in known)
    hint = f"nearest: {', '.join(list(dict.fromkeys(near))[:4])}" if near else f"the sections are {', '.join(sections)}"
    return BdfError(f"configuration has no field {path!r}; {hint}")


def _set(cls: Any, values: Any, parts: list[str], new: Any, path: str, texts: bool, root: Any) -> None:
    """Sets one value in dictionaries; `cls` is the annotation of the place that `values` describes."""
    name, rest = parts[0], parts[1:]
    cls = _optional(cls) or cls
    item = _named(cls)
    if item is not None:
        if not rest:
            if new is None or (texts and new in NONE):
                if name not in values:
                    raise unknown(path, list(leaves(root)))
                del values[name]
                return
            values[name] = _parsed(item, new, path) if texts else to_dict(new)
            return
        if name not in values:
            if _is_family(item) and rest != [KIND]:
                raise unknown(path, list(leaves(root)))
            values[name] = {}
        _set(item, values[name], rest, new, path, texts, root)
        return
    if _is_family(cls):
        if [name, *rest] == [KIND]:
            kind = find_kind(cls, new, path.removesuffix("." + KIND))
            shared = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
            kept = {n: v for n, v in values.items() if n in shared and n in {f.name for f in dataclasses.fields(kind)}}
            if values.get(KIND) != new:
                values.clear()
                values.update({KIND: new, **kept})
            return
        cls = find_kind(cls, values.get(KIND), path)
    place: Any = cls
    hints = _hints(place) if dataclasses.is_dataclass(cls) else {}
    if name not in hints or (dataclasses.is_dataclass(cls) and name not in {f.name for f in dataclasses.fields(cls)}):
        raise unknown(path, list(leaves(root)))
    kind = hints[name]
    if not rest:
        values[name] = _parsed(kind, new, path) if texts else to_dict(new)
        return
    if values.get(name) is None:
        values[name] = {}
    if not isinstance(values[name], dict):
        raise unknown(path, list(leaves(root)))
    _set(kind, values[name], rest, new, path, texts, root)


def _parsed(kind: Any, text: str, path: str) -> Any:
    """A word of the command line as the annotation wants it; what does not fit is left for `_value` to refuse."""
    inner = _optional(kind)
    if inner is not None:
        return None if text in NONE else _parsed(inner, text, path)
    if typing.get_origin(kind) is tuple:
        words = [word.strip().strip("'\"") for word in text.strip().strip("()[]").split(",")]
        kinds = typing.get_args(kind)
        return [_parsed(kinds[0], word, path) for word in words if word]
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    if dataclasses.is_dataclass(kind) or _is_family(kind) or _named(kind) is not None:
        raise BdfError(f"--config.{path}: a section of fields; set one of them, --config.{path}.FIELD=VALUE")
    return text


def _value(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is Literal:
        options = typing.get_args(kind)
        if value in options:
            return value
        same = [option for option in options if str(option) == str(value)]  # a number that was typed
        if same:
            return same[0]
        words = [str(option) for option in options]
        near = difflib.get_close_matches(str(value), words, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BdfError(f"{path}: expected one of {', '.join(words)}, found {value!r}{hint}")
    if origin is tuple:
        kinds = typing.get_args(kind)
        items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(items)
        if len(items) != len(kinds):
            raise BdfError(f"{path}: expected {len(kinds)} values, found {value!r}")
        return tuple(_value(k, item, path) for k, item in zip(kinds, items, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        expected = kind.__name__ if isinstance(kind, (type, types.GenericAlias)) else str(kind)
        raise BdfError(f"{path}: expected {expected}, found {type(value).__name__} {value!r}")
    if kind is float and not abs(value) < float("inf"):
        raise BdfError(f"{path}: expected a finite number, found {value!r}")
    return value


def _section(values: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise BdfError(f"{path}: expected a section of fields, found {values!r}")
    return values


@functools.cache
def _import_neighbours(packages: tuple[str, ...]) -> None:
    """The kinds of a family lie in the modules beside its own (or in `packages`): a checkpoint does not import them."""
    for package in packages:
        if not package.startswith("bdf_jax."):
            continue
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{found.name}")


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    if cls.__module__ not in sys.modules:
        raise BdfError(f"{cls.__module__}: the module of {cls.__name__} is not imported")
    return typing.get_type_hints(cls)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _is_family(cls: Any) -> bool:
    return isinstance(cls, type) and Family in cls.__bases__


def _named(cls: Any) -> Any:
    return typing.get_args(cls)[0] if typing.get_origin(cls) is Named else None


def _optional(cls: Any) -> Any:
    if typing.get_origin(cls) in (typing.Union, types.UnionType) and type(None) in typing.get_args(cls):
        return next(kind for kind in typing.get_args(cls) if kind is not type(None))
    return None
