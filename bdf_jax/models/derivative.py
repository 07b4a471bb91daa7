"""The generators: a derivative image out of a base image by a small, learned, per-pixel recolouring."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.augment import LUMA, MEAN, STD
from bdf_jax.config import GeneratorConfig
from bdf_jax.models.layers import BatchNorm

# Normalised pixels lie above -2.2, so this offset keeps the ReLU open on every one of them.
OPEN = 2.2

# Which bases get a derivative.
DERIVED: dict[str, tuple[int, ...]] = {"both": (0, 1), "visible": (0,), "infrared": (1,), "none": ()}


class Pixelwise(nn.Module):
    """G(x) = W2 . relu(W1 . x + b1) + b2: two 1x1 convolutions, 3 -> h -> 3.

    `init="gray"` starts as the grey image; `init="third"` (all weights 1/3, no offsets) is the closest relative's,
    and closes the ReLU on every pixel darker than the mean; `init="random"` is a random recolouring.

    Source: Liu et al., ICPR 2020, for one generator a base; Li et al., "Infrared-Visible Cross-Modal Person
    Re-Identification with an X Modality", AAAI 2020, for its form.
    """

    config: GeneratorConfig

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Normalised images (..., 3) to (derivative of the same shape, active fraction of the ReLU)."""
        h = self.config.hidden
        constant, normal = nn.initializers.constant, nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        W1, b1, W2, b2 = {
            "gray": (constant(1 / 3), constant(OPEN), constant(1.0), constant(-OPEN)),
            "third": (constant(1 / 3), constant(0.0), constant(1 / 3), constant(0.0)),
            "random": (normal, constant(OPEN), normal, constant(0.0)),
        }[self.config.init]
        hidden = nn.relu(nn.Dense(h, kernel_init=W1, bias_init=b1, name="conv1")(images))
        return nn.Dense(3, kernel_init=W2, bias_init=b2, name="conv2")(hidden), (hidden > 0).mean()


class Middle(nn.Module):
    """An encoder 3 -> 1 -> 1 with batch normalisation; its decoder 1 -> 3, shared by both bases, is passed in.

    Source: Zhang et al., "Towards a Unified Middle Modality Learning for Visible-Infrared Person
    Re-Identification", ACM MM 2021.
    """

    decoder: nn.Module
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Normalised images (..., 3) to (derivative of the same shape, active fraction of the ReLU)."""
        hidden = nn.relu(nn.Dense(1, bias_init=nn.initializers.constant(OPEN), name="conv1")(images))
        code = BatchNorm(axis_name=self.axis_name, name="bn")(nn.Dense(1, name="conv2")(hidden), train=train)
        return self.decoder(code), (hidden > 0).mean()


class Gray(nn.Module):
    """The luma of the image in all three channels: nothing is learned (a control)."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Normalised images (..., 3) to (derivative of the same shape, 1)."""
        luma = ((images * STD + MEAN) @ LUMA)[..., None]
        return (luma - MEAN) / STD, jnp.ones(())


def generators(config: GeneratorConfig, axis_name: str | None) -> dict[int, Any]:
    """The generator of every base that has one (0 visible, 1 infrared); one for both where they are tied."""
    bases = DERIVED[config.derivatives]
    decoder = nn.Dense(3, name="generator_decoder") if config.kind == "middle" and bases else None

    def make(name: str) -> nn.Module:
        if config.kind == "gray":
            return Gray(name=name)
        if decoder is not None:
            return Middle(decoder, axis_name, name=name)
        return Pixelwise(config, name=name)

    if config.tied and bases:
        return dict.fromkeys(bases, make("generator"))
    return {base: make(f"generator_{('visible', 'infrared')[base]}") for base in bases}
