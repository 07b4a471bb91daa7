"""A converted network as a work folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax.numpy as jnp
from jax import tree

from bdf_jax.checkpoints import Checkpoints
from bdf_jax.errors import BdfError
from bdf_jax.published.conversion import Converted
from bdf_jax.training.workdir import claimed


def write_folder(converted: Converted, out: str | Path) -> Path:
    """Writes a work folder with the configuration and one checkpoint, of step 0.

    Raises:
      BdfError: the folder cannot be written, or holds a run.
    """
    with claimed(out, converted.metadata.config) as folder, contextlib.closing(Checkpoints(folder)) as checkpoints:
        if steps := checkpoints.steps():
            raise BdfError(
                f"--out={out}: expected a new folder, found checkpoints of the steps {', '.join(map(str, steps))}; "
                "name another"
            )
        checkpoints.save(0, tree.map(jnp.asarray, converted.variables), converted.metadata)
    return folder
