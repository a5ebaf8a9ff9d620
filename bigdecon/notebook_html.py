"""Pictures and tables for notebooks: HTML without scripts, every text escaped.

card(title, rows, picture)  ──▶  what a class gives from `_repr_html_`
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

__all__ = ["card", "curve_picture", "grey_picture", "progress_bar"]

Rows = Sequence[tuple[str, str]]

MOST_PIXELS = 192
"""Along the longer side of a thumbnail."""
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#bbbbbb"  # of Okabe and Ito: colour-blind readers tell them


def card(title: str, rows: Rows, picture: str = "", note: str = "", code: str = "") -> str:
    """Put a title, a picture beside a table, a sentence and some code together.

    Parameters
    ----------
    title, note, code : plain text
    rows : heading and plain text; a heading that is empty continues the last
    picture : HTML
    """
    cells = "".join(
        '<tr><td style="text-align:left;vertical-align:top;opacity:.7;white-space:nowrap;'
        f'padding:1px 12px 1px 0">{escape(heading)}'
        f'</td><td style="text-align:left;overflow-wrap:anywhere;padding:1px 0">{escape(text)}</td></tr>'
        for heading, text in rows
    )
    beside = f'<div style="margin-right:16px">{picture}</div>' if picture else ""
    below = f'<div style="opacity:.8;margin-top:4px">{escape(note)}</div>' if note else ""
    below += f'<pre style="margin:4px 0">{escape(code)}</pre>' if code else ""
    return (
        f'<div class="bigdecon"><strong>{escape(title)}</strong>'
        f'<div style="display:flex;flex-wrap:wrap;align-items:flex-start;margin-top:4px">{beside}'
        f'<table style="margin:0">{cells}</table></div>{below}</div>'
    )


def grey_picture(
    image: NDArray[np.generic], caption: str = "", aspect: float = 1.0, longest: int = MOST_PIXELS
) -> str:
    """Draw a 2D image, stretched from its darkest to its brightest percentile.

    Parameters
    ----------
    image : (rows, columns)
    caption : plain text
    aspect : height of a pixel over its width
    longest : extent of the longer side on the page, in pixels
    """
    small = np.asarray(_shrunk(image), np.float32)
    finite = small[np.isfinite(small)]
    low, high = np.percentile(finite, (1, 99.8)) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(small, nan=low) - low) / max(float(high - low), 1e-30)
    pixels = (255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    height, width = pixels.shape[0] * aspect, float(pixels.shape[1])
    scale = longest / max(height, width)
    address = "data:image/png;base64," + base64.b64encode(_png(pixels)).decode()
    words = f'<div style="font-size:85%;opacity:.7">{escape(caption)}</div>' if caption else ""
    return (
        f'<div><img src="{address}" alt="{escape(caption or "image")}" '
        f'width="{max(1, round(width * scale))}" '
        f'height="{max(1, round(height * scale))}" style="image-rendering:pixelated;margin:0">{words}</div>'
    )


def curve_picture(steps: Sequence[int], losses: Sequence[float], held_out: Sequence[float | None]) -> str:
    """Draw a training curve as SVG, the loss logarithmic; "" where there are fewer than two points."""
    lines = [
        (BLUE, "loss", [(s, v) for s, v in zip(steps, losses, strict=True) if v > 0]),
        (VERMILLION, "held-out", [(s, v) for s, v in zip(steps, held_out, strict=True) if v and v > 0]),
    ]
    values = [np.log10(v) for _, _, points in lines for _, v in points]
    if len(lines[0][2]) < 2:
        return ""
    low, span = min(values), max(max(values) - min(values), 1e-9)
    last = max(1, *steps)

    def place(step: int, value: float) -> str:
        return f"{4 + 184 * step / last:.1f},{94 - 88 * (np.log10(value) - low) / span:.1f}"

    drawn = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" '
        f'points="{" ".join(place(*point) for point in points)}"/>'
        for colour, _, points in lines
        if points
    )
    words = " ".join(
        f'<span style="color:{colour}">■</span> {name}' for colour, name, points in lines if points
    )
    return (
        '<svg width="192" height="100" viewBox="0 0 192 100" role="img" aria-label="training curve">'
        f'<rect x="2" y="2" width="188" height="96" fill="none" stroke="{GREY}"/>{drawn}</svg>'
        f'<div style="font-size:85%;opacity:.7">{words}, over {last} steps</div>'
    )


def progress_bar(part: float) -> str:
    """Draw a bar that is full at 1."""
    percent = 100 * min(1.0, max(0.0, part))
    return (
        f'<div style="display:inline-block;width:240px;height:8px;background:{GREY};border-radius:4px;'
        f'vertical-align:middle"><div style="width:{percent:.1f}%;height:8px;background:{BLUE};'
        'border-radius:4px"></div></div>'
    )


def _shrunk(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Take every n-th pixel of a large image."""
    step = max(1, -(-max(image.shape) // (2 * MOST_PIXELS)))
    return image[::step, ::step]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Pack grey pixels as a PNG file (RFC 2083)."""
    height, width = pixels.shape

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = np.hstack(
        [np.zeros((height, 1), np.uint8), pixels]
    ).tobytes()  # each begins with its filter: none
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + packed
