"""The places that cameras look at: wide backdrops, painted once and cropped for every picture."""

from __future__ import annotations

import functools

import numpy as np
from scipy.ndimage import gaussian_filter1d

from bdf_jax.data.world import shapes
from bdf_jax.data.world.materials import CHANNELS, Band, reflectance

SCENE_STREAM = 2  # first word after the seed of the random stream of places
WIDER, TALLER = 6, 1.3  # backdrop in units of the picture


def smooth_noise(size: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32 of mean 0 and deviation about 1: random values on a grid of cells, interpolated."""
    height, width = size
    grid = rng.standard_normal((cells[0] + 1, cells[1] + 1)).astype(np.float32)
    y_H = np.linspace(0, cells[0], height, endpoint=False, dtype=np.float32)
    x_W = np.linspace(0, cells[1], width, endpoint=False, dtype=np.float32)
    y0_H, x0_W = y_H.astype(int), x_W.astype(int)
    fy_H, fx_W = y_H - y0_H, x_W - x0_W
    fy_H, fx_W = fy_H * fy_H * (3 - 2 * fy_H), fx_W * fx_W * (3 - 2 * fx_W)
    rows = grid[y0_H] * (1 - fy_H[:, None]) + grid[y0_H + 1] * fy_H[:, None]
    return (rows[:, x0_W] * (1 - fx_W) + rows[:, x0_W + 1] * fx_W) * np.float32(1.4)


@functools.lru_cache(maxsize=32)
def backdrop(seed: int, scene: int, band: Band, indoor: bool, size: tuple[int, int], correlation: float) -> np.ndarray:
    """The place `scene` as one band sees it.

    Cameras of one place share its furniture whatever their band.

    Returns:
      (C, H, W) float32, about `TALLER` and `WIDER` times the picture's size.
    """
    height, width = round(size[0] * TALLER), size[1] * WIDER
    rng = np.random.default_rng([seed, SCENE_STREAM, scene])
    planes_CHW = np.zeros((5, height, width), np.float32)
    (_indoors if indoor else _outdoors)(planes_CHW, height, width, correlation, rng)
    texture_HW = smooth_noise((height, width), (26, 90), rng) + smooth_noise((height, width), (80, 260), rng)
    seen_CHW = planes_CHW[CHANNELS[band]]
    # Behind the person's plane of focus: softer and with less contrast.
    seen_CHW = seen_CHW + 0.5 * (seen_CHW.mean((1, 2), keepdims=True) - seen_CHW)
    blur = 0.007 * size[0]
    seen_CHW = gaussian_filter1d(gaussian_filter1d(seen_CHW, blur, 1), blur, 2) * (1 + 0.025 * texture_HW)
    return np.ascontiguousarray(np.clip(seen_CHW, 0.01, 1), dtype=np.float32)


def _lay(planes_CHW: np.ndarray, patch: shapes.Patch | None, material_C: np.ndarray, strength: float = 1.0) -> None:
    if patch is not None:
        target_CHW = planes_CHW[:, patch.rows, patch.cols]
        target_CHW += strength * patch.cover_HW * (material_C[:, None, None] - target_CHW)


def _material(
    rng: np.random.Generator, correlation: float, value: tuple[float, float], tint: float, warmth: tuple[float, float]
) -> np.ndarray:
    rgb = rng.uniform(*value) * (1 + tint * rng.uniform(-1, 1, 3))
    return reflectance(np.clip(rgb, 0.02, 1), rng.uniform(*warmth), correlation, rng)


def _floor(planes_CHW: np.ndarray, horizon: float, near_C: np.ndarray, far_C: np.ndarray) -> None:
    height = planes_CHW.shape[1]
    share_H = np.clip((np.arange(height, dtype=np.float32) - horizon) / max(height - horizon, 1), 0, 1)
    floor_CH = far_C[:, None] + share_H * (near_C - far_C)[:, None]
    cover_H = np.clip(np.arange(height) - horizon + 0.5, 0, 1).astype(np.float32)
    planes_CHW += cover_H[:, None] * (floor_CH[:, :, None] - planes_CHW)


def _indoors(planes_CHW: np.ndarray, height: int, width: int, correlation: float, rng: np.random.Generator) -> None:
    """A corridor or a hall: wall, skirting board, tiled floor, doors, posters, cupboards, windows."""
    size, unit = (height, width), height / TALLER
    wall_C = _material(rng, correlation, (0.45, 0.9), 0.15, (0.2, 0.35))
    planes_CHW += wall_C[:, None, None]
    horizon = height * rng.uniform(0.5, 0.72)
    for _ in range(16):
        kind = rng.integers(4)
        x = rng.uniform(0, width)
        colour_C = _material(rng, correlation, (0.08, 0.95), 0.5, (0.15, 0.45))
        if kind == 0:  # door
            half = unit * rng.uniform(0.12, 0.2)
            _lay(planes_CHW, shapes.box(size, (x, horizon * 0.55), (half * 1.1, horizon * 0.47)), wall_C * 0.6)
            _lay(planes_CHW, shapes.box(size, (x, horizon * 0.56), (half, horizon * 0.44)), colour_C)
        elif kind == 1:  # poster
            place = (x, horizon * rng.uniform(0.2, 0.6))
            _lay(
                planes_CHW,
                shapes.box(size, place, (unit * rng.uniform(0.05, 0.14), unit * rng.uniform(0.06, 0.14))),
                colour_C,
            )
        elif kind == 2:  # window or lit panel
            place = (x, horizon * rng.uniform(0.15, 0.45))
            halves = (unit * rng.uniform(0.1, 0.25), unit * rng.uniform(0.08, 0.2))
            _lay(planes_CHW, shapes.box(size, place, (halves[0] * 1.1, halves[1] * 1.1)), wall_C * 0.5)
            _lay(planes_CHW, shapes.box(size, place, halves), np.clip(colour_C + 0.3, 0, 1))
        else:  # cupboard or bench
            tall = unit * rng.uniform(0.08, 0.35)
            place = (x, horizon - tall * 0.8)
            _lay(planes_CHW, shapes.box(size, place, (unit * rng.uniform(0.08, 0.25), tall), 2), colour_C)
    tile_C = _material(rng, correlation, (0.3, 0.8), 0.12, (0.2, 0.35))
    _lay(planes_CHW, shapes.box(size, (width / 2, horizon), (width, unit * 0.015)), wall_C * 0.45)
    _floor(planes_CHW, horizon + unit * 0.015, tile_C, tile_C * 0.7)
    gap, y = unit * 0.03, horizon + unit * 0.03
    while y < height:  # joints come closer towards the far end
        _lay(planes_CHW, shapes.box(size, (width / 2, y), (width, 0.5)), tile_C * 0.55, 0.6)
        y, gap = y + gap, gap * 1.4
    for x in np.arange(0, width, unit * rng.uniform(0.14, 0.3)):
        bottom = (x + (x - width / 2) * 0.25, float(height))
        _lay(planes_CHW, shapes.limb(size, (float(x), horizon + unit * 0.02), bottom, (0.5, 0.8)), tile_C * 0.55, 0.6)


def _outdoors(planes_CHW: np.ndarray, height: int, width: int, correlation: float, rng: np.random.Generator) -> None:
    """A street: sky, facades with windows, trees and hedges (bright in the near infrared), pavement and kerb."""
    size, unit = (height, width), height / TALLER
    sky_C = np.array([0.72, 0.8, 0.9, 0.25, 0.05], np.float32) * rng.uniform(0.8, 1.1)
    planes_CHW += sky_C[:, None, None]
    horizon = height * rng.uniform(0.42, 0.6)
    x = 0.0
    while x < width:  # facades
        wide = unit * rng.uniform(0.5, 1.1)
        top = height * rng.uniform(-0.3, 0.2)
        wall_C = _material(rng, correlation, (0.2, 0.8), 0.25, (0.2, 0.45))
        _lay(planes_CHW, shapes.box(size, (x + wide / 2, (top + horizon) / 2), (wide / 2, (horizon - top) / 2)), wall_C)
        pane_C = _material(rng, correlation, (0.05, 0.35), 0.2, (0.1, 0.4))
        step = unit * rng.uniform(0.13, 0.22)
        for row in np.arange(horizon - 0.7 * step, max(top, 0), -step):
            for column in np.arange(x + step * 0.6, x + wide - step * 0.3, step):
                _lay(planes_CHW, shapes.box(size, (float(column), float(row)), (step * 0.25, step * 0.3)), pane_C, 0.85)
        x += wide
    ground_C = _material(rng, correlation, (0.3, 0.65), 0.1, (0.2, 0.35))
    _floor(planes_CHW, horizon, ground_C, ground_C * 0.8)
    for _ in range(9):  # trees and hedges
        x, radius = rng.uniform(0, width), unit * rng.uniform(0.1, 0.3)
        leaf_C = np.array([0.15, 0.32, 0.1, 0.8, 0.25], np.float32) * rng.uniform(0.6, 1.2)
        y = horizon - rng.choice([radius * 0.3, radius * 1.6])
        trunk = shapes.limb(size, (x, horizon + 2), (x, y), (unit * 0.02, unit * 0.012))
        _lay(planes_CHW, trunk, np.array([0.25, 0.18, 0.12, 0.4, 0.25], np.float32))
        for _ in range(12):
            dx, dy = rng.uniform(-0.8, 0.8, 2) * radius
            shade = rng.uniform(0.7, 1.25)
            lobe = (radius * rng.uniform(0.25, 0.5), radius * rng.uniform(0.25, 0.5))
            _lay(planes_CHW, shapes.ellipse(size, (x + dx, y + dy), lobe), leaf_C * shade)
    kerb = horizon + (height - horizon) * rng.uniform(0.1, 0.3)
    road_C = _material(rng, correlation, (0.15, 0.45), 0.08, (0.25, 0.4))
    _lay(planes_CHW, shapes.box(size, (width / 2, (kerb + horizon) / 2), (width, (kerb - horizon) / 2)), road_C)
    _lay(planes_CHW, shapes.box(size, (width / 2, kerb), (width, unit * 0.012)), np.clip(ground_C * 1.3, 0, 1))
    for _ in range(4):  # parked cars
        x, paint_C = rng.uniform(0, width), _material(rng, correlation, (0.05, 0.9), 0.6, (0.15, 0.6))
        _lay(planes_CHW, shapes.box(size, (x, kerb - unit * 0.06), (unit * 0.24, unit * 0.07), unit * 0.04), paint_C)
        _lay(
            planes_CHW,
            shapes.box(size, (x, kerb - unit * 0.14), (unit * 0.14, unit * 0.06), unit * 0.04),
            paint_C * 0.5,
        )
