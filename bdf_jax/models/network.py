"""The network: views through one trunk in one forward pass, then pooling, neck, heads and critics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError, check_names, within
from bdf_jax.models.auxiliary import Auxiliary
from bdf_jax.models.blocks import Block
from bdf_jax.models.codes import Begun, Code
from bdf_jax.models.heads import BNNeck, Critic, Head, Linear, Mixture, Neck, Pool
from bdf_jax.models.making import Making
from bdf_jax.models.metrics import WORDS, Mapped, Metric
from bdf_jax.models.resnet import STAGES
from bdf_jax.models.trunk import ResNet, Trunk
from bdf_jax.parts import Named
from bdf_jax.views import BASES, Branch, Mixed, View, ancestors, base_of, late, roots

MAP = "map"  # what losses call the last map of the trunk
OUTPUTS = ("views", "pixels", "codes", "active", "map", "pooled", "embedding", "logits", "fitted")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What all views pass through."""

    trunk: Trunk = ResNet(50)
    pretrained: str = ""  # weights to start from; empty: random initialisation
    inputs: tuple[str, ...] = ()  # views that enter the trunk in training; empty: V, I and all others
    enter_at: tuple[int, ...] = ()  # (height, width) to which images are scaled before the trunk; empty: as they are
    split_at: int = 0  # how many stages are specific to a base: 0 none, 1 the stem, ... 5 everything
    bn: Literal["shared", "per_view"] = "shared"  # one set of batch statistics, or one for each view
    pool: Pool = Pool()
    mixture: Mixture | None = None  # a code beside the pooled map
    neck: Neck = BNNeck()
    heads: Named[Head] = Named(classifier=Linear())
    critics: Named[Critic] = Named()
    blocks: Named[Block] = Named()  # between the stages of the trunk, in order
    auxiliary: Named[Auxiliary] = Named()  # parts that only training has, in order
    codes: Named[Code] = Named()  # what is said of views, for makers and losses
    metric: Metric | None = None  # fitted once on the features of the training images
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the convolutions; parameters stay float32
    remat: Literal["none", "stage", "block"] = "none"  # what is computed again instead of kept for the gradient

    def check(self) -> None:
        """Raises BdfError on an impossible value."""
        within("network.split_at", self.split_at, 0, 5)
        if self.enter_at and (len(self.enter_at) != 2 or min(self.enter_at) < 16):
            raise BdfError(f"network.enter_at: expected a height and a width from 16 pixels on, found {self.enter_at}")
        if self.enter_at and self.begun:
            raise BdfError("network.enter_at: codes of the trunk's first stages are those of images as they are")
        for name, block in self.blocks.items():
            within(f"network.blocks.{name}.after", block.after, 1, self.trunk.stages)
        self._check_begun()
        if self.mixture:
            check_names("network.mixture.code", [self.mixture.code], tuple(self.codes))
            if not self.pool.join and self.pool.stripes > 1:
                raise BdfError("network.mixture: stands beside one pooled vector; set network.pool.join=true")
        for i, (name, code) in enumerate(self.codes.items()):
            code.check(f"network.codes.{name}", tuple(self.codes)[:i])
        for section, names in (("auxiliary", self.auxiliary), ("codes", self.codes)):
            for name in names:
                if name in OUTPUTS:
                    raise BdfError(f"network.{section}.{name}: this is what an output of every network is called")
        for i, (name, part) in enumerate(self.auxiliary.items()):
            part.check(f"network.auxiliary.{name}", ("embedding", "pooled", *list(self.auxiliary)[:i]))
        if self.trunk.stages < len(STAGES) and self.split_at > self.trunk.stages:
            within("network.split_at", self.split_at, 0, self.trunk.stages)

    @property
    def begun(self) -> int:
        """How many stages of the trunk say something of views that do not enter it; 0 as a rule."""
        return max((code.stages for code in self.codes.values() if isinstance(code, Begun)), default=0)

    def _check_begun(self) -> None:
        for name, code in self.codes.items():
            if not isinstance(code, Begun):
                continue
            within(f"network.codes.{name}.stages", code.stages, 1, self.trunk.stages)
            if code.stages != self.begun:
                raise BdfError(f"network.codes.{name}.stages: {code.stages}, but another code has {self.begun}")
            if self.bn != "shared":
                raise BdfError(
                    f"network.codes.{name}: what is made of codes has no statistics of its own; set bn=shared"
                )
            for block, value in self.blocks.items():
                if value.after <= code.stages:
                    raise BdfError(
                        f"network.blocks.{block}.after: expected more than the {code.stages} stages of {name}"
                    )


