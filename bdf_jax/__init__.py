"""The base-derivative framework for visible-infrared person re-identification, in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bdf_jax.api.gallery import Gallery as Gallery
    from bdf_jax.api.gallery import open_gallery as open_gallery
    from bdf_jax.api.model import Model as Model
    from bdf_jax.api.model import load as load
    from bdf_jax.errors import BdfError as BdfError

# Imported when first asked for: `import bdf_jax` starts neither JAX nor Pillow.
_PLACES = {
    "BdfError": "errors",
    "Gallery": "api.gallery",
    "Model": "api.model",
    "load": "api.model",
    "open_gallery": "api.gallery",
}
__all__ = ["BdfError", "Gallery", "Model", "load", "open_gallery"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
