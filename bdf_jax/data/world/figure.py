"""Paints a person into a picture, far parts first."""

from __future__ import annotations

import numpy as np

from bdf_jax.data.world import shapes
from bdf_jax.data.world.materials import Fabric
from bdf_jax.data.world.person import Person, Upper
from bdf_jax.data.world.pose import Arm, Leg, Pose
from bdf_jax.data.world.view import View

WRIST = 0.93  # share of the arm a full sleeve covers


def paint_person(view: View, person: Person, pose: Pose) -> None:
    """Paints the whole person, far parts before near ones."""
    away = float(np.cos(view.yaw)) < 0
    near_arm, far_arm = sorted(pose.arms, key=lambda arm: -view.toward(arm.shoulder))
    side_on = abs(np.sin(view.yaw)) > 0.5
    backpack = person.bag is not None and person.bag.kind == "backpack"
    if backpack and not away:
        _backpack(view, person, pose)
    if not away:
        _hair_behind(view, person, pose)
    _arm(view, person, far_arm)
    if not side_on and _swings_back(view, near_arm):
        _arm(view, person, near_arm)
    for leg in sorted(pose.legs, key=lambda leg: view.toward(leg.knee)):
        _leg(view, person, leg)
    _lower_trunk(view, person, pose)
    _upper_trunk(view, person, pose)
    if side_on or not _swings_back(view, near_arm):
        _arm(view, person, near_arm)
    if not side_on and not _swings_back(view, far_arm):
        _arm(view, person, far_arm)
    _head(view, person, pose)
    if away:
        _hair_behind(view, person, pose)
    if backpack and away:
        _backpack(view, person, pose)
    elif person.bag is not None and not backpack:
        _carried_bag(view, person, pose)


def _swings_back(view: View, arm: Arm) -> bool:
    return view.toward(arm.hand) < 0


def _leg(view: View, person: Person, leg: Leg) -> None:
    scale = view.scale * person.body.limb
    hip, knee, ankle, toe = (view.project(joint) for joint in (leg.hip, leg.knee, leg.ankle, leg.toe))
    radii = [scale * share for share in (0.050, 0.034, 0.022)]
    lower = person.lower
    bare = lower.hem > 0.06
    if bare:
        below = person.skin if lower.kind != "trousers" or lower.hem > 0.1 else person.socks
        view.paint(shapes.limb(view.size, hip, knee, (radii[0], radii[1])), person.skin)
        view.paint(shapes.limb(view.size, knee, ankle, (radii[1], radii[2])), below)
    view.paint(shapes.limb(view.size, ankle, toe, (0.021 * view.scale, 0.017 * view.scale)), person.shoes)
    if person.boots:
        shaft = _between(ankle, knee, min(1.0, person.boots / max(leg.knee[1] - leg.ankle[1], 0.05)))
        view.paint(
            shapes.limb(view.size, ankle, shaft, (radii[2] * 1.15, radii[1] * 1.1), round_end=False), person.shoes
        )
    if lower.kind == "skirt":
        return
    # The hem cuts the leg where the straight leg would reach its height.
    length = leg.hip[1] - 0.035
    covered = (leg.hip[1] - lower.hem) / length
    wide = [radius * lower.ease for radius in radii]
    if covered <= 0.5:
        end = _between(hip, knee, covered / 0.5)
        width = wide[0] + (wide[1] - wide[0]) * covered / 0.5
        patch = shapes.limb(view.size, hip, end, (wide[0], width * 1.08), round_end=False)
        view.paint(patch, lower.fabric, _leg_height(view, patch, leg.hip[1]))
        return
    share = min((covered - 0.5) / 0.5, 1.0)
    hem_width = wide[1] + (wide[2] * 1.15 * lower.flare - wide[1]) * share
    patch = shapes.limb(view.size, knee, _between(knee, ankle, share), (wide[1], hem_width), round_end=False)
    view.paint(patch, lower.fabric, _leg_height(view, patch, leg.knee[1]))
    patch = shapes.limb(view.size, hip, knee, (wide[0], wide[1]))
    view.paint(patch, lower.fabric, _leg_height(view, patch, leg.hip[1]))


def _leg_height(view: View, patch: shapes.Patch | None, start: float) -> np.ndarray | None:
    return None if patch is None else start - patch.along_HW / np.float32(view.scale)


