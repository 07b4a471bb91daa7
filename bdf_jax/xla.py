"""A fault of XLA for CPU that makes sums wrong, and the flag that avoids it.

From jaxlib 0.10.2 on, a sum over a product with a constant right factor, as the gradient of a critic's mean loss has
it, is fused into one call of YNNPACK that reads memory nobody wrote: under jit, `(A @ jnp.full((3, 8), s)).sum()` is
wrong, and differs from call to call. XLA reads its flags once, when the backend starts.

The flag is not free: without YNNPACK long sums are added up one after another, and their rounding shows. So it is set
where it is needed: for methods with critics, for those with parts of a user's own, and by `bdf_jax.load`, as nobody
knows what a notebook computes. A test compares every method of the package with what is not compiled.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import warnings
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from bdf_jax.parts import KIND, leaves

if TYPE_CHECKING:
    from bdf_jax.config import Config

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
AVOID = f"{FLAG}=-reduce"
FIRST, BEYOND = (0, 10, 2), (0, 13)  # seen wrong in 0.10.2 to 0.12.0.1; an unknown flag would end the process


def avoid_wrong_sums(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Adds the flag to XLA_FLAGS where this jaxlib needs it and the user has not set it; call it before JAX computes.

    Returns:
      Whether the flag is there now. It is of no use where JAX's backend has started: `check_sums` finds out.
    """
    version = _version()
    if version < FIRST:
        return False
    flags = environ.get("XLA_FLAGS", "")
    in_a_file = flags.strip() and not flags.strip().startswith("-")
    if version >= BEYOND or in_a_file or (FLAG in flags and AVOID not in flags):
        return False
    if AVOID not in flags:
        environ["XLA_FLAGS"] = f"{flags} {AVOID}".strip()
    return True


def at_risk(config: Config) -> bool:
    """Whether a method's gradients may hold such a sum: a critic's do, and nobody knows those of a user's own parts."""
    kinds = (value for name, value in leaves(config).items() if name.endswith(f".{KIND}"))
    return bool(config.network.critics) or any(":" in kind for kind in kinds)


@functools.cache
def check_sums() -> None:
    """Computes such a sum, once in a process, and warns where it is wrong: the backend had started, or other flags."""
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
            f"instead of {right:.4g}), and this method's gradients may hold one; start Python with XLA_FLAGS={AVOID}",
            RuntimeWarning,
            stacklevel=2,
        )


def _version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:3])
    except importlib.metadata.PackageNotFoundError:  # what needs JAX will say so
        return ()
