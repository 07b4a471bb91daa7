"""A fault of XLA for CPU that makes sums wrong, and the flag that avoids it.

From jaxlib 0.10.2 on, a sum over a product with a constant right factor, as the gradient of a critic's mean loss has
it, is fused into one call of YNNPACK that reads memory nobody wrote: under jit, `(A @ jnp.full((3, 8), s)).sum()` is
wrong, and differs from call to call. XLA reads its flags once, when the backend starts.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
import warnings
from collections.abc import MutableMapping

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
AVOID = f"{FLAG}=-reduce"
FIRST, BEYOND = (0, 10, 2), (0, 13)  # seen wrong in 0.10.2 to 0.12.0.1; an unknown flag would end the process


def avoid_wrong_sums(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Adds the flag to XLA_FLAGS where this jaxlib needs it and the user has not set it; call it before JAX computes.

    Returns:
      Whether sums are known to be right from here on; else `check_sums` finds out.
    """
    version = _version()
    if version < FIRST:
        return True
    flags = environ.get("XLA_FLAGS", "")
    in_a_file = flags.strip() and not flags.strip().startswith("-")
    if version >= BEYOND or in_a_file or (FLAG in flags and AVOID not in flags):
        return False
    if AVOID not in flags:
        environ["XLA_FLAGS"] = f"{flags} {AVOID}".strip()
    return "jax" not in sys.modules  # else its backend may have started


@functools.cache
def check_sums() -> None:
    """Computes such a sum, once in a process, and warns where it is wrong: the backend had started, or other flags."""
    if _known_right:
        return
    import jax
    import jax.numpy as jnp
    import numpy as np

    if jax.default_backend() != "cpu":
        return
    A = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    right = (A.astype(np.float64).sum(-1) * 0.3 * 8).sum()
    found = float(jax.jit(lambda A, s: (A @ jnp.full((3, 8), s)).sum())(A, 0.3))
    if not abs(found - right) < 1e-3 * abs(right):
        warnings.warn(
            f"XLA for CPU in jaxlib {importlib.metadata.version('jaxlib')} computes some sums wrongly ({found:.4g} "
            f"instead of {right:.4g}); start Python with XLA_FLAGS={AVOID}, or import bdf_jax before JAX computes",
            RuntimeWarning,
            stacklevel=2,
        )


def _version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:3])
    except importlib.metadata.PackageNotFoundError:  # what needs JAX will say so
        return ()


_known_right = avoid_wrong_sums()
