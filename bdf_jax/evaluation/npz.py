"""Named arrays out of an .npz, with pickling off; any other file is told what it is."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.file_kinds import what_file_is
from bdf_jax.trouble import refuse_trouble


def read_npz(path: Path, keys: Collection[str], expected: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of the arrays `keys` that the file has, and the names of all that it has.

    Args:
      path: of the file.
      keys: which arrays; no other is read.
      expected: what the file should have been, and how it is written, for messages.

    Raises:
      BdfError: no such file, another kind of file, a damaged one, an array of Python objects.
      Trouble: the machine refuses to read it, or memory does not suffice.
    """
    try:
        if not path.is_file() or not zipfile.is_zipfile(path):
            raise BdfError(f"{path}: expected {expected}; found {what_file_is(path)}")
        with zipfile.ZipFile(path) as archive:
            found = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            if not found:
                raise BdfError(f"{path}: expected {expected}; found {what_file_is(path)}")
            return {key: _array(path, archive, key) for key in keys if key in found}, found
    except BdfError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each have their own for bytes that make no sense
        refuse_trouble(error, f"{path}: cannot be read")
        said = str(error) or type(error).__name__
        raise BdfError(f"{path}: expected {expected}; found a damaged .npz ({said}): write or copy it again") from error


def _array(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as member:
        shape, dtype = _header(member)
        if dtype.hasobject:
            raise BdfError(
                f"{path}: {key} is an array of Python objects, which is not read (unpickling can run code); "
                f"write np.asarray({key}, dtype={'str' if key == 'names' else 'float or int'})"
            )
        if member.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(f"{key} is not as long as its header says")
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read()  # zipfile compares the checksum at the end of the member
    return array


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"an array in version {version} of the format, which only records with named fields need")
    return shape, dtype
