"""The train step: one pure function from a state and a batch to the next state and its metrics. It knows no method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bdf_jax.augment import augmented_views, step_key
from bdf_jax.config import Config
from bdf_jax.losses.terms import Scope, wanted_by
from bdf_jax.models.codes import NOISE
from bdf_jax.models.network import Network, criticise
from bdf_jax.training.stages import Phase, divided
from bdf_jax.training.state import TrainState
from bdf_jax.views import BASES, base_of

Metrics = dict[str, jax.Array]
Tree = dict[str, Any]


def train_step(
    state: TrainState,
    images_NBHWC: jax.Array,
    labels_N: jax.Array,
    *,
    network: Network,
    optimisers: Mapping[str, optax.GradientTransformation],
    config: Config,
    phase: Phase,
    gather: Callable[[jax.Array], jax.Array],
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """augment -> views -> one forward pass -> terms -> gradients by group -> next state.

    Identity and shot are merged into N = P K pairs, the axis that is shared out over devices. Mining is that of the
    global batch: only features are gathered, never images. So are batch statistics, unless `training.slices` > 1: then
    they are those of a slice, and the running ones move by the mean over slices.

    Args:
      state: before the step.
      images_NBHWC: (N, 2, H, W, 3) uint8, visible and infrared image of each pair, identity-major; under pmap
        this device's share.
      labels_N: (N,) int32, class of each pair.
      network: whose `axis_name` is the one below.
      optimisers: of each group, see `make_optimisers`.
      config: the whole configuration.
      phase: which losses are computed, and which group learns from which.
      gather: makes an array whose first axis is shared out whole on every device, and passes gradients back.
      axis_name: of the devices under pmap; None under jit, where arrays are global already.

    Returns:
      The state after the step and a dictionary of () float32 metrics: `loss`, each loss by its name and every term of
      it, the accuracy of each view, the active fraction of each learned view and the deviation of its pixels relative
      to that of its base's, the norm of the gradient.
    """
    first_pair = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(labels_N)
    mean = (lambda tree: tree) if axis_name is None else (lambda tree: jax.lax.pmean(tree, axis_name))
    key = step_key(config.training.seed, state.step)
    images = augmented_views(images_NBHWC, key, config, first_pair=first_pair)
    if any(code.noisy for code in config.network.codes.values()):
        drawn = jax.random.fold_in(key, 2**31)  # the numbers behind it are those of views that are drawn
        keys_N = jax.vmap(lambda index: jax.random.fold_in(drawn, index))(first_pair + jnp.arange(len(labels_N)))
        images |= {NOISE: jax.random.key_data(keys_N)}
    trained = {name for _, names in phase.pulls for name in names}
    entering = phase.inputs or network.inputs
    wanted = wanted_by(config.losses[name] for name in phase.losses)

    def objective(params: Any) -> tuple[Metrics, tuple[Any, Metrics]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        forward = functools.partial(_forward, network, variables, entering, wanted)
        outputs, averages = _in_slices(forward, images, config.training.slices)
        scope = Scope(
            {"views": entering, **outputs},
            labels_N,
            shape=(config.data.identities, config.data.images),
            bases=tuple(base_of(name, config.views) for name in entering),
            gather=gather,
            critic=functools.partial(criticise, network, params),
            first=first_pair,
        )
        values, metrics = _losses(scope, config, phase)
        metrics |= _observations(outputs, averages["active"], labels_N, entering, network, gather)
        # Weights are constants of the compiled step, so a loss that is switched off costs nothing and cannot be NaN.
        weighted = {name: config.losses[name].weight * value for name, value in values.items() if name in trained}
        return weighted, (averages["batch_stats"], metrics)

    weighted, pull, (batch_stats, metrics) = jax.vjp(objective, state.params, has_aux=True)
    metrics = {"loss": sum(weighted.values(), jnp.zeros(()))} | metrics
    gradients = mean(_by_group(pull, weighted, state.params, config, phase))
    metrics = mean(metrics)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    params, opt_state = dict(state.params), dict(state.opt_state)
    for group, gradient in gradients.items():  # what is in no group of this phase stays, bit for bit
        own = {name: state.params[name] for name in gradient}
        updates, opt_state[group] = optimisers[group].update(gradient, state.opt_state[group], own)
        params |= optax.apply_updates(own, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def _by_group(pull: Any, weighted: Metrics, params: Any, config: Config, phase: Phase) -> dict[str, Tree]:
    """Each learning group's gradient of the sum of its losses; groups with the same losses share a backward pass."""
    parts = divided(params, config)
    passes: dict[tuple[str, ...], Any] = {}
    found = {}
    for group, names in phase.pulls:
        if names not in passes:
            (passes[names],) = pull({name: jnp.float32(name in names) for name in weighted})
        found[group] = {name: passes[names][name] for name in parts[group]}
    return found


