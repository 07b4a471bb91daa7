"""Pixels as the networks see them: normalised by the statistics of ImageNet."""

from __future__ import annotations

import io
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

# ImageNet statistics of pixels in [0, 1], RGB.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def normalise(images_uint8: jax.Array) -> jax.Array:
    """Pixels 0..255 of (..., H, W, 3) to float32 with ImageNet's mean 0 and deviation 1."""
    return (images_uint8.astype(jnp.float32) / 255.0 - MEAN) / STD


def denormalise(images: jax.Array) -> jax.Array:
    """The inverse of `normalise` up to rounding: uint8 pixels, clipped to 0..255."""
    return jnp.clip(jnp.round((images * STD + MEAN) * 255.0), 0, 255).astype(jnp.uint8)


def signed(images: jax.Array) -> jax.Array:
    """Normalised pixels as numbers between -1 and 1."""
    return (images * STD + MEAN) * 2 - 1


def unsigned(images: jax.Array) -> jax.Array:
    """The inverse of `signed`."""
    return ((images + 1) / 2 - MEAN) / STD


def png(image: Image.Image) -> bytes:
    """The image as a PNG without any metadata."""
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def sheet(rows: Sequence[Sequence[Image.Image]], gap: int) -> Image.Image:
    """Pictures of one size side by side, rows below one another, on white, `gap` pixels apart."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    made = Image.new("RGB", (columns * (width + gap) - gap, len(rows) * (height + gap) - gap), "white")
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            made.paste(tile, (j * (width + gap), i * (height + gap)))
    return made