def _between(start: shapes.Point, end: shapes.Point, share: float) -> shapes.Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _trunk(person: Person, drop: float, ease: float, top: float, bottom: float) -> list[tuple[float, float, float]]:
    """Key points of the trunk between two heights, crown side first, each (height, half width, depth / width)."""
    body = person.body
    deep = body.depth
    keys = [
        (0.845, 0.030, 1.0),
        (0.832, body.shoulder * 0.42, 0.9),
        (0.817, body.shoulder * 0.70, deep * 0.8),
        (0.798, body.shoulder * 0.90, deep * 0.85),
        (0.765, body.shoulder * 0.94, deep),
        (0.71, body.chest, deep + 0.08),
        (0.61, body.waist * (1 + 0.15 * body.belly), deep + 0.05 + 0.5 * body.belly),
        (0.53, body.hip, deep + 0.1),
        (body.crotch - 0.01, body.hip * 0.93, deep + 0.12),
    ]
    heights = np.array([key[0] for key in keys])[::-1]
    halves, depths = (np.array([key[i] for key in keys])[::-1] for i in (1, 2))
    inner = [y for y in heights[::-1] if bottom < y < top]
    return [
        (y - drop, float(np.interp(y, heights, halves)) * ease, float(np.interp(y, heights, depths)))
        for y in [top, *inner, bottom]
    ]


def _lower_trunk(view: View, person: Person, pose: Pose) -> None:
    lower, body = person.lower, person.body
    profile = _trunk(person, pose.drop, 1.02, 0.62, body.crotch - 0.01)
    if lower.kind == "skirt":
        spread = max(abs(view.project(leg.knee)[0] - view.feet[0]) for leg in pose.legs) / view.scale
        hem = max(body.hip * lower.flare, spread * 0.9 + 0.03)
        profile = _trunk(person, pose.drop, 1.04, 0.62, 0.53)
        profile += [(lower.hem - pose.drop, hem, 0.95)]
    patch = view.column(profile)
    view.paint(patch, lower.fabric, None if patch is None else view.height(patch))


def _upper_trunk(view: View, person: Person, pose: Pose) -> None:
    _garment(view, person, pose, person.shirt, person.body.crotch if person.dress else person.shirt.hem)
    if person.outer is not None:
        _garment(view, person, pose, person.outer, person.outer.hem)
    bag = person.bag
    if bag is not None and bag.kind == "backpack":  # the straps
        patch = view.column(_trunk(person, pose.drop, 1.06, 0.815, 0.66))
        if patch is not None:
            straps_HW = np.abs(np.abs(view.azimuth(patch)) - 0.62) < 0.16
            view.paint(patch, bag.fabric, mask=straps_HW & (np.cos(view.azimuth(patch)) > 0))


def _garment(view: View, person: Person, pose: Pose, garment: Upper, hem: float) -> None:
    body = person.body
    if hem >= body.crotch:
        profile = _trunk(person, pose.drop, garment.ease, 0.835, hem)
    else:
        spread = max(abs(view.project(leg.knee)[0] - view.feet[0]) for leg in pose.legs) / view.scale
        width = max(body.hip * garment.ease * max(garment.flare, 1.0), 0.8 * spread + 0.02)
        profile = [*_trunk(person, pose.drop, garment.ease, 0.835, body.crotch), (hem - pose.drop, width, 0.85)]
    patch = view.column(profile)
    if patch is None:
        return
    azimuth_HW = view.azimuth(patch)
    front_HW = np.cos(azimuth_HW) > 0
    mask_HW = np.ones_like(patch.cover_HW)
    pixel = 1 / max(view.apparent(body.chest, body.depth, 0.7), 1.0)
    if garment.opening:  # an open front shows what is worn below
        open_HW = np.clip((garment.opening - np.abs(np.sin(azimuth_HW))) / pixel + 0.5, 0, 1)
        mask_HW = 1 - open_HW * front_HW
    neck_HW = np.clip((view.height(patch) - 0.81 + pose.drop - 0.28 * np.abs(np.sin(azimuth_HW))) * view.scale, 0, 1)
    mask_HW = mask_HW * (1 - neck_HW * front_HW)
    view.paint(patch, garment.fabric, view.height(patch) + pose.drop, mask_HW)
    if garment.hood and np.cos(view.yaw) < 0.3:
        centre = view.project((0.0, 0.80 - pose.drop, -0.05))
        view.paint(shapes.ellipse(view.size, centre, (0.062 * view.scale, 0.045 * view.scale)), garment.fabric)


