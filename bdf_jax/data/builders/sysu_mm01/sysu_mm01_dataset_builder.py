"""TFDS builder of SYSU-MM01."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from bdf_jax.data.builders import records
from bdf_jax.data.levels import AS_STORED, Levels
from bdf_jax.data.trees import LAYOUTS, read_tree


class Builder(tfds.core.ShardBasedBuilder):
    """SYSU-MM01: 491 people before four visible and two infrared cameras; splits train, val and test by identity.

    By shard, not `GeneratorBasedBuilder`: that one keeps a whole split in memory to shuffle it, and beyond 1 GB
    sorts it on disk with TensorFlow.

    Attributes:
      progress: whether to show a progress bar.
      levels: what is white in images of more than 8 bits, which are decoded once.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The folder with {LAYOUTS['sysu_mm01'].expected}. {LAYOUTS['sysu_mm01'].source}"
    code_path = None  # only for files of checksums; to find it TFDS imports a package that it does not declare
    progress: bool = True
    levels: Levels = AS_STORED

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=records.features(),
            citation="Wu, Zheng, Yu, Gong and Lai: RGB-Infrared Cross-Modality Person Re-Identification, ICCV 2017",
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping[str, Sequence[Any]]:
        tree = read_tree("sysu_mm01", dl_manager.manual_dir, trials=())
        return records.shards(tree, levels=self.levels, progress=self.progress)
