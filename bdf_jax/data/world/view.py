"""How a camera sees a person: projection, and laying a material over a picture with light and shade."""

from __future__ import annotations

import dataclasses

import numpy as np

from bdf_jax.data.world import shapes
from bdf_jax.data.world.materials import Fabric, pattern_cover
from bdf_jax.data.world.pose import Joint


@dataclasses.dataclass(frozen=True)
class View:
    """How a camera sees a person.

    Attributes:
      planes_CHW: float32, the picture that is painted into.
      channels: which of a fabric's five numbers the camera sees.
      feet: pixel of the ground point between the feet.
      scale: pixels in a body height.
      yaw: radians the person is turned; 0 faces the camera, pi walks away.
      pitch: radians the camera looks down.
      perspective: how much wider things get from ground to crown.
      light: unit vector to the light, (x, z) towards the camera.
      ambient: share of light that comes from everywhere.
      folds_HW: float32 around 1, the creases of clothes.
    """

    planes_CHW: np.ndarray
    channels: slice
    feet: tuple[float, float]
    scale: float
    yaw: float
    pitch: float
    perspective: float
    light: tuple[float, float]
    ambient: float
    folds_HW: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.planes_CHW.shape[1], self.planes_CHW.shape[2]

    def toward(self, joint: Joint) -> float:
        """How far a point is in front of the person's axis, seen from the camera; body heights."""
        x, _, z = joint
        return z * float(np.cos(self.yaw)) - x * float(np.sin(self.yaw))

    def project(self, joint: Joint) -> shapes.Point:
        """The pixel (x, y) of a body point."""
        x, y, z = joint
        across = (x * float(np.cos(self.yaw)) + z * float(np.sin(self.yaw))) * self.widen(y)
        up = y * float(np.cos(self.pitch)) - self.toward(joint) * float(np.sin(self.pitch))
        return self.feet[0] + self.scale * across, self.feet[1] - self.scale * up

    def widen(self, y: float) -> float:
        """Scale of widths at a body height."""
        return 1 + self.perspective * (y - 0.5)

    def apparent(self, half: float, depth: float, y: float) -> float:
        """Half width in pixels of a trunk of half width `half` and depth / width `depth`."""
        across = np.hypot(half * np.cos(self.yaw), half * depth * np.sin(self.yaw))
        return float(across) * self.scale * self.widen(y)

    def paint(
        self,
        patch: shapes.Patch | None,
        fabric: Fabric,
        height_HW: np.ndarray | None = None,
        mask: np.ndarray | float | None = None,
    ) -> None:
        """Lays a fabric over the picture where `patch` covers it.

        Args:
          patch: the shape; None (outside the picture) paints nothing.
          fabric: the material.
          height_HW: height of the surface points for the pattern, body heights; None: no pattern.
          mask: (H, W) further share of cover, or None.
        """
        if patch is None:
            return
        colour_CHW = fabric.base_C[self.channels, None, None]
        if fabric.pattern != "plain" and height_HW is not None:
            over_HW = pattern_cover(fabric, self.azimuth(patch), height_HW, 1 / self.scale)
            colour_CHW = colour_CHW + over_HW * (fabric.over_C - fabric.base_C)[self.channels, None, None]
        facing_HW = np.sqrt(1 - patch.side_HW * patch.side_HW)
        lit_HW = np.maximum(patch.side_HW * np.float32(self.light[0]) + facing_HW * np.float32(self.light[1]), 0)
        shade_HW = np.float32(self.ambient) + np.float32(1 - self.ambient) * lit_HW
        shade_HW *= self.folds_HW[patch.rows, patch.cols]
        cover_HW = patch.cover_HW if mask is None else patch.cover_HW * mask
        target_CHW = self.planes_CHW[:, patch.rows, patch.cols]
        target_CHW += cover_HW * (colour_CHW * shade_HW - target_CHW)

    def azimuth(self, patch: shapes.Patch) -> np.ndarray:
        """Radians around the body of the surface points of an upright shape, 0 in front."""
        return np.arcsin(patch.side_HW) - np.float32(self.yaw)

    def height(self, patch: shapes.Patch) -> np.ndarray:
        """Body height of the rows of an upright shape."""
        return (np.float32(self.feet[1]) - patch.along_HW) / np.float32(self.scale * np.cos(self.pitch))

    def column(self, profile: list[tuple[float, float, float]], shift: Joint = (0.0, 0.0, 0.0)) -> shapes.Patch | None:
        """An upright shape from (height, half width, depth / width), top first, its axis moved by `shift`."""
        points = [self.project((shift[0], y, shift[2])) for y, _, _ in profile]
        return shapes.tube(
            self.size,
            np.array([y for _, y in points]),
            np.array([x for x, _ in points]),
            np.array([self.apparent(half, depth, y) for y, half, depth in profile]),
        )
