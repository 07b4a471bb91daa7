"""Cameras: viewpoint, light, colour response, exposure, noise, blur and the looseness of their person boxes."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.ndimage import gaussian_filter1d

from bdf_jax.data.world.materials import BANDS, LUMA, Band

CAMERA_STREAM = 3  # first word after the seed of the random stream of cameras


@dataclasses.dataclass(frozen=True)
class Place:
    """Which camera: its number in the tree, what it sees, and the room or street it stands in."""

    number: int
    band: Band
    scene: int
    indoor: bool


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera's constants; what varies from picture to picture is drawn around them in `render`.

    Attributes:
      heading: radians, the usual direction of the people in front of it (0: towards the camera).
      wander: deviation of the heading; the other direction of the path is taken in every third picture.
      pitch: radians it looks down.
      perspective: how much wider things get from ground to crown.
      light: unit vector to the light, (x, z).
      ambient: share of light that comes from everywhere.
      gains_C: response of its channels.
      saturation: 0 grey, 1 as the world is.
      exposure, gamma: brightness and contrast curve.
      haze: brightness added everywhere.
      falloff: how fast its own lamp fades towards the corners and the background (infrared).
      noise: deviation, of full scale.
      blur: deviation in body heights.
      fill: usual share of the picture's height that a person takes.
      quality: of the JPEG files.
    """

    heading: float
    wander: float
    pitch: float
    perspective: float
    light: tuple[float, float]
    ambient: float
    gains_C: np.ndarray
    saturation: float
    exposure: float
    gamma: float
    haze: float
    falloff: float
    noise: float
    blur: float
    fill: float
    quality: int


def draw_camera(seed: int, place: Place) -> Camera:
    """The camera at a place of the world `seed`."""
    rng = np.random.default_rng([seed, CAMERA_STREAM, place.number, BANDS.index(place.band)])
    angle = rng.uniform(-0.9, 0.9) * (1.0 if place.band == "visible" else 0.25)  # infrared lamps sit at the lens
    visible = place.band == "visible"
    return Camera(
        heading=float(rng.choice([0.0, 0.5, -0.5, np.pi, np.pi - 0.5, np.pi + 0.5])),
        wander=rng.uniform(0.15, 0.35),
        pitch=rng.uniform(0.05, 0.3),
        perspective=rng.uniform(0.0, 0.25),
        light=(float(np.sin(angle)), float(np.cos(angle))),
        ambient=rng.uniform(0.45, 0.7) if place.band != "thermal" else 0.85,
        gains_C=rng.uniform(0.82, 1.18, 3) if visible else np.ones(1),
        saturation=rng.uniform(0.35, 0.9),
        exposure=rng.uniform(0.85, 1.2),
        gamma=rng.uniform(0.8, 1.15) if visible else rng.uniform(0.95, 1.3),
        haze=rng.uniform(0.0, 0.08) if visible else rng.uniform(0.0, 0.04),
        falloff=rng.uniform(0.5, 1.0) if place.band == "nir" else rng.uniform(0.0, 0.2),
        noise=rng.uniform(0.005, 0.012) if visible else rng.uniform(0.008, 0.018),
        blur=rng.uniform(0.0015, 0.004) if place.band != "thermal" else rng.uniform(0.007, 0.011),
        fill=rng.uniform(0.86, 0.94),
        quality=int(rng.integers(80, 93)),
    )


def develop(planes_CHW: np.ndarray, camera: Camera, scale: float, rng: np.random.Generator) -> np.ndarray:
    """What the camera makes of the light that reaches it.

    Args:
      planes_CHW: float32, C = 3 or 1.
      camera: its constants.
      scale: pixels in a body height.
      rng: the picture's own stream.

    Returns:
      uint8, (H, W, 3) for three channels and (H, W) for one.
    """
    if len(planes_CHW) == 3:
        grey_HW = np.tensordot(LUMA.astype(np.float32), planes_CHW, 1)
        planes_CHW = grey_HW + np.float32(camera.saturation) * (planes_CHW - grey_HW)
        planes_CHW *= camera.gains_C.astype(np.float32)[:, None, None]
    sigma = camera.blur * scale * rng.uniform(0.8, 1.4)
    if sigma > 0.2:
        planes_CHW = gaussian_filter1d(gaussian_filter1d(planes_CHW, sigma, 1, truncate=2.5), sigma, 2, truncate=2.5)
    # Automatic exposure goes half of the way to a middle grey.
    aim = (0.42 / max(float(planes_CHW.mean()), 0.05)) ** 0.5
    exposure = np.float32(aim * camera.exposure * np.exp(rng.normal(0, 0.1)))
    planes_CHW = np.maximum(planes_CHW * exposure, 1e-4) ** np.float32(camera.gamma)
    planes_CHW = np.float32(camera.haze) + np.float32(1 - camera.haze) * planes_CHW
    planes_CHW = planes_CHW + np.float32(camera.noise) * rng.standard_normal(planes_CHW.shape, dtype=np.float32)
    pixels_CHW = (np.clip(planes_CHW, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)) if len(pixels_CHW) == 3 else pixels_CHW[0]
