"""Charts: points where the axes say, and nothing that a text could break."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.reporting.charts import HEIGHT, LEFT, WIDTH, Chart, Line, Mark, draw_chart, draw_map, ticks

X = np.linspace(0, 10, 11)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_within(low, extent):
    found = ticks(low, low + extent)
    assert 2 <= len(found) <= 8
    slack = 1e-6 * max(abs(low), extent)
    assert all(low - slack <= value <= low + extent + slack for value in found)
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


@pytest.mark.parametrize("log_y", [False, True])
def test_a_chart_is_whole_xml_and_keeps_its_lines_inside(log_y):
    y = np.exp(-X)
    y[3] = np.nan
    chart = Chart("alt", "x", "y", (Line("a", X, y, "magenta"),), (Mark("y", 0.5, "half"),), log_y=log_y)
    root = ElementTree.fromstring(str(draw_chart(chart)))
    assert root.get("aria-label") == "alt"
    path = next(e.get("d") for e in root if e.get("class") == "line magenta")
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", path)]
    assert all(LEFT - 1 <= x <= WIDTH for x in numbers[::2])
    assert all(0 <= y <= HEIGHT for y in numbers[1::2])
    assert len(numbers) == 2 * 10


def test_a_falling_line_falls():
    chart = Chart("alt", "x", "y", (Line("a", X, 1 - X / 10, "green"),))
    path = re.search(r'class="line green"[^>]*d="M([^"]+)"', str(draw_chart(chart)))[1]
    down = [float(point.split()[1]) for point in path.split("L")]
    assert down == sorted(down)


def test_one_point_is_a_dot_and_equal_values_are_a_line():
    single = Chart("alt", "x", "y", (Line("a", np.array([3.0]), np.array([2.0]), "magenta"),))
    assert "<circle" in draw_chart(single)
    level = Chart("alt", "x", "y", (Line("a", X, np.zeros(11), "magenta"),))
    assert "nan" not in draw_chart(level)


@pytest.mark.parametrize("height", [0.2, 0.5, 0.8])
def test_words_of_a_level_stand_where_no_line_crosses_them(height):
    """The line runs along the level at its right half, where the words would stand otherwise."""
    y = np.where(X < 5, 1 - height, height + 0.01)
    chart = Chart("alt", "x", "y", (Line("a", X, y, "magenta"),), (Mark("y", height, "level"),), (0.0, 1.0))
    drawn = str(draw_chart(chart))
    left, baseline = map(float, re.search(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>level', drawn).groups())
    path = re.search(r'class="line magenta"[^>]*d="M([^"]+)"', drawn)[1]
    points = np.array([point.split() for point in path.split("L")], float)
    along = np.linspace(left, left + 25, 50)
    line = np.interp(along, points[:, 0], points[:, 1])
    assert not ((line > baseline - 9) & (line < baseline + 2)).any()


def test_large_levels_are_short():
    chart = Chart("alt", "x", "y", (Line("a", X, 10 ** (X / 2), "magenta"),), log_y=True)
    drawn = str(draw_chart(chart))
    assert ">10⁵<" in drawn
    assert ">100<" in drawn
    assert "00000" not in re.sub(r"[ML][^\"]*", "", drawn)


def test_texts_are_escaped():
    evil = '"><script>alert(1)</script>'
    drawn = draw_chart(Chart(evil, evil, evil, (Line(evil, X, X, "magenta"),), (Mark("x", 3.0, evil),)))
    assert "<script" not in drawn
    ElementTree.fromstring(str(drawn))


def test_a_map_has_a_cell_for_every_box_and_frames_the_worst():
    cuts = ((0, 10, 20), (0, 10, 20, 30))
    values = {(0, 0): 0.0, (1, 2): 2.0}
    drawn = draw_map(cuts, values, {(0, 1)}, (1, 2), (0.0, 2.0), "alt")
    root = ElementTree.fromstring(str(drawn))
    kinds = [e.get("class") for e in root]
    assert (kinds.count("unseen"), kinds.count("lost"), kinds.count("worst")) == (4, 1, 1)
    fills = [e.get("fill") for e in root if e.get("fill")]
    assert fills == ["#440154", "#fde724"]  # the ends of viridis
    named = draw_map(cuts, values, set(), None, (0.0, 2.0), "alt", labels={(0, 0): "1", (1, 2): "<4"})
    texts = [e for e in ElementTree.fromstring(str(named)) if (e.get("class") or "") in ("pale", "dark")]
    assert [(e.text, e.get("class")) for e in texts] == [("1", "pale"), ("<4", "dark")]
    many = draw_map((range(41), range(41)), {(0, 0): 1.0}, set(), None, (0.0, 2.0), "alt")
    assert "<text" not in many  # no room
