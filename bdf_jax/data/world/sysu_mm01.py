"""The world in the layout of SYSU-MM01.

`cam{1..6}/{id:04d}/{k:04d}.jpg`, `exp/{train,val,test,available}_id.{txt,mat}`, `exp/rand_perm_cam.mat`.
"""

from __future__ import annotations

import io

import numpy as np
import scipy.io

from bdf_jax.data.world.camera import Place
from bdf_jax.data.world.plan import Plan, Shot, WorldSpec, identity_numbers, stream
from bdf_jax.datasets.sysu_mm01 import published_geometry

TRIALS = 10
# Rooms: cameras 2 and 3 share one.
SCENES = {1: (1, True), 2: (2, True), 3: (2, True), 4: (3, False), 5: (4, False), 6: (5, False)}
INFRARED = (3, 6)
# Cameras that the n-th identity of a split appears in, repeated; never without both modalities.
PRESENCE = ("123456", "123456", "23456", "456", "123456", "12345", "12456", "123456", "13456", "123456", "1246", "3456")


def places(spec: WorldSpec) -> dict[int, Place]:
    """The six cameras by number."""
    return {
        number: Place(number, spec.sensor if number in INFRARED else "visible", scene, indoor)
        for number, (scene, indoor) in SCENES.items()
    }


def plan(spec: WorldSpec) -> Plan:
    """Pictures and `exp/` files."""
    splits, counts = published_geometry() if spec.geometry == "full" else _small(spec)
    shots = [
        Shot(f"cam{number}/{pid:04d}/{k:04d}.jpg", pid, place, k)
        for pid in sorted(counts)
        for number, place in places(spec).items()
        for k in range(1, counts[pid][number - 1] + 1)
    ]
    return Plan(shots, lambda: _files(spec, splits, counts))


def _files(spec: WorldSpec, splits: dict[str, list[int]], counts: dict[int, list[int]]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, pids in {**splits, "available": sorted(counts)}.items():
        files[f"exp/{name}_id.txt"] = (",".join(str(pid) for pid in pids) + "\n").encode()
        files[f"exp/{name}_id.mat"] = _mat({"id": np.array([pids], np.uint16)})
    files["exp/rand_perm_cam.mat"] = _mat({"rand_perm_cam": _permutations(spec, counts)})
    return files


def _small(spec: WorldSpec) -> tuple[dict[str, list[int]], dict[int, list[int]]]:
    train, test = identity_numbers(spec)
    first_val = len(train) - spec.val_ids
    counts = {
        pid: [spec.images if str(number) in PRESENCE[i % len(PRESENCE)] else 0 for number in SCENES]
        for pids in (train, test)
        for i, pid in enumerate(pids)
    }
    return {"train": train[:first_val], "val": train[first_val:], "test": test}, counts


def _permutations(spec: WorldSpec, counts: dict[int, list[int]]) -> np.ndarray:
    """Object array (6, 1); entry [c, 0] is (ids, 1) of uint8 (10, n), row id - 1; n = 0 where the id is absent."""
    outer = np.empty((len(SCENES), 1), object)
    for camera in range(len(SCENES)):
        inner = np.empty((max(counts), 1), object)
        for pid in range(1, len(inner) + 1):
            number = counts[pid][camera] if pid in counts else 0
            rng = stream(spec, 1, camera, pid)
            rows = [rng.permutation(number) + 1 for _ in range(TRIALS)]
            inner[pid - 1, 0] = np.array(rows, np.uint8).reshape(TRIALS, number)
        outer[camera, 0] = inner
    return outer


def _mat(values: dict[str, np.ndarray]) -> bytes:
    """A MATLAB 5 file without the date of writing, so that the same world has the same bytes."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, values)
    content = buffer.getvalue()
    return b"MATLAB 5.0 MAT-file, synthetic visible-infrared world".ljust(116) + content[116:]
