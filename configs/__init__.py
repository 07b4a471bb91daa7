"""Experiments, one file each; `python train.py --config=configs/NAME.py`."""

import importlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from bdf_jax.config import editable, vary


def variation(base: str, changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The experiment `configs/{base}.py` with a few fields changed."""
    return editable(vary(importlib.import_module(f"configs.{base}").CONFIG, changes))
