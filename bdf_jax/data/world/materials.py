"""What things are made of: reflectance in colour and in the near infrared, warmth, and woven or printed patterns.

A material is five numbers: red, green, blue, near-infrared reflectance and warmth (what a thermal camera
sees), each 0..1. The near-infrared one is `correlation * luma + (1 - correlation) * an independent draw`: that
share of colour is all that raw brightness can carry from one modality to the other.
"""

from __future__ import annotations

import colorsys
import dataclasses
from typing import Literal

import numpy as np

Band = Literal["visible", "nir", "thermal"]
Pattern = Literal["plain", "hoops", "pinstripes", "checks", "block", "print", "yoke"]

BANDS: tuple[Band, ...] = ("visible", "nir", "thermal")
CHANNELS: dict[str, slice] = {"visible": slice(0, 3), "nir": slice(3, 4), "thermal": slice(4, 5)}
LUMA = np.array([0.299, 0.587, 0.114])


@dataclasses.dataclass(frozen=True)
class Fabric:
    """A material and a second one that a pattern lays over it.

    Attributes:
      base_C: (5,) float32, red, green, blue, near infrared, warmth.
      over_C: (5,) float32, the pattern's.
      pattern: how the second is laid over the first.
      scale: period of the pattern, or size of a print, in body heights.
      phase: 0..1, shifts the pattern.
    """

    base_C: np.ndarray
    over_C: np.ndarray
    pattern: Pattern = "plain"
    scale: float = 0.05
    phase: float = 0.0


def reflectance(rgb: np.ndarray, warmth: float, correlation: float, rng: np.random.Generator) -> np.ndarray:
    """(5,) float32: a colour with its near-infrared reflectance, drawn as the module says, and its warmth.

    Most draws are either dark or bright, so that garments stand out against each other.
    """
    nir = correlation * float(LUMA @ rgb) + (1 - correlation) * rng.beta(0.6, 0.6)
    return np.array([*rgb, nir, warmth], np.float32)


def cloth_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) the colour of a garment: many dark and neutral ones, some vivid."""
    hue = rng.uniform()
    if rng.uniform() < 0.4:
        saturation, value = rng.uniform(0, 0.15), rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.95)])
    elif rng.uniform() < 0.35:  # denim, navy
        hue, saturation, value = rng.uniform(0.56, 0.68), rng.uniform(0.3, 0.75), rng.uniform(0.15, 0.75)
    else:
        saturation, value = rng.uniform(0.3, 0.95), rng.uniform(0.2, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def plain(rgb: np.ndarray, warmth: float, correlation: float, rng: np.random.Generator) -> Fabric:
    """A material without a pattern."""
    base_C = reflectance(rgb, warmth, correlation, rng)
    return Fabric(base_C, base_C)


def cloth(warmth: float, correlation: float, rng: np.random.Generator, patterned: float = 0.75) -> Fabric:
    """A garment's material: with a pattern in a share `patterned` of them, of its own contrast in each band.

    A pattern may show in colour only (the dyes differ, the yarn does not), in the near infrared only, or in both.
    """
    base_C = reflectance(cloth_colour(rng), warmth, correlation, rng)
    kinds: list[Pattern] = ["hoops", "pinstripes", "checks", "block", "print", "yoke"]
    pattern = kinds[int(rng.integers(len(kinds)))] if rng.uniform() < patterned else "plain"
    over_C = reflectance(cloth_colour(rng), warmth + rng.uniform(-0.08, 0.08), correlation, rng)
    shows = rng.uniform()
    if shows < 0.15:
        over_C[3] = base_C[3] + rng.uniform(-0.04, 0.04)
    elif shows < 0.3:
        over_C[:3] = np.clip(base_C[:3] + rng.uniform(-0.04, 0.04), 0, 1)
    else:  # in both: keep a contrast that can be seen in the infrared
        over_C[3] = base_C[3] + (0.35 if base_C[3] < 0.5 else -0.35) * rng.uniform(0.6, 1.3)
    scale = rng.uniform(0.045, 0.14) if pattern in ("hoops", "pinstripes", "checks") else rng.uniform(0.06, 0.12)
    return Fabric(base_C, np.clip(over_C, 0, 1).astype(np.float32), pattern, float(scale), float(rng.uniform()))


def _wave(x_HW: np.ndarray, period: float, pixel: float, duty: float = 0.0) -> np.ndarray:
    """Stripes of a period, 0..1, softened to the width of a pixel (both in the unit of x)."""
    sharp = max(period / (2 * np.pi * pixel), 0.3)
    return np.clip(0.5 + sharp * (np.sin((2 * np.pi / period) * x_HW) - duty), 0, 1)


def pattern_cover(fabric: Fabric, azimuth_HW: np.ndarray, height_HW: np.ndarray, pixel: float) -> np.ndarray:
    """How much of the pattern's material lies at each point of a garment.

    Args:
      fabric: the material.
      azimuth_HW: radians around the body, 0 in front.
      height_HW: position along the garment, in body heights.
      pixel: size of a pixel in body heights.

    Returns:
      (H, W) float32, 0..1.
    """
    shift = fabric.phase * fabric.scale
    if fabric.pattern == "hoops":
        return _wave(height_HW + shift, fabric.scale, pixel)
    if fabric.pattern == "pinstripes":  # the body's radius is about a tenth of its height
        return _wave(azimuth_HW * 0.1 + shift, fabric.scale, pixel)
    if fabric.pattern == "checks":
        hoops_HW = _wave(height_HW + shift, fabric.scale, pixel)
        return 0.5 * (hoops_HW + _wave(azimuth_HW * 0.1 + shift, fabric.scale, pixel))
    if fabric.pattern in ("block", "yoke"):  # one edge around the body: a band at the hem or over the shoulders
        edge = 0.66 + 0.08 * fabric.phase if fabric.pattern == "block" else 0.74 + 0.04 * fabric.phase
        below_HW = np.clip((edge - height_HW) / pixel + 0.5, 0, 1)
        return below_HW if fabric.pattern == "block" else 1 - below_HW
    if fabric.pattern == "print":  # front and back
        middle = 0.68 + 0.06 * fabric.phase
        across_HW = np.abs(np.sin(azimuth_HW)) * 0.1
        distance_HW = np.maximum(across_HW * 1.6, np.abs(height_HW - middle))
        return np.clip((fabric.scale * 0.7 - distance_HW) / pixel + 0.5, 0, 1)
    return np.zeros_like(azimuth_HW)