class Network(nn.Module):
    """Makers of views, trunk, pooling, neck, heads, critics.

    Parameters lie under the names `generator_VIEW`, `stem`, `layer1` to `layer4` (with `_visible` and `_infrared` where
    a stage is specific to a base), `gem_p`, `bnneck`, the names of the heads, `critic_NAME` and `auxiliary_NAME`.

    Attributes:
      views: beside the bases.
      config: the network's section of the configuration.
      num_classes: C, identities in the training split.
      axis_name: of the devices under pmap; None under jit.
    """

    views: Named[View]
    config: NetworkConfig
    num_classes: int
    axis_name: str | None = None

    @classmethod
    def of(cls, config: Any, num_classes: int) -> Network:
        """The network of a `Config`, for one device."""
        return cls(config.views, config.network, num_classes)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The views that enter the trunk in training, bases first."""
        return self.config.inputs or (*BASES, *self.views)

    def views_of(self, base: int) -> tuple[str, ...]:
        """The views of a base (0 visible, 1 infrared) that enter the trunk, in order."""
        return tuple(name for name in self.inputs if base_of(name, self.views) == base)

    def derived(self, base: int, *, alone: bool = False) -> tuple[str, ...]:
        """The views of a base beside itself that are images, whether they enter the trunk or not.

        Args:
          base: 0 visible, 1 infrared.
          alone: only those that are made of this base's images and no other's.
        """
        found = [name for name in self.views if base_of(name, self.views) == base and not late(name, self.views)]
        return tuple(name for name in found if not alone or roots(name, self.views) == {BASES[base]})

    @nn.compact
    def __call__(
        self,
        images: Mapping[str, jax.Array],
        *,
        train: bool,
        views: tuple[str, ...] | None = None,
        pixels_only: bool = False,
        wanted: tuple[tuple[str, str], ...] = (),
    ) -> dict[str, Any]:
        """One forward pass.

        Args:
          images: {base: (N, H, W, 3)} float32, normalised; the bases that the views need.
          train: use and update batch statistics.
          views: that enter the trunk; None: `inputs`.
          pixels_only: make the views and stop there.
          wanted: (code, view) of what losses look at; code "" for pixels, "map" for the last map.

        Returns:
          A dictionary of named outputs, with M the views that entered and S the stripes:
            views: their names.
            pixels: {view: (N, H, W, 3)} of all views that were made, float32, normalised like the images.
            codes: {(code, view): (N, ...)} of those that are wanted.
            active: {view: ()}, share of its maker's hidden units that are not 0.
            map: (N, M, H', W', C) the last map, before pooling.
            pooled: (N, M, S, D) float32, before the neck: what distances are taken between.
            embedding: (N, M, S, E) float32, after it: what is classified and, by default, retrieved by.
            logits: {head: (N, M, S, C)} float32.
            fitted: (N, M, 1, d) float32, in the space of the metric, where there is one.
            NAME: (N, M, S, ...) float32, of each part of that name that only training has, where `train`.
        """
        names = self.inputs if views is None else views
        # What is made in the middle of the trunk goes through the first stages as the image that it is made of.
        inside = tuple(dict.fromkeys(self.views[name].of if late(name, self.views) else name for name in names))
        made = Making(self, images, train=train, entering=() if pixels_only else inside)
        for name in ancestors(names, self.views):
            made.pixels(name)
        if pixels_only:
            return {"views": names, "pixels": made.made, "active": made.active}
        begun = self.config.begun
        x_NMHWC = made.entered(begun)
        if self.config.enter_at:
            shape = (*x_NMHWC.shape[:2], *self.config.enter_at, x_NMHWC.shape[-1])
            x_NMHWC = jax.image.resize(x_NMHWC, shape, "bilinear")
        if self.is_initializing():  # every maker and every code has parameters, whether a loss looks at it or not
            wanted = tuple(("", name) for base in (0, 1) for name in self.derived(base))
            wanted += tuple((code, base) for code in self.config.codes for base in BASES)
        codes = {(code, view): made.code(code, view) for code, view in wanted if code != MAP}
        for stage in range(begun, self.config.trunk.stages):
            before, x_NMHWC = x_NMHWC, self.through(x_NMHWC, inside, train, stage, stage + 1)
            for name, block in self.config.blocks.items():
                if block.after == stage + 1:
                    x_NMHWC, inside = self._block(name, block, x_NMHWC, before, inside, names, train)
        if inside != names:
            behind = {name: self.views[name].of for name in names if name not in inside}
            x_NMHWC = jnp.stack([x_NMHWC[:, inside.index(behind.get(name, name))] for name in names], 1)
        codes |= {(code, view): x_NMHWC[:, names.index(view)] for code, view in wanted if code == MAP}
        bases = tuple(base_of(name, self.views) for name in names)
        # Of each stripe (N, M, D): the first of their parameters have no number where there is one stripe.
        pooled = self.config.pool(self, x_NMHWC.astype(jnp.float32))
        if self.config.mixture:
            pooled = [self._mixed(self.config.mixture, made, pooled, names)]
        ends = [str(s) if len(pooled) > 1 else "" for s in range(len(pooled))]
        norm = {"modalities": self._apart(names), "tables": len(self.inputs), "axis_name": self.axis_name}
        neck, heads = self.config.neck, self.config.heads
        embedding = [neck(x, "bnneck" + end, train, norm) for x, end in zip(pooled, ends, strict=True)]
        features = {"pooled": pooled, "embedding": embedding}
        logits = {
            name: [head(x, self.num_classes, name + end, bases) for x, end in zip(features[head.of], ends, strict=True)]
            for name, head in heads.items()
        }
        if self.is_initializing():  # critics are called by the losses alone
            for name, critic in self.config.critics.items():
                image = images[BASES[0]]
                shown = {"pixels": (image,), "pixels+map": (image, x_NMHWC[:, 0])}
                critic.module(f"critic_{name}")(*(shown.get(critic.of) or features[critic.of][:1]))
        outputs = {name: jnp.stack(stripes, 2) for name, stripes in features.items()}
        metric = self.config.metric
        if metric is not None:
            outputs["fitted"] = Mapped(metric.features, name="metric")(outputs[metric.of], bases)
        for name, part in self.config.auxiliary.items() if train else ():
            outputs[name] = part.module(f"auxiliary_{name}", self)({"map": x_NMHWC, **outputs}, bases)
        return {
            "views": names,
            "pixels": made.made,
            "codes": codes,
            "active": made.active,
            "map": x_NMHWC,
            **outputs,
            "logits": {name: jnp.stack(stripes, 2) for name, stripes in logits.items()},
        }

    def shared(self, name: str, make: Callable[[str], nn.Module]) -> nn.Module:
        """The submodule under that name, made where it is asked for first."""
        held = self.__dict__.setdefault("_shared", {})
        if name not in held:
            held[name] = make(name)
        return held[name]

    def through(self, x_NMHWC: jax.Array, names: tuple[str, ...], train: bool, first: int, last: int) -> jax.Array:
        """The map after the stages from `first` to before `last`."""
        for stage in range(first, last):
            run = functools.partial(Network._stage, stage=stage, names=names, train=train)
            remat = train and self.config.remat == "stage"
            x_NMHWC = (nn.remat(run) if remat else run)(self, x_NMHWC)
        return x_NMHWC

    def stage_of(self, stage: int, view: str) -> tuple[str, nn.Module]:
        """The stage that one view goes through, as a module that is not of this network, and its name in it."""
        suffix = f"_{WORDS[base_of(view, self.views)]}" if stage < self.config.split_at else ""
        return STAGES[stage] + suffix, self._module(stage, None, parent=None)

    def _module(self, stage: int, apart: tuple[int, ...] | None, **where: Any) -> nn.Module:
        return self.config.trunk.stage(
            stage,
            modalities=apart,
            tables=len(self.inputs),
            axis_name=self.axis_name,
            dtype=jnp.dtype(self.config.dtype),
            remat=self.config.remat == "block",
            **where,
        )

    def _mixed(self, mixture: Mixture, made: Making, pooled: list[jax.Array], names: tuple[str, ...]) -> jax.Array:
        makers = [self.views[name].by if name in self.views else None for name in names]
        seen = [by.with_ if isinstance(by, Mixed) else name for by, name in zip(makers, names, strict=True)]
        codes = [made.code(mixture.code, view) for view in seen]
        return mixture(self, pooled[0], jnp.stack([code.reshape(len(code), -1) for code in codes], 1))

    def _apart(self, names: tuple[str, ...]) -> tuple[int, ...] | None:
        """The place of each view in the tables of `BatchNorm`, where statistics are kept apart."""
        return None if self.config.bn == "shared" else tuple(self.inputs.index(name) for name in names)

    def _block(
        self,
        name: str,
        block: Block,
        x_NMHWC: jax.Array,
        before: jax.Array,
        inside: tuple[str, ...],
        wanted: tuple[str, ...],
        train: bool,
    ) -> tuple[jax.Array, tuple[str, ...]]:
        """A block's map, with those of its branches that are wanted behind it; and the names of the views in it."""
        settings = {"modalities": self._apart(inside), "tables": len(self.inputs), "axis_name": self.axis_name}
        made: Any = block.module(name, **settings)(x_NMHWC, before, train=train)
        x_NMHWC, branches = made if block.branches else (made, [])
        makers = {n: self.views[n].by for n in wanted if n in self.views}
        of = {n: maker.branch for n, maker in makers.items() if isinstance(maker, Branch) and maker.block == name}
        more, maps = list(of), [branches[branch][:, inside.index(self.views[n].of)] for n, branch in of.items()]
        return (jnp.concatenate([x_NMHWC, jnp.stack(maps, 1)], 1) if maps else x_NMHWC), (*inside, *more)

    def _stage(self, x_NMHWC: jax.Array, stage: int, names: tuple[str, ...], train: bool) -> jax.Array:
        """One stage, shared, or one for each base; a view goes with its base."""

        def run(x: jax.Array, present: tuple[str, ...], suffix: str) -> jax.Array:
            return self._module(stage, self._apart(present), name=STAGES[stage] + suffix)(x, train=train)

        if stage >= self.config.split_at:
            return run(x_NMHWC, names, "")
        outputs: dict[int, jax.Array] = {}
        for base, word in enumerate(WORDS):
            positions = [i for i, name in enumerate(names) if base_of(name, self.views) == base]
            if positions:
                y = run(x_NMHWC[:, jnp.asarray(positions)], tuple(names[i] for i in positions), f"_{word}")
                outputs.update({position: y[:, i] for i, position in enumerate(positions)})
        return jnp.stack([outputs[i] for i in range(len(names))], 1)


