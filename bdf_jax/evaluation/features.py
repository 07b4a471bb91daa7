"""Every image of a split through the network once: uint8 images in, feature vectors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bdf_jax import distributed
from bdf_jax.config import RetrieveConfig
from bdf_jax.data.dataset import Split
from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.loader import eval_batches
from bdf_jax.errors import BdfError
from bdf_jax.models import Network
from bdf_jax.pixels import normalise
from bdf_jax.progress import bar
from bdf_jax.trouble import IN_EMBEDDING, enough_memory
from bdf_jax.views import BASES

Embed = Callable[[Mapping[str, Any], Any, int], jax.Array]


def similarity_of(settings: RetrieveConfig) -> str:
    """How `embed_split`'s features are compared: those of sum4 by a plain dot product, of max4 and min4 by that."""
    return {"sum4": "dot", "max4": "max4", "min4": "min4"}.get(settings.use, settings.similarity)


def flags_of(settings: RetrieveConfig) -> dict[str, Any]:
    """What every row of results says about its features."""
    return {"feature": settings.feature, "use": settings.use, "flip_tta": settings.flip_tta}


def make_embed(network: Network, settings: RetrieveConfig) -> Embed:
    """The jitted embed step: (variables, images_NHWC uint8, modality) to (N, D') float32, running statistics.

    `use` tells which views represent an image: the first that enters the trunk (`base`), the others (`derivative`), all
    in one vector (`concat`), or `sum4`: the sum of their features, whose dot product is the sum of the similarities of
    all pairs of views; `max4` and `min4`: both views in one vector, for the similarity of that name. Features are
    L2-normalised, but not where they are compared by Euclidean distance.

    References:
      Zhang et al., ACM MM 2021, for the sum of similarity matrices.
    """

    def chosen(modality: int) -> tuple[str, ...]:
        views = network.views_of(modality)
        return {"base": views[:1], "derivative": views[1:]}.get(settings.use, views)

    def embed(variables: Mapping[str, Any], images_NHWC: jax.Array, modality: int) -> jax.Array:
        def features(images: jax.Array) -> jax.Array:
            outputs: Any = network.apply(variables, {BASES[modality]: images}, train=False, views=chosen(modality))
            if settings.feature == "stripes":
                outputs = {"stripes": _of_length_1(outputs["embedding"])}
            names = ("pooled", "embedding") if settings.feature == "both" else (settings.feature,)
            found = [outputs[name].reshape(*outputs[name].shape[:2], -1) for name in names]
            return found[0] if len(found) == 1 else jnp.concatenate([_of_length_1(x) for x in found], -1)

        images = normalise(images_NHWC)
        features_NMD = features(images)
        if settings.flip_tta:
            features_NMD = (features_NMD + features(images[:, :, ::-1])) / 2
        if similarity_of(settings) != "euclidean":
            features_NMD = _of_length_1(features_NMD)
        if settings.use == "sum4":
            return features_NMD.sum(axis=1)
        if settings.use in ("max4", "min4"):
            if features_NMD.shape[1] != 2:
                raise BdfError(
                    f"retrieve.use: {settings.use} compares two views of an image, and this network has "
                    f"{features_NMD.shape[1]}; choose base or sum4"
                )
            return jnp.concatenate([features_NMD[:, 0], features_NMD[:, 1]], axis=1)
        N, M, D = features_NMD.shape  # N has no value yet where a program for any batch size is exported
        return features_NMD.reshape(N, M * D) / np.sqrt(M)

    return jax.jit(embed, static_argnums=2)


def _of_length_1(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def embed_split(network: Network, variables: Mapping[str, Any], split: Split, **how: Any) -> np.ndarray:
    """Features of all images of a split, shared out over all devices of all processes.

    Args:
      network: built for one device (`axis_name` None).
      variables: `params` and `batch_stats`.
      split: whose images are read once.
      **how: as for `embed_all`.

    Returns:
      (N, D') float32 in the order of `split.index`, whole in every process.

    Raises:
      Trouble: memory does not suffice.
    """
    return embed_all(network, {"": variables}, split, **how)[""]


@enough_memory(IN_EMBEDDING)
def embed_all(
    network: Network,
    variables: Mapping[str, Mapping[str, Any]],
    split: Split,
    *,
    image_size: tuple[int, int],
    settings: RetrieveConfig,
    batch_size: int,
    plain: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    progress: bool = True,
    description: str = "embedding",
) -> dict[str, np.ndarray]:
    """Features of several models for all images of a split, each of which is decoded once.

    Args:
      network: see `embed_split`.
      variables: of the network, by the name of the model.
      split: whose images are read once.
      image_size: (height, width) in pixels.
      settings: which feature.
      batch_size: images at a time; rounded up to a multiple of the devices.
      plain: features without a network by the name of the model: (N, H, W, 3) uint8 to (N, D).
      progress: whether to draw a bar.
      description: its label.

    Returns:
      name -> (N, D') float32 in the order of `split.index`, whole in every process.

    Raises:
      Trouble: memory does not suffice.
    """
    devices, plain = jax.local_devices(), plain or {}
    mesh = jax.make_mesh((len(devices),), ("images",), axis_types=(AxisType.Auto,), devices=devices)
    replicated, shared_out = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("images"))
    placed = {name: jax.device_put(dict(values), replicated) for name, values in variables.items()}
    batch_size = -(-batch_size // len(devices)) * len(devices)
    embed = make_embed(network, settings)

    shares = [distributed.share(np.flatnonzero(split.index.modalities == m)) for m in (VISIBLE, INFRARED)]
    # A process may have no image, and knows the length of a vector all the same.
    none = np.zeros((1, *image_size, 3), np.uint8)
    vectors = {name: [_no_vectors(embed, values, (batch_size, *image_size, 3))] for name, values in placed.items()}
    vectors |= {name: [function(none)[:0]] for name, function in plain.items()}
    shown_rows = [np.empty(0, np.int64)]
    with bar(
        total=sum(map(len, shares)), desc=description, unit="image", leave=False,
        disable=not (progress and distributed.is_first()),
    ) as shown:  # fmt: skip
        for modality, rows in zip((VISIBLE, INFRARED), shares, strict=True):
            # Where the network treats both bases alike, one compiled program serves both.
            program = modality if depends_on_modality(network, settings) else VISIBLE
            for batch in eval_batches(split, image_size, batch_size, rows=rows):
                images = jax.device_put(batch.images_NHWC, shared_out)
                for name, values in placed.items():
                    vectors[name].append(np.asarray(embed(values, images, program))[: batch.valid])
                for name, function in plain.items():
                    vectors[name].append(function(batch.images_NHWC[: batch.valid]))
                shown_rows.append(batch.rows_V)
                shown.update(batch.valid)
    order = np.concatenate(shown_rows)
    return {name: distributed.gather(np.concatenate(parts), order, len(split)) for name, parts in vectors.items()}


def _no_vectors(embed: Embed, variables: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """(0, D')."""
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    vectors = jax.eval_shape(lambda v, x: embed(v, x, VISIBLE), variables, images)
    return np.empty((0, vectors.shape[1]), np.float32)


def depends_on_modality(network: Network, settings: RetrieveConfig) -> bool:
    """Whether visible and infrared images take different ways through the network."""
    firsts = [network.views_of(base)[:1] for base in range(len(BASES))]
    as_they_are = settings.use == "base" and all(first[0] in BASES for first in firsts)
    specific = settings.feature == "fitted"
    return specific or network.config.split_at > 0 or network.config.bn == "per_view" or not as_they_are
