"""The configuration: one schema of frozen dataclasses, checked before anything starts.

A file in `configs/` returns `editable(Config(...))`, a `ml_collections.ConfigDict` whose fields the command
line can override; `from_dict` turns it (or what a checkpoint stored) back into a validated `Config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from bdf_jax.errors import BdfError

Dataset = Literal["sysu_mm01", "regdb", "llcm"]
Arch = Literal["tiny", "resnet18", "resnet34", "resnet50", "mobilenet_v2"]


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
        _at_least("data.world.train_ids", self.train_ids, 0)
        _at_least("data.world.images", self.images, 1)
        _within("data.world.correlation", self.correlation, 0, 1)
        if self.train_ids and self.test_ids < 2:
            raise BdfError(f"data.world.test_ids: a world to evaluate on needs at least 2, found {self.test_ids}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how a batch is drawn from them."""

    dataset: Dataset = "sysu_mm01"  # layout and protocol
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
        _within("data.trial", self.trial, 1, 10)
        _at_least("data.identities", self.identities, 2)  # a triplet needs a negative
        _at_least("data.images", self.images, 1)
        _at_least("data.workers", self.workers, 0)
        _at_least("data.prefetch", self.prefetch, 1)
        _at_least("data.image_size", min(self.image_size), 16)
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

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        _within("augment.flip", self.flip, 0, 1)
        _within("augment.erase", self.erase, 0, 1)
        _at_least("augment.pad", self.pad, 0)
        for name in ("erase_area", "erase_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "erase_area" and high > 1):
                raise BdfError(f"augment.{name}: expected 0 < low <= high (an area at most 1), found {(low, high)}")


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """The generators: what makes a derivative out of a base image."""

    derivatives: Literal["both", "visible", "infrared", "none"] = "both"  # which bases get one
    kind: Literal["pixelwise", "middle", "gray"] = "pixelwise"  # two 1x1 convolutions | MMN's | fixed luma
    hidden: int = 1  # h: channels between the two convolutions
    init: Literal["gray", "third", "random"] = "gray"  # "random": a random recolouring, for the control
    tied: bool = False  # one generator for both bases
    detach: bool = False  # no gradient to the generators, which then stay as they started (a control)

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        _at_least("model.generator.hidden", self.hidden, 1)
        if self.init != "random" and self.kind == "pixelwise" and self.hidden != 1:
            raise BdfError(
                f"model.generator.hidden: init {self.init!r} is defined for 1 hidden channel, found {self.hidden}; "
                "use --config.model.generator.init=random for more"
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The four-modality network."""

    arch: Arch = "resnet50"  # backbone
    pretrained: str = ""  # weights to start from; empty: random initialisation
    split_at: int = 0  # how many stages are specific to a base modality: 0 none, 1 the stem, ... 5 everything
    bn: Literal["shared", "per_modality"] = "shared"  # one set of batch statistics, or one for each modality
    pool: Literal["avg", "max", "gem"] = "avg"  # global pooling
    stripes: int = 1  # horizontal stripes pooled apart
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the convolutions; parameters stay float32
    remat: Literal["none", "stage", "block"] = "none"  # what is computed again instead of kept for the gradient
    generator: GeneratorConfig = GeneratorConfig()

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        _within("model.split_at", self.split_at, 0, 5)
        _at_least("model.stripes", self.stripes, 1)
        self.generator.check()


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """total = did_weight * DID + mml_weight * MML + mdl_weight * MDL."""

    did_weight: float = 1.0
    mml_weight: float = 1.0
    mdl_weight: float = 0.1
    label_smoothing: float = 0.1
    mml_modes: Literal["all", "base"] = "all"  # modalities that get an intra-modality triplet
    mml_margin: float = 0.3  # feature distance
    mdl_pairs: Literal["bridge", "bi", "no_dd", "base_derivative", "all"] = "bridge"  # of the modalities present
    mdl_level: Literal["center", "sample"] = "center"
    mdl_margin: float = 0.5  # feature distance
    reduce: Literal["sum", "mean"] = "sum"  # over modalities and edges

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        for name in ("did_weight", "mml_weight", "mdl_weight", "mml_margin", "mdl_margin"):
            _at_least(f"loss.{name}", getattr(self, name), 0)
        _within("loss.label_smoothing", self.label_smoothing, 0, 1)


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Optimiser and learning-rate schedule; epochs are those of `training.epochs`."""

    name: Literal["adam", "sgd"] = "adam"  # sgd: Nesterov momentum 0.9
    learning_rate: float = 3.5e-4
    weight_decay: float = 5e-4  # L2, added to the gradient (not decoupled)
    trunk_scale: float = 1.0  # learning rate of the backbone relative to the head
    generator_scale: float = 1.0  # learning rate of the generators relative to the head
    warmup_epochs: float = 10.0  # linear, from `warmup_factor`
    warmup_factor: float = 0.01
    milestones: tuple[float, ...] = (40.0, 70.0)  # epochs at which the rate is multiplied by `decay`
    decay: float = 0.1

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        if not self.learning_rate > 0:
            raise BdfError(f"optimiser.learning_rate: expected more than 0, found {self.learning_rate}")
        for name in ("weight_decay", "trunk_scale", "generator_scale", "warmup_epochs", "decay"):
            _at_least(f"optimiser.{name}", getattr(self, name), 0)
        _within("optimiser.warmup_factor", self.warmup_factor, 0, 1)
        if list(self.milestones) != sorted(self.milestones):
            raise BdfError(f"optimiser.milestones: expected increasing epochs, found {self.milestones}")


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
        _within("training.seed", self.seed, 0, 2**31 - 1)
        _at_least("training.steps", self.steps, 0)
        if not self.epochs > 0:
            raise BdfError(f"training.epochs: expected more than 0, found {self.epochs}")
        for name in ("slices", "log_every", "checkpoint_every"):
            _at_least(f"training.{name}", getattr(self, name), 1)
        _at_least("training.validate_every", self.validate_every, 0)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Which feature is compared, and what stands beside it in the table."""

    feature: Literal["post_bn", "pre_bn"] = "post_bn"  # after or before the BNNeck
    use: Literal["base", "derivative", "concat", "sum4"] = "base"
    flip_tta: bool = False  # mean feature of the image and its mirror image
    baselines: bool = False  # also rows for chance, raw pixels, edge magnitudes and the untrained network
    batch_size: int = 128  # images embedded at a time

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        _at_least("evaluation.batch_size", self.batch_size, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything an experiment is. The same configuration and seed give the same numbers."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def check(self) -> None:
        """Raises BdfError on an impossible value, alone or together with another."""
        for section in dataclasses.fields(self):
            getattr(self, section.name).check()
        if self.training.validate_every and (self.data.train_split != "train" or self.data.dataset != "sysu_mm01"):
            raise BdfError(
                "training.validate_every: validation needs identities that are not trained on, which only SYSU-MM01 "
                f"with --config.data.train_split=train keeps apart; found dataset {self.data.dataset!r} with split "
                f"{self.data.train_split!r}. Set validate_every to 0 or change the split."
            )
        if self.evaluation.use != "base" and self.model.generator.derivatives != "both":
            raise BdfError(
                f"evaluation.use: {self.evaluation.use!r} needs the derivatives of both bases, but "
                f"model.generator.derivatives is {self.model.generator.derivatives!r}"
            )


def editable(config: Config) -> ml_collections.ConfigDict:
    """The form in which the command line overrides fields: what a config file's `get_config` returns."""
    return ml_collections.ConfigDict(dataclasses.asdict(config))


def vary(config: Config, changes: Mapping[str, Any]) -> Config:
    """A configuration that differs in a few fields: `vary(config, {"loss.mdl_pairs": "bi"})`.

    Raises:
      BdfError: unknown field, wrong type, impossible value.
    """
    values = to_dict(config)
    for path, value in changes.items():
        *sections, name = path.split(".")
        section = values
        for part in sections:
            section = section.get(part, {})
        if path not in field_names():
            raise unknown_field(path)
        section[name] = value
    return from_dict(values)


def from_dict(values: Mapping[str, Any]) -> Config:
    """A validated `Config` from nested mappings.

    Raises:
      BdfError: unknown field (with the nearest names), wrong type, impossible value.
    """
    config = _build(Config, values, "")
    config.check()
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as JSON-ready nested dictionaries."""
    return dataclasses.asdict(config)


def field_names(cls: Any = Config, prefix: str = "") -> list[str]:
    """Every field as it is written on the command line: 'data.world.seed', ..."""
    names: list[str] = []
    for name, kind in typing.get_type_hints(cls).items():
        path = f"{prefix}{name}"
        names += field_names(kind, path + ".") if dataclasses.is_dataclass(kind) else [path]
    return names


def unknown_field(path: str) -> BdfError:
    """The error for a field that the schema does not have."""
    known = field_names()
    last = {name.rsplit(".", 1)[-1]: name for name in known}
    initials = {"".join(word[0] for word in name.split("_")): path for name, path in last.items() if "_" in name}
    short = path.rsplit(".", 1)[-1]
    near = [initials[short]] if short in initials else []  # lr, wd
    near += difflib.get_close_matches(path, known, n=3, cutoff=0.6)
    near += [last[name] for name in difflib.get_close_matches(short, last, n=2, cutoff=0.6)]
    hint = f"nearest: {', '.join(dict.fromkeys(near))}" if near else f"the sections are {', '.join(_sections())}"
    return BdfError(f"configuration has no field {path!r}; {hint}")


def _sections() -> list[str]:
    return [field.name for field in dataclasses.fields(Config)]


def _build(cls: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, (Mapping, ml_collections.ConfigDict)):
        raise BdfError(f"{prefix.rstrip('.')}: expected a section of fields, found {values!r}")
    kinds = typing.get_type_hints(cls)
    for name in values:
        if name not in kinds:
            raise unknown_field(prefix + name)
    built = {
        name: _build(kind, values[name], f"{prefix}{name}.")
        if dataclasses.is_dataclass(kind)
        else _value(kind, values[name], prefix + name)
        for name, kind in kinds.items()
        if name in values
    }
    return cls(**built)


def _value(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is Literal:
        if value in typing.get_args(kind):
            return value
        near = difflib.get_close_matches(str(value), typing.get_args(kind), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BdfError(f"{path}: expected one of {', '.join(typing.get_args(kind))}, found {value!r}{hint}")
    if origin is tuple:
        kinds = typing.get_args(kind)
        items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(items)
        if len(items) != len(kinds):
            raise BdfError(f"{path}: expected {len(kinds)} values, found {value!r}")
        return tuple(_value(k, item, path) for k, item in zip(kinds, items, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        expected = kind.__name__ if isinstance(kind, (type, types.GenericAlias)) else str(kind)
        raise BdfError(f"{path}: expected {expected}, found {type(value).__name__} {value!r}")
    if kind is float and not abs(value) < float("inf"):
        raise BdfError(f"{path}: expected a finite number, found {value!r}")
    return value


def _at_least(path: str, value: float, low: float) -> None:
    if not value >= low:
        raise BdfError(f"{path}: expected at least {low}, found {value}")


def _within(path: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise BdfError(f"{path}: expected {low} to {high}, found {value}")
