"""The diagrams of docs/how_it_works.md: `python docs/figures/draw.py` writes them beside this file.

Lines and words take the colour of the text around them, so that they can be read on light and on dark pages.
What stands for light is magenta, what is computed green: both can be told apart by colour-blind readers.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

__all__ = ["draw_all"]

FOLDER = Path(__file__).parent
LIGHT, WORK = "#d6479a", "#2f9e5f"
STYLE = """<style>
svg.diagram { color: #24292f; font: 15px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg.diagram { color: #e6e6e6; } }
</style>"""
Picture = NDArray[np.floating]


# --- what the little pictures show ------------------------------------------------------------


def filaments(size: int = 96) -> Picture:
    """Draw bent lines with beads on them, x to the right and z downwards."""
    random = np.random.default_rng(4)
    scene = np.zeros((size, size))
    for _ in range(5):
        x, z = random.uniform(10, size - 10, 2)
        angle = random.uniform(0, 2 * np.pi)
        for _ in range(150):
            angle += random.normal(0, 0.06)
            x, z = x + np.cos(angle) / 2, z + np.sin(angle) / 2
            if 2 < x < size - 3 and 2 < z < size - 3:
                scene[int(z), int(x)] = 1
    return gaussian_filter(scene, 0.8) * 3


def blurred(scene: Picture) -> Picture:
    """Blur as a widefield microscope does: more along z."""
    return gaussian_filter(scene, (5, 2.2))


def noisy(scene: Picture) -> Picture:
    """Add noise that grows with the light."""
    random = np.random.default_rng(1)
    return np.asarray(scene + np.sqrt(0.02 * scene + 0.06**2) * random.normal(size=scene.shape))


def spread(size: int = 96) -> Picture:
    """Draw a point spread function."""
    point = np.zeros((size, size))
    point[size // 2, size // 2] = 1
    return np.asarray(blurred(point) ** 0.6)


def href(picture: Picture, high: float | None = None) -> str:
    """Give a picture as grey PNG in an address."""
    scaled = np.clip(picture / (picture.max() if high is None else high), 0, 1) * 255
    file = io.BytesIO()
    Image.fromarray(scaled.astype(np.uint8)).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# --- shapes -----------------------------------------------------------------------------------


def rect(x: float, y: float, w: float, h: float, colour: str = "currentColor", extra: str = "") -> str:
    """Draw the outline of a rectangle; `extra` may fill it."""
    fill = "" if "fill=" in extra else 'fill="none" '
    return f'<rect x="{x}" y="{y}" width="{w}" height="{h}" {fill}stroke="{colour}" {extra}/>'


def image(x: float, y: float, side: float, picture: Picture, high: float | None = None) -> str:
    """Place a picture with a frame."""
    place = f'x="{x}" y="{y}" width="{side}" height="{side}"'
    return f'<image {place} href="{href(picture, high)}"/>' + rect(
        x, y, side, side, extra='stroke-opacity=".6"'
    )


def text(x: float, y: float, words: str, size: int = 15, anchor: str = "middle") -> str:
    """Write one line."""
    place = f'x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place} fill="currentColor">{words}</text>'


def arrow(points: Iterable[tuple[float, float]], colour: str = "currentColor", both: bool = False) -> str:
    """Draw a line with a head at its end, or at both ends."""
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    start = ' marker-start="url(#head)"' if both else ""
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" marker-end="url(#head)"{start}/>'
    )


def network(x: float, y: float, h: float = 60) -> str:
    """Draw a network: it narrows to its middle and widens again."""
    w, waist = 74, h * 0.22
    corners = ((0, 0), (w / 2, waist), (w, 0), (w, h), (w / 2, h - waist), (0, h))
    shape = " ".join(f"{x + dx},{y + dy}" for dx, dy in corners)
    return (
        f'<polygon points="{shape}" fill="{WORK}" fill-opacity=".25" stroke="{WORK}" stroke-width="1.6"/>'
        + text(x + w / 2, y + h / 2 + 6, "<tspan font-style='italic'>f</tspan>", 18)
    )


def blur_box(x: float, y: float) -> str:
    """Draw the convolution with the PSF."""
    extra = f'rx="8" fill="{LIGHT}" fill-opacity=".22" stroke-width="1.6"'
    letter = "<tspan font-style='italic'>g</tspan>"
    return rect(x, y, 56, 44, LIGHT, extra) + text(x + 28, y + 29, letter, 18)


def write(name: str, width: int, height: int, title: str, shapes: list[str]) -> None:
    """Write a diagram."""
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="currentColor"/></marker></defs>'
    ).replace('"head"', f'"head-{name}"')
    body = "\n".join(shapes).replace("url(#head)", f"url(#head-{name})")
    (FOLDER / f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="diagram" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}">\n{STYLE}\n{head}\n{body}\n</svg>\n'
    )


# --- the diagrams -----------------------------------------------------------------------------


def forward() -> None:
    """Object, blur, noise, image."""
    scene = filaments()
    clear = blurred(scene)
    top = float(noisy(clear).max())
    side, y = 120, 44
    write(
        "forward",
        740,
        214,
        "Forward model",
        [
            image(10, y, side, scene),
            text(70, 30, "object"),
            text(155, y + 68, "∗", 30),
            image(180, y, side, spread()),
            text(240, 30, "PSF"),
            text(326, y + 68, "=", 26),
            image(350, y, side, clear, top),
            text(410, 30, "blurred"),
            text(507, y + 66, "+ noise", 15),
            text(556, y + 68, "=", 26),
            image(580, y, side, noisy(clear), top),
            text(640, 30, "image"),
            arrow([(640, 174), (640, 192), (70, 192), (70, 170)], WORK),
            text(355, 209, "deconvolution: the way back", 14),
            text(718, y + 112, "z ↓", 13),
        ],
    )


def siamese() -> None:
    """Two passes through one network, blurred again and compared."""
    scene = filaments()
    clear = blurred(scene)
    seen = noisy(clear)
    top = float(seen.max())
    hidden = np.random.default_rng(5).random(seen.shape) < 0.02
    masked = seen.copy()
    masked[hidden] = np.random.default_rng(6).uniform(0, top, hidden.sum())
    estimate = gaussian_filter(scene, (1.6, 0.8))
    side = 96
    rows = []
    for y, given, label in ((40, seen, "image"), (248, masked, "voxels hidden")):
        mid = y + side / 2
        rows += [
            image(10, y, side, given, top),
            text(58, y - 10, label),
            arrow([(110, mid), (142, mid)]),
            network(146, mid - 32, 64),
            arrow([(224, mid), (254, mid)]),
            image(258, y, side, estimate),
            text(306, y - 10, "estimate"),
            arrow([(358, mid), (390, mid)]),
            blur_box(394, mid - 22),
            arrow([(454, mid), (486, mid)]),
            image(490, y, side, clear, top),
            text(538, y - 10, "blurred again"),
        ]
    write(
        "siamese",
        800,
        380,
        "Training with two passes",
        [
            *rows,
            f'<path d="M183 122 V262" stroke="{WORK}" stroke-width="1.6" stroke-dasharray="5 4"/>',
            text(190, 196, "the same network", 13, "start"),
            arrow([(538, 142), (538, 222)], both=True),
            text(550, 178, "<tspan font-weight='600'>invariance</tspan>", 15, "start"),
            text(550, 196, "the same at hidden voxels", 13, "start"),
            image(676, 40, side, seen, top),
            text(724, 30, "image"),
            arrow([(592, 88), (672, 88)], both=True),
            text(632, 78, "<tspan font-weight='600'>like it</tspan>", 13),
            text(724, 158, "<tspan font-weight='600'>reconstruction</tspan>", 15),
            text(422, 122, "PSF", 13),
            text(422, 330, "PSF", 13),
        ],
    )


def masking() -> None:
    """Hidden voxels are predicted from their surroundings."""
    random = np.random.default_rng(3)
    cells = blurred(filaments(32))[8:18, 8:18]
    cells = 0.15 + 0.55 * cells / cells.max() + random.normal(0, 0.07, cells.shape)
    hidden = [(2, 3), (5, 7), (8, 2)]
    size, shapes = 20, []

    def grid(left: float, marked: str) -> None:
        def cell(row: int, column: int, colour: str, extra: str) -> str:
            return rect(left + column * size, 44 + row * size, size, size, colour, extra)

        for row in range(10):
            for column in range(10):
                level = int(255 * np.clip(cells[row, column], 0, 1))
                if (row, column) in hidden and marked == "noise":
                    level = int(random.uniform(0, 255))
                shapes.append(cell(row, column, "none", f'fill="rgb({level},{level},{level})"'))
        colour = LIGHT if marked == "noise" else WORK
        shapes.extend(cell(row, column, colour, 'stroke-width="3"') for row, column in hidden)

    grid(20, "noise")
    grid(500, "told")
    row, column = hidden[1]
    x, y = 20 + column * size, 44 + row * size
    around = 'stroke-width="2" stroke-dasharray="5 3"'
    shapes.append(rect(x - 2 * size, y - 2 * size, 5 * size, 5 * size, WORK, around))
    write(
        "masking",
        720,
        292,
        "Hidden voxels",
        [
            *shapes,
            text(120, 30, "hidden voxels hold noise"),
            text(600, 30, "and are told from around"),
            arrow([(226, 144), (306, 144)]),
            network(310, 112, 64),
            text(347, 198, "sees the surroundings,", 13),
            text(347, 215, "never the value itself", 13),
            arrow([(388, 144), (418, 144)]),
            blur_box(422, 122),
            arrow([(480, 144), (496, 144)]),
            text(120, 268, "surroundings that count (dashed)", 13),
            text(600, 268, "compared with what was recorded", 13),
        ],
    )


def blocks() -> None:
    """Draw a block with its halo, the core that is kept, and cores side by side."""
    picture = zoom(noisy(blurred(filaments())), 2, order=1)
    side, core, halo = 240, 80, 26
    left, top = 20, 40
    x, y, wide = left + core, top + core, core + 2 * halo
    dashed = 'stroke-width="2.5" stroke-dasharray="6 4"'
    kept = f'stroke-width="2.5" fill="{WORK}" fill-opacity=".25"'
    cuts = "".join(f"M{left + i} {top} v{side} M{left} {top + i} h{side} " for i in (core, 2 * core))
    shapes = [
        image(left, top, side, picture, float(picture.max())),
        f'<path d="{cuts}" stroke="#fff" stroke-opacity=".7"/>',
        rect(x - halo, y - halo, wide, wide, LIGHT, dashed),
        rect(x, y, core, core, WORK, kept),
        text(140, 28, "volume, cut into blocks"),
        arrow([(270, 160), (318, 160)]),
        # the block as it is read
        rect(326, 94, wide, wide, LIGHT, f'{dashed} fill="{LIGHT}" fill-opacity=".18"'),
        rect(352, 120, core, core, WORK, kept),
        text(392, 158, "core:", 14),
        text(392, 176, "written", 14),
        text(392, 112, "halo: computed", 12),
        text(392, 217, "and cut off", 12),
        text(392, 84, "one block"),
        arrow([(464, 160), (512, 160)]),
    ]
    for number in range(9):
        cx, cy, done = 520 + number % 3 * 66, 62 + number // 3 * 66, number < 5
        extra = f'stroke-opacity=".7" fill="{WORK}" fill-opacity="{0.25 if done else 0}"'
        shapes.append(rect(cx, cy, 66, 66, extra=extra))
        if done:
            shapes.append(text(cx + 33, cy + 38, "✓", 20))
    shapes += [
        text(619, 50, "result: cores side by side"),
        text(619, 284, "the ledger notes what is finished", 13),
    ]
    write("blocks", 740, 300, "Blocks and halos", shapes)


def draw_all() -> None:
    """Draw all of them."""
    for draw in (forward, siamese, masking, blocks):
        draw()


if __name__ == "__main__":
    draw_all()
