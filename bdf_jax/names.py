"""Names that a file system allows and a terminal, a JSON file or a notebook does not.

Linux keeps any bytes as the name of a file. Python holds those that are not UTF-8 as lone surrogates, which no encoder
takes: an archive packed where names are in GBK or Latin-1 is full of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def printable(name: str) -> str:
    """A name on one line, in characters that can be written: others as Python escapes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def legible(value: Any) -> Any:
    """A text, or all texts in lists and dictionaries, with what cannot be encoded escaped; line breaks stay."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {legible(key): legible(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [legible(each) for each in value]
    return value


def as_bytes(name: str) -> bytes:
    """The bytes of a name on the disk."""
    return name.encode("utf-8", "surrogateescape")


def from_bytes(name: bytes) -> str:
    """The inverse of `as_bytes`."""
    return name.decode("utf-8", "surrogateescape")


def some(names: Iterable[object], shown: int = 3) -> str:
    """The first few of many names, printable: 'a, b, c and 9 more'."""
    listed = [printable(str(name)) for name in names]
    more = f" and {len(listed) - shown:,} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more
