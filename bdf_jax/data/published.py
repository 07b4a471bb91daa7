"""How many images and identities the published data sets have: what a tree on the disk is compared with.

SYSU-MM01: the row lengths of the official `rand_perm_cam.mat` and the official id lists (Wu et al., ICCV 2017).
RegDB: 412 identities, ten visible and ten thermal images each, ten divisions into halves (Nguyen et al., 2017).
LLCM: identities and totals as papers state them (Zhang and Wang, CVPR 2023); they do not say how many images a camera
took.
"""

from __future__ import annotations

import collections
import dataclasses
import functools

from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.trees import llcm as llcm_tree
from bdf_jax.data.trees import sysu_mm01 as sysu_tree
from bdf_jax.data.world import llcm as llcm_world
from bdf_jax.data.world import plan as world_plan
from bdf_jax.data.world import sysu_mm01 as sysu_world

Key = tuple[str, int | None, int | None]

REGDB_IDENTITIES, REGDB_IMAGES = 412, 10  # images of an identity in each modality


@dataclasses.dataclass(frozen=True)
class Published:
    """The published numbers of a data set.

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


@functools.cache
def published(dataset: str) -> Published:
    """The numbers of "sysu_mm01", "regdb" or "llcm"."""
    return {"sysu_mm01": _sysu, "regdb": _regdb, "llcm": _llcm}[dataset]()


def _sysu() -> Published:
    splits, counts = sysu_world.published_geometry()
    images: collections.Counter[Key] = collections.Counter()
    identities: dict[Key, set[int]] = collections.defaultdict(set)
    folders: dict[tuple[int, int], int] = {}
    for split, pids in splits.items():
        for pid in pids:
            for cam, modality in sysu_tree.CAMERAS.items():
                count = counts[pid][cam - 1]
                folders |= {(cam, pid): count} if count else {}
                for key in ((split, cam, modality), (split, None, modality)):
                    images[key] += count
                    identities[key] |= {pid} if count else set()
    return Published(
        dict(images),
        {key: len(pids) for key, pids in identities.items()},
        {split: frozenset(pids) for split, pids in splits.items()},
        folders,
    )


def _regdb() -> Published:
    half = REGDB_IDENTITIES // 2
    images: dict[Key, int] = {}
    identities: dict[Key, int] = {}
    for cam, modality in ((1, VISIBLE), (2, INFRARED)):
        images["all", cam, modality] = REGDB_IDENTITIES * REGDB_IMAGES
        identities["all", cam, modality] = REGDB_IDENTITIES
    for trial in range(1, 11):
        for role in ("train", "test"):
            images[f"{role}, trial {trial}", None, None] = 2 * half * REGDB_IMAGES
            identities[f"{role}, trial {trial}", None, None] = half
    return Published(images, identities)


def _llcm() -> Published:
    images: collections.Counter[Key] = collections.Counter()
    for (split, folder), total in llcm_world.TOTALS.items():
        images[split, None, {"vis": VISIBLE, "nir": INFRARED}[folder]] = total
        images[split, None, None] += total
    train, test = world_plan.FULL_SIZE["llcm"]
    identities: dict[Key, int] = {("train", None, None): train, ("test", None, None): test}
    cameras = {
        modality: tuple(cam for cam in llcm_tree.CAMERAS if f"test_{folder}/cam{cam}" != llcm_tree.EMPTY_AS_PUBLISHED)
        for folder, modality in llcm_tree.MODALITIES.items()
    }
    return Published(dict(images), identities, cameras=cameras)
