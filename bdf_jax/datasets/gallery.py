"""Which images of a camera and identity stand in the gallery of a trial.

Two families exist for SYSU-MM01, with different numbers for the same model:

- `official`: the permutations of the official SYSU-MM01 evaluation files (Wu et al., ICCV 2017), key
  `rand_perm_cam`. A tree may carry its own `exp/rand_perm_cam.mat`; for the real test set, `sysu_mm01_gallery.npz`
  ships what is needed of the authors' `rand_perm_cam.mat` and `test_id.mat`: the image counts of every camera and
  identity, and the first ten entries of each trial's permutation for the 96 test identities.
- `agw`: drawn with Python's `random`, seeded with the number of the trial, as most PyTorch code of the field does.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bdf_jax.data.index import INFRARED, ImageIndex
from bdf_jax.datasets.benchmark import Request
from bdf_jax.errors import BdfError
from bdf_jax.trouble import refuse_trouble

TRIALS = 10
SHIPPED = Path(__file__).with_name("sysu_mm01_gallery.npz")


@dataclasses.dataclass(frozen=True)
class Picks:
    """The official gallery permutations of a SYSU-MM01 tree.

    Attributes:
      source: where they come from, for messages.
      test_ids: (I,) identities of the published test split; empty where the source does not say.
      counts: images of every (camera, identity) that has any.
      order: (trials, at most 10 or all) image numbers, from 1, of every (camera, identity) in the gallery cameras.
    """

    source: str
    test_ids: np.ndarray
    counts: Mapping[tuple[int, int], int]
    order: Mapping[tuple[int, int], np.ndarray]

    def misfit(self, index: ImageIndex, cams: Sequence[int]) -> str:
        """Why these picks are not those of `index` in the cameras `cams`; empty when they are."""
        chosen = np.isin(index.cams, cams)
        pairs = zip(index.cams[chosen].tolist(), index.pids[chosen].tolist(), strict=True)
        found = collections.Counter(pairs)
        wrong = [key for key, count in found.items() if self.counts.get(key, 0) != count or key not in self.order]
        if not wrong:
            trials = min(self.order[key].shape[0] for key in found) if found else TRIALS
            return "" if trials >= TRIALS else f"it holds {trials} trials, the protocol has {TRIALS}"
        cam, pid = wrong[0]
        return (
            f"{len(wrong)} of {len(found)} pairs of camera and identity differ; the first, camera {cam} and {pid}, "
            f"has {found[cam, pid]} images, the permutation is for {self.counts.get((cam, pid), 0)}"
        )


@functools.cache
def shipped_picks() -> Picks:
    """The picks of the real SYSU-MM01 test set, shipped with the project."""
    with np.load(SHIPPED, allow_pickle=False) as stored:
        ids, cams, counts_CI, picks_CTIS = (stored[key] for key in ("test_ids", "cams", "counts", "picks"))
    cam_rows, pids = np.nonzero(counts_CI)
    counts = {(int(c) + 1, int(p)): int(counts_CI[c, p]) for c, p in zip(cam_rows, pids, strict=True)}
    order = {
        (int(cam), int(pid)): picks_CTIS[c, :, i].astype(int)
        for c, cam in enumerate(cams)
        for i, pid in enumerate(ids)
        if (int(cam), int(pid)) in counts
    }
    return Picks("the picks shipped with the project for the real SYSU-MM01", ids.astype(int), counts, order)


@functools.cache
def published_images() -> tuple[np.ndarray, np.ndarray]:
    """Name and identity of every test image of the real SYSU-MM01: 3,803 infrared and 6,775 visible ones."""
    picks = shipped_picks()
    rows = [
        (f"cam{cam}/{pid:04d}/{k:04d}.jpg", pid)
        for (cam, pid), count in sorted(picks.counts.items())
        if pid in picks.test_ids
        for k in range(1, count + 1)
    ]
    names, pids = zip(*rows, strict=True)
    return np.asarray(names), np.asarray(pids)


def tree_picks(root: str | Path) -> Picks | None:
    """The picks in a tree's own `exp/rand_perm_cam.mat`; None where it has no such file.

    Raises:
      BdfError: the file is there but is not what the official evaluation reads.
    """
    path = Path(root) / "exp" / "rand_perm_cam.mat"
    if not path.exists():
        return None
    import scipy.io  # only a tree with its own permutations needs it

    try:
        cells = scipy.io.loadmat(str(path))["rand_perm_cam"]
        order = {
            (cam, pid): np.atleast_2d(cell).astype(int)
            for cam, ids in enumerate(cells[:, 0], start=1)
            for pid, cell in enumerate(ids.ravel(), start=1)
            if cell.size
        }
    except Exception as error:  # scipy raises many kinds on a damaged file
        refuse_trouble(error, f"{path}: cannot be read")
        raise BdfError(
            f"{path}: expected a MATLAB file with the (6, 1) cell array 'rand_perm_cam', found something else "
            f"({error}); copy it again or remove it"
        ) from error
    counts = {key: permutations.shape[1] for key, permutations in order.items()}
    return Picks(str(path), np.zeros(0, int), counts, order)


def official_gallery(index: ImageIndex, picks: Picks, *, cams: Sequence[int], shots: int, trial: int) -> np.ndarray:
    """Rows of the gallery of one trial (0..9), by camera and then identity, each in the order of its permutation."""
    rows: list[int] = []
    numbered = _numbered(index)
    for cam in cams:
        for pid in np.unique(index.pids[index.cams == cam]).tolist():
            chosen = picks.order[cam, pid][trial, :shots].tolist()
            absent = [k for k in chosen if (cam, pid, k) not in numbered]
            if absent:
                raise BdfError(
                    f"the official galleries do not fit these images: {picks.source} names image {absent[0]} of camera "
                    f"{cam}, identity {pid}, which is not among them. Number the images of a folder from 1 without "
                    "gaps, or use the other family: --gallery=agw"
                )
            rows += [numbered[cam, pid, k] for k in chosen]
    return np.asarray(rows, np.int32)


def drawn_gallery(index: ImageIndex, *, modality: int, cams: Sequence[int], shots: int, trial: int) -> np.ndarray:
    """Rows of the gallery that `random.seed(trial)` draws, by identity and then camera, as drawn.

    Of every identity and camera one image is taken with `random.choice` from its names in sorted order, or `shots`
    of them with `random.sample` (all of them where there are fewer).
    """
    generator = random.Random(trial)  # the stream of random.seed(trial), without touching global state
    folders = _folders(index, modality)
    rows: list[int] = []
    for pid in sorted({pid for pid, _ in folders}):
        for cam in cams:
            files = folders.get((pid, cam))
            if files:
                rows += [generator.choice(files)] if shots == 1 else generator.sample(files, min(shots, len(files)))
    return np.asarray(rows, np.int32)


def whole_gallery(index: ImageIndex, *, modality: int) -> np.ndarray:
    """Rows of every image of a modality, by identity and then name."""
    rows = np.flatnonzero(index.modalities == modality)
    return rows[np.lexsort((index.names[rows], index.pids[rows]))].astype(np.int32)


def image_number(name: str) -> int:
    """The k of `cam1/0006/0003.jpg`: 3.

    Raises:
      BdfError: the file's name is not a number.
    """
    stem = name.rsplit("/", 1)[-1].split(".", 1)[0]
    if not stem.isdecimal():
        raise BdfError(f"image {name!r}: expected a name like 'cam1/0006/0003.jpg', whose last part is a number")
    return int(stem)


def _numbered(index: ImageIndex) -> dict[tuple[int, int, int], int]:
    numbered: dict[tuple[int, int, int], int] = {}
    for row in np.flatnonzero(index.modalities != INFRARED).tolist():
        key = int(index.cams[row]), int(index.pids[row]), image_number(str(index.names[row]))
        other = numbered.setdefault(key, row)
        if other != row:
            raise BdfError(
                f"images {str(index.names[other])!r} and {str(index.names[row])!r} have one number, and the official "
                "galleries choose by number: take one of them out of the folder, or use the other family: --gallery=agw"
            )
    return numbered


def _folders(index: ImageIndex, modality: int) -> dict[tuple[int, int], list[int]]:
    folders: dict[tuple[int, int], list[int]] = {}
    rows = np.flatnonzero(index.modalities == modality)
    for row in rows[np.argsort(index.names[rows], kind="stable")].tolist():
        folders.setdefault((int(index.pids[row]), int(index.cams[row])), []).append(row)
    return folders


def official(request: Request) -> np.ndarray:
    """The official galleries of a trial, by the picks of the tree or those that are shipped."""
    picks, shots = request.picks, request.shots or 1
    if picks is None:
        raise BdfError(
            "the official galleries need gallery picks: the tree's own exp/rand_perm_cam.mat or, for the real "
            "SYSU-MM01 test set, those shipped with the project. Found neither; use the other family: --gallery=agw"
        )
    misfit = picks.misfit(request.index.select(request.index.modalities == request.modality), request.cams)
    if misfit:
        raise BdfError(
            f"the official galleries do not fit these images: {picks.source} was tried, and {misfit}. "
            "Give the tree's own exp/rand_perm_cam.mat (--root=TREE), or use the other family: --gallery=agw"
        )
    return official_gallery(request.index, picks, cams=request.cams, shots=shots, trial=request.trial)


def drawn(request: Request) -> np.ndarray:
    """A gallery drawn for the trial."""
    return drawn_gallery(
        request.index, modality=request.modality, cams=request.cams, shots=request.shots or 1, trial=request.trial
    )


def whole(request: Request) -> np.ndarray:
    """All images of the modality."""
    return whole_gallery(request.index, modality=request.modality)
