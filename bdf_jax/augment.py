"""Augmentation on the device: a pure function of the images and of (seed, step, global image index)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bdf_jax.config import AugmentConfig, Config
from bdf_jax.pixels import LUMA, normalise
from bdf_jax.views import BASES, Drawn


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """The random key of a training step."""
    return jax.random.fold_in(jax.random.key(seed), step)


def augment(
    images_NBHWC: jax.Array, key: jax.Array, config: AugmentConfig, *, first_pair: int | jax.Array = 0
) -> jax.Array:
    """Flips, crops, normalises and erases every image with random numbers of its own.

    The key of an image is folded with its index in the global batch, so any split of the batch over devices or
    processes augments it alike.

    Args:
      images_NBHWC: (N, B, H, W, 3) uint8, this device's share of the pairs.
      key: of the step, the same on every device.
      config: probabilities and sizes.
      first_pair: index of the first of these pairs in the global batch.

    Returns:
      (N, B, H, W, 3) float32, normalised.
    """
    N, B, H, W, C = images_NBHWC.shape
    indices_I = first_pair * B + jnp.arange(N * B)
    keys_I = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices_I)
    channels_B4 = jnp.asarray((config.visible_channels, config.infrared_channels)[:B])
    channels_I4 = jnp.tile(channels_B4, (N, 1))
    images_IHWC = jax.vmap(lambda image, k, channels: _augment_one(image, k, config, channels))(
        images_NBHWC.reshape(-1, H, W, C), keys_I, channels_I4
    )
    return images_IHWC.reshape(N, B, H, W, C)


def augmented_views(
    images_NBHWC: jax.Array, key: jax.Array, config: Config, *, first_pair: int | jax.Array = 0
) -> dict[str, jax.Array]:
    """The images of the bases, and of the views that are drawn once more, by the name of the view.

    Args:
      images_NBHWC: (N, 2, H, W, 3) uint8, this device's share of the pairs.
      key: of the step.
      config: whose `augment` and `views` say what is drawn.
      first_pair: see `augment`.

    Returns:
      {view: (N, H, W, 3)} float32, normalised.
    """
    bases_NBHWC = augment(images_NBHWC, key, config.augment, first_pair=first_pair)
    found = {name: bases_NBHWC[:, base] for base, name in enumerate(BASES)}
    for number, (name, view) in enumerate(config.views.items(), 1):
        if isinstance(view.by, Drawn):
            base, channels = BASES.index(view.of), view.by.channels
            own = dataclasses.replace(config.augment, visible_channels=channels, infrared_channels=channels)
            drawn = augment(
                images_NBHWC[:, base : base + 1], jax.random.fold_in(key, 2**31 + number), own, first_pair=first_pair
            )
            found[name] = drawn[:, 0]
    return found


def _augment_one(image_HWC: jax.Array, key: jax.Array, config: AugmentConfig, channels: jax.Array) -> jax.Array:
    H, W, C = image_HWC.shape
    flip, row, column, erase = jax.random.split(key, 4)
    image_HWC = jnp.where(jax.random.bernoulli(flip, config.flip), image_HWC[:, ::-1], image_HWC)
    if config.pad:
        padded = jnp.pad(image_HWC, ((config.pad, config.pad), (config.pad, config.pad), (0, 0)))
        top = jax.random.randint(row, (), 0, 2 * config.pad + 1)
        left = jax.random.randint(column, (), 0, 2 * config.pad + 1)
        image_HWC = jax.lax.dynamic_slice(padded, (top, left, 0), (H, W, C))
    exchange = config.channels_of if any(config.visible_channels + config.infrared_channels) else ""
    if exchange == "pixels":
        image_HWC = _exchange(image_HWC.astype(jnp.float32), jax.random.fold_in(key, 1), channels)
    image_HWC = normalise(image_HWC)
    if config.erase:
        image_HWC = _erase(image_HWC, erase, config)
    if exchange == "normalised":
        image_HWC = _exchange(image_HWC, jax.random.fold_in(key, 1), channels)
    return image_HWC


def _exchange(image_HWC: jax.Array, key: jax.Array, probabilities_4: jax.Array) -> jax.Array:
    """One channel, or the luma, in place of all three: Ye et al., ICCV 2021, section 3.1."""
    until_4 = jnp.cumsum(probabilities_4)
    choice = (jax.random.uniform(key) >= until_4).sum()
    grey_HW1 = (image_HWC @ LUMA)[..., None]
    copies = [jnp.broadcast_to(x, image_HWC.shape) for x in (*jnp.split(image_HWC, 3, axis=-1), grey_HW1)]
    return jnp.stack([*copies, image_HWC])[choice]


def _erase(image_HWC: jax.Array, key: jax.Array, config: AugmentConfig) -> jax.Array:
    """Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, filled as a rule with the mean pixel, 0.

    A box that would not fit is cut to the image instead of drawn again, which keeps the shapes static.
    """
    H, W, _ = image_HWC.shape
    use, area, aspect, row, column = jax.random.split(key, 5)
    pixels = H * W * jax.random.uniform(area, minval=config.erase_area[0], maxval=config.erase_area[1])
    low, high = np.log(config.erase_aspect)
    ratio = jnp.exp(jax.random.uniform(aspect, minval=low, maxval=high))
    height = jnp.clip(jnp.round(jnp.sqrt(pixels * ratio)), 1, H)
    width = jnp.clip(jnp.round(jnp.sqrt(pixels / ratio)), 1, W)
    top = jnp.floor(jax.random.uniform(row) * (H - height + 1))
    left = jnp.floor(jax.random.uniform(column) * (W - width + 1))
    y_H, x_W = jnp.arange(H), jnp.arange(W)
    inside_HW = ((y_H >= top) & (y_H < top + height))[:, None] & ((x_W >= left) & (x_W < left + width))[None]
    box_HW1 = (inside_HW & jax.random.bernoulli(use, config.erase))[..., None]
    return jnp.where(box_HW1, jnp.asarray(config.erase_with), image_HWC)
