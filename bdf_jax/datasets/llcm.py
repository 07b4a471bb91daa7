"""LLCM: {vis,nir}/{id:04d}/ to train on, test_{vis,nir}/cam{1..9}/{id:04d}/ to test on, lists in idx/.

Identities and totals are as papers state them (Zhang and Wang, CVPR 2023), which do not say how many images a camera
took. Protocol: one image of every identity and camera of the other modality, ten trials drawn; a query ignores images
of its own identity from its own camera. Published visible-to-infrared numbers mix two protocols; this is the straight
one: the same rule in both directions.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.trees.lists import Line, read_ids, read_lines, require_labels, require_listed
from bdf_jax.data.trees.tree import (
    ImageFile,
    Layout,
    Tree,
    build_tree,
    listing,
    require_both_modalities,
    require_ids,
    walk_identities,
)
from bdf_jax.datasets import gallery
from bdf_jax.datasets.benchmark import Benchmark, Key, Numbers, PublishedTest, Rules
from bdf_jax.errors import BdfError

CAMERAS = tuple(range(1, 10))
EMPTY_AS_PUBLISHED = "test_nir/cam3"
UNKNOWN_CAMERA = 0  # the training folders do not say which camera took an image, and training does not ask
MODALITIES = {"vis": VISIBLE, "nir": INFRARED}
# Images by (split, folder).
TOTALS = {("train", "vis"): 16946, ("train", "nir"): 13975, ("test", "vis"): 8680, ("test", "nir"): 7166}
TRAIN_IDENTITIES, TEST_IDENTITIES = 713, 351
LAYOUT = Layout(
    dataset="llcm",
    title="LLCM",
    folders=("vis", "nir", "test_vis", "test_nir", "idx"),
    expected="vis/, nir/, test_vis/cam1 .. cam9, test_nir/cam1 .. cam9 and idx/ with train_vis.txt, train_nir.txt "
    "and test_id.txt",
    source="LLCM is given by its authors (Xiamen University) to those who sign their agreement.",
    citation="Zhang and Wang: Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for "
    "Visible-Infrared Person Re-identification, CVPR 2023",
)


def read(root: Path, *, trials: Sequence[int] | None = None) -> Tree:
    """The tree; its splits "train" and "test" are its parts too. `trials` is RegDB's and ignored."""
    del trials
    train: list[ImageFile] = []
    lines: list[Line] = []
    for folder, modality in MODALITIES.items():
        here = {file.name: file for file in walk_identities(root, folder, UNKNOWN_CAMERA, modality)}
        source = f"idx/train_{folder}.txt"
        rows = read_lines(LAYOUT, root, source, folder)
        require_listed(LAYOUT, root, rows, here)
        train += [here[name] for name in dict.fromkeys(row.name for row in rows)]
        lines += rows
    require_both_modalities(LAYOUT, root, train, "idx/train_vis.txt and idx/train_nir.txt")
    require_labels(LAYOUT, root, lines)

    pids = read_ids(LAYOUT, root, "idx/test_id.txt")
    test: list[ImageFile] = []
    for folder, modality in MODALITIES.items():
        for cam in CAMERAS:
            name = f"test_{folder}/cam{cam}"
            if (root / name).is_dir():
                test += walk_identities(root, name, cam, modality, set(pids))
            elif name != EMPTY_AS_PUBLISHED:
                raise BdfError(
                    f"LLCM tree {root}: {name}/ is missing; found {listing(root / f'test_{folder}')}. "
                    "The tree is incomplete: unpack the archive again."
                )
    require_ids(LAYOUT, root, pids, test, "idx/test_id.txt")
    return build_tree(LAYOUT, root, {"train": train, "test": test}, {"train": train, "test": test})


@functools.cache
def numbers() -> Numbers:
    """The published numbers."""
    images: collections.Counter[Key] = collections.Counter()
    for (split, folder), total in TOTALS.items():
        images[split, None, {"vis": VISIBLE, "nir": INFRARED}[folder]] = total
        images[split, None, None] += total
    identities: dict[Key, int] = {("train", None, None): TRAIN_IDENTITIES, ("test", None, None): TEST_IDENTITIES}
    cameras = {
        modality: tuple(cam for cam in CAMERAS if f"test_{folder}/cam{cam}" != EMPTY_AS_PUBLISHED)
        for folder, modality in MODALITIES.items()
    }
    return Numbers(dict(images), identities, cameras=cameras)


RULES = Rules(
    directions={"infrared_to_visible": (INFRARED, VISIBLE), "visible_to_infrared": (VISIBLE, INFRARED)},
    modes={"all": None},
    shots=(1,),
    galleries={"agw": gallery.drawn},
    trials=range(10),
    cmc="unique",
    published=PublishedTest(identities=TEST_IDENTITIES),
    name_pattern=re.compile(r"test_(?P<modality>vis|nir)/cam(?P<cam>\d+)/(?P<pid>\d+)/"),
    ignores_own_camera=True,
)
BENCHMARK = Benchmark(LAYOUT, read, RULES, numbers)
