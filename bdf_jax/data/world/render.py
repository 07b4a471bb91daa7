"""One picture: a person in front of a camera."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from bdf_jax.data.world import scene, shapes
from bdf_jax.data.world.camera import Camera, Place, develop, draw_camera
from bdf_jax.data.world.figure import paint_person
from bdf_jax.data.world.materials import BANDS, CHANNELS, Band, cloth_colour, plain
from bdf_jax.data.world.person import draw_person
from bdf_jax.data.world.pose import walk
from bdf_jax.data.world.view import View

IMAGE_STREAM = 4  # first word after the seed of the random stream of pictures
FOLDS_STREAM = 5
DAPPLE = np.float32(0.24)  # depth of patches of light and shade
OCCLUDED = 0.1  # share of pictures with something in front of the person


camera_at = functools.lru_cache(maxsize=64)(draw_camera)
_person = functools.lru_cache(maxsize=64)(draw_person)


@functools.lru_cache(maxsize=2)
def _folds(size: tuple[int, int]) -> np.ndarray:
    """A sheet of creases, larger than a picture, around 1; the same in every world."""
    rng = np.random.default_rng(FOLDS_STREAM)
    sheet = (2 * size[0], 2 * size[1])
    fine = scene.smooth_noise(sheet, (44, 24), rng)
    return (1 + 0.05 * fine + 0.03 * scene.smooth_noise(sheet, (90, 60), rng)).astype(np.float32)


def render(
    seed: int,
    pid: int,
    place: Place,
    number: int,
    *,
    size: tuple[int, int] = (128, 64),
    correlation: float = 0.4,
    heading: float | None = None,
) -> np.ndarray:
    """The `number`-th picture of an identity by a camera; nothing else of the world influences it.

    Args:
      seed: of the world.
      pid: identity.
      place: camera.
      number: which of the camera's pictures of this identity.
      size: (height, width), pixels.
      correlation: see `materials`.
      heading: radians, 0 towards the camera; the picture deviates a little. None: as people walk there.

    Returns:
      uint8, (H, W, 3) RGB of a visible camera, (H, W) of an infrared one.
    """
    person, camera = _person(seed, pid, correlation), camera_at(seed, place)
    rng = np.random.default_rng([seed, IMAGE_STREAM, pid, place.number, number, BANDS.index(place.band)])
    height, width = size
    planes_CHW = _background(seed, place, camera, size, correlation, rng)
    if heading is None:
        heading = camera.heading + rng.normal(0, camera.wander) + (np.pi if rng.uniform() < 1 / 3 else 0.0)
    else:
        heading += rng.normal(0, 0.3)
    pitch = max(camera.pitch + rng.normal(0, 0.03), 0.0)
    scale = height * min(camera.fill * np.exp(rng.normal(0, 0.025)), 1.06)
    feet = (width * (0.5 + rng.normal(0, 0.03)), height * (0.5 + rng.normal(0, 0.01)) + 0.485 * scale)
    folds = _folds(size)
    top, left = int(rng.integers(height)), int(rng.integers(width))
    view = View(
        planes_CHW,
        CHANNELS[place.band],
        feet,
        scale,
        heading,
        pitch,
        camera.perspective,
        camera.light,
        camera.ambient,
        folds[top : top + height, left : left + width],
    )
    held = rng.uniform(size=2) < 0.12
    pose = walk(person.body, rng.uniform(0, 2 * np.pi), person.stride * rng.uniform(0.6, 1.1), (held[0], held[1]))
    _shadow(view, place.band)
    paint_person(view, person, pose)
    if rng.uniform() < OCCLUDED:
        _occlude(view, correlation, rng)
    _lamp(planes_CHW, camera, rng)
    return develop(planes_CHW, camera, scale, rng)


def _background(
    seed: int, place: Place, camera: Camera, size: tuple[int, int], correlation: float, rng: np.random.Generator
) -> np.ndarray:
    """A crop of the place, dimmed where the camera's own lamp does not reach."""
    sheet_CHW = scene.backdrop(seed, place.scene, place.band, place.indoor, size, correlation)
    top = int(rng.integers(sheet_CHW.shape[1] - size[0] + 1))
    left = int(rng.integers(sheet_CHW.shape[2] - size[1] + 1))
    reach = 1 - 0.75 * camera.falloff * rng.uniform(0.6, 1.0) if place.band == "nir" else rng.uniform(0.6, 1.3)
    return sheet_CHW[:, top : top + size[0], left : left + size[1]] * np.float32(reach)


def _shadow(view: View, band: Band) -> None:
    if band == "thermal":
        return
    (x, y), scale = view.feet, view.scale
    patch = shapes.ellipse(view.size, (x, y - 0.015 * scale), (0.15 * scale, 0.028 * scale))
    if patch is not None:
        view.planes_CHW[:, patch.rows, patch.cols] *= 1 - np.float32(0.45) * patch.cover_HW


def _occlude(view: View, correlation: float, rng: np.random.Generator) -> None:
    """A post, a bin, a bench or a branch in front of the person."""
    height, width = view.size
    fabric = plain(cloth_colour(rng), rng.uniform(0.1, 0.4), correlation, rng)
    flat = dataclasses.replace(view, folds_HW=np.ones_like(view.folds_HW), ambient=0.7)
    kind = rng.integers(3)
    if kind == 0:
        x, half = rng.uniform(0.15, 0.85) * width, rng.uniform(0.03, 0.07) * width
        flat.paint(shapes.box(view.size, (x, height / 2), (half, height)), fabric)
    elif kind == 1:
        tall = rng.uniform(0.15, 0.38) * height
        x = rng.choice([rng.uniform(-0.1, 0.3), rng.uniform(0.7, 1.1)]) * width
        flat.paint(shapes.box(view.size, (x, height - tall / 2), (0.34 * width, tall / 2), 3), fabric)
    else:
        tall = rng.uniform(0.06, 0.2) * height
        flat.paint(shapes.box(view.size, (width / 2, height - tall / 2), (width, tall / 2)), fabric)


def _lamp(planes_CHW: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    """Uneven light: dappled, from one side, and brighter in the middle where it comes from the camera.

    It changes slowly over the picture: brightness becomes a poor witness of identity, edges stay what they are.
    """
    height, width = planes_CHW.shape[1:]
    y_H1 = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(rng.normal(0, 0.25))
    x_1W = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :] - np.float32(rng.normal(0, 0.15))
    slope_y, slope_x = rng.normal(0, 0.25), rng.normal(0, 0.45)  # the side the lamps of a room or the sun are on
    dapple_HW = scene.smooth_noise((height, width), (4, 2), rng)
    planes_CHW *= np.exp(DAPPLE * dapple_HW + np.float32(slope_y) * y_H1 + np.float32(slope_x) * x_1W)
    planes_CHW *= 1 / (1 + np.float32(0.8 * camera.falloff) * (y_H1 * y_H1 + x_1W * x_1W))


def person_strip(
    seed: int, pid: int, *, size: tuple[int, int] = (128, 64), correlation: float = 0.4, sensor: Band = "nir"
) -> np.ndarray:
    """One identity in the six cameras of the SYSU-MM01 layout, side by side: (H, 6 W, 3) uint8, for figures."""
    from bdf_jax.data.world.sysu_mm01 import INFRARED, SCENES

    strip = []
    for number, (room, indoor) in SCENES.items():
        place = Place(number, sensor if number in INFRARED else "visible", room, indoor)
        pixels = render(seed, pid, place, 1, size=size, correlation=correlation)
        strip.append(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1))
    return np.concatenate(strip, 1)
