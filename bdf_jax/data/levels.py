"""Values of any type -> 8-bit levels, where it is known what is white.

A camera of 10, 12 or 14 bits writes files of 16, and a radiometric one fills a narrow band of them: read as what they
say they are, such images reach a network nearly black, or as one grey. Whoever knows better gives `Levels`; who does
not is told, by `Notes`.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import numpy as np

from bdf_jax.errors import BdfError

NARROW = 0.25  # of the whole range: 14 of 16 bits, and all that is less
BEYOND = 0.5  # of the pixels, beyond a black and a white that were given
SPAN = 16  # levels between these, of 255


class NarrowRange(UserWarning):
    """Images that use so little of the range of their type that a network sees next to nothing in them."""


@dataclasses.dataclass(frozen=True)
class Levels:
    """What is black and what is white in images of more than 8 bits; those of 8 bits are what they are.

    Attributes:
      white: the value that becomes 255; None: 65535 of 16 bits, 1 of floating point.
      black: the value that becomes 0.
    """

    white: float | None = None
    black: float = 0.0

    @classmethod
    def of(cls, white: Any, black: Any = None, what: str = "") -> Levels:
        """As given by a user: None or 0 for what the files' type says.

        Args:
          white: the value that becomes 255.
          black: the value that becomes 0.
          what: how the two are called in front of their names, such as "--" or "data.".

        Raises:
          BdfError: no numbers, a white that is not above black, or a black without a white.
        """
        for name, value in (("white", white), ("black", black)):
            number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value)):
                raise BdfError(f"{what}{name}: expected a number such as 1023, found {value!r}")
        if not white and not black:
            return cls()
        if white is None or white <= (black or 0):  # 0 degrees may well be white
            found = "no white" if white is None else f"{white:g}"
            raise BdfError(f"{what}white: expected a value above black ({black or 0:g}), found {found}")
        return cls(float(white), float(black or 0))


AS_STORED = Levels()


class Notes:
    """What is worth saying of images that many threads read: of one of them, and of how many more."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, name: str, text: str) -> None:
        """Notes something of an image."""
        with self._lock:
            self._texts[name] = text

    def __str__(self) -> str:
        """A line of the first by name; empty where there is nothing to say."""
        if not self._texts:
            return ""
        name = min(self._texts)
        more = len(self._texts) - 1
        return f"{name}: {self._texts[name]}" + (f" ({more:,} more such images)" if more else "")


def to_levels(values: np.ndarray, name: str, levels: Levels = AS_STORED, notes: Notes | None = None) -> np.ndarray:
    """uint8 levels of an array's values.

    Args:
      values: of any shape: integers, true and false, or floating point.
      name: what an error calls the image.
      levels: what is white; as stored: 8 or 16 bits, or floating point from 0 to 1.
      notes: where a narrow range is noted.

    Raises:
      BdfError: values whose white is not known, or that are no numbers.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values * np.uint8(255)
    if values.dtype.kind not in "iufV" or values.dtype.names:
        raise BdfError(f"{name}: expected pixels in uint8, uint16 or floating point, found {values.dtype}")
    if values.dtype.kind in "fV":
        values = values.astype(np.float32)  # also of JAX's bfloat16, which NumPy calls V
    low, high = values.min(), values.max()
    if levels.white is not None:
        return _between(values, name, levels, notes)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        found = (values >> 8).astype(np.uint8)
    elif values.dtype.kind in "iu":
        raise BdfError(
            f"{name}: expected 8 or 16 bits a channel (uint8, uint16), found {values.dtype} from {low} to {high}; "
            "convert it, or say what is white: --white=VALUE (white=VALUE in Python)"
        )
    elif low >= -1e-3 and high <= 1 + 1e-3:  # rounding is forgiven; NaN is not
        found = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    else:
        raise BdfError(
            f"{name}: expected floating point from 0 (black) to 1 (white), found {low:g} to {high:g}; "
            "divide by what is white, or say it: --white=VALUE (white=VALUE in Python)"
        )
    full = 1 if values.dtype.kind == "f" else 65535
    note_narrow(name, low, high, full, (found.min(), found.max()), notes)
    return found


def note_narrow(
    name: str, low: Any, high: Any, full: float, levels: tuple[Any, Any], notes: Notes | None, *, late: bool = False
) -> None:
    """Notes an image that uses little of its range.

    Args:
      name: of the image.
      low, high: its least and its greatest value.
      full: the greatest value that its type has.
      levels: what the two become, 0..255.
      notes: where that is noted.
      late: whether a white level cannot help.
    """
    if notes is None or float(high) - float(low) > NARROW * full:
        return
    advice = "convert the images to 8 bits"
    if high > low and not late:
        bits = next((bits for bits in (8, 10, 12, 14) if 1 < high < 2**bits), None)
        flags = f"--white={2**bits - 1}" if bits else f"--black={low:g} --white={high:g}"
        python, config = flags.replace("--", "").replace(" ", ", "), flags.replace("--", "--config.data.")
        advice = f"say what is white, such as {flags} ({python} in Python, {config} of a training), or {advice}"
    seen = (
        f"its values go from {low:g} to {high:g}, which a network sees as grey levels {levels[0]} to {levels[1]} of 255"
    )
    notes.add(name, f"{seen}: {advice}")


def _between(values: np.ndarray, name: str, levels: Levels, notes: Notes | None) -> np.ndarray:
    white, black = 1.0 if levels.white is None else levels.white, levels.black
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BdfError(f"{name}: expected finite values, found NaN or infinity")
    shares = (values.astype(np.float64) - black) / (white - black)
    found = np.round(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    beyond, span = float(((shares < 0) | (shares > 1)).mean()), int(found.max()) - int(found.min())
    if notes is not None and (beyond > BEYOND or span < SPAN):
        notes.add(
            name,
            f"its values go from {values.min():g} to {values.max():g}, which a network sees as grey levels "
            f"{found.min()} to {found.max()} of 255 where black is {black:g} and white {white:g}, {beyond:.0%} of them "
            "beyond these. Give a white and a black that fit",
        )
    return found
