"""The networks: trunks, heads, and the network of several views made of both."""

from bdf_jax.models.network import Network, feature_size, initial_variables

__all__ = ["Network", "feature_size", "initial_variables"]
