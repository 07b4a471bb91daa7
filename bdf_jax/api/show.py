"""How things look in a notebook: strips of small pictures and tables, in HTML that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from bdf_jax.names import printable

HEIGHT = 96  # of a tile, pixels
MOST = 12  # tiles in a strip
LONGEST = 24  # characters of a name below a tile

# Colours are those of the notebook, light or dark.
TILE = "margin:0;font-size:11px;line-height:1.3;width:min-content;min-width:76px;overflow-wrap:break-word"
STRIP = "display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start;margin:4px 0"
CELL = "text-align:left;padding:2px 14px 2px 0"


class Pictures(np.ndarray):
    """Images (N, height, width, 3) uint8 or one (height, width, 3): an array that a notebook shows as pictures.

    Attributes:
      bases: of the same shape, the images that these were made of; None after slicing.
      names: of the N images; likewise.
      title: what is shown.
    """

    bases: np.ndarray | None
    names: Sequence[str] | None
    title: str

    @classmethod
    def of(cls, pixels_NHWC: np.ndarray, bases: np.ndarray, names: Sequence[str], *, title: str) -> Pictures:
        """The array as pictures."""
        pictures = pixels_NHWC.view(cls)
        pictures.bases, pictures.names, pictures.title = bases, names, title
        return pictures

    def __array_finalize__(self, source: Any) -> None:
        self.bases, self.names, self.title = None, None, ""

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """Arithmetic gives plain arrays: a sum of pictures is no picture."""
        return array[()] if return_scalar else np.asarray(array)

    def __repr__(self) -> str:
        title = f", {self.title}" if self.title else ""
        return f"<Pictures {self.shape} {self.dtype}{title}>"

    def _repr_html_(self) -> str | None:
        if self.dtype != np.uint8 or self.ndim not in (3, 4) or self.shape[-1] != 3 or not self.size:
            return None  # a notebook then falls back on __repr__
        if self.ndim == 3:
            return strip([tile(np.asarray(self))])
        names = self.names or [""] * len(self)
        bases = [None] * len(self) if self.bases is None else self.bases
        tiles = [
            figure(([] if base is None else [base]) + [np.asarray(picture)], caption(name))
            for picture, base, name in zip(self[:MOST], bases, names, strict=False)
        ]
        more = f"<div>and {len(self) - MOST:,} more</div>" if len(self) > MOST else ""
        return f"<div>{escaped(self.title)}</div>{strip(tiles)}{more}"


def escaped(text: Any) -> str:
    """Any text inside HTML, on one line."""
    return html.escape(printable(str(text)))


def caption(*parts: Any) -> str:
    """Lines below a picture; of a long name its end, with the whole of it where the mouse rests."""
    return "<br>".join(f'<span title="{escaped(part)}">{escaped(_end(str(part)))}</span>' for part in parts)


def _end(name: str) -> str:
    """The last parts of a path, as many as fit below a tile."""
    while len(name) > LONGEST:
        name = "…" + (name[name.index("/", 2) :] if "/" in name[2:] else name[-LONGEST + 1 :])
    return name


def tile(pixels_HWC: np.ndarray) -> str:
    """One small picture, embedded as JPEG (as PNG where that is smaller)."""
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    width = min(max(1, round(image.width * HEIGHT / image.height)), 2 * HEIGHT)
    if image.height > HEIGHT:
        image = image.resize((width, HEIGHT), Image.Resampling.BILINEAR)
    encoded = min((_encoded(image, kind) for kind in ("JPEG", "PNG")), key=lambda found: len(found[1]))
    source = f"data:image/{encoded[0].lower()};base64,{base64.b64encode(encoded[1]).decode('ascii')}"
    return f'<img src="{source}" width="{width}" height="{HEIGHT}" alt="">'


def figure(pictures: Iterable[np.ndarray | None], below: str, *, frame: str = "") -> str:
    """Pictures above one another with a caption (HTML); None: a place where no picture is at hand."""
    shown = "<br>".join(_blank() if picture is None else tile(picture) for picture in pictures)
    border = f";outline:3px solid {frame}" if frame else ""
    return f'<figure style="{TILE}{border}">{shown}<figcaption>{below}</figcaption></figure>'


def strip(figures: Iterable[str]) -> str:
    """Figures side by side."""
    return f'<div style="{STRIP}">{"".join(figures)}</div>'


def facts_table(title: str, facts: Mapping[str, str]) -> str:
    """Names and values."""
    rows = "".join(
        f'<tr><th style="{CELL}">{escaped(name)}</th><td style="{CELL}">{escaped(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<div><b>{escaped(title)}</b></div><table>{rows}</table>"


def page(title: str, note: str, body: str) -> str:
    """A page of its own that fetches nothing and runs nothing: a title, a line about what is shown, and HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escaped(title)}</title>"
        "<style>body{font-family:system-ui,sans-serif;margin:24px;color:#1d2329;background:#fff}"
        "h1{font-size:20px;overflow-wrap:anywhere} p{color:#5b6570;overflow-wrap:anywhere}</style>"
        f"</head><body>\n<h1>{escaped(title)}</h1>\n<p>{escaped(note)}</p>\n{body}\n</body></html>\n"
    )


def _encoded(image: Image.Image, kind: str) -> tuple[str, bytes]:
    out = io.BytesIO()
    image.save(out, format=kind, **({"quality": 85} if kind == "JPEG" else {}))
    return kind, out.getvalue()


def _blank() -> str:
    return (
        f'<div style="width:{HEIGHT // 2}px;height:{HEIGHT}px;border:1px dashed #8a94a0;box-sizing:border-box" '
        'title="no picture at hand"></div>'
    )
