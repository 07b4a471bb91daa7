"""Checkpoints: the only package that knows Orbax.

A checkpoint is self-contained: the state of training, and beside it what is needed to use it elsewhere, the
configuration, the fingerprint of the split it was trained on, and the number of classes.
"""

from bdf_jax.checkpoints.arrays import rescue
from bdf_jax.checkpoints.files import Metadata, newest_metadata
from bdf_jax.checkpoints.loading import load_metadata, load_state, load_variables
from bdf_jax.checkpoints.saving import Checkpoints

__all__ = ["Checkpoints", "Metadata", "load_metadata", "load_state", "load_variables", "newest_metadata", "rescue"]
