"""The definitions of the metrics and protocols in plain loops, against which the fast code is held."""

from __future__ import annotations

import random

import numpy as np

from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex


def query_metrics(scores, matches, pids, own_pid):
    """AP, INP and both ranks of one query; the arguments are in gallery order, ignored images removed; or None."""
    order = sorted(range(len(scores)), key=lambda g: (-scores[g], g))  # descending, ties in gallery order
    hits, precisions, last, first, raw, seen = 0, [], 0, None, 0, set()
    for position, g in enumerate(order, start=1):
        if matches[g]:
            hits += 1
            precisions.append(hits / position)
            last = position
            if first is None:
                first = position
        elif first is None:
            raw += 1
            seen.add(pids[g])
    if not hits:
        return None
    return {"ap": sum(precisions) / hits, "inp": hits / last, "raw": raw, "unique": len(seen - {own_pid})}


def metrics(scores_QG, query, gallery, ignores, cmc):
    """R1, R5, R10, R20, mAP, mINP of one trial, in percent; query and gallery are lists of (pid, cam)."""
    measured = []
    for q, (pid, cam) in enumerate(query):
        left = [
            g for g, (gallery_pid, gallery_cam) in enumerate(gallery) if not ignores(pid, cam, gallery_pid, gallery_cam)
        ]
        pids = [gallery[g][0] for g in left]
        one = query_metrics([scores_QG[q][g] for g in left], [p == pid for p in pids], pids, pid)
        if one is not None:
            measured.append(one)
    rows = [[one[cmc] < r for r in (1, 5, 10, 20)] + [one["ap"], one["inp"]] for one in measured]
    return 100 * np.mean(rows, axis=0), len(measured)


def sysu_ignores(pid, cam, gallery_pid, gallery_cam):
    return cam == 3 and gallery_cam == 2


def llcm_ignores(pid, cam, gallery_pid, gallery_cam):
    return pid == gallery_pid and cam == gallery_cam


def nothing_ignored(pid, cam, gallery_pid, gallery_cam):
    return False


def agw_gallery(index: ImageIndex, cams, shots, trial, modality=VISIBLE):
    """Rows of the gallery that the common PyTorch code draws."""
    random.seed(trial)
    rows = []
    for pid in sorted(set(index.pids[index.modalities == modality].tolist())):
        for cam in cams:
            files = sorted(
                str(name)
                for name, p, c, m in zip(index.names, index.pids, index.cams, index.modalities, strict=True)
                if p == pid and c == cam and m == modality
            )
            if files:
                picked = [random.choice(files)] if shots == 1 else random.sample(files, min(shots, len(files)))
                rows += [index.names.tolist().index(name) for name in picked]
    return rows


def official_gallery(index: ImageIndex, permutations, cams, shots, trial):
    """Rows that `permutations[cam, pid][trial]` names, camera by camera."""
    rows = []
    names = index.names.tolist()
    for cam in cams:
        for pid in sorted(set(index.pids[index.cams == cam].tolist())):
            rows += [names.index(f"cam{cam}/{pid:04d}/{k:04d}.jpg") for k in permutations[cam, pid][trial][:shots]]
    return rows


def labels(index: ImageIndex, rows):
    return [(int(index.pids[r]), int(index.cams[r])) for r in rows]


def small_sysu(seed: int, ids: int = 6, absent: float = 0.2) -> ImageIndex:
    """A tree in the layout of SYSU-MM01; some identities are missing from some cameras."""
    rng = np.random.default_rng(seed)
    rows = []
    for pid in range(1, ids + 1):
        for cam in range(1, 7):
            if rng.random() >= absent:
                rows += [(f"cam{cam}/{pid:04d}/{k:04d}.jpg", pid, cam) for k in range(1, rng.integers(2, 13) + 1)]
    return sysu_index(rows)


def sysu_index(rows) -> ImageIndex:
    names, pids, cams = zip(*rows, strict=True)
    cams = np.asarray(cams, np.int32)
    modalities = np.where(np.isin(cams, (3, 6)), INFRARED, VISIBLE).astype(np.int8)
    return ImageIndex(np.asarray(names), np.asarray(pids, np.int32), cams, modalities)


def small_llcm(seed: int, ids: int = 8) -> ImageIndex:
    rng = np.random.default_rng(seed)
    rows = []
    for pid in range(1, ids + 1):
        for folder, modality in (("vis", VISIBLE), ("nir", INFRARED)):
            for cam in rng.choice(np.arange(1, 10), size=rng.integers(1, 5), replace=False).tolist():
                if (folder, cam) == ("nir", 3):
                    continue  # empty as published
                for k in range(rng.integers(1, 5)):
                    rows.append((f"test_{folder}/cam{cam}/{pid:04d}/{pid:04d}_{k}.jpg", pid, cam, modality))
    names, pids, cams, modalities = (np.asarray(column) for column in zip(*rows, strict=True))
    return ImageIndex(names, pids.astype(np.int32), cams.astype(np.int32), modalities.astype(np.int8))


def small_regdb(ids: int = 7, images: int = 4) -> ImageIndex:
    rows = [
        (f"{folder}/{pid}/{k}_{pid}.bmp", pid, cam, modality)
        for folder, cam, modality in (("Visible", 1, VISIBLE), ("Thermal", 2, INFRARED))
        for pid in range(1, ids + 1)
        for k in range(images)
    ]
    names, pids, cams, modalities = (np.asarray(column) for column in zip(*rows, strict=True))
    return ImageIndex(names, pids.astype(np.int32), cams.astype(np.int32), modalities.astype(np.int8))


def coarse_features(index: ImageIndex, seed: int, dimensions: int = 12) -> np.ndarray:
    """Small integers around an identity's centre: dot products are exact in float32 and tie often."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-1, 2, size=(index.pids.max() + 1, dimensions))
    return (centres[index.pids] + rng.integers(-2, 3, size=(len(index), dimensions))).astype(np.float32)