def _forward(
    network: Network,
    variables: Any,
    entering: tuple[str, ...],
    wanted: tuple[tuple[str, str], ...],
    images: Mapping[str, jax.Array],
) -> tuple[Tree, Tree]:
    """What the losses and the observers need: arrays with one row a pair, and averages over the batch."""
    outputs, updates = network.apply(
        variables, images, train=True, mutable=["batch_stats"], views=entering, wanted=wanted
    )
    observed = dict.fromkeys(name for view in outputs["active"] for name in (_base(view, network), view))
    moments = {name: outputs["pixels"][name] for name in observed}
    moments = {name: jnp.stack([x.mean((1, 2, 3)), jnp.square(x).mean((1, 2, 3))], 1) for name, x in moments.items()}
    rows = {name: outputs[name] for name in ("pooled", "embedding", "logits", "codes", *network.config.auxiliary)}
    return rows | {"moments": moments}, {"batch_stats": updates["batch_stats"], "active": outputs["active"]}


def _in_slices(
    forward: Callable[[Mapping[str, jax.Array]], tuple[Tree, Tree]], images: Mapping[str, jax.Array], slices: int
) -> tuple[Tree, Tree]:
    """`forward` of the whole batch while the activations of one slice at a time are in memory.

    First all features, slice after slice, keeping nothing else; the losses see the whole batch, so mining is exact.
    The gradient then passes slice after slice again, each computed a second time: the transpose of a scan over a
    checkpointed function is just that.

    References:
      Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021.
    """
    if slices == 1:
        return forward(images)
    N = len(images[BASES[0]])
    # Every slices-th pair, so that each slice lies on all devices, holds all identities (where K is a multiple), and
    # is the same one on any number of devices.
    cut = {name: x.reshape(N // slices, slices, *x.shape[1:]).swapaxes(0, 1) for name, x in images.items()}
    rows, averages = jax.lax.map(jax.checkpoint(forward, prevent_cse=False), cut)
    merged = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(N, *x.shape[2:]), rows)
    return merged, jax.tree.map(lambda x: x.mean(0), averages)


def _losses(scope: Scope, config: Config, phase: Phase) -> tuple[Metrics, Metrics]:
    """The value of every loss of the phase by name; and the same with every term, for the log."""
    values: Metrics = {}
    metrics: Metrics = {}
    for name in phase.losses:
        loss = config.losses[name]
        terms = loss(scope)
        stacked = jnp.stack(list(terms.values()))
        values[name] = stacked.sum() if loss.reduce == "sum" else stacked.mean()
        metrics[name] = values[name]
        metrics |= {f"{name}/{term}": value for term, value in terms.items() if term}
    return values, metrics


def _observations(
    outputs: Tree,
    active: Mapping[str, jax.Array],
    labels_N: jax.Array,
    entering: tuple[str, ...],
    network: Network,
    gather: Callable[[jax.Array], jax.Array],
) -> Metrics:
    """What is watched but not optimised: accuracies, and whether a learned view still says anything."""
    observed: Metrics = {}
    for logits_NMSC in list(outputs["logits"].values())[:1]:  # of the first head, all stripes together
        correct_NM = logits_NMSC.sum(2).argmax(-1) == labels_N[:, None]
        observed |= {f"accuracy/{name}": correct_NM[:, i].mean() for i, name in enumerate(entering)}
    spread = {name: _deviation(gather(moments)) for name, moments in outputs["moments"].items()}
    for name, fraction in active.items():
        observed[f"active/{name}"] = fraction
        # A healthy active fraction does not show a collapse to one tone; the spread of the pixels does.
        observed[f"deviation/{name}"] = spread[name] / spread[_base(name, network)]
    return {name: value.astype(jnp.float32) for name, value in observed.items()}


def _base(view: str, network: Network) -> str:
    return BASES[base_of(view, network.views)]


def _deviation(moments_N2: jax.Array) -> jax.Array:
    """Standard deviation of all pixels of the batch from each image's mean and mean square; never 0."""
    mean, square = moments_N2.mean(0)
    return jnp.sqrt(jnp.maximum(square - jnp.square(mean), 1e-12))
