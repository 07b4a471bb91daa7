"""SYSU-MM01 as its authors publish it: cam{1..6}/{id:04d}/{k:04d}.jpg and three id lists in exp/.

`sysu_mm01_counts.npz` holds how many images every identity has in every camera, and which identities are in which
split. The counts are the row lengths of the official `rand_perm_cam.mat`, the splits those of the official
`train_id.mat` and `test_id.mat` (validation: 334 to 433 without 347), all published with the data set (Wu et al.,
RGB-Infrared Cross-Modality Person Re-Identification, ICCV 2017).

Protocol: infrared queries; one or ten images of every identity and visible camera as gallery, ten trials; a query of
camera 3 ignores camera 2, which looks at the same place.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.trees.lists import read_ids
from bdf_jax.data.trees.tree import (
    INCOMPLETE,
    ImageFile,
    Layout,
    Tree,
    build_tree,
    listing,
    require_both_modalities,
    require_disjoint,
    require_ids,
    strangers,
    walk_identities,
)
from bdf_jax.datasets import gallery
from bdf_jax.datasets.benchmark import Benchmark, Key, Numbers, PublishedTest, Rules
from bdf_jax.errors import BdfError

CAMERAS = {1: VISIBLE, 2: VISIBLE, 3: INFRARED, 4: VISIBLE, 5: VISIBLE, 6: INFRARED}
COUNTS = Path(__file__).with_name("sysu_mm01_counts.npz")
LAYOUT = Layout(
    dataset="sysu_mm01",
    title="SYSU-MM01",
    folders=(*(f"cam{cam}" for cam in CAMERAS), "exp"),
    expected="cam1 .. cam6 and exp/ with train_id.txt, val_id.txt and test_id.txt",
    source="SYSU-MM01 is given by its authors (Sun Yat-sen University) to those who sign their licence agreement.",
    citation="Wu, Zheng, Yu, Gong and Lai: RGB-Infrared Cross-Modality Person Re-Identification, ICCV 2017",
)


def read(root: Path, *, trials: Sequence[int] | None = None) -> Tree:
    """The tree; its splits "train", "val" and "test" are its parts too. `trials` is RegDB's and ignored.

    An identity need not appear in every camera: its folder may be missing.
    """
    del trials
    lists = {split: f"exp/{split}_id.txt" for split in ("train", "val", "test")}
    pids = {split: read_ids(LAYOUT, root, name) for split, name in lists.items()}
    require_disjoint(root, {lists[split]: pids[split] for split in lists})
    wanted = {pid for split in pids.values() for pid in split}
    files: list[ImageFile] = []
    for cam, modality in CAMERAS.items():
        here = list(walk_identities(root, f"cam{cam}", cam, modality, wanted))
        if not here:
            raise BdfError(
                f"SYSU-MM01 tree {root}: cam{cam}/ has no image of an identity in exp/; expected folders such as "
                f"cam{cam}/{min(wanted):04d}/ with images (.jpg), found {listing(root / f'cam{cam}')}. "
                f"{strangers(root / f'cam{cam}') or INCOMPLETE}."
            )
        files += here
    splits = {split: [file for file in files if file.pid in members] for split, members in _sets(pids).items()}
    for split, name in lists.items():
        require_ids(LAYOUT, root, pids[split], splits[split], name)
        if split != "test":
            require_both_modalities(LAYOUT, root, splits[split], name)
    return build_tree(LAYOUT, root, splits, splits)


def _sets(pids: dict[str, list[int]]) -> dict[str, set[int]]:
    return {split: set(members) for split, members in pids.items()}


def published_geometry() -> tuple[dict[str, list[int]], dict[int, list[int]]]:
    """Of the real data set: the identities of each split, and of each identity the images in cameras 1 to 6."""
    with np.load(COUNTS) as stored:
        splits = {name: [int(pid) for pid in stored[name]] for name in ("train", "val", "test")}
        table = stored["counts"]
    counts = {pid: [int(n) for n in table[:, pid]] for pids in splits.values() for pid in pids}
    return splits, counts


@functools.cache
def numbers() -> Numbers:
    """The published numbers."""
    splits, counts = published_geometry()
    images: collections.Counter[Key] = collections.Counter()
    identities: dict[Key, set[int]] = collections.defaultdict(set)
    folders: dict[tuple[int, int], int] = {}
    for split, pids in splits.items():
        for pid in pids:
            for cam, modality in CAMERAS.items():
                count = counts[pid][cam - 1]
                folders |= {(cam, pid): count} if count else {}
                for key in ((split, cam, modality), (split, None, modality)):
                    images[key] += count
                    identities[key] |= {pid} if count else set()
    return Numbers(
        dict(images),
        {key: len(pids) for key, pids in identities.items()},
        {split: frozenset(pids) for split, pids in splits.items()},
        folders,
    )


RULES = Rules(
    directions={"infrared_to_visible": (INFRARED, VISIBLE)},
    modes={"all": (1, 2, 4, 5), "indoor": (1, 2)},
    shots=(1, 10),
    galleries={"official": gallery.official, "agw": gallery.drawn},
    trials=range(10),
    cmc="unique",
    published=PublishedTest(identities=96, images=gallery.published_images),
    name_pattern=re.compile(r"cam(?P<cam>\d+)/(?P<pid>\d+)/"),
    ignored_cameras=((3, 2),),
    camera_modalities=CAMERAS,
)
BENCHMARK = Benchmark(LAYOUT, read, RULES, numbers)
