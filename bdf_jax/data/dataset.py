"""A data set as training and evaluation see it: splits of an index, and the encoded image of every row."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from bdf_jax.config import DataConfig, WorldConfig
from bdf_jax.data.decoded import DecodedImages, open_decoded, pixels
from bdf_jax.data.index import ImageIndex
from bdf_jax.data.levels import Levels
from bdf_jax.data.prepare import disk_errors, locked, prepare
from bdf_jax.data.records import Records
from bdf_jax.data.trees.tree import Tree, merge
from bdf_jax.datasets import find, read_tree
from bdf_jax.errors import BdfError
from bdf_jax.names import as_bytes
from bdf_jax.paths import check_data_places, local_path


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images of one split; pickles small and opens its records again in the process that reads.

    Attributes:
      index: one row an image, sorted by name.
      records: of the whole data set.
      positions: (N,) where the image of each row lies in the records.
      decoded: pixels of the records at one size, where they are kept on the disk.
    """

    index: ImageIndex
    records: Records
    positions: np.ndarray
    decoded: DecodedImages | None = None

    def __len__(self) -> int:
        return len(self.index)

    def encoded(self, row: int) -> bytes:
        """The original image file of a row, byte for byte.

        Raises:
          BdfError: the records were damaged after preparation; names the image.
        """
        return self.records.encoded(int(self.positions[row]))

    def pixels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """The image of a row as a network sees it: (height, width, 3) uint8; errors as of `encoded`."""
        return pixels(self.records, int(self.positions[row]), self.encoded(row), size)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready to be read.

    Attributes:
      name: "sysu_mm01", "regdb" or "llcm".
      root: absolute path of the published tree.
      trial: which of RegDB's ten divisions; None elsewhere.
      train: what is trained on.
      val: the official validation identities where they are kept apart (SYSU-MM01, train_split "train").
      test: queries and galleries.
      fingerprint: hex digest of names, identities, cameras and modalities of the three splits. Equal wherever the same
        images are divided in the same way, whatever the folder; a checkpoint keeps it.
    """

    name: str
    root: str
    trial: int | None
    train: Split
    val: Split | None
    test: Split
    fingerprint: str


def open_dataset(config: DataConfig, *, progress: bool = True) -> Dataset:
    """Opens `config.root`, or the synthetic world where that is empty, and prepares its records where they are missing.

    With `config.decoded_cache` its images at `config.image_size` are decoded where that has not been done either.

    Raises:
      BdfError: no root and no world, a tree that is not whole, an image that cannot be decoded, a full disk.
    """
    check_data_places(config)
    root = config.root or str(_world(config, progress))
    trial = config.trial if find(config.dataset).rules.one_split_per_trial else None
    tree = read_tree(config.dataset, root, trials=None if trial is None else (trial,))
    indices = _splits(tree, trial, config.train_split)
    levels = Levels.of(config.white, config.black, "data.")
    records = Records(prepare(tree, config.dir, levels=levels, progress=progress), tree.root, levels)
    decoded = None
    if config.decoded_cache:
        decoded = open_decoded(records, config.image_size, config.dir, tree.dataset, progress=progress)
    splits = {name: Split(index, records, records.positions(index.names), decoded) for name, index in indices.items()}
    records.tell_narrow()
    return Dataset(
        name=tree.dataset,
        root=tree.root,
        trial=trial,
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        fingerprint=_fingerprint(indices),
    )


def _splits(tree: Tree, trial: int | None, train_split: str) -> dict[str, ImageIndex]:
    if trial is not None:
        return {role: tree.splits[f"{role}/{trial}"] for role in ("train", "test")}
    if "val" in tree.splits and train_split == "trainval":
        return {"train": merge(tree.splits["train"], tree.splits["val"]), "test": tree.splits["test"]}
    return dict(tree.splits)


def _fingerprint(indices: dict[str, ImageIndex]) -> str:
    digest = hashlib.sha256()
    for role in ("train", "val", "test"):
        digest.update(role.encode())
        index = indices.get(role)
        if index is not None:
            rows = zip(index.names, index.pids, index.cams, index.modalities, strict=True)
            digest.update(as_bytes("".join(f"\n{name}\t{pid}\t{cam}\t{mod}" for name, pid, cam, mod in rows)))
    return digest.hexdigest()


def _world(config: DataConfig, progress: bool) -> Path:
    world = config.world
    if not world.train_ids:
        layout = find(config.dataset).layout
        raise BdfError(
            f"data.root is empty: name the folder of the published {layout.title} tree ({layout.expected}) with "
            f"--config.data.root=DIR. {layout.source} Or use the synthetic world: --config=configs/demo.py, or "
            "--config.data.world.train_ids=N --config.data.world.test_ids=M."
        )
    from bdf_jax.data.world import write_world

    folder = local_path(config.dir, "data.dir").absolute() / "world"
    name = _world_name(config.dataset, world)
    with disk_errors(folder), locked(folder / f".{name}.lock", progress=progress):
        return write_world(
            folder / name,
            layout=config.dataset,
            train_ids=world.train_ids,
            test_ids=world.test_ids,
            seed=world.seed,
            images=world.images,
            size=world.size,
            correlation=world.correlation,
            progress=progress,
        )


def _world_name(layout: str, world: WorldConfig) -> str:
    """Readable and different for every world."""
    height, width = world.size
    return (
        f"{layout}-{world.train_ids}+{world.test_ids}ids-{world.images}images-{height}x{width}"
        f"-correlation{world.correlation}-seed{world.seed}"
    )
