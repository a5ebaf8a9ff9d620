"""The page: one HTML file that holds everything, loads nothing, and works without JavaScript.

All text goes through a template that escapes it. Styles and script are allowed by their hashes, pictures as
data; the page may do nothing else (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from bigdecon.reporting.charts import draw_chart, viridis
from bigdecon.reporting.content import Content, PSFEntry, Section
from bigdecon.reporting.pictures import Plane, Views, data_uri, grey_value, scale_bar
from bigdecon.reporting.report_names import page_mark

__all__ = ["Shot", "ortho_svg", "picture_svg", "render_page"]

WIDTH = 600.0
GAP = 6.0
BAR_HEIGHT = 7.0
LETTER = 11.5
"""Width of a letter of the style sheet's font in pictures, on average."""
CORNER = 170.0, 116.0
"""Least width and height of the corner that can hold two lines of words, before's above after's."""
NOTHING = Markup()
KEPT_CAPTION = "Which part of the image's detail the result carries."
TALL = (1.1, 1.4, 1.9, 2.6)
"""Heights over widths from which a picture is shown narrower, so that it fits on a screen."""


class Shot(NamedTuple):
    """A picture as SVG, and the word or caption that belongs to it."""

    svg: Markup
    word: str = ""
    caption: str = ""


class _Placed(NamedTuple):
    """A plane on the paper; `brighter` is the same one, shown instead where that is asked for."""

    plane: Plane
    x: float
    y: float
    width: float
    height: float
    label: str = ""
    brighter: Plane | None = None


def render_page(content: Content, *, made: str = "") -> str:
    """Give the report as HTML.

    Parameters
    ----------
    content : what it says
    made : when, for the last line; "" leaves it out
    """
    css, js = _text("report.css"), _text("report.js")
    views = [_view(section) for section in content.sections]
    return _template().render(
        content=content,
        mark=page_mark(content.title),
        views=views,
        css=Markup(css),
        js=Markup(js),
        css_hash=_digest(css),
        js_hash=_digest(js),
        pictured=any(len(view["detail"]) > 1 for view in views),
        dim=any(view["detail_bright"] or view["overview_bright"] for view in views),
        measured=any(section.measures.measured for section in content.sections),
        lost=any(section.measures.lost for section in content.sections),
        agreeing=any(section.measures.agreements for section in content.sections),
        detailed=any(name == "detail" for section in content.sections for name, _ in section.charts),
        worst_shown=any(section.worst for section in content.sections),
        network=content.network,
        psfs=[_psf(entry) for entry in content.psfs],
        curves=[Shot(draw_chart(chart), caption=heading) for heading, chart in content.curves],
        colour_scale=_colour_scale(),
        version=version("bigdecon"),
        made=made,
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_text("report.html"))


@lru_cache(maxsize=4)
def _text(name: str) -> str:
    return files("bigdecon.reporting").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Hash a style or a script as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- sections ------------------------------------------------------------------------------------


def _view(section: Section) -> dict[str, Any]:
    """Turn one channel at one time point into what the template shows."""
    charts = dict(section.charts)
    agreements = [
        Shot(draw_chart(charts[a.direction]), caption=_caption(a)) for a in section.measures.agreements
    ]
    return {
        "heading": section.heading,
        "detail": _shots(section.detail, "Planes through the detail"),
        "detail_caption": f"Planes xy, xz and yz through the place with most contrast ({section.place}). "
        f"{_bar_words(section.detail)}"
        if len(section.detail.pairs) > 1
        else f"Around the place with most contrast ({section.place}). {_bar_words(section.detail)}",
        "overview": section.overview and _shots(section.overview, "All of the volume"),
        "overview_caption": section.overview
        and f"All of it, {_projected(section.overview)}. {_bar_words(section.overview)}",
        "detail_bright": section.detail.own_window is not None,
        "overview_bright": section.overview is not None and section.overview.own_window is not None,
        "residuals": [
            Shot(
                picture_svg(plane, f"Residual in the plane {name}", light=True),
                caption=f"What is left in the box with most contrast, {name} through its middle.",
            )
            for name, plane in section.residuals.items()
        ],
        "residual_charts": [draw_chart(chart) for name, chart in section.charts if name == "residual"],
        "kept_charts": [
            Shot(draw_chart(chart), caption=KEPT_CAPTION)
            for name, chart in section.charts
            if name == "detail"
        ],
        "charts": agreements,
        "agreement_charts": agreements,
        "numbers": section.numbers,
        "reaches": section.reaches,
        "quality": section.quality,
        "quality_marks": section.quality_marks,
        "worst": section.worst and _worst(section, section.worst),
    }


