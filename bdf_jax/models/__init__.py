"""The networks: generators, ResNets, and the four-modality network made of both."""

from bdf_jax.models.network import Network, feature_size, initial_variables, modalities_of

__all__ = ["Network", "feature_size", "initial_variables", "modalities_of"]
