"""Who somebody is: proportions, hair, clothes and bags, drawn from (seed, identity) alone.

Lengths are in body heights, with y = 0 at the ground and y = 1 at the crown.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from bdf_jax.data.world.materials import Fabric, cloth, cloth_colour, plain

PERSON_STREAM = 1  # first word after the seed of the random stream of identities

HairStyle = Literal["bald", "short", "full", "bob", "long", "bun", "ponytail"]
LowerKind = Literal["trousers", "shorts", "skirt"]
OuterKind = Literal["jacket", "coat", "vest"]
BagKind = Literal["backpack", "satchel", "handbag"]


@dataclasses.dataclass(frozen=True)
class Body:
    """Proportions. Widths are half widths seen from the front; `depth` is thickness / width."""

    crotch: float
    shoulder: float
    chest: float
    waist: float
    hip: float
    depth: float
    belly: float
    head: float  # half of the head's height
    limb: float  # scale of arm and leg radii


@dataclasses.dataclass(frozen=True)
class Lower:
    """Trousers, shorts or a skirt: hem height, width of the legs, flare of a skirt's hem."""

    kind: LowerKind
    fabric: Fabric
    hem: float
    ease: float
    flare: float


@dataclasses.dataclass(frozen=True)
class Upper:
    """A shirt, jacket or coat: hem height, share of the arm that is covered, slack, and half angle of an open front."""

    fabric: Fabric
    hem: float
    sleeve: float
    ease: float
    flare: float = 0.0
    opening: float = 0.0
    hood: bool = False


@dataclasses.dataclass(frozen=True)
class Hair:
    """Style, material and how far it falls (height of its tips)."""

    style: HairStyle
    fabric: Fabric
    tips: float


@dataclasses.dataclass(frozen=True)
class Bag:
    """What is carried, its half sizes, and the side (-1 left, 1 right) for those that have one."""

    kind: BagKind
    fabric: Fabric
    width: float
    height: float
    side: int


@dataclasses.dataclass(frozen=True)
class Person:
    """Everything about an identity that does not change from picture to picture."""

    gender: Literal["female", "male"]
    body: Body
    skin: Fabric
    hair: Hair
    lower: Lower
    shirt: Upper
    outer: Upper | None
    dress: bool
    shoes: Fabric
    boots: float  # height of the shaft
    socks: Fabric
    bag: Bag | None
    hat: Fabric | None
    scarf: Fabric | None
    stride: float
    cadence: float  # 0..1, preferred phase of the arms against the legs


def draw_person(seed: int, pid: int, correlation: float) -> Person:
    """The identity `pid` of the world `seed`; independent of how many others there are."""
    rng = np.random.default_rng([seed, PERSON_STREAM, pid])
    female = bool(rng.uniform() < 0.5)
    body = _draw_body(female, rng)
    tone = rng.uniform(0.35, 0.95)
    skin = plain(np.array([0.92, 0.72, 0.60]) * tone, 0.93, correlation, rng)
    # Skin reflects about half of the near infrared whatever its tone: blood and melanin hardly absorb there.
    skin.base_C[3] = 0.5 + 0.15 * (tone - 0.65) + rng.uniform(-0.05, 0.05)
    hair = _draw_hair(female, body, correlation, rng)
    dress = female and rng.uniform() < 0.2
    lower = _draw_lower(female, dress, body, correlation, rng)
    sleeve = rng.choice([rng.uniform(0.02, 0.12), rng.uniform(0.25, 0.5), rng.uniform(0.8, 0.97)], p=[0.15, 0.4, 0.45])
    shirt_fabric = cloth(rng.uniform(0.55, 0.75), correlation, rng)
    shirt = Upper(
        dataclasses.replace(lower.fabric) if dress else shirt_fabric,
        hem=rng.uniform(0.44, 0.6),
        sleeve=float(sleeve),
        ease=rng.uniform(1.0, 1.18),
    )
    outer = _draw_outer(correlation, rng) if rng.uniform() < 0.42 else None
    return Person(
        gender="female" if female else "male",
        body=body,
        skin=skin,
        hair=hair,
        lower=lower,
        shirt=shirt,
        outer=outer,
        dress=dress,
        shoes=plain(cloth_colour(rng), rng.uniform(0.3, 0.5), correlation, rng),
        boots=float(rng.choice([0.0, 0.0, rng.uniform(0.08, 0.24)])),
        socks=plain(cloth_colour(rng), rng.uniform(0.55, 0.7), correlation, rng),
        bag=_draw_bag(correlation, rng) if rng.uniform() < 0.6 else None,
        hat=plain(cloth_colour(rng), rng.uniform(0.4, 0.6), correlation, rng) if rng.uniform() < 0.12 else None,
        scarf=plain(cloth_colour(rng), rng.uniform(0.4, 0.55), correlation, rng) if rng.uniform() < 0.12 else None,
        stride=rng.uniform(0.15, 0.42),
        cadence=rng.uniform(),
    )


