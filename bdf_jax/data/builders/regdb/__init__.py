"""TFDS builder of RegDB."""

from bdf_jax.data.builders.regdb.regdb_dataset_builder import Builder

__all__ = ["Builder"]
