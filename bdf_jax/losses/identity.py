"""Identity losses: who is it?

DID of Liu et al., ICPR 2020, whose name the source never expands, is here the label-smoothed cross-entropy in each
modality (README, Fidelity).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bdf_jax.losses.ranking import Reduce, _checked_edges, _reduce


def did_terms(
    logits_PKMC: jax.Array, labels_P: jax.Array, *, modes: Sequence[int] = (0, 1, 2, 3), label_smoothing: float = 0.1
) -> jax.Array:
    """The label-smoothed cross-entropy of each mode, a mean over its images.

    Args:
      logits_PKMC: (P, K, M, C) float. Computed in float32.
      labels_P: (P,) int, class of each identity.
      modes: positions on the M axis.
      label_smoothing: the share of the target that is spread evenly over all C classes.

    Returns:
      (len(modes),) float32.

    Raises:
      ValueError: a mode outside the M axis, no mode.
    """
    _checked_edges([(m, m) for m in modes], logits_PKMC)
    log_probability_PKMC = jax.nn.log_softmax(logits_PKMC[:, :, jnp.asarray(modes)].astype(jnp.float32))
    target_PC = jax.nn.one_hot(labels_P, logits_PKMC.shape[-1])
    target_PC = (1 - label_smoothing) * target_PC + label_smoothing / logits_PKMC.shape[-1]
    return -jnp.einsum("pkmc,pc->pkm", log_probability_PKMC, target_PC, precision="highest").mean(axis=(0, 1))


def did_loss(
    logits_PKMC: jax.Array,
    labels_P: jax.Array,
    *,
    modes: Sequence[int] = (0, 1, 2, 3),
    label_smoothing: float = 0.1,
    reduce: Reduce = "sum",
) -> jax.Array:
    """DID, identity: one classifier shared by all modalities, label-smoothed cross-entropy in each of them.

    Args:
      logits_PKMC: (P, K, M, C) float.
      labels_P: (P,) int, class of each identity.
      modes: positions on the M axis that take part.
      label_smoothing: in [0, 1].
      reduce: over the modes.

    Returns:
      () float32.

    References:
      Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.
    """
    return _reduce(did_terms(logits_PKMC, labels_P, modes=modes, label_smoothing=label_smoothing), reduce)
