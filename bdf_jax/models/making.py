"""The images of a forward pass: the pixels of views and what is said of them, each made once and where it is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.views import made_of_codes

if TYPE_CHECKING:
    from bdf_jax.models.network import Network


class Making:
    """Pixels and codes of the views of one forward pass.

    Args:
      network: inside its call.
      images: {view: (N, H, W, 3)}, normalised, that are there already.
      train: use batch statistics.
      entering: the views that enter the trunk.
    """

    def __init__(self, network: Network, images: Mapping[str, jax.Array], *, train: bool, entering: tuple[str, ...]):
        self.network, self.train = network, train
        self.made = dict(images)
        self.active: dict[str, jax.Array] = {}
        self._codes: dict[tuple[str, str], jax.Array] = {}
        self._begun: dict[str, jax.Array] = {}
        self._together = tuple(name for name in entering if not made_of_codes(name, network.views))
        self._entering = entering

    def pixels(self, view: str) -> jax.Array:
        """(N, H, W, 3), normalised."""
        if view not in self.made:
            network, value = self.network, self.network.views[view]
            owner = value.share or view
            make = functools.partial(network.views[owner].by.module, network=network)
            maker = network.shared(f"generator_{owner}", make)
            parents = [self.code(code, of) for code, of in value.by.takes(value.of)]
            again = self.again and value.by.kept
            run = functools.partial(_make, train=self.train)
            made, share = (nn.remat(run) if again else run)(maker, *parents)
            self.made[view] = jax.lax.stop_gradient(made) if value.detach else made
            if share is not None:
                self.active[view] = share
        return self.made[view]

    @property
    def again(self) -> bool:
        """Whether what happens inside a large module is computed again for the gradient instead of kept."""
        return self.train and self.network.config.remat != "none"

    def code(self, name: str, view: str) -> jax.Array:
        """What the code of that name says of a view; of the name "": its pixels."""
        if not name:
            return self.pixels(view)
        if (name, view) not in self._codes:
            self._codes[name, view] = self.network.config.codes[name](self, name, view)
        return self._codes[name, view]

    def begun(self, view: str, stages: int) -> jax.Array:
        """(N, H, W, C) after the first stages of the trunk; see `codes.Begun`."""
        if view in self._together and view not in self._begun:
            x_NMHWC = jnp.stack([self.pixels(name) for name in self._together], 1)
            x_NMHWC = self.network.through(x_NMHWC, self._together, self.train, 0, stages)
            self._begun |= {name: x_NMHWC[:, i] for i, name in enumerate(self._together)}
        if view not in self._begun:
            self._begun[view] = self._again(self.pixels(view), view, stages)
        return self._begun[view]

    def entered(self, stages: int) -> jax.Array:
        """(N, M, H, W, C): the views that enter the trunk, after its first stages."""
        if not stages:
            return jnp.stack([self.pixels(name) for name in self._entering], 1)
        return jnp.stack([self.begun(name, stages) for name in self._entering], 1)

    def _again(self, x: jax.Array, view: str, stages: int) -> jax.Array:
        """The first stages once more, as a function of their parameters: running statistics stay as they are."""
        x = x[:, None]
        for stage in range(stages):
            name, module = self.network.stage_of(stage, view)
            x = self._still(name, module, x)
        return x[:, 0]

    def passed(self, name: str, make: Callable[..., nn.Module], x: jax.Array, view: str) -> jax.Array:
        """What a part of the network gives for a view; running statistics move by views that enter the trunk alone."""
        if view in self._together or not self.train or self.network.is_initializing():
            return self.network.shared(name, lambda name: make(name=name))(x, train=self.train)  # type: ignore[operator]
        return self._still(name, make(parent=None), x)

    def _still(self, name: str, module: nn.Module, x: jax.Array) -> jax.Array:
        """A part of the network as a function of its parameters: its running statistics stay as they are."""
        variables = {kind: tree[name] for kind, tree in self.network.variables.items() if name in tree}
        run = functools.partial(_alone, module, self.train)
        return (jax.checkpoint(run) if self.train and self.network.config.remat == "stage" else run)(variables, x)


def _make(maker: nn.Module, *parents: jax.Array, train: bool) -> tuple[jax.Array, jax.Array | None]:
    made: tuple[jax.Array, jax.Array | None] = maker(*parents, train=train)  # type: ignore[operator]
    return made


def _alone(module: nn.Module, train: bool, variables: Mapping[str, Mapping], x: jax.Array) -> jax.Array:
    if not train:
        return module.apply(variables, x, train=False)  # type: ignore[return-value]
    return module.apply(variables, x, train=True, mutable=["batch_stats"])[0]
