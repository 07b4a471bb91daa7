"""A method as a value, and how it meets a data set."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Literal

from bdf_jax.config import AugmentConfig, Config, DataConfig, Group, RetrieveConfig, Stage, TrainingConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.terms import Loss
from bdf_jax.models.network import NetworkConfig
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import Adam, Optimiser
from bdf_jax.views import View

# What a method says of a configuration; image size, batch and length besides.
SECTIONS = ("augment", "views", "network", "losses", "optimiser", "groups", "stages", "retrieve")
Fidelity = Literal["author's code", "third party", "our reading", "ours"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A method and its recipe for SYSU-MM01.

    Attributes:
      paper: authors, title, venue.
      year: of it.
      fidelity: what the value was written from.
      note: what else one should know before using its numbers.
      views, network, losses, optimiser, groups, stages, retrieve, augment: see `Config`.
      image_size: (height, width), pixels.
      identities, images: P and K of a batch.
      epochs: length of the training.
      on: data set (or "demo") -> fields that differ there, by their path in `Config`.
    """

    paper: str
    year: int
    fidelity: Fidelity
    note: str = ""
    views: Named[View] = Named()
    network: NetworkConfig = NetworkConfig()
    losses: Named[Loss] = Named()
    optimiser: Optimiser = Adam()
    groups: Named[Group] = Named()
    stages: Named[Stage] = Named()
    retrieve: RetrieveConfig = RetrieveConfig()
    augment: AugmentConfig = AugmentConfig()
    image_size: tuple[int, int] = (256, 128)
    identities: int = 12
    images: int = 4
    epochs: float = 120.0
    on: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, hash=False)

    def needs(self) -> list[str]:
        """What is more than one network, one optimiser and one stage."""
        critics = len(self.network.critics)
        needs = [f"{critics} critic{'s' * (critics > 1)}"] if critics else []
        needs += [f"{len(self.network.auxiliary)} parts in training alone"] if self.network.auxiliary else []
        needs += [f"{1 + len(self.groups)} optimisers"] if self.groups else []
        needs += [f"{len(self.stages)} stages"] if len(self.stages) > 1 else []
        return needs


def experiment(
    method: str,
    place: str,
    *,
    data: DataConfig,
    training: TrainingConfig | None = None,
    replaces: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Config:
    """A method on a data set.

    Args:
      method: its name in the registry.
      place: of the data set, a key of `Method.on`.
      data: where the images are; image size and batch are the method's.
      training: how it is run; the number of epochs is the method's.
      replaces: fields of the method's recipe that are others here, by path.
      **sections: others of `Config`.

    Raises:
      BdfError: no such method; a value that cannot be.
    """
    value = find(method)
    config = Config(
        method=method,
        data=dataclasses.replace(data, image_size=value.image_size, identities=value.identities, images=value.images),
        training=dataclasses.replace(training or TrainingConfig(), epochs=value.epochs),
        **{name: getattr(value, name) for name in SECTIONS},
        **sections,
    )
    return vary(config, {**(replaces or {}), **value.on.get(place, {})})


def varied(method: Method, changes: Mapping[str, Any]) -> Method:
    """A method that differs in some fields of its sections, by their path in `Config`."""
    sections = vary(Config(**{name: getattr(method, name) for name in SECTIONS}), changes)
    return dataclasses.replace(method, **{name: getattr(sections, name) for name in SECTIONS})


def find(name: str) -> Method:
    """The method of that name; raises BdfError where there is none, with the nearest names."""
    methods = registry()
    if name not in methods:
        near = difflib.get_close_matches(name, methods, n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise BdfError(f"no method {name!r}{hint}; `python -m bdf_jax methods` lists them: {', '.join(methods)}")
    return methods[name]


@functools.cache
def registry(*, variations: bool = True) -> dict[str, Method]:
    """Every method of `bdf_jax/methods/` by name: a `Method` in upper case there, and the items of `VARIATIONS`."""
    from bdf_jax import methods

    found: dict[str, Method] = {}
    for module in sorted(pkgutil.iter_modules(methods.__path__), key=lambda module: module.name):
        values = vars(importlib.import_module(f"bdf_jax.methods.{module.name}"))
        own = {name.lower(): value for name, value in values.items() if isinstance(value, Method) and name.isupper()}
        found |= {name: value for name, value in own.items() if name not in found}
        found |= values.get("VARIATIONS", {}) if variations else {}
    return found
