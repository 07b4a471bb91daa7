"""Is a feature file the test set it claims to be? Every image that is missing or does not belong moves the numbers.

With a tree at hand (`root`) its test split is the answer, and a tree that has the published test identities must have
their images. Without one the published test sets are known as far as `data.published` knows them: every image of
SYSU-MM01, the numbers of identities and images of RegDB and LLCM, and LLCM's cameras. A file that is at least half of
the published set must be all of it. Anything smaller is taken for a test set of its own, and its rows say
`test_set: own`; so do those of an incomplete one that is to be evaluated all the same.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.datasets import BENCHMARKS, find, read_tree
from bdf_jax.datasets.benchmark import RECORD
from bdf_jax.datasets.gallery import Picks, shipped_picks, tree_picks
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.protocols import rules_for
from bdf_jax.names import printable, some

REMEDY = "Embed exactly the test images; for another tree in this layout give --root=TREE"
WORDS = {VISIBLE: "visible", INFRARED: "infrared"}


class TestSet(NamedTuple):
    """What a feature file holds.

    Attributes:
      name: "tree", "published" or "own".
      picks: the gallery picks that go with it (SYSU-MM01).
      differs: how an "own" one differs from the set that it looks like; empty where it looks like none.
    """

    name: str
    picks: Picks | None
    differs: str = ""


def check_test_set(
    dataset: str,
    index: ImageIndex,
    *,
    root: str | Path = "",
    trial: int | None = None,
    own: bool = False,
    source: str = "the feature file",
) -> TestSet:
    """Checks that an index from a feature file holds the test images of a data set, all of them and no others.

    Args:
      dataset: "sysu_mm01", "regdb" or "llcm".
      index: the images of the file.
      root: a published tree to check against; empty: what is known of the published data set.
      trial: RegDB's split, which only a tree knows.
      own: whether an incomplete one is let pass, as "own".
      source: where the index comes from, for messages.

    Raises:
      BdfError: with how many images are missing, of unknown identities or contradict their names, and which.
    """
    rules = rules_for(dataset)
    _check_names(dataset, index, source)
    published = rules.published
    if root:
        split = "test" if not rules.one_split_per_trial else f"test/{trial or rules.trials[0]}"
        tree = read_tree(dataset, root, trials=None if split == "test" else (trial or rules.trials[0],))
        known = tree.splits[split]
        name, picks = "tree", tree_picks(tree.root) or _shipped(dataset)
        differs = _check_images(index, known.names, known.pids, f"the test images of {tree.root}{_of(split)}", source)
        differs = differs or tree_differs(dataset, known, tree.root)
    elif published.images is not None:
        names, known_pids = published.images()
        if 2 * np.isin(index.names, names).sum() < len(names):
            return TestSet("own", None)
        name, picks = "published", _shipped(dataset)
        differs = _check_images(index, names, known_pids, f"the published test set of {dataset}", source)
    else:
        if 2 * len(np.unique(index.pids)) <= published.identities:
            return TestSet("own", None)
        name, picks = "published", None
        differs = _numbers_differ(dataset, index)
    if differs and not own:
        raise BdfError(
            f"{source}: {differs}. {REMEDY}, and to evaluate these images all the same, as a test set of your own, "
            "--own"
        )
    return TestSet("own", picks, differs) if differs else TestSet(name, picks)


def tree_differs(dataset: str, test: ImageIndex, root: str | Path) -> str:
    """How the test split of a tree differs from the published one; empty where its identities are other ones.

    The identities are the claim: a tree of other people, or a synthetic world, is a data set of its own.
    """
    if (Path(root) / RECORD).is_file():
        return ""
    pids = np.unique(test.pids)
    known = find(dataset).numbers()
    if not known.splits:
        same = len(pids) == rules_for(dataset).published.identities
        return f"{root}: {differs}" if same and (differs := _numbers_differ(dataset, test)) else ""
    if frozenset(pids.tolist()) != known.splits["test"]:
        return ""
    counts = collections.Counter(zip(test.cams.tolist(), test.pids.tolist(), strict=True))
    expected = {key: count for key, count in known.folders.items() if key[1] in known.splits["test"]}
    wrong = [
        f"cam{cam}/{pid:04d} has {counts[cam, pid]} of {expected.get((cam, pid), 0)}"
        for cam, pid in sorted(expected.keys() | counts.keys())
        if counts[cam, pid] != expected.get((cam, pid), 0)
    ]
    if not wrong:
        return ""
    return (
        f"{root}: expected the {sum(expected.values()):,} test images of the published {dataset}, whose identities "
        f"these are; found {len(test):,}, and other numbers in {len(wrong):,} folders: {some(wrong)}"
    )


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


def _check_images(index: ImageIndex, names: np.ndarray, pids: np.ndarray, known: str, source: str) -> str:
    """What is missing; images that do not belong are refused, since no name makes them a part of it."""
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
    if not problems:
        return ""
    said = (
        f"these are not {known}: expected {len(names):,} images of {len(np.unique(pids)):,} "
        f"identities, found {len(index):,} images; " + "; ".join(problems)
    )
    if strange.any():
        raise BdfError(f"{source}: {said}. {REMEDY}")
    return said


def _numbers_differ(dataset: str, index: ImageIndex) -> str:
    """How identities, images and cameras differ from the published numbers, where single images are not known."""
    published, known, pids = rules_for(dataset).published, find(dataset).numbers(), np.unique(index.pids)
    if len(pids) != published.identities:
        guess = "some belong to training" if len(pids) > published.identities else "some are missing"
        return (
            f"{dataset}: the published test set has {published.identities} identities, here are {len(pids)} "
            f"({some(pids)}); {guess}"
        )
    problems = []
    for modality, word in WORDS.items():
        here = index.select(index.modalities == modality)
        expected = known.images.get(("test", None, modality), len(here))
        if len(here) < expected:
            problems.append(
                f"of {expected:,} {word} test images {expected - len(here):,} are missing{_where(pids, here)}"
            )
        if len(here) > expected:
            problems.append(f"{len(here):,} {word} test images are {len(here) - expected:,} more than the {expected:,}")
        strange = np.setdiff1d(here.cams, known.cameras.get(modality, here.cams))
        if strange.size:
            problems.append(f"{word} images are of cameras that took none ({some(strange)})")
    if each := published.images_of_identity:
        counts = collections.Counter(zip(index.pids.tolist(), index.modalities.tolist(), strict=True))
        wrong = [
            f"identity {pid} has {counts[pid, modality]} {word}"
            for pid in pids.tolist()
            for modality, word in WORDS.items()
            if counts[pid, modality] != each
        ]
        if wrong:
            problems.append(
                f"every test identity has {each} visible and as many infrared images; {len(wrong)} do not: "
                f"{some(wrong)}"
            )
    return f"{dataset}: not the published test set: {'; '.join(problems)}" if problems else ""


def _where(pids: np.ndarray, here: ImageIndex) -> str:
    """What little can be told of missing images whose names are not known."""
    without = np.setdiff1d(pids, here.pids)
    last = f"; the last that is there is {printable(str(np.sort(here.names)[-1]))}" if len(here) else ""
    return last + (f", and {len(without):,} identities have none ({some(without)})" if without.size else "")


def _check_names(dataset: str, index: ImageIndex, source: str) -> None:
    """Where a name tells identity, camera or modality, the columns must say the same."""
    pattern = rules_for(dataset).name_pattern
    for other in BENCHMARKS.keys() - {dataset}:
        theirs = [name for name in index.names.tolist() if find(other).rules.name_pattern.match(name)]
        if 2 * len(theirs) > len(index):
            raise BdfError(
                f"{source}: {len(theirs):,} of {len(index):,} names are laid out as in {other} ({some(theirs)}); "
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
            ("pid" in told and not _is_number(told["pid"], pid))
            or ("cam" in told and not _is_number(told["cam"], cam))
            or ("modality" in told and visible != (modality == VISIBLE))
        ):
            wrong.append(f"{name} has identity {pid}, camera {cam}, modality {modality}")
    if wrong:
        raise BdfError(
            f"{source}: {len(wrong):,} of {len(index):,} rows contradict their names: {some(wrong)}. Write `pids`, "
            "`cams` and `modality` in the order of `names`"
        )


def _is_number(digits: str, number: int) -> bool:
    return len(digits) < 1000 and int(digits) == number  # Python converts no more than some thousand digits
