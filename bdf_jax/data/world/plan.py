"""What a world consists of: its parameters, and the list of pictures and text files of a layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from bdf_jax.data.world.camera import Place
from bdf_jax.errors import BdfError

Layout = Literal["sysu_mm01", "regdb", "llcm"]
Geometry = Literal["small", "full"]
Sensor = Literal["nir", "thermal"]

VERSION = 1  # of the renderer: raised whenever the same parameters give other bytes
PLAN_STREAM = 6  # first word after the seed of the random streams of splits and counts


@dataclasses.dataclass(frozen=True)
class WorldSpec:
    """Everything that decides the bytes of a world; `world.json` in its root holds it.

    Attributes: see `bdf_jax.data.world.write_world`.
    """

    layout: Layout
    train_ids: int
    test_ids: int
    val_ids: int
    seed: int
    images: int
    size: tuple[int, int]
    correlation: float
    geometry: Geometry
    sensor: Sensor
    version: int = VERSION


@dataclasses.dataclass(frozen=True)
class Shot:
    """One picture: its path in the tree and what `render` needs."""

    path: str
    pid: int
    place: Place
    number: int
    heading: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """All pictures of a world, how to make its other files (path -> content), and folders that stay empty."""

    shots: list[Shot]
    files: Callable[[], dict[str, bytes]]
    folders: tuple[str, ...] = ()


FULL_SIZE: dict[str, tuple[int, int]] = {"sysu_mm01": (395, 96), "regdb": (206, 206), "llcm": (713, 351)}


def make_spec(
    layout: str,
    train_ids: int | None,
    test_ids: int | None,
    *,
    val_ids: int | None = None,
    seed: int = 0,
    images: int | None = None,
    size: tuple[int, int] = (128, 64),
    correlation: float = 0.4,
    geometry: str = "small",
    sensor: str | None = None,
) -> WorldSpec:
    """Checked parameters with the defaults of the layout filled in.

    Raises:
      BdfError: an impossible value, named.
    """
    _one_of("layout", layout, get_args(Layout))
    _one_of("geometry", geometry, get_args(Geometry))
    sensor = sensor or ("thermal" if layout == "regdb" else "nir")
    _one_of("sensor", sensor, get_args(Sensor))
    if geometry == "full":
        real = FULL_SIZE[layout]
        for name, found, expected in (("train_ids", train_ids, real[0]), ("test_ids", test_ids, real[1])):
            if found is not None and found != expected:
                raise BdfError(f"{name}: geometry 'full' of {layout} has {expected} identities, found {found}; omit it")
        train_ids, test_ids = real
        val_ids = 99 if layout == "sysu_mm01" else 0
        images = 10 if layout == "regdb" else 0
    if train_ids is None or test_ids is None:
        raise BdfError("train_ids and test_ids: geometry 'small' needs both; geometry 'full' has the real numbers")
    images = (10 if layout == "regdb" else 4) if images is None else images
    if val_ids is None:
        val_ids = min(max(2, train_ids // 8), train_ids // 2)
    val_ids = val_ids if layout == "sysu_mm01" else 0
    _range("train_ids", train_ids, 2, 6000)
    _range("test_ids", test_ids, 2, 3000)
    _range("val_ids", val_ids, 0, train_ids - 1)
    _range("seed", seed, 0, 2**31 - 1)
    _range("images", images, 0 if geometry == "full" else 1, 255)
    if len(size) != 2 or not all(16 <= side <= 1024 for side in size):
        raise BdfError(f"size: expected (height, width), 16 to 1024 pixels each, found {size}")
    if not 0 <= correlation <= 1:
        raise BdfError(f"correlation: expected 0 to 1, found {correlation}")
    return WorldSpec(
        layout=layout,  # type: ignore[arg-type]
        train_ids=train_ids,
        test_ids=test_ids,
        val_ids=val_ids,
        seed=seed,
        images=images,
        size=(int(size[0]), int(size[1])),
        correlation=float(correlation),
        geometry=geometry,  # type: ignore[arg-type]
        sensor=sensor,  # type: ignore[arg-type]
    )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BdfError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")


def _range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BdfError(f"{name}: expected {low} to {high}, found {value}")


def identity_numbers(spec: WorldSpec) -> tuple[list[int], list[int]]:
    """The numbers of training and test identities: mixed, with gaps, as in the published trees.

    Every third number is a test identity, so that a world with more identities of either kind contains
    the smaller one: growing the training set leaves test identities what they were.
    """
    test = [3 * (i + 1) for i in range(spec.test_ids)]
    train = [3 * (i // 2) + i % 2 + 1 for i in range(spec.train_ids)]
    return train, test


def make_plan(spec: WorldSpec) -> Plan:
    """The pictures and files of a world in its layout."""
    from bdf_jax.data.world import llcm, regdb, sysu_mm01

    return {"sysu_mm01": sysu_mm01.plan, "regdb": regdb.plan, "llcm": llcm.plan}[spec.layout](spec)


def stream(spec: WorldSpec, *words: int) -> np.random.Generator:
    """A random stream for splits and counts."""
    return np.random.default_rng([spec.seed, PLAN_STREAM, *words])
