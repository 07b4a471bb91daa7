"""Who is shown in an image that has nothing but a name."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bdf_jax.api.pictures import Images
from bdf_jax.errors import BdfError
from bdf_jax.names import printable, some
from bdf_jax.paths import local_path

Ids = Sequence[Any] | Mapping[str, Any] | Callable[[str], Any] | str | os.PathLike[str]


def id_table(ids: Any) -> Any:
    """What `ids_of` looks ids up in; a CSV file (columns `name` and `id`) is read.

    Raises:
      BdfError: not a list, a dictionary, a function or such a file.
    """
    if ids is None or isinstance(ids, Mapping) or callable(ids):
        return ids
    if isinstance(ids, Iterable) and not isinstance(ids, (str, bytes)):
        return [str(each) for each in ids]
    if not isinstance(ids, (str, os.PathLike)):
        raise BdfError(f"ids: expected a list, a dictionary, a function or a CSV file, found {type(ids).__name__}")
    path = local_path(ids, "ids")
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise BdfError(f"{path}: expected a CSV file with the columns name and id: {error}") from error
    if not rows or any(row.get("name") is None or row.get("id") is None for row in rows):
        raise BdfError(f"{path}: expected a CSV file with the columns name and id in every row")
    return {row["name"]: row["id"] for row in rows}


def ids_of(table: Any, images: Images) -> np.ndarray:
    """(N,) str: who is shown, as `id_table` says, or else by the folders that the images lie in.

    Raises:
      BdfError: too few or too many ids, or images without one.
    """
    if table is None:
        found = [_default_id(name, inside=bool(images.folder)) for name in images.names]
    elif isinstance(table, Mapping):
        missing = [name for name in images.names if name not in table]
        if missing:
            raise BdfError(
                f"ids: {len(missing)} of {len(images)} images have none: {some(map(printable, missing))}; expected "
                "names as the gallery has them, such as " + repr(images.names[0])
            )
        found = [str(table[name]) for name in images.names]
    elif callable(table):
        found = [str(table(name)) for name in images.names]
    else:
        if len(table) != len(images):
            raise BdfError(f"ids: expected one for each of {len(images)} images, found {len(table)}")
        found = table
    return np.asarray(found, dtype=str)


def _default_id(name: str, *, inside: bool) -> str:
    """The folder that an image lies in; its own name where it lies directly in the gallery's folder or is no file."""
    parts = name.replace(os.sep, "/").split("/")
    if len(parts) > 1 and parts[-2]:
        return parts[-2]
    return os.path.splitext(parts[-1])[0] if inside or len(parts) > 1 else name
