"""SYSU-MM01 as its authors publish it: cam{1..6}/{id:04d}/{k:04d}.jpg and three id lists in exp/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
from bdf_jax.errors import BdfError

CAMERAS = {1: VISIBLE, 2: VISIBLE, 3: INFRARED, 4: VISIBLE, 5: VISIBLE, 6: INFRARED}
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
