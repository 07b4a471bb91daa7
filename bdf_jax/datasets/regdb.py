"""RegDB: {Visible,Thermal}/{id}/*.bmp and ten fixed divisions of the identities in idx/.

412 identities, ten visible and ten thermal images each, ten divisions into halves (Nguyen et al., Sensors 2017).
Protocol: all against all; ten fixed splits, each with a model of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.trees.lists import Line, read_lines, require_labels, require_listed
from bdf_jax.data.trees.tree import (
    INCOMPLETE,
    ImageFile,
    Layout,
    Tree,
    build_tree,
    listing,
    require_both_modalities,
    require_disjoint,
    strangers,
    walk_identities,
)
from bdf_jax.datasets import gallery
from bdf_jax.datasets.benchmark import Benchmark, Key, Numbers, PublishedTest, Rules
from bdf_jax.errors import BdfError

TRIALS = tuple(range(1, 11))
FOLDERS = {"visible": ("Visible", 1, VISIBLE), "thermal": ("Thermal", 2, INFRARED)}
LAYOUT = Layout(
    dataset="regdb",
    title="RegDB",
    folders=("Visible", "Thermal", "idx"),
    expected="Visible/, Thermal/ and idx/ with {train,test}_{visible,thermal}_{1..10}.txt",
    source="RegDB is given by its authors (Dongguk University) on request.",
    citation="Nguyen, Hong, Kim and Park: Person Recognition System Based on a Combination of Body Images from "
    "Visible Light and Thermal Cameras, Sensors 17(3), 2017",
)


def read(root: Path, *, trials: Sequence[int] | None = None) -> Tree:
    """The tree; its parts are "visible" and "thermal", its splits "train/1", "test/1", ... of the trials read.

    The ten trials divide the same images, so the records know no trial and are written once.
    """
    parts = {part: list(walk_identities(root, *where)) for part, where in FOLDERS.items()}
    for part, files in parts.items():
        if not files:
            folder = FOLDERS[part][0]
            raise BdfError(
                f"RegDB tree {root}: {folder}/ has no image; expected {folder}/<identity>/<image>.bmp, found "
                f"{listing(root / folder)}. {strangers(root / folder) or INCOMPLETE}."
            )
    by_name = {file.name: file for files in parts.values() for file in files}
    splits = {}
    for trial in _present(root) if trials is None else trials:
        train, train_lines = _listed(root, "train", trial, by_name)
        test, test_lines = _listed(root, "test", trial, by_name)
        require_disjoint(
            root,
            {
                f"idx/train_*_{trial}.txt": {file.pid for file in train},
                f"idx/test_*_{trial}.txt": {file.pid for file in test},
            },
        )
        require_both_modalities(LAYOUT, root, train, f"idx/train_*_{trial}.txt")
        for lines in (train_lines, test_lines):
            require_labels(LAYOUT, root, lines)
        splits[f"train/{trial}"], splits[f"test/{trial}"] = train, test
    return build_tree(LAYOUT, root, parts, splits)


def _present(root: Path) -> list[int]:
    """The trials with an index file, or the first, whose absence is then reported."""
    there = [t for t in TRIALS if any((root / "idx").glob(f"*_{t}.txt"))]
    return there or [1]


def _listed(root: Path, role: str, trial: int, by_name: dict[str, ImageFile]) -> tuple[list[ImageFile], list[Line]]:
    """The images of both lists of a role, and their lines."""
    files: list[ImageFile] = []
    lines: list[Line] = []
    for part, (folder, _, _) in FOLDERS.items():
        source = f"idx/{role}_{part}_{trial}.txt"
        rows = read_lines(LAYOUT, root, source, folder)
        require_listed(LAYOUT, root, rows, by_name)
        files += [by_name[name] for name in dict.fromkeys(row.name for row in rows)]
        lines += rows
    return files, lines


IDENTITIES, IMAGES = 412, 10  # images of an identity in each modality


@functools.cache
def numbers() -> Numbers:
    """The published numbers."""
    half = IDENTITIES // 2
    images: dict[Key, int] = {}
    identities: dict[Key, int] = {}
    for cam, modality in ((1, VISIBLE), (2, INFRARED)):
        images["all", cam, modality] = IDENTITIES * IMAGES
        identities["all", cam, modality] = IDENTITIES
    for trial in range(1, 11):
        for role in ("train", "test"):
            images[f"{role}, trial {trial}", None, None] = 2 * half * IMAGES
            identities[f"{role}, trial {trial}", None, None] = half
    return Numbers(images, identities)


RULES = Rules(
    directions={"visible_to_thermal": (VISIBLE, INFRARED), "thermal_to_visible": (INFRARED, VISIBLE)},
    modes={"all": None},
    shots=(None,),
    galleries={"official": gallery.whole},
    trials=range(1, 11),
    cmc="raw",
    published=PublishedTest(identities=206, images_of_identity=10),
    name_pattern=re.compile(r"(?P<modality>Visible|Thermal)/"),
    one_split_per_trial=True,
)
BENCHMARK = Benchmark(LAYOUT, read, RULES, numbers)
