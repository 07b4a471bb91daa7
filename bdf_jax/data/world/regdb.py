"""The world in the layout of RegDB.

`Visible/{id}/*.bmp`, `Thermal/{id}/*.bmp`, `idx/{train,test}_{visible,thermal}_{1..10}.txt`.
"""

from __future__ import annotations

import numpy as np

from bdf_jax.data.world.camera import Place
from bdf_jax.data.world.person import draw_person
from bdf_jax.data.world.plan import Plan, Shot, WorldSpec, stream

TRIALS = 10
VISIBLE, THERMAL = 1, 2
FOLDERS = ("Visible", "Thermal")


def plan(spec: WorldSpec) -> Plan:
    """Pictures, and ten splits of the same identities into training and test."""
    places = {
        "Visible": Place(VISIBLE, "visible", 1, False),
        "Thermal": Place(THERMAL, spec.sensor, 1, False),
    }
    pids = range(1, spec.train_ids + spec.test_ids + 1)
    shots: dict[tuple[str, int], list[Shot]] = {}
    for pid in pids:
        # One short walk a person, as in the real data set: all pictures show the front or all the back.
        back = bool(stream(spec, 2, pid).uniform() < 0.5)
        who = f"{draw_person(spec.seed, pid, spec.correlation).gender}_{'back' if back else 'front'}"
        for folder, place in places.items():
            names = [
                f"{folder}/{pid}/{who}_{folder[0].lower()}_{(pid - 1) * spec.images + k:05d}_{pid}.bmp"
                for k in range(1, spec.images + 1)
            ]
            heading = float(np.pi) if back else 0.0
            shots[folder, pid] = [Shot(name, pid, place, k, heading) for k, name in enumerate(names, 1)]
    return Plan([shot for pid in pids for folder in places for shot in shots[folder, pid]], lambda: _files(spec, shots))


def _files(spec: WorldSpec, shots: dict[tuple[str, int], list[Shot]]) -> dict[str, bytes]:
    pids = np.arange(1, spec.train_ids + spec.test_ids + 1)
    files: dict[str, bytes] = {}
    for trial in range(1, TRIALS + 1):
        order = [int(pid) for pid in stream(spec, 3, trial).permutation(pids)]
        for split, chosen in (("train", order[: spec.train_ids]), ("test", order[spec.train_ids :])):
            for folder in FOLDERS:
                lines = [f"{shot.path} {label}\n" for label, pid in enumerate(chosen) for shot in shots[folder, pid]]
                files[f"idx/{split}_{folder.lower()}_{trial}.txt"] = "".join(lines).encode()
    return files
