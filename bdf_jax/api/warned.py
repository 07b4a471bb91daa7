"""What is said of images that could not be read, or of which a network sees little."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from bdf_jax.api.pictures import Images
from bdf_jax.data.levels import NarrowRange
from bdf_jax.errors import BdfError
from bdf_jax.names import some


class SkippedImages(UserWarning):
    """Images that could not be read, and were left out because that was asked for."""


def skipped_lines(images: Images, failed: Mapping[int, str]) -> list[str]:
    """What was skipped and why, a line each."""
    return [*images.unreadable, *failed.values()]


def warn_of(images: Images, failed: Mapping[int, str]) -> None:
    """Warns, at the line that called the caller, of what was skipped and of images that use little of their range."""
    lines = skipped_lines(images, failed)
    if lines:
        what = f"{len(failed)} of {len(images)} images skipped"
        warnings.warn(f"{what}: " + "; ".join(lines), SkippedImages, stacklevel=3)
    if str(images.notes):
        warnings.warn(str(images.notes), NarrowRange, stacklevel=3)


def check_some_left(images: Images, failed: Mapping[int, str]) -> None:
    """Raises BdfError where no image could be read."""
    if len(failed) == len(images):
        raise BdfError(f"none of {len(images)} images could be read: {some(failed.values())}")
