"""The train step: one pure function from a state and a batch to the next state and its metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bdf_jax import losses
from bdf_jax.augment import augment, step_key
from bdf_jax.config import Config
from bdf_jax.losses import MODALITIES
from bdf_jax.models import Network, modalities_of
from bdf_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Tree = dict[str, Any]


def train_step(
    state: TrainState,
    images_NBHWC: jax.Array,
    labels_N: jax.Array,
    *,
    network: Network,
    optimiser: optax.GradientTransformation,
    config: Config,
    gather: Callable[[jax.Array], jax.Array],
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """augment -> derive -> one forward of four modalities -> edges -> gradients -> next state.

    Identity and shot are merged into N = P K pairs, the axis that is shared out over devices. Mining is that of the
    global batch: only features are gathered, never images. So are batch statistics, unless `training.slices` > 1: then
    they are those of a slice, and the running ones move by the mean over slices.

    Args:
      state: before the step.
      images_NBHWC: (N, 2, H, W, 3) uint8, visible and infrared image of each pair, identity-major; under pmap
        this device's share.
      labels_N: (N,) int32, class of each pair.
      network: whose `axis_name` is the one below.
      optimiser: see `make_optimiser`.
      config: the whole configuration.
      gather: makes an array whose first axis is shared out whole on every device, and passes gradients back.
      axis_name: of the devices under pmap; None under jit, where arrays are global already.

    Returns:
      The state after the step and a dictionary of () float32 metrics: `loss`, its parts, every term of them,
      the accuracy of each modality, each generator's active fraction and the deviation of its output relative to
      that of its base, the norm of the gradient.
    """
    first_pair = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(labels_N)
    mean = (lambda tree: tree) if axis_name is None else (lambda tree: jax.lax.pmean(tree, axis_name))
    key = step_key(config.training.seed, state.step)
    images_NBHWC = augment(images_NBHWC, key, config.augment, first_pair=first_pair)

    def loss(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        forward = functools.partial(_forward, network, variables)
        outputs, averages = _in_slices(forward, images_NBHWC, config.training.slices)
        # Weights are constants of the compiled step, so a term that is switched off costs nothing and cannot be NaN.
        total, metrics = _losses(outputs, labels_N, config, gather)
        metrics |= _observations(outputs, averages["active"], labels_N, modalities_of(config.model), gather)
        return total, (averages["batch_stats"], metrics)

    gradients, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(state.params)
    gradients, metrics = mean(gradients), mean(metrics)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def _forward(network: Network, variables: Any, images_NBHWC: jax.Array) -> tuple[Tree, Tree]:
    """What the losses and the observers need: arrays with one row a pair, and averages over the batch."""
    outputs, updates = network.apply(variables, images_NBHWC, train=True, mutable=["batch_stats"])
    pixels = {MODALITIES[base]: images_NBHWC[:, base] for base in outputs["derivatives"]}
    pixels |= {MODALITIES[2 + base]: derivative for base, derivative in outputs["derivatives"].items()}
    moments = {name: jnp.stack([x.mean((1, 2, 3)), jnp.square(x).mean((1, 2, 3))], 1) for name, x in pixels.items()}
    rows = {"features": outputs["features"], "logits": outputs["logits"], "moments": moments}
    return rows, {"batch_stats": updates["batch_stats"], "active": outputs["active"]}


def _in_slices(
    forward: Callable[[jax.Array], tuple[Tree, Tree]], images_NBHWC: jax.Array, slices: int
) -> tuple[Tree, Tree]:
    """`forward` of the whole batch while the activations of one slice at a time are in memory.

    First all features, slice after slice, keeping nothing else; the losses see the whole batch, so mining is exact.
    The gradient then passes slice after slice again, each computed a second time: the transpose of a scan over a
    checkpointed function is just that.

    References:
      Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021.
    """
    if slices == 1:
        return forward(images_NBHWC)
    N = len(images_NBHWC)
    # Every slices-th pair, so that each slice lies on all devices, holds all identities (where K is a multiple), and
    # is the same one on any number of devices.
    images_SNBHWC = images_NBHWC.reshape(N // slices, slices, *images_NBHWC.shape[1:]).swapaxes(0, 1)
    rows, averages = jax.lax.map(jax.checkpoint(forward, prevent_cse=False), images_SNBHWC)
    merged = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(N, *x.shape[2:]), rows)
    return merged, jax.tree.map(lambda x: x.mean(0), averages)


def _losses(
    outputs: Tree, labels_N: jax.Array, config: Config, gather: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, Metrics]:
    """The total loss and every part and term of it by name."""
    settings, modalities = config.loss, modalities_of(config.model)
    names = [MODALITIES[m] for m in modalities]
    features_NMD = gather(outputs["features"])
    features_PKMD = features_NMD.reshape(config.data.identities, config.data.images, *features_NMD.shape[1:])

    # Cross-entropy looks at one image at a time, so each device keeps its own logits: every pair is its own "identity".
    did = losses.did_terms(
        outputs["logits"][:, None], labels_N, modes=range(len(modalities)), label_smoothing=settings.label_smoothing
    )
    mml_edges = [(i, i) for i, m in enumerate(modalities) if settings.mml_modes == "all" or m < 2]
    # A pair set is restricted to the modalities that exist: `bridge` with D_v alone is V-I and D_v-I.
    mdl_edges = [
        (modalities.index(m), modalities.index(n))
        for m, n in losses.mdl_edges(settings.mdl_pairs)
        if m in modalities and n in modalities
    ]
    mml = losses.ranking_terms(features_PKMD, mml_edges, level="sample", margin=settings.mml_margin)
    mdl = losses.ranking_terms(features_PKMD, mdl_edges, level=settings.mdl_level, margin=settings.mdl_margin)

    reduce = jnp.sum if settings.reduce == "sum" else jnp.mean
    parts = {"did": reduce(did), "mml": reduce(mml), "mdl": reduce(mdl)}
    weights = {"did": settings.did_weight, "mml": settings.mml_weight, "mdl": settings.mdl_weight}
    total = jnp.zeros(())
    for part, weight in weights.items():
        if weight:
            total += weight * parts[part]
    terms = {f"did/{name}": term for name, term in zip(names, did, strict=True)}
    terms |= {f"mml/{names[m]}": term for (m, _), term in zip(mml_edges, mml, strict=True)}
    terms |= {f"mdl/{names[m]}>{names[n]}": term for (m, n), term in zip(mdl_edges, mdl, strict=True)}
    return total, {"loss": total} | parts | terms


def _observations(
    outputs: Tree,
    active: dict[int, jax.Array],
    labels_N: jax.Array,
    modalities: tuple[int, ...],
    gather: Callable[[jax.Array], jax.Array],
) -> Metrics:
    """What is watched but not optimised: accuracies, and whether a generator still says anything."""
    correct_NM = outputs["logits"].argmax(-1) == labels_N[:, None]
    observed = {f"accuracy/{MODALITIES[m]}": correct_NM[:, i].mean() for i, m in enumerate(modalities)}
    spread = {name: _deviation(gather(moments)) for name, moments in outputs["moments"].items()}
    for base, fraction in active.items():
        name = MODALITIES[2 + base]
        observed[f"active/{name}"] = fraction
        # A healthy active fraction does not show a collapse to one tone; the spread of the pixels does.
        observed[f"deviation/{name}"] = spread[name] / spread[MODALITIES[base]]
    return {name: value.astype(jnp.float32) for name, value in observed.items()}


def _deviation(moments_N2: jax.Array) -> jax.Array:
    """Standard deviation of all pixels of the batch from each image's mean and mean square; never 0."""
    mean, square = moments_N2.mean(0)
    return jnp.sqrt(jnp.maximum(square - jnp.square(mean), 1e-12))
