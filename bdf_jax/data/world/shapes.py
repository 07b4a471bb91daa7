"""Anti-aliased shapes: where each one covers the picture, and the coordinates of its surface there.

Every shape is a piece of a generalised cylinder. A `Patch` says how much of each pixel it covers and where
on the cylinder the pixel lies: `side` runs from -1 (left outline) to 1 (right outline), `along` along the axis.
Coverage is the signed distance to the outline, clipped to one pixel; only the bounding box is evaluated.
All coordinates are pixels, x to the right, y downwards, pixel centres at integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Point = tuple[float, float]


class Patch(NamedTuple):
    """The part of a picture that a shape covers.

    Attributes:
      rows, cols: the bounding box in the picture.
      cover_HW: float32 0..1, covered share of each pixel of the box.
      side_HW: float32 -1..1, position across the shape.
      along_HW: float32, pixels along the axis (`tube`, `ellipse`, `box`: the row y itself).
    """

    rows: slice
    cols: slice
    cover_HW: np.ndarray
    side_HW: np.ndarray
    along_HW: np.ndarray


def _grid(
    size: tuple[int, int], left: float, right: float, top: float, bottom: float
) -> tuple[slice, slice, np.ndarray, np.ndarray] | None:
    """The rows and columns a bounding box touches, with y as (H, 1) and x as (1, W); None when outside the picture."""
    height, width = size
    row0, row1 = max(0, int(top - 1)), min(height, int(bottom + 3))
    col0, col1 = max(0, int(left - 1)), min(width, int(right + 3))
    if row0 >= row1 or col0 >= col1:
        return None
    y_H1 = np.arange(row0, row1, dtype=np.float32)[:, None]
    x_1W = np.arange(col0, col1, dtype=np.float32)[None, :]
    return slice(row0, row1), slice(col0, col1), y_H1, x_1W


def tube(size: tuple[int, int], y_K: np.ndarray, centre_K: np.ndarray, half_K: np.ndarray) -> Patch | None:
    """An upright shape of varying width: torso, skirt, coat, hair.

    Args:
      size: (height, width) of the picture.
      y_K: rows of the key points, increasing.
      centre_K: x of the axis at the key points.
      half_K: half of the width there; linear in between.
    """
    reach = float(half_K.max())
    found = _grid(size, float(centre_K.min()) - reach, float(centre_K.max()) + reach, float(y_K[0]), float(y_K[-1]))
    if found is None:
        return None
    rows, cols, y_H1, x_1W = found
    y_H = y_H1[:, 0]
    centre_H1 = np.interp(y_H, y_K, centre_K).astype(np.float32)[:, None]
    half_H = np.interp(y_H, y_K, half_K).astype(np.float32)
    # An outline that runs nearly level (a shoulder) is nearer than its horizontal distance says.
    slope_H = np.gradient(half_H) if len(half_H) > 1 else np.zeros_like(half_H)
    steep_H1 = (1 / np.sqrt(1 + slope_H * slope_H))[:, None]
    offset_HW = x_1W - centre_H1
    cover_HW = np.clip((half_H[:, None] - np.abs(offset_HW)) * steep_H1 + 0.5, 0, 1)
    cover_HW *= np.clip(np.minimum(y_H1 - np.float32(y_K[0]), np.float32(y_K[-1]) - y_H1) + 0.5, 0, 1)
    side_HW = np.clip(offset_HW / np.maximum(half_H, 0.5)[:, None], -1, 1)
    return Patch(rows, cols, cover_HW, side_HW, np.broadcast_to(y_H1, side_HW.shape))


def limb(
    size: tuple[int, int], start: Point, end: Point, radii: tuple[float, float], *, round_end: bool = True
) -> Patch | None:
    """A tapered capsule from `start` to `end`; without `round_end` it is cut off square at the end (a hem)."""
    (x0, y0), (x1, y1) = start, end
    reach = max(radii)
    found = _grid(size, min(x0, x1) - reach, max(x0, x1) + reach, min(y0, y1) - reach, max(y0, y1) + reach)
    if found is None:
        return None
    rows, cols, y_H1, x_1W = found
    dx, dy = x1 - x0, y1 - y0
    length = max((dx * dx + dy * dy) ** 0.5, 1e-3)
    dx, dy = dx / length, dy / length
    px_1W, py_H1 = x_1W - np.float32(x0), y_H1 - np.float32(y0)
    along_HW = px_1W * np.float32(dx) + py_H1 * np.float32(dy)
    across_HW = py_H1 * np.float32(dx) - px_1W * np.float32(dy)
    inside_HW = np.clip(along_HW, 0, length)
    beyond_HW = along_HW - inside_HW
    radius_HW = np.float32(radii[0]) + inside_HW * np.float32((radii[1] - radii[0]) / length)
    cover_HW = np.clip(radius_HW - np.sqrt(across_HW * across_HW + beyond_HW * beyond_HW) + 0.5, 0, 1)
    if not round_end:
        cover_HW *= np.clip(length - along_HW + 0.5, 0, 1)
    side_HW = np.clip(-across_HW / radius_HW, -1, 1)
    return Patch(rows, cols, cover_HW, side_HW, along_HW)


def ellipse(size: tuple[int, int], centre: Point, radii: tuple[float, float]) -> Patch | None:
    """An upright ellipse of horizontal and vertical `radii`: head, hat, shadow."""
    (x0, y0), (rx, ry) = centre, radii
    found = _grid(size, x0 - rx, x0 + rx, y0 - ry, y0 + ry)
    if found is None:
        return None
    rows, cols, y_H1, x_1W = found
    u_1W, v_H1 = (x_1W - np.float32(x0)) / np.float32(rx), (y_H1 - np.float32(y0)) / np.float32(ry)
    cover_HW = np.clip((1 - np.sqrt(u_1W * u_1W + v_H1 * v_H1)) * np.float32(min(rx, ry)) + 0.5, 0, 1)
    across_H1 = np.sqrt(np.maximum(1 - v_H1 * v_H1, 0.04))
    side_HW = np.clip(u_1W / across_H1, -1, 1)
    return Patch(rows, cols, cover_HW, side_HW, np.broadcast_to(y_H1, side_HW.shape))


def box(size: tuple[int, int], centre: Point, halves: tuple[float, float], radius: float = 0.0) -> Patch | None:
    """An upright rectangle with rounded corners: bag, door, window, poster, pole."""
    (x0, y0), (hx, hy) = centre, halves
    found = _grid(size, x0 - hx, x0 + hx, y0 - hy, y0 + hy)
    if found is None:
        return None
    rows, cols, y_H1, x_1W = found
    radius = min(radius, hx, hy)
    x_1W = x_1W - np.float32(x0)
    dx_1W = np.abs(x_1W) - np.float32(hx - radius)
    dy_H1 = np.abs(y_H1 - np.float32(y0)) - np.float32(hy - radius)
    corner_HW = np.sqrt(np.maximum(dx_1W, 0) ** 2 + np.maximum(dy_H1, 0) ** 2) + np.minimum(np.maximum(dx_1W, dy_H1), 0)
    cover_HW = np.clip(np.float32(radius) - corner_HW + 0.5, 0, 1)
    side_HW = np.broadcast_to(np.clip(x_1W / np.float32(hx), -1, 1), cover_HW.shape)
    return Patch(rows, cols, cover_HW, side_HW, np.broadcast_to(y_H1, cover_HW.shape))