def _draw_body(female: bool, rng: np.random.Generator) -> Body:
    build = float(np.clip(rng.lognormal(0.0, 0.19), 0.74, 1.42))
    shoulder = (0.104 if female else 0.122) * build**0.6 * rng.uniform(0.94, 1.06)
    return Body(
        crotch=rng.uniform(0.43, 0.515),
        shoulder=shoulder,
        chest=shoulder * rng.uniform(0.78, 0.9) * build**0.3,
        waist=(0.068 if female else 0.082) * build * rng.uniform(0.92, 1.08),
        hip=(0.094 if female else 0.086) * build**0.8 * rng.uniform(0.93, 1.07),
        depth=rng.uniform(0.6, 0.75),
        belly=max(0.0, build - 1.0) * rng.uniform(0.3, 1.2),
        head=rng.uniform(0.06, 0.077),
        limb=build**0.7 * rng.uniform(0.92, 1.08),
    )


def _draw_hair(female: bool, body: Body, correlation: float, rng: np.random.Generator) -> Hair:
    tones = [(0.06, 0.05, 0.05), (0.22, 0.14, 0.09), (0.42, 0.27, 0.15), (0.75, 0.6, 0.36), (0.6, 0.6, 0.6)]
    rgb = np.array(tones[int(rng.choice(5, p=[0.45, 0.25, 0.12, 0.1, 0.08]))]) * rng.uniform(0.8, 1.2)
    fabric = plain(rgb, rng.uniform(0.4, 0.6), correlation, rng)
    fabric.base_C[3] *= 0.75
    styles: list[HairStyle] = ["bald", "short", "full", "bob", "long", "bun", "ponytail"]
    odds = [0.0, 0.12, 0.1, 0.2, 0.33, 0.1, 0.15] if female else [0.13, 0.5, 0.25, 0.05, 0.04, 0.02, 0.01]
    style = styles[int(rng.choice(len(styles), p=odds))]
    chin = 1 - 2 * body.head
    return Hair(style, fabric, {"bob": chin - rng.uniform(0, 0.02), "long": rng.uniform(0.64, 0.8)}.get(style, chin))


def _draw_lower(female: bool, dress: bool, body: Body, correlation: float, rng: np.random.Generator) -> Lower:
    kinds: list[LowerKind] = ["trousers", "shorts", "skirt"]
    kind = kinds[int(rng.choice(3, p=[0.55, 0.15, 0.3] if female else [0.75, 0.25, 0.0]))]
    fabric = cloth(rng.uniform(0.45, 0.7), correlation, rng, patterned=0.7 if dress else 0.45)
    if dress or kind == "skirt":
        return Lower("skirt", fabric, hem=rng.uniform(0.12, 0.4), ease=1.1, flare=rng.uniform(0.95, 1.75))
    if kind == "shorts":
        return Lower(kind, fabric, hem=rng.uniform(0.24, 0.38), ease=rng.uniform(1.15, 1.5), flare=1.0)
    hem = rng.choice([0.045, rng.uniform(0.07, 0.14)], p=[0.8, 0.2])
    return Lower(kind, fabric, hem=float(hem), ease=rng.uniform(1.05, 1.3), flare=rng.uniform(0.75, 1.7))


def _draw_outer(correlation: float, rng: np.random.Generator) -> Upper:
    kinds: list[OuterKind] = ["jacket", "coat", "vest"]
    kind = kinds[int(rng.choice(3, p=[0.6, 0.27, 0.13]))]
    opening = float(rng.choice([0.0, rng.uniform(0.25, 0.75)]))
    fabric = cloth(rng.uniform(0.22, 0.48), correlation, rng, patterned=0.5)
    if kind == "coat":
        return Upper(fabric, rng.uniform(0.22, 0.38), 0.95, rng.uniform(1.15, 1.3), rng.uniform(1.0, 1.4), opening)
    sleeve = 0.0 if kind == "vest" else 0.95
    hood = bool(kind == "jacket" and rng.uniform() < 0.35)
    return Upper(fabric, rng.uniform(0.44, 0.55), sleeve, rng.uniform(1.15, 1.35), 1.0, opening, hood)


def _draw_bag(correlation: float, rng: np.random.Generator) -> Bag:
    kinds: list[BagKind] = ["backpack", "satchel", "handbag"]
    kind = kinds[int(rng.choice(3, p=[0.5, 0.25, 0.25]))]
    fabric = plain(cloth_colour(rng), rng.uniform(0.15, 0.35), correlation, rng)
    side = 1 if rng.uniform() < 0.5 else -1
    if kind == "backpack":
        return Bag(kind, fabric, rng.uniform(0.065, 0.09), rng.uniform(0.09, 0.13), side)
    return Bag(kind, fabric, rng.uniform(0.045, 0.085), rng.uniform(0.035, 0.075), side)
