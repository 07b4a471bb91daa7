"""Checkpoints that the authors of methods published, written by PyTorch, as networks of this project."""

from bdf_jax.published.conversion import Converted, convert
from bdf_jax.published.layouts import LAYOUTS, Layout, recognised, whole

__all__ = ["LAYOUTS", "Converted", "Layout", "convert", "recognised", "whole"]
