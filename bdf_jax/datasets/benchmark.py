"""What is known of a data set: how its tree is laid out and read, what was published of it, and its protocol."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdf_jax.data.index import ImageIndex
from bdf_jax.data.trees.tree import Layout, Tree

if TYPE_CHECKING:
    from bdf_jax.datasets.gallery import Picks

Key = tuple[str, int | None, int | None]
RECORD = "world.json"  # in the root of a synthetic world: its parameters


@dataclasses.dataclass(frozen=True)
class Numbers:
    """How many images and identities a published data set has: what a tree on the disk is compared with.

    Attributes:
      images: (split, camera or None for all, modality or None for both) -> images.
      identities: the same key -> identities.
      splits: SYSU-MM01: split -> its identities.
      folders: SYSU-MM01: (camera, identity) -> images.
      cameras: LLCM: modality -> cameras that took test images.
    """

    images: dict[Key, int]
    identities: dict[Key, int]
    splits: dict[str, frozenset[int]] = dataclasses.field(default_factory=dict)
    folders: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    cameras: dict[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Request:
    """What a gallery family needs to know to pick the gallery of one trial."""

    index: ImageIndex
    modality: int
    cams: tuple[int, ...]
    shots: int | None
    trial: int
    picks: Picks | None


@dataclasses.dataclass(frozen=True)
class PublishedTest:
    """What is known of a published test set without its images.

    Attributes:
      identities: how many are tested.
      images: function that gives every image's name and identity; None where only numbers are known.
      images_of_identity: of each modality, where all have as many; 0: they have not.
    """

    identities: int
    images: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    images_of_identity: int = 0


@dataclasses.dataclass(frozen=True)
class Rules:
    """The protocol of a data set, before its images are known.

    Attributes:
      directions: name -> (modality of the queries, modality of the gallery).
      modes: name -> gallery cameras; None: every camera of the modality.
      shots: gallery images of an identity and camera; None: all of them.
      galleries: name of the family -> function that picks the rows of one trial.
      trials: their numbers.
      one_split_per_trial: a trial is another test split (another index), not another gallery.
      published: the published test set, against which feature files are checked.
      name_pattern: what an image's name tells, as groups `pid`, `cam` and `modality`.
      camera_modalities: modality of every camera, where the tree fixes it.
    """

    directions: Mapping[str, tuple[int, int]]
    modes: Mapping[str, tuple[int, ...] | None]
    shots: tuple[int | None, ...]
    galleries: Mapping[str, Callable[[Request], np.ndarray]]
    trials: range
    cmc: Literal["unique", "raw"]
    published: PublishedTest
    name_pattern: re.Pattern[str]
    one_split_per_trial: bool = False
    ignored_cameras: tuple[tuple[int, int], ...] = ()
    ignores_own_camera: bool = False
    camera_modalities: Mapping[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A data set.

    Attributes:
      layout: how its tree is recognised.
      read: (root, trials=None) to the tree, checked.
      rules: its protocol.
      numbers: what was published of it; empty for one that nobody published.
    """

    layout: Layout
    read: Callable[..., Tree]
    rules: Rules
    numbers: Callable[[], Numbers] = lambda: Numbers({}, {})
