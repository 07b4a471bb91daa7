"""The world in the layout of LLCM.

`vis|nir/{id:04d}/*.jpg` for training, `test_vis|test_nir/cam{1..9}/{id:04d}/*.jpg`, `idx/{train,test}_{vis,nir}.txt`
("path label") and `idx/test_id.txt`. `test_nir/cam3` is empty, as in the published tree.
"""

from __future__ import annotations

import numpy as np

from bdf_jax.data.world.camera import Place
from bdf_jax.data.world.plan import Plan, Shot, WorldSpec, identity_numbers, stream
from bdf_jax.datasets.llcm import TOTALS

CAMERAS = 9
VISITED = 4  # cameras an identity of the small geometry passes
INDOOR = (2, 5, 8)
NOT_INFRARED = 3


def plan(spec: WorldSpec) -> Plan:
    """Pictures and `idx/` files."""
    shots: list[Shot] = []
    files: dict[str, bytes] = {}
    for split, pids in zip(("train", "test"), identity_numbers(spec), strict=True):
        visited = {pid: _visited(spec, pid) for pid in pids}
        for folder in ("vis", "nir"):
            cells = [(pid, cam) for pid in pids for cam in visited[pid] if folder == "vis" or cam != NOT_INFRARED]
            counts = _counts(spec, split, folder, cells)
            labels = {pid: label for label, pid in enumerate(pids)}
            listed = [
                _shot(spec, split, folder, pid, cam, k)
                for (pid, cam), count in zip(cells, counts, strict=True)
                for k in range(1, count + 1)
            ]
            files[f"idx/{split}_{folder}.txt"] = "".join(f"{s.path} {labels[s.pid]}\n" for s in listed).encode()
            shots += listed
    files["idx/test_id.txt"] = (",".join(str(pid) for pid in identity_numbers(spec)[1]) + "\n").encode()
    folders = tuple(f"test_{folder}/cam{cam}" for folder in ("vis", "nir") for cam in range(1, CAMERAS + 1))
    return Plan(sorted(shots, key=lambda shot: shot.pid), lambda: files, folders)


def _visited(spec: WorldSpec, pid: int) -> list[int]:
    drawn = stream(spec, 4, pid).permutation(CAMERAS)[:VISITED] + 1
    return sorted(int(cam) for cam in drawn)


def _counts(spec: WorldSpec, split: str, folder: str, cells: list[tuple[int, int]]) -> list[int]:
    """Images of each (identity, camera); in the full geometry they sum to the real total."""
    if spec.geometry == "small":
        return [spec.images] * len(cells)
    total = TOTALS[split, folder]
    rng = stream(spec, 5, len(cells), total)
    return [int(n) + 1 for n in rng.multinomial(total - len(cells), np.full(len(cells), 1 / len(cells)))]


def _shot(spec: WorldSpec, split: str, folder: str, pid: int, cam: int, k: int) -> Shot:
    place = Place(cam, spec.sensor if folder == "nir" else "visible", cam, cam in INDOOR)
    name = f"{pid:04d}_c{cam:02d}_s{pid * CAMERAS + cam:06d}_f{12 * k:05d}_{folder}.jpg"
    parent = f"{folder}/{pid:04d}" if split == "train" else f"test_{folder}/cam{cam}/{pid:04d}"
    return Shot(f"{parent}/{name}", pid, place, k)
