"""The networks: generators, ResNets, and the four-modality network made of both."""

from bdf_jax.models.network import Network, feature_size, init

__all__ = ["Network", "feature_size", "init"]
