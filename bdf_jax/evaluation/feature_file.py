"""Features of test images in a file: the door through which other frameworks' models are evaluated.

A NumPy .npz with `features` (N, D) float, `pids` (N,), `cams` (N,), `modality` (N,) 0 visible / 1 infrared and
`names` (N,) paths relative to the data set's root, text or the bytes of the disk. Optional scalars: `similarity`
("cosine", "dot", "euclidean", or "max4" and "min4" of two views in one vector) and the flags `feature`, `use` and
`flip_tta`, printed in every row. It is read with pickling off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.data.index import ImageIndex
from bdf_jax.data.trees.tree import DIGITS
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.npz import read_npz
from bdf_jax.evaluation.rankable import as_float32
from bdf_jax.evaluation.similarity import check_similarity
from bdf_jax.names import from_bytes, printable, some
from bdf_jax.output import replaced

COLUMNS = ("features", "pids", "cams", "modality", "names")
LONGEST = 4096  # characters of a path
EXPECTED = f"a feature file: an .npz with the arrays {', '.join(COLUMNS)}, as np.savez writes it"
FLAGS = {"feature": "", "use": "", "flip_tta": False}  # what a file may say of its features, and the default


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds.

    Attributes:
      features_ND: (N, D) float32.
      index: N images.
      similarity: one of `similarity.TITLES`, as the file says; None where it does not.
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
      BdfError: no such file, another kind of file, a missing key, wrong shapes or types, names that no path can have,
        identities of more than 18 digits, features that float32 does not hold, two rows of one name; always with how
        many and which.
    """
    path = Path(path)
    arrays, found = read_npz(path, (*COLUMNS, "similarity", *FLAGS), EXPECTED)
    missing = [key for key in COLUMNS if key not in arrays]
    if missing:
        raise BdfError(
            f"{path}: expected the arrays {', '.join(COLUMNS)}; missing {', '.join(missing)}, "
            f"found {some(sorted(found), 20)}"
        )
    names = _names(path, arrays["names"])
    pids = _integers(path, "pids", arrays["pids"], names, 10**DIGITS - 1)
    cams = _integers(path, "cams", arrays["cams"], names, 2**31 - 1)
    modality = _modality(path, arrays["modality"], names)
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        raise BdfError(
            f"{path}: expected every image once; {(counts > 1).sum()} of {len(unique)} names occur more than once: "
            f"{some(unique[counts > 1])}"
        )
    features_ND = _features(path, arrays["features"], names)
    index = ImageIndex(names, pids, cams.astype(np.int32), modality.astype(np.int8))
    flags = {key: _flag(path, key, arrays[key]) if key in arrays else default for key, default in FLAGS.items()}
    similarity = _similarity(path, arrays["similarity"]) if "similarity" in arrays else None
    return FeatureFile(features_ND, index, similarity, flags)


def _names(path: Path, names: np.ndarray) -> np.ndarray:
    """Names as a tree has them: bytes that are not UTF-8 stay, as `names.from_bytes` holds them."""
    if names.ndim != 1 or names.dtype.kind not in "SU" or not len(names):
        raise BdfError(f"{path}: names: expected (N,) strings with N > 0, found {_kind(names)}")
    unit = np.dtype(np.uint8 if names.dtype.kind == "S" else np.uint32).newbyteorder(names.dtype.byteorder)
    units_NL = np.frombuffer(names.tobytes(), unit).reshape(len(names), -1)
    lengths_N = (units_NL != 0).sum(axis=1)
    wrong = [
        ("are empty", lengths_N == 0),
        ("hold a zero byte, as no path can (text in UTF-16?)", (units_NL != 0)[:, 1:] > (units_NL != 0)[:, :-1]),
        (f"are longer than {LONGEST} characters, as no path can be", lengths_N > LONGEST),
    ]
    if names.dtype.kind == "U":
        # Bytes that are not UTF-8 are held as lone surrogates from U+DC80 to U+DCFF, others are no text.
        surrogate = (units_NL >= 0xD800) & (units_NL <= 0xDFFF) & ~((units_NL >= 0xDC80) & (units_NL <= 0xDCFF))
        wrong.append(("hold lone surrogates or other numbers that are no character", surrogate | (units_NL > 0x10FFFF)))
    for what, mask in wrong:
        rows = np.flatnonzero(mask.any(axis=1) if mask.ndim == 2 else mask)
        if rows.size:
            shown = some(f"row {row}, {_as_read(units_NL[row])}" for row in rows)
            raise BdfError(f"{path}: names: {rows.size} of {len(names)} {what}: {shown}")
    if names.dtype.kind == "S":
        return np.asarray([from_bytes(name) for name in names.tolist()])
    return names


