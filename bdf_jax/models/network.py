"""The four-modality network: bases and their derivatives through one feature network, in one forward pass."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.config import ModelConfig
from bdf_jax.errors import BdfError
from bdf_jax.models.derivative import DERIVED, generators
from bdf_jax.models.layers import BatchNorm
from bdf_jax.models.mobilenet import FEATURES as MOBILENET_FEATURES
from bdf_jax.models.mobilenet import MobileStage
from bdf_jax.models.resnet import ARCHITECTURES, STAGES, Stage

BASES = ("visible", "infrared")


class Network(nn.Module):
    """Generators, backbone, pooling, BNNeck, classifier.

    Modalities are numbered 0 visible, 1 infrared, 2 and 3 their derivatives, so `modality % 2` is the base.

    Attributes:
      config: the model's section of the configuration.
      num_classes: C, identities in the training split.
      axis_name: of the devices under pmap; None under jit.
    """

    config: ModelConfig
    num_classes: int
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images_NBHWC: jax.Array, *, train: bool, bases: Sequence[int] = (0, 1), derive: bool = True
    ) -> dict[str, Any]:
        """One forward pass over the base images and, where `derive`, their derivatives.

        Args:
          images_NBHWC: (N, B, H, W, 3) float32, normalised; position b of axis 1 holds the base `bases[b]`.
          train: use and update batch statistics.
          bases: (0, 1) for pairs, (0,) or (1,) for images of one modality.
          derive: whether derivatives take part; without them the generators cost nothing.

        Returns:
          A dictionary of named outputs, with M the modalities that take part, bases first:
            modalities: tuple of M ints.
            derivatives: {base: (N, H, W, 3)}, float32, normalised like the images.
            active: {base: ()}, share of the generator's hidden units that are not 0.
            features: (N, M, D) float32, f, before the BNNeck: what MML and MDL compare.
            embeddings: (N, M, D) float32, g = BN(f), what is classified and, by default, retrieved by.
            logits: (N, M, C) float32.

        References:
          Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-Identification", CVPRW 2019, BNNeck.
        """
        config = self.config
        makers = generators(config.generator, self.axis_name)
        modalities = modalities_of(config, bases, derive=derive)
        present = [modality - 2 for modality in modalities if modality >= 2]
        derived = {base: makers[base](images_NBHWC[:, list(bases).index(base)], train=train) for base in present}
        if config.generator.detach:
            derived = jax.lax.stop_gradient(derived)
        x_NMHWC = images_NBHWC
        if derived:
            x_NMHWC = jnp.concatenate([x_NMHWC, jnp.stack([derived[base][0] for base in present], 1)], 1)

        for stage in range(len(STAGES)):
            run = functools.partial(Network._stage, stage=stage, modalities=modalities, train=train)
            x_NMHWC = (nn.remat(run) if train and config.remat == "stage" else run)(self, x_NMHWC)
        features_NMD = _pool(self, x_NMHWC.astype(jnp.float32), config)

        bn_modalities = modalities if config.bn == "per_modality" else None
        embeddings_NMD = BatchNorm(bn_modalities, self.axis_name, use_bias=False, name="bnneck")(
            features_NMD, train=train
        )
        classifier = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=nn.initializers.normal(0.001), name="classifier"
        )
        return {
            "modalities": modalities,
            "derivatives": {base: derivative for base, (derivative, _) in derived.items()},
            "active": {base: active for base, (_, active) in derived.items()},
            "features": features_NMD,
            "embeddings": embeddings_NMD,
            "logits": classifier(embeddings_NMD),
        }

    def _stage(self, x_NMHWC: jax.Array, stage: int, modalities: tuple[int, ...], train: bool) -> jax.Array:
        """One stage, shared, or one for each base; a derivative goes with its base."""

        def run(x: jax.Array, present: tuple[int, ...], suffix: str) -> jax.Array:
            apart = present if self.config.bn == "per_modality" else None
            settings: dict[str, Any] = {
                "modalities": apart,
                "axis_name": self.axis_name,
                "dtype": jnp.dtype(self.config.dtype),
                "remat": self.config.remat == "block",
                "name": STAGES[stage] + suffix,
            }
            if self.config.arch == "mobilenet_v2":
                return MobileStage(stage, **settings)(x, train=train)
            return Stage(self.config.arch, stage, **settings)(x, train=train)

        if stage >= self.config.split_at:
            return run(x_NMHWC, modalities, "")
        outputs: dict[int, jax.Array] = {}
        for base, name in enumerate(BASES):
            positions = [i for i, modality in enumerate(modalities) if modality % 2 == base]
            if positions:
                y = run(x_NMHWC[:, jnp.asarray(positions)], tuple(modalities[i] for i in positions), f"_{name}")
                outputs.update({position: y[:, i] for i, position in enumerate(positions)})
        return jnp.stack([outputs[i] for i in range(len(modalities))], 1)


def modalities_of(config: ModelConfig, bases: Sequence[int] = (0, 1), *, derive: bool = True) -> tuple[int, ...]:
    """The modalities that take part, bases first, for the arguments of `Network.__call__`."""
    derived = DERIVED[config.generator.derivatives] if derive else ()
    return tuple(bases) + tuple(2 + base for base in bases if base in derived)


def feature_size(config: ModelConfig) -> int:
    """D: length of a feature vector."""
    trunk = MOBILENET_FEATURES if config.arch == "mobilenet_v2" else ARCHITECTURES[config.arch].features
    return trunk * config.stripes


def initial_variables(
    network: Network, seed: int, image_size: tuple[int, int], *, pretrained: bool = True
) -> Mapping[str, Any]:
    """`params` and `batch_stats` before training: a function of the seed and of the weights to start from.

    Args:
      network: of any `axis_name`; its devices play no part here.
      seed: of the random initialisation.
      image_size: (height, width) in pixels.
      pretrained: whether to read `model.pretrained`, where that is set.

    Raises:
      BdfError: the pretrained weights cannot be read or do not fit.
    """
    alone = network.clone(axis_name=None)  # under pmap, statistics need an axis of devices that does not exist yet
    images = jnp.zeros((1, 2, *image_size, 3))
    variables = jax.jit(lambda key: alone.init(key, images, train=True))(jax.random.key(seed))
    if pretrained and network.config.pretrained:
        from bdf_jax.models.weights import load_pretrained  # readers of foreign files, rarely needed

        return load_pretrained(network.config.pretrained, variables, network.config)
    return variables


def _pool(module: nn.Module, x_NMHWC: jax.Array, config: ModelConfig) -> jax.Array:
    """Global pooling of each horizontal stripe; the stripes' features follow one another in D."""
    H = x_NMHWC.shape[2]
    if H < config.stripes:
        raise BdfError(
            f"model.stripes: {config.stripes} stripes need as many rows, but the last stage has {H}; "
            "set fewer stripes or a larger data.image_size"
        )
    edges = [round(i * H / config.stripes) for i in range(config.stripes + 1)]
    stripes = [x_NMHWC[:, :, top:bottom] for top, bottom in itertools.pairwise(edges)]
    if config.pool == "max":
        pooled = [stripe.max(axis=(2, 3)) for stripe in stripes]
    elif config.pool == "gem":
        # Radenovic et al., "Fine-Tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, equation 3.
        p = module.param("gem_p", nn.initializers.constant(3.0), ())
        pooled = [(jnp.maximum(stripe, 1e-6) ** p).mean(axis=(2, 3)) ** (1 / p) for stripe in stripes]
    else:
        pooled = [stripe.mean(axis=(2, 3)) for stripe in stripes]
    return jnp.concatenate(pooled, axis=-1)
