"""Where the joints are: a walking cycle in three dimensions, seen by a camera.

Body coordinates in body heights: x to the person's left-hand side of the picture when facing the camera is
negative, y upwards from the ground, z forwards.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bdf_jax.data.world.person import Body

Joint = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Leg:
    """Hip, knee, ankle and toe of one leg."""

    hip: Joint
    knee: Joint
    ankle: Joint
    toe: Joint


@dataclasses.dataclass(frozen=True)
class Arm:
    """Shoulder, elbow and hand of one arm."""

    shoulder: Joint
    elbow: Joint
    hand: Joint


@dataclasses.dataclass(frozen=True)
class Pose:
    """Legs and arms, index 0 at negative x, and the height by which the trunk is lowered in mid-step."""

    legs: tuple[Leg, Leg]
    arms: tuple[Arm, Arm]
    drop: float


def walk(body: Body, phase: float, stride: float, bent: tuple[bool, bool] = (False, False)) -> Pose:
    """A moment of the walking cycle.

    Args:
      body: proportions.
      phase: radians; the legs are half a cycle apart, each arm swings against its leg.
      stride: amplitude of the thighs in radians; 0 stands still.
      bent: arms that are held up (a phone, a strap) instead of swinging.
    """
    upper_leg = (body.crotch + 0.01) * 0.5
    lower_leg = (body.crotch + 0.01) - upper_leg - 0.035
    raw = [_leg(body, side, phase if side > 0 else phase + np.pi, stride, upper_leg, lower_leg) for side in (-1, 1)]
    drop = min(leg.ankle[1] for leg in raw) - 0.035
    legs = [Leg(*((x, y - drop, z) for x, y, z in (leg.hip, leg.knee, leg.ankle, leg.toe))) for leg in raw]
    arms = [
        _arm(body, side, phase + np.pi if side > 0 else phase, stride, drop, held)
        for side, held in zip((-1, 1), bent, strict=True)
    ]
    return Pose((legs[0], legs[1]), (arms[0], arms[1]), drop)


def _leg(body: Body, side: int, phase: float, stride: float, upper: float, lower: float) -> Leg:
    swing = stride * np.sin(phase)
    bend = 0.06 + 1.5 * stride * max(0.0, np.cos(phase + 0.35))  # the knee bends while the leg comes forward
    x = side * body.hip * 0.52
    hip = (x, body.crotch + 0.01, 0.0)
    knee = (x * 0.95, hip[1] - upper * np.cos(swing), upper * np.sin(swing))
    below = swing - bend
    ankle = (x * 0.85, knee[1] - lower * np.cos(below), knee[2] + lower * np.sin(below))
    tilt = 0.6 * below
    toe = (ankle[0] * 1.15, ankle[1] - 0.022 + 0.08 * np.sin(tilt), ankle[2] + 0.085 * np.cos(tilt))
    return Leg(hip, knee, ankle, toe)


def _arm(body: Body, side: int, phase: float, stride: float, drop: float, held: bool) -> Arm:
    swing = 0.75 * stride * np.sin(phase)
    bend = 1.7 if held else 0.2 + 0.5 * stride * (1 + np.sin(phase))
    shoulder = (side * body.shoulder * 0.84, 0.79 - drop, 0.0)
    upper, lower = 0.165, 0.185
    spread = 0.16 + 0.35 * max(0.0, body.waist - 0.075)
    elbow = (
        shoulder[0] + side * upper * np.sin(spread),
        shoulder[1] - upper * np.cos(swing) * np.cos(spread),
        upper * np.sin(swing),
    )
    forward = swing + bend
    hand = (
        elbow[0] - side * (0.04 if held else 0.005),
        elbow[1] - lower * np.cos(forward),
        elbow[2] + lower * np.sin(forward),
    )
    return Arm(shoulder, elbow, hand)