def _projected(views: Views) -> str:
    return "seen along each axis at its brightest" if len(views.pairs) > 1 else "at a coarser level"


def _bar_words(views: Views) -> str:
    return f"Scale bar {scale_bar(views.pairs[0].after):g} {views.unit}."


def _caption(agreement: Any) -> str:
    return {"lateral": "In the plane (lateral)", "axial": "Along z (axial)"}[agreement.direction] + (
        f", mean over {agreement.boxes} boxes." if agreement.boxes > 1 else ", in one box."
    )


def _worst(section: Section, worst: tuple[Views, Plane]) -> dict[str, Any]:
    views, residual = worst
    measured = section.measures.measured.get(section.measures.worst or ())
    misfit = f" Its misfit is {measured.chi_square:.2f} times that of noise." if measured else ""
    return {
        "shots": _shots(views, "The worst box"),
        "bright": views.own_window is not None,
        "caption": f"The worst box.{misfit} {_bar_words(views)}",
        "residual": picture_svg(residual, "Residual in the worst box", light=True),
    }


def _psf(entry: PSFEntry) -> dict[str, Any]:
    shots = [
        Shot(picture_svg(plane, f"PSF in the plane {name}"), caption=f"{name}; square root of its values")
        for name, plane in entry.planes.items()
    ]
    return {"title": entry.title, "shots": shots, "widths": entry.widths, "corrections": entry.corrections}


# --- pictures ------------------------------------------------------------------------------------


def _shots(views: Views, what: str) -> list[Shot]:
    """Give before and after, each as one picture of all its planes at one scale."""
    shots = []
    if all(pair.before is not None for pair in views.pairs):
        shots.append(Shot(ortho_svg(views, f"{what}, before", before=True), "before"))
    return [*shots, Shot(ortho_svg(views, f"{what}, after", before=False), "after")]


def ortho_svg(views: Views, alt: str, *, before: bool) -> Markup:
    """Put planes side by side at one scale: xy, yz to the right of it, xz below; grey values in the corner.

    Parameters
    ----------
    views : the planes xy, xz and yz; or xy alone
    alt : what is seen
    before : which of each pair
    """
    planes = {pair.name: (pair.before if before else pair.after) for pair in views.pairs}
    brighter = {pair.name: pair.brighter for pair in views.pairs} if before else {}
    xy, xz, yz = (planes.get(name) for name in ("xy", "xz", "yz"))
    if xy is None:
        raise ValueError("a picture needs the plane xy")
    scale = (WIDTH - (GAP if yz else 0)) / (xy.width + (yz.width if yz else 0))

    def place(plane: Plane, name: str, x: float = 0, y: float = 0) -> _Placed:
        label = name if xz else ""
        return _Placed(plane, x, y, plane.width * scale, plane.height * scale, label, brighter.get(name))

    placed = [place(xy, "xy")]
    if yz:
        placed.append(place(yz, "yz", x=xy.width * scale + GAP))
    if xz:
        placed.append(place(xz, "xz", y=xy.height * scale + GAP))
    height = max(one.y + one.height for one in placed)
    corner = _corner(views, xy.width * scale + GAP, xy.height * scale + GAP, height, before)
    return _svg(placed, height, scale, alt, more=corner)


