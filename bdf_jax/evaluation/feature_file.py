"""Features of test images in a file: the door through which other frameworks' models are evaluated.

A NumPy .npz with `features` (N, D) float, `pids` (N,), `cams` (N,), `modality` (N,) 0 visible / 1 infrared and
`names` (N,) paths relative to the data set's root. Optional scalars: `similarity` ("cosine", "dot" or
"euclidean") and the flags `feature`, `use` and `flip_tta`, printed in every row. It is read with pickling off.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.data.index import ImageIndex
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.similarity import check_similarity
from bdf_jax.output import replaced
from bdf_jax.trouble import refuse_trouble

COLUMNS = ("features", "pids", "cams", "modality", "names")
FLAGS = {"feature": "", "use": "", "flip_tta": False}  # what a file may say of its features, and the default


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds.

    Attributes:
      features_ND: (N, D) float32.
      index: N images.
      similarity: "cosine", "dot" or "euclidean", as the file says; None where it does not.
      flags: the optional flags, with their defaults.
    """

    features_ND: np.ndarray
    index: ImageIndex
    similarity: str | None
    flags: dict[str, Any]


def save_features(
    path: str | Path,
    features_ND: np.ndarray,
    index: ImageIndex,
    *,
    similarity: str = "cosine",
    flags: Mapping[str, Any] | None = None,
) -> None:
    """Writes a feature file; a file that was there stays whole until the new one is."""
    arrays: dict[str, Any] = {
        "features": features_ND,
        "pids": index.pids,
        "cams": index.cams,
        "modality": index.modalities,
        "names": np.asarray(index.names, dtype=str),
        "similarity": similarity,
        **(flags or {}),
    }
    with replaced(path, f"features could not be saved to {path}") as out:
        np.savez(out, **arrays)


def load_features(path: str | Path) -> FeatureFile:
    """Reads and checks a feature file.

    Raises:
      BdfError: no such file, not an .npz, a missing key, wrong shapes or types, values that are not finite, two rows
        of one name; always with how many and which.
    """
    path = Path(path)
    arrays = _read(path)
    missing = [key for key in COLUMNS if key not in arrays]
    if missing:
        raise BdfError(
            f"{path}: expected the arrays {', '.join(COLUMNS)}; missing {', '.join(missing)}, "
            f"found {', '.join(sorted(arrays)) or 'none'}"
        )
    names = _names(path, arrays["names"])
    pids, cams, modality = (_integers(path, key, arrays[key], len(names)) for key in ("pids", "cams", "modality"))
    wrong = np.flatnonzero(~np.isin(modality, (0, 1)))
    if wrong.size:
        raise BdfError(
            f"{path}: modality is 0 (visible) or 1 (infrared); {wrong.size} of {len(names)} rows have another value: "
            f"{some(f'{names[row]} has {modality[row]}' for row in wrong)}"
        )
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        raise BdfError(
            f"{path}: expected every image once; {(counts > 1).sum()} of {len(unique)} names occur more than once: "
            f"{some(unique[counts > 1])}"
        )
    features_ND = _features(path, arrays["features"], names)
    index = ImageIndex(names, pids, cams.astype(np.int32), modality.astype(np.int8))
    flags = {key: _flag(path, key, arrays[key]) if key in arrays else default for key, default in FLAGS.items()}
    similarity = str(arrays["similarity"]) if "similarity" in arrays else None
    if similarity is not None:
        check_similarity(similarity, f"{path}: similarity")
    return FeatureFile(features_ND, index, similarity, flags)


def some(names: Iterable[object], shown: int = 3) -> str:
    """The first few of many names: 'a, b, c and 9 more'."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - shown:,} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BdfError(f"{path}: expected a feature file (.npz), found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        # Opened here, because np.load leaves a file open that turns out to be damaged.
        with path.open("rb") as opened:
            stored = np.load(opened, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise BdfError(f"{path}: expected an .npz of several arrays, found a single array (.npy); use np.savez")
            return {key: _array(path, stored, key) for key in (*COLUMNS, "similarity", *FLAGS) if key in stored}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        refuse_trouble(error, f"{path}: cannot be read")
        raise BdfError(f"{path}: expected an .npz written by np.savez, found something else ({error})") from error


def _array(path: Path, stored: Any, key: str) -> np.ndarray:
    try:
        return stored[key]
    except ValueError as error:  # what NumPy says of an object array when pickling is off
        raise BdfError(
            f"{path}: {key} is an array of Python objects, which is not read (unpickling can run code); "
            f"write np.asarray({key}, dtype={'str' if key == 'names' else 'float or int'})"
        ) from error


def _names(path: Path, names: np.ndarray) -> np.ndarray:
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8")
    if names.ndim != 1 or names.dtype.kind != "U" or not len(names):
        raise BdfError(f"{path}: names: expected (N,) strings with N > 0, found {names.shape} {names.dtype}")
    return names


def _integers(path: Path, key: str, values: np.ndarray, length: int) -> np.ndarray:
    if values.shape != (length,) or values.dtype.kind not in "iub":
        raise BdfError(f"{path}: {key}: expected ({length},) integers, as many as names; found {_kind(values)}")
    bits = 64 if key == "pids" else 32
    if values.size and not (-(2 ** (bits - 1)) <= int(values.min()) <= int(values.max()) < 2 ** (bits - 1)):
        raise BdfError(f"{path}: {key}: expected {bits}-bit integers, found {values.min()} to {values.max()}")
    return values.astype(np.int64)


def _features(path: Path, features: np.ndarray, names: np.ndarray) -> np.ndarray:
    if features.ndim != 2 or features.shape[0] != len(names) or not features.shape[1] or features.dtype.kind != "f":
        raise BdfError(f"{path}: features: expected ({len(names)}, D) floating point; found {_kind(features)}")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, dtype=np.float32)
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if broken.size:
        raise BdfError(
            f"{path}: features of {broken.size} of {len(names)} images are NaN, infinite or beyond float32: "
            f"{some(names[broken])}"
        )
    return features


def _flag(path: Path, key: str, value: np.ndarray) -> Any:
    if value.ndim or not isinstance(value.item(), type(FLAGS[key])):
        kind = type(FLAGS[key]).__name__
        raise BdfError(f"{path}: {key}: expected one value ({kind}), found {_kind(value)}; write np.asarray(value)")
    return value.item()


def _kind(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"