def _as_read(units_L: np.ndarray) -> str:
    """The beginning of a name in characters that can be shown, whatever it holds."""
    text = "".join(chr(unit) if unit <= 0x10FFFF else f"<{unit:#x}>" for unit in units_L[:60].tolist()).rstrip("\0")
    return f"'{printable(text)}{'...' * (len(units_L) > 60)}'"


def _integers(path: Path, key: str, values: np.ndarray, names: np.ndarray, most: int) -> np.ndarray:
    """As int64, every digit kept."""
    if values.shape != names.shape or values.dtype.kind not in "iu":
        why = _why_no_integers(key, values, names) if values.shape == names.shape else ""
        raise BdfError(
            f"{path}: {key}: expected ({len(names)},) integers, as many as names; found {_kind(values)}{why}"
        )
    info = np.iinfo(values.dtype)
    wrong = np.flatnonzero((values < max(0, info.min)) | (values > min(most, info.max)))
    if wrong.size:
        limit = f"at most {DIGITS} digits, as in trees" if most >= 2**31 else f"0 to {most}"
        raise BdfError(
            f"{path}: {key}: expected integers from 0 on, of {limit}; {wrong.size} of {len(names)} rows have others: "
            f"{some(f'{names[row]} has {values[row]}' for row in wrong)}"
        )
    return values.astype(np.int64)


def _why_no_integers(key: str, values: np.ndarray, names: np.ndarray) -> str:
    """What to do about a column of another type, and the first rows that make it so."""
    if values.dtype.kind != "f":
        return f"; the first is {values[0]!r} ({names[0]}). Number them, and write {key} as np.int64"
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~(np.trunc(values) == values) | ~np.isfinite(values))
        lost = np.flatnonzero(np.abs(values) >= 2.0 ** (np.finfo(values.dtype).nmant + 1))
    if wrong.size:
        listed = some(f"{names[row]} has {values[row]}" for row in wrong)
        return f"; {wrong.size} of {len(names)} rows are no whole numbers: {listed}"
    if lost.size:
        listed = some(f"{names[row]} has {values[row]:.0f}" for row in lost)
        return f"; {lost.size} rows have more digits than {values.dtype} keeps: {listed}. Write integers at once"
    return f"; all are whole: write {key}.astype(np.int64)"


def _modality(path: Path, values: np.ndarray, names: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "b":
        values = values.astype(np.int8)
    if values.shape == names.shape and values.dtype.kind in "iu":
        wrong = np.flatnonzero(~np.isin(values, (0, 1)))
        if wrong.size:
            raise BdfError(
                f"{path}: modality is 0 (visible) or 1 (infrared); {wrong.size} of {len(names)} rows have another "
                f"value: {some(f'{names[row]} has {values[row]}' for row in wrong)}"
            )
    return _integers(path, "modality", values, names, 1)


def _features(path: Path, features: np.ndarray, names: np.ndarray) -> np.ndarray:
    if features.ndim != 2 or features.shape[0] != len(names) or not features.shape[1] or features.dtype.kind != "f":
        hint = ""
        if features.dtype.kind == "V" and features.dtype.itemsize == 2:
            hint = " (bfloat16, perhaps, which NumPy saves as bare bytes)"
        what = "" if features.dtype.kind == "f" else "; write features.astype(np.float32)"
        if features.dtype.kind == "c":
            what = "; which real numbers stand for an image?"
        raise BdfError(
            f"{path}: features: expected ({len(names)}, D) floating point; found {_kind(features)}{hint}{what}"
        )
    return as_float32(features, names, f"{path}: ")


def _similarity(path: Path, value: np.ndarray) -> str:
    if value.ndim or value.dtype.kind not in "SU":
        raise BdfError(f"{path}: similarity: expected one string, found {_kind(value)}; write np.asarray('cosine')")
    similarity = value.item()
    similarity = from_bytes(similarity) if isinstance(similarity, bytes) else similarity
    check_similarity(similarity, f"{path}: similarity")
    return similarity


def _flag(path: Path, key: str, value: np.ndarray) -> Any:
    if value.ndim or not isinstance(value.item(), type(FLAGS[key])):
        kind = type(FLAGS[key]).__name__
        raise BdfError(f"{path}: {key}: expected one value ({kind}), found {_kind(value)}; write np.asarray(value)")
    return value.item()


def _kind(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"
