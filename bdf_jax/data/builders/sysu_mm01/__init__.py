"""TFDS builder of SYSU-MM01."""

from bdf_jax.data.builders.sysu_mm01.sysu_mm01_dataset_builder import Builder

__all__ = ["Builder"]
