"""Tiny published trees of noise, written by hand: two or three images of an identity in a camera."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SYSU_IDS = {"train": [1, 2, 5, 7, 9], "val": [3, 11], "test": [4, 6, 20]}
SYSU_ABSENT = {(2, 1), (5, 4), (20, 3)}  # (identity, camera) without a folder, as in the real tree


def write_image(path: Path, *, grey: bool = False, size: tuple[int, int] = (24, 12)) -> None:
    """Noise that depends on the path's last three parts alone."""
    seed = [ord(c) for c in "/".join(path.parts[-3:])]
    shape = size if grey else (*size, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_ids(path: Path, ids: Iterable[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(",".join(map(str, ids)) + "\n")


def write_sysu(root: Path, ids: dict[str, list[int]] = SYSU_IDS, images: int = 3) -> Path:
    for cam in range(1, 7):
        for pid in (pid for members in ids.values() for pid in members):
            if (pid, cam) not in SYSU_ABSENT:
                for k in range(1, images + 1):
                    write_image(root / f"cam{cam}" / f"{pid:04d}" / f"{k:04d}.jpg")
    for split, members in ids.items():
        write_ids(root / "exp" / f"{split}_id.txt", members)
    return root


def write_regdb(root: Path, identities: int = 8, images: int = 2, trials: int = 2) -> Path:
    for pid in range(1, identities + 1):
        for k in range(images):
            write_image(root / "Visible" / str(pid) / f"male_front_v_{k:05d}_{pid}.bmp")
            write_image(root / "Thermal" / str(pid) / f"male_front_t_{k:05d}_{pid}.bmp", grey=True)
    (root / "idx").mkdir()
    for trial in range(1, trials + 1):
        order = np.random.default_rng(trial).permutation(np.arange(1, identities + 1))
        for role, pids in (("train", order[: identities // 2]), ("test", order[identities // 2 :])):
            for part, folder, letter in (("visible", "Visible", "v"), ("thermal", "Thermal", "t")):
                (root / "idx" / f"{role}_{part}_{trial}.txt").write_text(
                    "".join(
                        f"{folder}/{pid}/male_front_{letter}_{k:05d}_{pid}.bmp {label}\n"
                        for label, pid in enumerate(pids)
                        for k in range(images)
                    )
                )
    return root


def rename_in_gbk(root: Path) -> str:
    """Calls a RegDB tree's images as an archive from a Chinese Windows does, in the lists too; one of the names."""
    old, new = "male", os.fsdecode("男人".encode("gbk"))
    for path in sorted(root.rglob("*.bmp")):
        path.rename(path.with_name(path.name.replace(old, new)))
    for path in (root / "idx").glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(old.encode(), os.fsencode(new)))
    return f"Visible/1/{new}_front_v_00000_1.bmp"


def write_llcm(root: Path, train: tuple[int, ...] = (1, 4, 6), test: tuple[int, ...] = (2, 3)) -> Path:
    for folder in ("vis", "nir"):
        lines = []
        for label, pid in enumerate(train):
            for k in range(2):
                name = f"{folder}/{pid:04d}/{pid:04d}_c{k + 1:02d}_{folder}.jpg"
                write_image(root / name)
                lines.append(f"{name} {label}\n")
        (root / "idx").mkdir(exist_ok=True)
        (root / "idx" / f"train_{folder}.txt").write_text("".join(lines))
        for cam in range(1, 10):
            if (folder, cam) == ("nir", 3):
                continue
            for pid in test:
                write_image(root / f"test_{folder}" / f"cam{cam}" / f"{pid:04d}" / f"{pid:04d}_c{cam:02d}.jpg")
    write_ids(root / "idx" / "test_id.txt", test)
    return root
