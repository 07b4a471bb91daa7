"""Values of any type -> 8-bit levels, where it is known what is white."""

from __future__ import annotations

import numpy as np

from bdf_jax.errors import BdfError


def levels(values: np.ndarray, name: str) -> np.ndarray:
    """uint8 levels of an array's values.

    Args:
      values: of any shape: 8 or 16 bits, true and false, or floating point from 0 (black) to 1 (white).
      name: what an error calls the image.

    Raises:
      BdfError: values whose white is not known.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind in "iu":
        raise BdfError(
            f"{name}: expected 8 or 16 bits a channel (uint8, uint16), found {values.dtype} from {values.min()} to "
            f"{values.max()}; convert it, so that white is 255 or 65535"
        )
    if values.dtype.kind not in "fV" or values.dtype.names:
        raise BdfError(f"{name}: expected pixels in uint8, uint16 or floating point, found {values.dtype}")
    values = values.astype(np.float32)  # also of JAX's bfloat16, which NumPy calls V
    low, high = values.min(), values.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # rounding is forgiven; NaN is not
        raise BdfError(
            f"{name}: expected floating point from 0 (black) to 1 (white), found {low:g} to {high:g}; "
            "divide by what is white"
        )
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