def _arm(view: View, person: Person, arm: Arm) -> None:
    scale = view.scale * person.body.limb
    shoulder, elbow, hand = (view.project(joint) for joint in (arm.shoulder, arm.elbow, arm.hand))
    radii = [scale * share for share in (0.031, 0.024, 0.017)]
    layers = [person.shirt] if person.outer is None else [person.shirt, person.outer]
    longest = max(layer.sleeve for layer in layers)
    if longest < 0.6:
        view.paint(shapes.limb(view.size, shoulder, elbow, (radii[0], radii[1])), person.skin)
        view.paint(shapes.limb(view.size, elbow, hand, (radii[1], radii[2])), person.skin)
    view.paint(shapes.ellipse(view.size, hand, (0.021 * view.scale, 0.025 * view.scale)), person.skin)
    for layer in layers:
        if layer.sleeve < longest - 0.02 and layer is not layers[-1] and layers[-1].sleeve >= layer.sleeve:
            continue  # hidden below the longer sleeve of the outer garment
        _sleeve(view, layer, (shoulder, elbow, hand), radii, arm.shoulder[1])


def _sleeve(
    view: View, layer: Upper, points: tuple[shapes.Point, shapes.Point, shapes.Point], radii: list[float], start: float
) -> None:
    if layer.sleeve < 0.05:
        return
    shoulder, elbow, hand = points
    wide = [radius * layer.ease * 1.06 for radius in radii]
    upper = min(layer.sleeve / 0.5, 1.0)
    if layer.sleeve > 0.5:
        end = _between(elbow, hand, (layer.sleeve - 0.5) / 0.5 * WRIST)
        patch = shapes.limb(view.size, elbow, end, (wide[1], wide[2] * 1.15), round_end=False)
        view.paint(patch, layer.fabric, _leg_height(view, patch, start - 0.16))
    patch = shapes.limb(view.size, shoulder, _between(shoulder, elbow, upper), (wide[0], wide[1]), round_end=upper >= 1)
    view.paint(patch, layer.fabric, _leg_height(view, patch, start))


def _head(view: View, person: Person, pose: Pose) -> None:
    half = person.body.head
    middle = 1 - half - pose.drop
    neck = [view.project((0.0, y - pose.drop, 0.0)) for y in (0.87, 0.825)]
    view.paint(shapes.limb(view.size, neck[0], neck[1], (0.028 * view.scale, 0.033 * view.scale)), person.skin)
    if person.scarf is not None:
        patch = shapes.box(
            view.size, view.project((0.0, 0.838 - pose.drop, 0.01)), (0.05 * view.scale, 0.02 * view.scale), 3
        )
        view.paint(patch, person.scarf)
    centre = view.project((0.0, middle, 0.008))
    radii = (half * 0.74 * view.scale * view.widen(middle), half * view.scale)
    patch = shapes.ellipse(view.size, centre, radii)
    if patch is None:
        return
    view.paint(patch, person.skin)
    azimuth_HW = view.azimuth(patch)
    up_HW = (np.float32(centre[1]) - patch.along_HW) / np.float32(radii[1]) - np.float32(0.6 * np.sin(view.pitch))
    front_HW = np.cos(azimuth_HW)
    eyes_HW = np.exp(-((np.abs(np.sin(azimuth_HW)) - 0.42) ** 2) / 0.03 - (up_HW - 0.02) ** 2 / 0.02) * (front_HW > 0.2)
    view.paint(patch, _darker(person.skin), mask=0.75 * eyes_HW)
    soft = radii[1] * 0.9
    if person.hair.style != "bald":
        line_HW = np.where(front_HW > 0.55, 0.5, np.where(front_HW > -0.1, 0.0, -0.62))
        hair_HW = np.clip((up_HW - line_HW) * soft + 0.5, 0, 1)
        view.paint(patch, person.hair.fabric, mask=hair_HW)
    if person.hair.style == "full":
        crown = shapes.ellipse(view.size, (centre[0], centre[1] - radii[1] * 0.38), (radii[0] * 1.2, radii[1] * 0.78))
        if crown is not None:
            above_HW = (centre[1] - crown.along_HW) / radii[1] > (0.42 if np.cos(view.yaw) > 0.4 else 0.1)
            view.paint(crown, person.hair.fabric, mask=above_HW)
    if person.hat is not None:
        dome = shapes.ellipse(view.size, (centre[0], centre[1] - radii[1] * 0.45), (radii[0] * 1.16, radii[1] * 0.62))
        view.paint(dome, person.hat)
        brim = view.project((0.0, middle + 0.35 * half, 0.055))
        view.paint(shapes.ellipse(view.size, brim, (radii[0] * 0.85, radii[1] * 0.16)), person.hat)


