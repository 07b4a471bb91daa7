"""TFDS builder of LLCM."""

from bdf_jax.data.builders.llcm.llcm_dataset_builder import Builder

__all__ = ["Builder"]
