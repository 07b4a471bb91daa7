"""The configuration: what an experiment is, as frozen dataclasses, checked before anything starts.

A file in `configs/` has a function `get_config(method)` that returns a `Config`; the command line overrides its
fields, and a checkpoint stores it as dictionaries (`to_dict`, `from_dict`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from bdf_jax import parts
from bdf_jax.errors import BdfError, at_least, check_names, within
from bdf_jax.losses.terms import Loss
from bdf_jax.models.network import MAP, NetworkConfig
from bdf_jax.parts import Named
from bdf_jax.training.entries import Entry
from bdf_jax.training.optimiser import Adam, Optimiser
from bdf_jax.views import BASES, Branch, Channels, View, base_of, check_channels, check_views

# After the neck, before it, both in one vector (each of length 1), after the neck with each stripe of length 1, or as
# the network's fitted metric maps it.
Retrieved = Literal["embedding", "pooled", "both", "stripes", "fitted"]


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The synthetic visible-infrared world that serves as data set where `data.root` is empty."""

    train_ids: int = 0  # identities to train on; 0: no world, `data.root` must name a published tree
    test_ids: int = 0  # identities to evaluate on
    seed: int = 0  # another seed, another world
    images: int = 4  # images of an identity in each camera
    size: tuple[int, int] = (128, 64)  # (height, width) of the written images, pixels
    correlation: float = 0.4  # share of luma in the near-infrared reflectance; the rest is independent of colour

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        at_least("data.world.train_ids", self.train_ids, 0)
        at_least("data.world.images", self.images, 1)
        within("data.world.correlation", self.correlation, 0, 1)
        if self.train_ids and self.test_ids < 2:
            raise BdfError(f"data.world.test_ids: a world to evaluate on needs at least 2, found {self.test_ids}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how a batch is drawn from them."""

    dataset: str = "sysu_mm01"  # layout and protocol: a key of `bdf_jax.datasets.BENCHMARKS`
    root: str = ""  # folder of the published tree; empty: the world below is written under `dir` and used
    dir: str = "~/.cache/bdf_jax"  # prepared records and the world; shared between runs
    trial: int = 1  # RegDB: which of the ten fixed splits, 1..10
    train_split: Literal["trainval", "train"] = "trainval"  # SYSU-MM01: "train" keeps the official val ids apart
    image_size: tuple[int, int] = (256, 128)  # (height, width) the network sees, pixels
    identities: int = 12  # P: identities in a batch
    images: int = 4  # K: images of each identity in each base modality
    workers: int = 0  # decoding processes; 0: threads in this process, one a core
    prefetch: int = 4  # batches decoded ahead of the device
    white: float = 0.0  # of images of more than 8 bits: what becomes 255; 0: what their type says
    black: float = 0.0  # likewise: what becomes 0
    decoded_cache: bool = False  # keep decoded, resized images on the disk under `dir`: more disk, less decoding
    world: WorldConfig = WorldConfig()

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        from bdf_jax.datasets import find  # its readers need more than a configuration does

        find(self.dataset, "data.dataset")
        within("data.trial", self.trial, 1, 10)
        at_least("data.identities", self.identities, 2)  # a triplet needs a negative
        at_least("data.images", self.images, 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.prefetch", self.prefetch, 1)
        at_least("data.image_size", min(self.image_size), 16)
        if (self.white or self.black) and self.white <= self.black:
            raise BdfError(f"data.white: expected a value above data.black = {self.black:g}, found {self.white:g}")
        self.world.check()


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Training-time augmentation; base and derivative share it."""

    flip: float = 0.5  # probability of a horizontal flip
    pad: int = 10  # zero padding before the random crop, pixels
    erase: float = 0.5  # probability of random erasing
    erase_area: tuple[float, float] = (0.02, 0.4)  # erased share of the image
    erase_aspect: tuple[float, float] = (0.3, 3.33)  # height / width of the erased box
    erase_with: tuple[float, float, float] = (0.0, 0.0, 0.0)  # what the box is filled with, normalised
    visible_channels: Channels = (0.0, 0.0, 0.0, 0.0)
    infrared_channels: Channels = (0.0, 0.0, 0.0, 0.0)
    channels_of: Literal["normalised", "pixels"] = "normalised"  # exchanged at the end, or before normalisation

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        within("augment.flip", self.flip, 0, 1)
        within("augment.erase", self.erase, 0, 1)
        at_least("augment.pad", self.pad, 0)
        for name in ("erase_area", "erase_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "erase_area" and high > 1):
                raise BdfError(f"augment.{name}: expected 0 < low <= high (an area at most 1), found {(low, high)}")
        for base in ("visible", "infrared"):
            check_channels(f"augment.{base}_channels", getattr(self, f"{base}_channels"))


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters with an optimiser of their own; `optimiser` trains all that stand in no group."""

    params: tuple[str, ...]  # names at the top of the parameter tree, or roles: see `Optimiser.scales`
    optimiser: Optimiser


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training in which some groups learn from some losses."""

    epochs: float  # its share of `training.epochs` is epochs / the sum of all stages' epochs
    groups: tuple[str, ...] = ()  # that learn; empty: all
    losses: tuple[str, ...] = ()  # that are computed; empty: all
    inputs: tuple[str, ...] = ()  # views that enter the trunk; empty: those of `network.inputs`
    enter: Entry | None = None  # what is done to the parameters once, before its first step


@dataclasses.dataclass(frozen=True)
class RetrieveConfig:
    """Which feature stands for an image, and how two are compared."""

    feature: Retrieved = "embedding"
    use: Literal["base", "derivative", "concat", "sum4", "max4", "min4"] = "base"  # which views of the image
    similarity: Literal["cosine", "euclidean"] = "cosine"
    flip_tta: bool = False  # mean feature of the image and its mirror image


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, how compiled, how often something is written."""

    seed: int = 0  # of initialisation, batches and augmentation
    epochs: float = 120.0
    steps: int = 0  # 0: from epochs; otherwise the schedule of `epochs` is squeezed into that many steps
    compiler: Literal["jit", "pmap"] = "jit"
    slices: int = 1  # passes of a step through the network, one after another: less memory, batch statistics of a slice
    log_every: int = 50  # steps between lines of metrics
    checkpoint_every: int = 1000  # steps between checkpoints; the last step is always saved
    tensorboard: bool = True  # event files in the work folder
    wandb: str = ""  # project on Weights & Biases (package `wandb`, not installed by default); empty: none
    validate_every: int = 0  # steps between evaluations on the official val ids (`data.train_split="train"`); 0: never

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        within("training.seed", self.seed, 0, 2**31 - 1)
        at_least("training.steps", self.steps, 0)
        if not self.epochs > 0:
            raise BdfError(f"training.epochs: expected more than 0, found {self.epochs}")
        for name in ("slices", "log_every", "checkpoint_every"):
            at_least(f"training.{name}", getattr(self, name), 1)
        at_least("training.validate_every", self.validate_every, 0)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What stands beside the result in the table."""

    baselines: bool = False  # also rows for chance, raw pixels, edge magnitudes and the untrained network
    batch_size: int = 128  # images embedded at a time

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        at_least("evaluation.batch_size", self.batch_size, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything an experiment is. The same configuration and seed give the same numbers."""

    method: str = ""  # its name, for tables
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    views: Named[View] = Named()
    network: NetworkConfig = NetworkConfig()
    losses: Named[Loss] = Named()
    optimiser: Optimiser = Adam()
    groups: Named[Group] = Named()
    stages: Named[Stage] = Named()  # empty: one, in which everything learns
    retrieve: RetrieveConfig = RetrieveConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def check(self) -> None:
        """Raises BdfError on an impossible value, alone or together with another."""
        for section in (self.data, self.augment, self.network, self.training, self.evaluation):
            section.check()
        if self.training.validate_every and (self.data.train_split != "train" or self.data.dataset != "sysu_mm01"):
            raise BdfError(
                "training.validate_every: validation needs identities that are not trained on, which only SYSU-MM01 "
                f"with --config.data.train_split=train keeps apart; found dataset {self.data.dataset!r} with split "
                f"{self.data.train_split!r}. Set validate_every to 0 or change the split."
            )
        check_views(self.views)
        for name, view in self.views.items():
            if isinstance(view.by, Branch):
                check_names(f"views.{name}.by.block", [view.by.block], tuple(self.network.blocks))
                branches = self.network.blocks[view.by.block].branches
                if not 0 <= view.by.branch < branches:
                    raise BdfError(f"views.{name}.by.branch: {view.by.branch}, but the block has {branches}")
            for code, _ in view.by.takes(view.of):
                check_names(f"views.{name}.by", [code] if code else [], tuple(self.network.codes))
        entering = self.network.inputs or (*BASES, *self.views)
        for name in entering:
            base_of(name, self.views)
        if self.retrieve.use != "base":
            short = [word for base, word in enumerate(("visible", "infrared")) if len(self.views_of(base)) < 2]
            if short:
                raise BdfError(
                    f"retrieve.use: {self.retrieve.use!r} needs a second view of both bases, but {' and '.join(short)} "
                    f"images enter the network as {' '.join(self.views_of(0) + self.views_of(1))} alone"
                )
        if self.retrieve.feature == "fitted" and self.network.metric is None:
            raise BdfError("retrieve.feature: 'fitted' needs a metric, --config.network.metric.kind=...")
        for name, loss in self.losses.items():
            self._check_loss(name, loss, entering)
        self._check_training()
        for stage in self.stages.values():
            check_names("stages.inputs", stage.inputs, entering)
            for name in stage.losses or self.losses:
                self._check_loss(name, self.losses[name], stage.inputs or entering)

    def views_of(self, base: int) -> tuple[str, ...]:
        """The views of a base (0 visible, 1 infrared) that enter the trunk, in order."""
        entering = self.network.inputs or (*BASES, *self.views)
        return tuple(name for name in entering if base_of(name, self.views) == base)

    def _check_loss(self, name: str, loss: Loss, entering: tuple[str, ...]) -> None:
        """It fits the views that enter the trunk, and everything that it looks at is there."""
        loss.check(f"losses.{name}", entering, self)
        for code, seen in loss.looks_at():
            check_names(f"losses.{name}", [seen], entering if code == MAP else (*BASES, *self.views))
            check_names(f"losses.{name}", [code] if code else [], (*self.network.codes, MAP))

    def _check_training(self) -> None:
        """Every name that groups, stages and losses refer to is there."""
        groups = ("main", *self.groups)
        if "main" in self.groups:
            raise BdfError("groups.main: this is what the parameters of no group are called; name the group otherwise")
        for name, loss in self.losses.items():
            check_names(f"losses.{name}.trains", loss.trains, (*groups, "*"))
        for name, stage in self.stages.items():
            check_names(f"stages.{name}.groups", stage.groups, groups)
            check_names(f"stages.{name}.losses", stage.losses, tuple(self.losses))
            if not stage.epochs > 0:
                raise BdfError(f"stages.{name}.epochs: expected more than 0, found {stage.epochs}")


# What fields were called in version 0.1.
RENAMED = {
    "model.arch": "network.trunk.kind",
    "model.pretrained": "network.pretrained",
    "model.split_at": "network.split_at",
    "model.bn": "network.bn",
    "model.pool": "network.pool.kind",
    "model.stripes": "network.pool.stripes",
    "model.dtype": "network.dtype",
    "model.remat": "network.remat",
    "model.generator.init": "views.Dv.by.init",
    "model.generator.hidden": "views.Dv.by.hidden",
    "model.generator.kind": "views.Dv.by.kind",
    "model.generator.detach": "views.Dv.detach",
    "model.generator.tied": "views.Di.share",
    "model.generator.derivatives": "views.Dv (and views.Di; none removes one)",
    "loss.did_weight": "losses.did.weight",
    "loss.mml_weight": "losses.mml.weight",
    "loss.mdl_weight": "losses.mdl.weight",
    "loss.label_smoothing": "losses.did.smoothing",
    "loss.mml_modes": "losses.mml.edges",
    "loss.mml_margin": "losses.mml.margin",
    "loss.mdl_pairs": "losses.mdl.edges",
    "loss.mdl_level": "losses.mdl.level",
    "loss.mdl_margin": "losses.mdl.margin",
    "loss.reduce": "losses.mdl.reduce (and those of did and mml)",
    "optimiser.name": "optimiser.kind",
    "optimiser.trunk_scale": "optimiser.scales.trunk",
    "optimiser.generator_scale": "optimiser.scales.views",
    "evaluation.feature": "retrieve.feature",
    "evaluation.use": "retrieve.use",
    "evaluation.flip_tta": "retrieve.flip_tta",
}


def vary(config: Config, changes: Mapping[str, Any], *, texts: bool = False) -> Config:
    """A configuration that differs in a few fields: `vary(config, {"losses.mdl.weight": 1.0})`.

    `PATH.kind` makes a part another kind, or adds one; None removes a named one.

    Args:
      config: to start from.
      changes: path -> value.
      texts: whether the values are words of a command line, such as "64,32".

    Raises:
      BdfError: unknown field, wrong type, impossible value.
    """
    for path in changes:
        if path in RENAMED:
            raise BdfError(f"configuration has no field {path!r} any more; it is {RENAMED[path]} now")
    changed: Config = parts.changed(config, changes, texts=texts)
    changed.check()
    return changed


def from_dict(values: Mapping[str, Any]) -> Config:
    """A validated `Config` from nested mappings.

    Raises:
      BdfError: unknown field (with the nearest names), wrong type, impossible value.
    """
    if isinstance(values, Mapping) and {"model", "loss"} & set(values):
        raise BdfError(
            "this configuration is of version 0.1 of bdf_jax, which described its method in other fields; use that "
            "version, or train anew"
        )
    config: Config = parts.from_dict(Config, values)
    config.check()
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as JSON-ready nested dictionaries, in order; `from_dict` is the inverse."""
    values: dict[str, Any] = parts.to_dict(config)
    return values
