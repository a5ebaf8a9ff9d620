"""The page in a real browser: no errors, pictures that show something, a slider that works, any width."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bigdecon.reporting.making import make_report
from tests.reporting.conftest import write_psf
from tests.runs import specimen, write_image

pytestmark = pytest.mark.slow

PHONE, DESK = (360, 740), (1280, 900)
OVERFLOW = """return [...document.querySelectorAll('body *')].filter(e => !e.closest('svg')
    && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""
BARS = """return [...document.querySelectorAll('.bar')].map(b => {
    const svg = b.ownerSVGElement, image = svg.querySelector('image');
    return [+b.dataset.length, b.getBoundingClientRect().width, image.getBoundingClientRect().width]})"""
CUT = "return getComputedStyle(document.querySelector('.pair.joined .after image')).clipPath"


def resize(browser, size, media=None):
    width, height = size
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    if media:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})


def pixels(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("L"), float)


@pytest.fixture(scope="module")
def made(tmp_path_factory, restore):
    """A report of two channels with oblong voxels and names that a page could trip over."""
    folder = tmp_path_factory.mktemp("made")
    data = np.stack([specimen((20, 60, 90)), specimen((20, 60, 90), 1)])
    size = (0.6, 0.2, 0.2)
    psf = write_psf(folder / "<b>psf & co.tif", size=size)
    image = write_image(folder / "a<script>alert(1)<_script>.ome.zarr", data, "czyx", size)
    return restore(image, psf=(str(psf),), iterations=15, accelerate=True).report


