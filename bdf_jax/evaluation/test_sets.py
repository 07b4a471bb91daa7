"""Is a feature file the test set it claims to be? Every image that is missing or does not belong moves the numbers.

With a tree at hand (`root`) its test split is the answer. Without one the published test sets are known as far as the
project knows them (`Rules.published`): every image of SYSU-MM01, the numbers of identities and images of RegDB, the
number of identities of LLCM. A file that is at least half of the published set must be all of it. Anything smaller is
taken for a test set of its own, and its rows say `test_set: own`; the official galleries of SYSU-MM01 then need a tree.
"""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np

from bdf_jax.data.index import VISIBLE, ImageIndex
from bdf_jax.data.trees import read_tree
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.feature_file import some
from bdf_jax.evaluation.gallery import Picks, shipped_picks, tree_picks
from bdf_jax.evaluation.protocols import DATASETS, rules_for


def check_test_set(
    dataset: str, index: ImageIndex, *, root: str | Path = "", trial: int | None = None
) -> tuple[str, Picks | None]:
    """Checks that an index from a feature file holds the test images of a data set, all of them and no others.

    Args:
      dataset: "sysu_mm01", "regdb" or "llcm".
      index: the images of the file.
      root: a published tree to check against; empty: what is known of the published data set.
      trial: RegDB's split, which only a tree knows.

    Returns:
      "tree", "published" or "own", and the gallery picks that go with it (SYSU-MM01).

    Raises:
      BdfError: with how many images are missing, of unknown identities or contradict their names, and which.
    """
    rules = rules_for(dataset)
    _check_names(dataset, index)
    if root:
        split = "test" if not rules.one_split_per_trial else f"test/{trial or rules.trials[0]}"
        tree = read_tree(dataset, root, trials=None if split == "test" else (trial or rules.trials[0],))
        known = tree.splits[split]
        _check_images(index, known.names, known.pids, f"the test images of {tree.root}{_of(split)}")
        return "tree", tree_picks(tree.root) or _shipped(dataset)
    published = rules.published
    pids = np.unique(index.pids)
    if published.images is not None:
        names, known_pids = published.images()
        present = np.isin(index.names, names).sum()
        if 2 * present >= len(names):
            _check_images(index, names, known_pids, f"the published test set of {dataset}")
            return "published", _shipped(dataset)
    elif 2 * len(pids) > published.identities:
        _check_counts(dataset, index, pids)
        return "published", None
    return "own", None


def not_the_published(dataset: str, index: ImageIndex) -> BdfError:
    """The error for official galleries of a file that is neither the published test set nor checked against a tree."""
    published = rules_for(dataset).published
    assert published.images is not None
    names, pids = published.images()
    unknown = sorted(set(index.pids.tolist()) - set(pids.tolist()))
    missing = names[~np.isin(names, index.names)]
    return BdfError(
        f"the official galleries need the published test set of {dataset} or a tree. Found {len(index):,} images; "
        f"{len(missing):,} of the {len(names):,} published test images are missing ({some(missing)})"
        + (f" and {len(unknown)} identities are unknown to it ({some(unknown)})" if unknown else "")
        + ". For another tree with its own exp/rand_perm_cam.mat give --root=TREE, or use the other family: "
        "--gallery=agw"
    )


def _shipped(dataset: str) -> Picks | None:
    return shipped_picks() if rules_for(dataset).published.images is not None else None


def _of(split: str) -> str:
    return f", trial {split.split('/')[1]}" if "/" in split else ""


def _check_images(index: ImageIndex, names: np.ndarray, pids: np.ndarray, known: str) -> None:
    missing = names[~np.isin(names, index.names)]
    strange = ~np.isin(index.names, names)
    unknown = strange & ~np.isin(index.pids, pids)
    problems = []
    if len(missing):
        problems.append(f"{len(missing):,} test images are missing ({some(missing)})")
    if unknown.any():
        ids = np.unique(index.pids[unknown])
        problems.append(f"{len(ids):,} identities are unknown: {some(ids)}, {unknown.sum():,} images")
    if (strange & ~unknown).any():
        extra = index.names[strange & ~unknown]
        problems.append(f"{len(extra):,} images do not belong to it ({some(extra)})")
    if problems:
        raise BdfError(
            f"the feature file does not hold {known}: expected {len(names):,} images of {len(np.unique(pids)):,} "
            f"identities, found {len(index):,} images; " + "; ".join(problems) + ". Embed exactly the test images; "
            "for another tree in this layout give --root=TREE"
        )


def _check_counts(dataset: str, index: ImageIndex, pids: np.ndarray) -> None:
    published = rules_for(dataset).published
    if len(pids) != published.identities:
        guess = "some belong to training" if len(pids) > published.identities else "some are missing"
        raise BdfError(
            f"{dataset}: the published test set has {published.identities} identities, the feature file has "
            f"{len(pids)} ({some(pids)}); {guess}. "
            "Embed exactly the test images; for another tree in this layout give --root=TREE"
        )
    if not published.images_of_identity:
        return
    counts = collections.Counter(zip(index.pids.tolist(), index.modalities.tolist(), strict=True))
    wrong = [
        f"identity {pid} has {counts[pid, modality]} {'visible' if modality == VISIBLE else 'infrared'}"
        for pid in pids.tolist()
        for modality in (0, 1)
        if counts[pid, modality] != published.images_of_identity
    ]
    if wrong:
        raise BdfError(
            f"{dataset}: every test identity has {published.images_of_identity} visible and as many infrared images; "
            f"{len(wrong)} do not: {some(wrong)}. Embed exactly the test images; for another tree in this layout give "
            "--root=TREE"
        )


def _check_names(dataset: str, index: ImageIndex) -> None:
    """Where a name tells identity, camera or modality, the columns must say the same."""
    pattern = rules_for(dataset).name_pattern
    for other in DATASETS.keys() - {dataset}:
        theirs = [name for name in index.names.tolist() if DATASETS[other].name_pattern.match(name)]
        if 2 * len(theirs) > len(index):
            raise BdfError(
                f"{dataset}: {len(theirs):,} of {len(index):,} names are laid out as in {other} ({some(theirs)}); "
                f"evaluate the file with --dataset={other}"
            )
    wrong = []
    for name, pid, cam, modality in zip(
        index.names.tolist(), index.pids.tolist(), index.cams.tolist(), index.modalities.tolist(), strict=True
    ):
        match = pattern.match(name)
        if not match:
            continue
        told = match.groupdict()
        visible = told.get("modality", "").lower() in ("vis", "visible")
        if (
            ("pid" in told and int(told["pid"]) != pid)
            or ("cam" in told and int(told["cam"]) != cam)
            or ("modality" in told and visible != (modality == VISIBLE))
        ):
            wrong.append(f"{name} has identity {pid}, camera {cam}, modality {modality}")
    if wrong:
        raise BdfError(
            f"{dataset}: {len(wrong):,} of {len(index):,} rows contradict their names: {some(wrong)}. Write `pids`, "
            "`cams` and `modality` in the order of `names`"
        )