def _darker(skin: Fabric) -> Fabric:
    dark_C = skin.base_C * np.float32(0.35)
    dark_C[4] = skin.base_C[4]
    return Fabric(dark_C, dark_C)


def _hair_behind(view: View, person: Person, pose: Pose) -> None:
    """What falls down behind the head; painted first for who faces the camera and last for who turns away."""
    hair, half = person.hair, person.body.head
    if hair.style in ("bob", "long"):
        wide = half * 0.74
        keys = [
            (0.985, wide * 0.6, 1.0),
            (0.95, wide * 1.08, 0.9),
            (0.9, wide * 1.22, 0.8),
            (hair.tips + 0.02, wide * 1.25, 0.6),
        ]
        keys = [key for key in keys if key[0] > hair.tips] + [(hair.tips, wide * 0.95, 0.6)]
        view.paint(view.column([(y - pose.drop, w, d) for y, w, d in keys], (0.0, 0.0, -0.02)), hair.fabric)
    elif hair.style == "ponytail":
        top, tip = view.project((0.0, 0.95 - pose.drop, -0.06)), view.project((0.0, 0.78 - pose.drop, -0.085))
        view.paint(shapes.limb(view.size, top, tip, (0.022 * view.scale, 0.014 * view.scale)), hair.fabric)
    elif hair.style == "bun":
        centre = view.project((0.0, 0.985 - pose.drop, -0.045))
        view.paint(shapes.ellipse(view.size, centre, (0.03 * view.scale, 0.028 * view.scale)), hair.fabric)


def _backpack(view: View, person: Person, pose: Pose) -> None:
    bag = person.bag
    assert bag is not None
    thick = 0.055
    middle = (0.0, 0.70 - pose.drop, -(person.body.chest * person.body.depth + thick * 0.7))
    half = float(np.hypot(bag.width * np.cos(view.yaw), thick * np.sin(view.yaw))) * view.scale
    patch = shapes.box(view.size, view.project(middle), (half, bag.height * view.scale), 0.03 * view.scale)
    view.paint(patch, bag.fabric)
    if np.cos(view.yaw) < 0.2:  # its front pocket
        centre = view.project((0.0, 0.655 - pose.drop, middle[2] - thick))
        pocket = shapes.box(view.size, centre, (half * 0.72, bag.height * 0.36 * view.scale), 0.02 * view.scale)
        view.paint(pocket, _darker(bag.fabric), mask=0.35)


def _carried_bag(view: View, person: Person, pose: Pose) -> None:
    bag = person.bag
    assert bag is not None
    thick = 0.03
    half = max(float(np.hypot(bag.width * np.sin(view.yaw), thick * np.cos(view.yaw))), 0.035) * view.scale
    if bag.kind == "handbag":
        hand = pose.arms[0 if bag.side < 0 else 1].hand
        centre = view.project((hand[0], hand[1] - bag.height - 0.03, hand[2]))
        if view.toward(hand) < -0.06 and abs(np.sin(view.yaw)) > 0.5:
            return  # carried on the far side of the body
    else:
        place = (bag.side * person.body.hip * 1.15, 0.53 - pose.drop, 0.0)
        centre = view.project(place)
        top = view.project((-bag.side * 0.045, 0.815 - pose.drop, 0.03 if np.cos(view.yaw) > 0 else -0.03))
        view.paint(shapes.limb(view.size, top, centre, (0.009 * view.scale, 0.009 * view.scale)), bag.fabric)
        if view.toward(place) < -0.05:
            return
    view.paint(shapes.box(view.size, centre, (half, bag.height * view.scale), 0.012 * view.scale), bag.fabric)