def derive(
    network: Network, variables: Mapping[str, Any], images: Mapping[str, jax.Array], names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """The pixels of views, (N, H, W, 3) each, normalised, by running statistics; nothing enters the trunk."""
    made: Any = network.apply(variables, images, train=False, views=names, pixels_only=True)
    return {name: pictured(made["pixels"][name]) for name in names}


def pictured(x: jax.Array) -> jax.Array:
    """(..., 3) to look at: of two channels, zeros lie between them; of four, the last is left out."""
    return x[..., :3] if x.shape[-1] >= 3 else jnp.stack([x[..., 0], jnp.zeros_like(x[..., 0]), x[..., 1]], -1)


def criticise(network: Network, params: Mapping[str, Any], name: str, *seen: jax.Array) -> jax.Array:
    """What the critic of that name says of an array, or of an image and a map."""
    critic = network.config.critics[name].module(None)
    said: Any = critic.apply({"params": params[f"critic_{name}"]}, *seen)
    return said


def check_fits(config: Any) -> None:
    """Goes through the network of a `Config` without computing anything.

    Raises:
      BdfError: its parts do not fit each other or the size of the images.
    """
    images = {base: jax.ShapeDtypeStruct((1, *config.data.image_size, 3), jnp.float32) for base in BASES}
    network = Network.of(config, 2)
    jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)


def feature_size(config: NetworkConfig) -> int:
    """D of the pooled feature of an image, all stripes together."""
    return config.trunk.features * config.pool.stripes  # of the fitted metric it is another


def initial_variables(
    network: Network, seed: int, image_size: tuple[int, int], *, pretrained: bool = True
) -> Mapping[str, Any]:
    """`params` and `batch_stats` before training: a function of the seed and of the weights to start from.

    Args:
      network: of any `axis_name`; its devices play no part here.
      seed: of the random initialisation.
      image_size: (height, width) in pixels.
      pretrained: whether to read `network.pretrained`, where that is set.

    Raises:
      BdfError: the pretrained weights cannot be read or do not fit.
    """
    alone = network.clone(axis_name=None)  # under pmap, statistics need an axis of devices that does not exist yet
    images = dict.fromkeys(BASES, jnp.zeros((1, *image_size, 3)))
    variables = jax.jit(lambda key: alone.init(key, images, train=True))(jax.random.key(seed))
    if pretrained and network.config.pretrained:
        from bdf_jax.models.starting import start_from  # readers of foreign files, rarely needed

        return start_from(network.config.pretrained, variables, network.config)
    return variables
