"""Fitting a method's metric on the features of the training images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bdf_jax import distributed
from bdf_jax.config import Config, RetrieveConfig
from bdf_jax.data.dataset import Split
from bdf_jax.evaluation.features import embed_split
from bdf_jax.models import Network


def fitted(config: Config, variables: Mapping[str, Any], num_classes: int, train: Split) -> Mapping[str, np.ndarray]:
    """The arrays of `batch_stats["metric"]` for the network as it is now, the same in every process.

    Args:
      config: whose `network.metric` is fitted.
      variables: `params` and `batch_stats` on this process's devices.
      num_classes: of the training split.
      train: whose images are embedded, without augmentation.

    Raises:
      BdfError: there are too few images for it.
    """
    metric = config.network.metric
    assert metric is not None
    settings = RetrieveConfig(feature=metric.of, similarity="euclidean")
    features_ND = embed_split(
        Network.of(config, num_classes), variables, train, image_size=config.data.image_size,
        settings=settings, batch_size=config.evaluation.batch_size, description="fitting the metric",
    )  # fmt: skip
    index = train.index
    # Each process solves the same problem; machines of another kind may differ in the last bit.
    return distributed.from_first(metric.fit(features_ND, index.pids, index.modalities))
