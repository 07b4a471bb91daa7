"""The images of a folder, and how names are shown that a file system allows and a terminal does not."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bdf_jax.data.images import SUFFIXES, named_like_an_image
from bdf_jax.errors import BdfError
from bdf_jax.names import printable
from bdf_jax.paths import bucket_address


def list_images(folder: str, unreadable: list[str] | None = None) -> list[str]:
    """Every image below a folder, sorted by name.

    Files whose names end in one of `images.SUFFIXES` (large or small letters); names that begin with a dot are hidden,
    and so are the contents of such folders. Links to files and to folders are followed; a folder that several links
    lead to is read once, and links to a folder that holds this one are left alone.

    Args:
      folder: to look into.
      unreadable: where folders that cannot be read are noted; None: they are an error.

    Returns:
      Paths inside the folder, with "/" between the parts.

    Raises:
      BdfError: a folder that cannot be read; no image.
    """
    names: list[str] = []
    top = os.path.realpath(folder)
    others, waiting, seen = 0, [""], {top}
    while waiting:
        links = []
        for name in waiting:
            for found, is_link in _walk(folder, name, seen, unreadable):
                if is_link:
                    links.append(found)
                elif named_like_an_image(found.rsplit("/", 1)[-1]):
                    names.append(found)
                else:
                    others += 1
        # Linked folders come after all real ones, so that an image is called by its own path where it has one.
        waiting = []
        for link in sorted(links):
            real = os.path.realpath(join(folder, link))
            holds_us = os.path.commonpath([real, top]) == real  # its other folders were not asked for
            if real not in seen and not holds_us:
                seen.add(real)
                waiting.append(link)
    if not names:
        found = f"{others} other files" if others else "no file"
        raise BdfError(
            f"{printable(folder)}: expected a folder with images (names in {' '.join(SUFFIXES)}), found {found}"
        )
    return sorted(names)


def join(folder: str, name: str) -> str:
    """The path of an image by its name inside a folder."""
    return os.path.join(folder, *name.split("/"))


def from_here(path: str) -> str:
    """A path as it is shown: relative where it lies below the current folder."""
    if not path or bucket_address(path):
        return path
    relative = os.path.relpath(path)
    return printable(path if relative.startswith("..") else relative)


def _walk(root: str, inside: str, seen: set[str], unreadable: list[str] | None) -> Iterator[tuple[str, bool]]:
    """Visible files and links to folders below one folder: (name, whether it is a link to a folder)."""
    pending = [inside]
    while pending:
        here = pending.pop()
        try:
            with os.scandir(join(root, here) if here else root) as scanned:
                entries = [entry for entry in scanned if not entry.name.startswith(".")]
        except OSError as error:
            problem = f"{printable(join(root, here))}: cannot look into this folder: {error.strerror}"
            if unreadable is None:
                raise BdfError(problem) from error
            unreadable.append(problem)
            continue
        for entry in entries:
            name = f"{here}/{entry.name}" if here else entry.name
            if entry.is_dir(follow_symlinks=False):
                real = os.path.realpath(entry.path)
                if real not in seen:
                    seen.add(real)
                    pending.append(name)
            else:
                yield name, os.path.isdir(entry.path)  # False of a link that leads nowhere or to itself
