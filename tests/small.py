"""Small networks and configurations that tests of several folders share."""

from bdf_jax.config import Config, DataConfig
from bdf_jax.method import experiment, find
from bdf_jax.models.network import Network, NetworkConfig
from bdf_jax.models.trunk import MobileNetV2, ResNet, Tiny, Trunk, tiny
from bdf_jax.parts import Named
from bdf_jax.views import Pixelwise, View

DERIVATIVES = Named(Dv=View("V", Pixelwise()), Di=View("I", Pixelwise()))


def trunk(arch: str) -> Trunk:
    """By the name that people call it."""
    return {"tiny": Tiny(), "mobilenet_v2": MobileNetV2()}.get(arch) or ResNet(int(arch.removeprefix("resnet")))


def part(arch: str = "tiny", **changes) -> NetworkConfig:
    """The network's section of a configuration."""
    return NetworkConfig(trunk=trunk(arch), **changes)


def base_derivative(config: NetworkConfig, classes: int, views: Named = DERIVATIVES) -> Network:
    """The network with the derivatives of both bases."""
    return Network(views, config, classes)


def tiny_method(method: str = "base_derivative", *, replaces: dict | None = None, **sections) -> Config:
    """A method with the tiny trunk on small images."""
    sections = {"data": DataConfig(), **sections}
    recipe, on = find(method).network, find(method).on
    # What makes and judges images is as narrow as in the demo, and a stage as long.
    parts = ("views.", "network.codes.", "network.critics.", "network.enter_at", "stages.")
    narrow = {path: value for path, value in on.get("demo", {}).items() if path.startswith(parts)}
    small = narrow | {"network.trunk": tiny(recipe.trunk), "data.image_size": (32, 16)}
    if recipe.pool.stripes > 2:  # as many as the last map has rows
        small["network.pool.stripes"] = 2
    return experiment(method, "sysu_mm01", replaces=small | (replaces or {}), **sections)
