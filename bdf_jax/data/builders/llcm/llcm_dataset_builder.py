"""TFDS builder of LLCM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from bdf_jax.data.builders import records
from bdf_jax.data.levels import AS_STORED, Levels
from bdf_jax.data.trees import LAYOUTS, read_tree


class Builder(tfds.core.ShardBasedBuilder):
    """LLCM: 1,064 people in low light before nine cameras, visible and near-infrared; splits train and test.

    By shard, not `GeneratorBasedBuilder`: that one keeps a whole split in memory to shuffle it, and beyond 1 GB
    sorts it on disk with TensorFlow.

    Attributes:
      progress: whether to show a progress bar.
      levels: what is white in images of more than 8 bits, which are decoded once.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The folder with {LAYOUTS['llcm'].expected}. {LAYOUTS['llcm'].source}"
    code_path = None  # only for files of checksums; to find it TFDS imports a package that it does not declare
    progress: bool = True
    levels: Levels = AS_STORED

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=records.features(),
            citation="Zhang and Wang: Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for "
            "Visible-Infrared Person Re-identification, CVPR 2023",
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping[str, Sequence[Any]]:
        tree = read_tree("llcm", dl_manager.manual_dir, trials=())
        return records.shards(tree, levels=self.levels, progress=self.progress)