def test_a_page_in_a_browser(made, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    resize(browser, DESK)
    browser.get(made.page.as_uri())
    assert browser.get_log("browser") == []
    assert browser.title.startswith("a<script>alert(1)<_script>.deconvolved.ome.zarr")
    assert not browser.find_elements(By.CSS_SELECTOR, "b.psf, main script")

    pictures = browser.find_elements(By.CSS_SELECTOR, ".picture, .chart, .map")
    assert len(pictures) > 15
    for picture in pictures:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
        assert picture.get_attribute("aria-label")
        assert pixels(picture).std() > 2

    for length, drawn, shown in browser.execute_script(BARS):
        assert 0 < drawn <= shown / 2
        assert length in (0.1, 0.2, 0.5, 1, 2, 5)
    lengths = {round(drawn / length, 1) for length, drawn, _ in browser.execute_script(BARS)[:2]}
    assert len(lengths) == 1  # before and after at one scale

    before_cut = browser.execute_script(CUT)
    slider = browser.find_element(By.CSS_SELECTOR, ".slide input")
    slider.send_keys(Keys.HOME)
    assert (browser.execute_script(CUT), before_cut) == (
        "inset(0px 0px 0px 0%) fill-box",
        "inset(0px 0px 0px 35%) fill-box",
    )
    first = browser.find_element(By.CSS_SELECTOR, ".pair.joined")
    after = pixels(first)
    slider.send_keys(Keys.END)
    assert np.abs(pixels(first) - after).mean() > 1
    brighten = browser.find_element(By.CSS_SELECTOR, ".slide .light")
    figure = brighten.find_element(By.XPATH, "ancestor::figure")
    figure.find_element(By.CSS_SELECTOR, "input").send_keys(Keys.END)
    pair, badge = (figure.find_element(By.CSS_SELECTOR, part) for part in (".pair", ".before b"))
    dim = pixels(pair)
    brighten.click()
    assert pixels(pair).mean() > 1.2 * dim.mean()
    assert badge.text == "before, brighter"
    brighten.click()
    assert np.abs(pixels(pair) - dim).mean() < 0.5
    assert badge.text == "before"
    browser.find_element(By.CSS_SELECTOR, ".slide .lay").click()
    shots = browser.find_elements(By.CSS_SELECTOR, ".pair.both:not(.joined) .shot")
    assert shots[0].rect["x"] + shots[0].rect["width"] <= shots[1].rect["x"]


PLANES = """const pair = document.querySelector('.pair.joined'), box = pair.getBoundingClientRect();
    return [...pair.querySelectorAll('.after image')].map(i => i.getBoundingClientRect()).map(
        r => [r.left - box.left, r.top - box.top, r.width, r.height])"""
SLIDE = """const range = document.querySelector('.slide input'); range.value = arguments[0];
    range.dispatchEvent(new Event('input'))"""
HOVER = """const pair = document.querySelector('.pair.joined'), box = pair.getBoundingClientRect();
    const clientX = box.left + arguments[0], clientY = box.top + arguments[1];
    pair.dispatchEvent(new PointerEvent('pointermove', {pointerType: 'mouse', clientX, clientY}));
    return document.querySelector('.slide input').value"""


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_every_plane_is_cut_where_the_slider_stands(made, browser, size):
    from selenium.webdriver.common.by import By

    resize(browser, size)
    browser.get(made.page.as_uri())
    browser.execute_script("for (const part of document.querySelectorAll('details.part')) part.open = true")
    pair = browser.find_element(By.CSS_SELECTOR, ".pair.joined")
    shown = {}
    for percent in (0, 50, 100):
        browser.execute_script(SLIDE, percent)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", pair)
        shown[percent] = pixels(pair)
    planes = browser.execute_script(PLANES)
    assert len(planes) == 3
    for left, top, width, height in planes:
        rows = slice(int(top) + 3, int(top + height) - 3)
        first = np.s_[rows, int(left) + 3 : int(left + width / 2) - 3]
        second = np.s_[rows, int(left + width / 2) + 4 : int(left + width) - 3]
        for half, alike, other in ((first, 100, 0), (second, 0, 100)):
            assert np.abs(shown[100][half] - shown[0][half]).mean() > 1
            # The words in the corners have edges that are drawn once or twice.
            assert np.median(np.abs(shown[50][half] - shown[alike][half])) == 0
            assert np.abs(shown[50][half] - shown[alike][half]).mean() < 0.5
            assert np.abs(shown[50][half] - shown[other][half]).mean() > 1
        line = shown[50][rows, int(left + width / 2 - 2) : int(left + width / 2 + 3)].max(1)
        assert np.median(line) > 200
        assert browser.execute_script(HOVER, left + width / 4, top + height / 2) in ("24", "25", "26")


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_nothing_sticks_out(made, browser, size):
    resize(browser, size)
    browser.get(made.page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert browser.execute_script(OVERFLOW) == []


HIDDEN = "return [...document.querySelectorAll('details.part')].filter(p => !p.open).length"


def test_details_are_folded_on_a_phone_and_nowhere_else(made, browser):
    from selenium.webdriver.common.by import By

    resize(browser, DESK)
    browser.get(made.page.as_uri())
    parts = browser.find_elements(By.CSS_SELECTOR, "details.part")
    assert len(parts) >= 5
    assert browser.execute_script(HIDDEN) == 0
    resize(browser, PHONE)
    browser.get(made.page.as_uri())
    assert browser.execute_script(HIDDEN) == len(parts)
    tall = browser.execute_script("return document.documentElement.scrollHeight")
    assert tall < 6 * PHONE[1]  # two channels; unfolded it is thousands of pixels more
    summary = browser.find_element(By.CSS_SELECTOR, "details.part summary")
    summary.click()
    assert browser.execute_script(HIDDEN) == len(parts) - 1
    assert browser.find_element(By.CSS_SELECTOR, "details.part table").is_displayed()
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(HIDDEN) == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(HIDDEN) == len(parts) - 1
    assert browser.get_log("browser") == []


def test_numbers_of_the_map_lie_in_their_cells(made, browser):
    resize(browser, DESK)
    browser.get(made.page.as_uri())
    outside = browser.execute_script("""return [...document.querySelectorAll('.map')].flatMap(map => {
        const cells = [...map.querySelectorAll('rect')].map(r => r.getBoundingClientRect());
        return [...map.querySelectorAll('text')].map(t => t.getBoundingClientRect()).filter(t => !cells.some(
            c => c.left <= t.left && t.right <= c.right && c.top <= t.top && t.bottom <= c.bottom))})""")
    assert outside == []
    assert browser.execute_script("return document.querySelectorAll('.map text').length") > 0


def test_on_paper_and_without_scripts_both_pictures_are_seen(made, browser):
    from selenium.webdriver.common.by import By

    resize(browser, DESK, "print")
    browser.get(made.page.as_uri())
    shots = browser.find_elements(By.CSS_SELECTOR, ".pair.both .shot")
    assert shots[0].rect["x"] + shots[0].rect["width"] <= shots[1].rect["x"]
    assert not browser.find_element(By.CSS_SELECTOR, ".slide").is_displayed()
    assert len(browser.print_page()) > 50_000

    resize(browser, DESK, "screen")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(made.page.as_uri())
    shots = browser.find_elements(By.CSS_SELECTOR, ".pair.both .shot")
    assert shots[0].rect["x"] + shots[0].rect["width"] <= shots[1].rect["x"]
    assert not browser.find_element(By.CSS_SELECTOR, ".slide").is_displayed()
    assert all(pixels(shot).std() > 2 for shot in shots[:2])


def test_a_page_without_an_input_in_a_browser(made, browser, tmp_path):
    from selenium.webdriver.common.by import By

    output = made.page.parent / f"{made.page.name.removesuffix('.report.html')}.ome.zarr"
    image = made.page.parent / "a<script>alert(1)<_script>.ome.zarr"
    image.rename(tmp_path / "moved.ome.zarr")
    try:
        alone = make_report(output, place=tmp_path / "alone.html")
    finally:
        (tmp_path / "moved.ome.zarr").rename(image)
    browser.get(alone.page.as_uri())
    assert browser.get_log("browser") == []
    assert not browser.find_elements(By.CSS_SELECTOR, ".before, .pair.both")
    assert "not where it was" in browser.find_element(By.CSS_SELECTOR, ".notes").text
