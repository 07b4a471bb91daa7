"""A gallery on the disk: one uncompressed .npz, whose features are mapped into memory where they lie in the file.

`np.load` reads it, too: `features` (N, D) float32, `names` (N,), `ids` (N,), `modality` (N,) 0 visible / 1 infrared,
and `about`, JSON that says which model it belongs to.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.file_kinds import what_file_is
from bdf_jax.output import replaced
from bdf_jax.paths import local_path
from bdf_jax.trouble import refuse_trouble

FORMAT = 1
SMALL = ("names", "ids", "modality", "about")  # what is read at once
VERIFIED = 2**30  # bytes; larger files are checked in full only when asked
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member in a zip file: signature, lengths of its name and extra field


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a gallery file holds.

    Attributes:
      features_ND: (N, D) float32, mapped from the file.
      names: (N,) str.
      ids: (N,) str.
      modality: 0 visible, 1 infrared.
      about: `model` (fingerprint), `source` and `step` (where that model came from), `folder` (of the images).
    """

    features_ND: np.ndarray
    names: np.ndarray
    ids: np.ndarray
    modality: int
    about: dict[str, Any]


def write(
    path: str | os.PathLike[str],
    features_ND: np.ndarray,
    names: np.ndarray,
    ids: np.ndarray,
    modality: int,
    about: Mapping[str, Any],
) -> None:
    """Writes a gallery file; one that was there stays whole until this one is.

    Raises:
      BdfError: the file cannot be written.
    """
    said = json.dumps({"format": FORMAT, **about})
    modalities = np.full(len(names), modality, np.int8)
    with replaced(path) as out:
        np.savez(out, features=features_ND, names=names, ids=ids, modality=modalities, about=np.asarray(said))


def read(path: str | os.PathLike[str], *, verify: bool | None = None) -> Stored:
    """Opens a gallery file without reading its features.

    Args:
      path: of the file.
      verify: read the features once against their checksum; None: where the file is smaller than 1 GiB.

    Raises:
      BdfError: no such file, not a gallery, a damaged one.
    """
    file = local_path(path, expected="the path of a gallery file")
    try:
        if not file.is_file():
            raise BdfError(f"{file}: expected a gallery file, found {what_file_is(file)}")
        if not zipfile.is_zipfile(file):
            raise ValueError(f"found {what_file_is(file)}")
        verify = file.stat().st_size < VERIFIED if verify is None else verify
        with file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            members = set(archive.namelist())
            missing = [
                name for name in ("features", "names", "ids", "modality", "about") if f"{name}.npy" not in members
            ]
            if missing:
                raise BdfError(
                    f"{file}: not a gallery: it lacks {', '.join(missing)}; write it with gallery.save(path)"
                )
            small = {name: _small(archive, name) for name in ("names", "ids", "modality", "about")}
            features_ND = _mapped(file, opened, archive, verify)
        about = json.loads(str(small["about"]))
        names, ids, modality = small["names"], small["ids"], small["modality"]
        N = len(features_ND)
        whole = (
            features_ND.ndim == 2
            and features_ND.dtype == np.float32
            and N > 0
            and names.shape == ids.shape == modality.shape == (N,)
            and names.dtype.kind == ids.dtype.kind == "U"
            and modality.dtype.kind == "i"
            and modality[0] in (0, 1)
            and (modality == modality[0]).all()
            and isinstance(about, dict)
            and {"format", "model", "source", "step", "folder"} <= about.keys()
        )
        if not whole:
            raise ValueError("its parts do not fit each other")
        if about["format"] != FORMAT:
            raise BdfError(f"{file}: expected a gallery of format {FORMAT}, found {about['format']!r}; embed it again")
    except BdfError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and json each have their own for bytes that make no sense
        refuse_trouble(error, f"{file}: cannot be read")
        raise BdfError(
            f"{file}: damaged gallery, or not a gallery: {error or type(error).__name__}; embed the images again"
        ) from error
    return Stored(features_ND, names, ids, int(modality[0]), about)


def _small(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read()  # zipfile compares the checksum at the end of the member
    return array


def _mapped(file: Path, opened: IO[bytes], archive: zipfile.ZipFile, verify: bool) -> np.ndarray:
    member = archive.getinfo("features.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("its features are compressed")
    opened.seek(member.header_offset)
    signature, name_length, extra_length = LOCAL_HEADER.unpack(opened.read(LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError("its features are not where they should be")
    start = member.header_offset + LOCAL_HEADER.size + name_length + extra_length
    if verify:
        opened.seek(start)
        checksum, left = 0, member.file_size
        while left and (part := opened.read(min(left, 2**20))):
            checksum, left = zlib.crc32(part, checksum), left - len(part)
        if left or checksum != member.CRC:
            raise ValueError("the checksum of its features is wrong")
    opened.seek(start)
    version = np.lib.format.read_magic(opened)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = reader(opened)
    if fortran or dtype.hasobject:
        raise ValueError("its features are stored in another order")
    data = opened.tell()
    if data + dtype.itemsize * int(np.prod(shape)) != start + member.file_size:
        raise ValueError("its features are cut short")
    return np.memmap(file, dtype=dtype, mode="r", offset=data, shape=shape)