def _corner(views: Views, left: float, top: float, height: float, before: bool) -> Markup:
    """Say which values are black and white, in the corner that three planes leave free, if it has room."""
    if WIDTH - left < CORNER[0] or height - top < CORNER[1]:
        return Markup()
    drawn = Markup()
    windows = [(views.window, "common"), (views.own_window if before else None, "own")]
    for window, kind in windows:
        for row, (word, value) in enumerate(zip(("black", "white"), window or (), strict=False)):
            drawn += Markup('<text class="grey {}" x="{:.1f}" y="{:.1f}">{} {}</text>').format(
                kind, left + 9, (top + 28 if before else height - 34) + 24 * row, word, grey_value(value)
            )
    return drawn


def picture_svg(plane: Plane, alt: str, *, light: bool = False) -> Markup:
    """Give one plane in colours, every pixel as it is, with its scale bar: black on a light ground."""
    scale = WIDTH / plane.width
    placed = [_Placed(plane, 0, 0, WIDTH, plane.height * scale)]
    return _svg(placed, plane.height * scale, scale, alt, "exact light" if light else "exact")


def _svg(
    placed: list[_Placed], height: float, scale: float, alt: str, kind: str = "", more: Markup = NOTHING
) -> Markup:
    parts = [_image(one, "exact" in kind) for one in placed] + [_label(one) for one in placed if one.label]
    parts.append(more)
    parts += [] if "exact" in kind else [_cut(one) for one in placed]
    parts.append(_bar(placed[0], scale, light="light" in kind))
    tall = sum(height / WIDTH > limit for limit in TALL)
    kind = f"{kind} tall{tall}" if tall else kind
    return Markup('<svg class="picture {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, f"{WIDTH:g}", f"{height:.1f}", alt, Markup("").join(parts)
    )


def _image(one: _Placed, exact: bool) -> Markup:
    box = Markup('x="{}" y="{}" width="{}" height="{}"').format(
        *(f"{n:.1f}" for n in (one.x, one.y, one.width, one.height))
    )
    image = Markup('<image {}{} preserveAspectRatio="none" href="{}"/>')
    drawn = image.format(box, "", data_uri(one.plane, exact=exact))
    if one.brighter:
        drawn += image.format(box, Markup(' class="own"'), data_uri(one.brighter, exact=exact))
    return drawn


def _label(one: _Placed) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(
        one.x + 9, one.y + one.height - 10, one.label
    )


def _cut(one: _Placed) -> Markup:
    """Draw what the style sheet narrows to a line where the slider cuts this plane; else it is not seen."""
    return Markup('<rect class="cut" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        one.x, one.y, one.width, one.height
    )


def _bar(one: _Placed, scale: float, *, light: bool) -> Markup:
    """Draw a bar of a round length into the lower right corner; on a light ground black, on a white label."""
    length = scale_bar(one.plane)
    width = length * scale
    right, bottom = one.x + one.width - 12, one.y + one.height - 12
    unit = "µm" if one.plane.in_um else "voxels"
    words = f"{length:g} {unit}"
    drawn = Markup()
    if light:
        room = max(width, LETTER * len(words)) + 16
        drawn += Markup(
            '<rect class="label" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="42" fill="#fff"/>'
        ).format(right - width / 2 - room / 2, bottom - 34, room)
    drawn += Markup(
        '<rect class="bar" data-length="{}" x="{:.2f}" y="{:.1f}" width="{:.2f}" height="{}" fill="{}"/>'
    ).format(
        f"{length:g}",
        right - width,
        bottom - BAR_HEIGHT,
        width,
        f"{BAR_HEIGHT:g}",
        "#000" if light else "#fff",
    )
    return drawn + Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
        right - width / 2, bottom - BAR_HEIGHT - 8, words
    )


def _colour_scale() -> Markup:
    steps = 24
    parts = [
        Markup('<rect x="{}" y="0" width="1.1" height="1" fill="{}"/>').format(i, viridis(i / (steps - 1)))
        for i in range(steps)
    ]
    return Markup('<svg viewBox="0 0 {} 1" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(
        steps, Markup("").join(parts)
    )
