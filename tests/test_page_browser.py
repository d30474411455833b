"""The report of a benchmark run in a browser: it needs nothing but itself, and everything on it works."""

from __future__ import annotations

import io
import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest

from lcodec.bench.page import write_page
from tests.report_run import FIRST, NASTY, SECOND, UNPICTURED, Run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
expect = playwright.expect  # waits: a change of the address's hash reaches the page a moment later
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")

DATASETS = "canvas => Chart.getChart(canvas).data.datasets.map(({ label, data }) => ({ label, data }))"
SCALES = """canvas => {
    const { x, y } = Chart.getChart(canvas).scales;
    return { x: x.type, y: y.type, title: y.options.title.text, max: x.max };
}"""
# What has the focus: its kind, and whether it, or what stands for it, is outlined.
FOCUS = """() => {
    const e = document.activeElement;
    if (e === document.body) return null;
    const inStage = e.matches(".handle") ? e.parentElement : e;
    const style = getComputedStyle(e.matches(".choice input") ? e.nextElementSibling : inStage);
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return { kind: e.getAttribute("role") || e.type || e.localName, outlined };
}"""
WIDTH = "() => document.documentElement.scrollWidth"
JPEG_LABEL = f"JPEG {NASTY}"


@pytest.fixture(scope="module")
def run(photo) -> Run:
    return Run(photo)


@pytest.fixture(scope="module")
def url(run, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("run")
    (out / "results.json").write_text(json.dumps(run.results))
    return write_page(out, source=run, images=2).as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Root in a container has no user namespaces for the sandbox; the page is our own.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Tab:
    """A browser tab, offline. trouble: console messages, errors, dialogs, requests for anything but the report."""

    def __init__(self, browser, url: str, **options) -> None:
        self.url = url
        self.context = browser.new_context(**options)
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.on("dialog", self._dialog)

    def _requested(self, url: str) -> None:
        if url.partition("#")[0] not in (self.url, "about:blank") and not url.startswith("data:"):
            self.trouble.append(f"request: {url}")

    def _dialog(self, dialog) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def load(self, hash: str = ""):
        """The report as it is when it is opened for the first time."""
        self.page.goto("about:blank")
        self.page.set_viewport_size({"width": 1280, "height": 900})
        self.page.emulate_media(color_scheme="light", reduced_motion="reduce")
        self.page.goto(self.url + hash)
        if self.page.evaluate("() => { const known = localStorage.length; localStorage.clear(); return known }"):
            self.page.reload()
        self.page.wait_for_selector("html[data-ready]")
        return self.page


@pytest.fixture(scope="module")
def tab(browser, url):
    tab = Tab(browser, url)
    yield tab
    tab.context.close()


@pytest.fixture(scope="module")
def phone(browser, url):
    tab = Tab(browser, url, is_mobile=True, has_touch=True, device_scale_factor=2)
    yield tab
    tab.context.close()


@pytest.fixture(autouse=True)
def no_trouble(tab, phone):
    """Whatever a test does, the page must not complain or ask for anything."""
    yield
    trouble = tab.trouble + phone.trouble
    tab.trouble.clear()
    phone.trouble.clear()
    assert trouble == []


@pytest.fixture
def page(tab):
    return tab.load()


@pytest.fixture
def image_page(page):
    go(page, FIRST)
    return page


def go(page, image: str) -> None:
    """From the overview to the page of an image."""
    if image == UNPICTURED:
        page.click("#images summary")
    page.locator("#images a").nth([FIRST, SECOND, UNPICTURED].index(image)).click()
    page.wait_for_selector("#image-page:not([hidden]) h1")


def datasets(page, place: str = "#curves") -> dict[str, list[dict]]:
    return {d["label"]: d["data"] for d in page.eval_on_selector(f"{place} canvas", DATASETS)}


def scales(page, place: str = "#curves") -> dict:
    return page.eval_on_selector(f"{place} canvas", SCALES)


def column(page, section: str, number: int, table: int = 0) -> list[str]:
    rows = page.locator(f"{section} table").nth(table).locator("tbody tr")
    return [text.strip() for text in rows.locator(f"> :nth-child({number})").all_inner_texts()]


def places_of(page) -> list[dict]:
    return page.evaluate("() => JSON.parse(document.getElementById('pictures-0').textContent).crops")


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def fraction(page) -> float:
    """Share of the stage, from the left, that shows the left picture, as it is drawn."""
    clip = page.eval_on_selector(".stage .above", "img => getComputedStyle(img).clipPath")
    found = re.fullmatch(r"inset\((?:0px|0%) ([\d.]+)% (?:0px|0%) (?:0px|0%)\)|inset\((0px|0%)\)", clip)
    assert found, clip
    return 1 - float(found[1] or 0) / 100


# ---- loading


def test_page_loads_without_messages_or_requests_and_shows_names_as_text(page):
    text = page.inner_text("body")
    for shown in (JPEG_LABEL, f"lcodec bench {NASTY}", f"broken {NASTY}", f"broke {NASTY}", f"no cjxl {NASTY}", FIRST):
        assert shown in text
    assert "3 codecs on 3 images" in text
    for image in (FIRST, SECOND, UNPICTURED):
        go(page, image)
        expect(page.locator("#image-page h1")).to_have_text(image)
        page.click("a:text-is('All images')")
        expect(page.locator("#overview")).to_be_visible()


def test_all_pictures_can_be_decoded(page):
    undecoded = "() => [...document.images].filter(img => !img.complete || img.naturalWidth === 0).map(img => img.alt)"
    assert page.locator(".gallery img").count() == 2
    assert page.evaluate(undecoded) == []
    for image in (FIRST, SECOND):
        page.click("text=lcodec bench")
        go(page, image)
        for target in page.locator("#pictures fieldset:first-of-type label").all():
            target.click()
            page.wait_for_function("() => [...document.images].every(img => img.complete)")
            assert page.locator(".crops img").count() > 2
            assert page.evaluate(undecoded) == []


@pytest.mark.parametrize("name", ["nothing", "%E0%A4%A"])
def test_an_unknown_image_leads_to_the_overview(image_page, name):
    image_page.evaluate("name => { location.hash = `#/image/${name}` }", name)
    expect(image_page.locator("#overview")).to_be_visible()
    expect(image_page.locator("#image-page")).to_be_hidden()


def test_back_leads_from_an_image_to_the_overview(image_page):
    image_page.go_back()
    expect(image_page.locator("#overview")).to_be_visible()
    expect(image_page.locator("#image-page")).to_be_hidden()


def test_a_link_to_an_image_can_be_opened_directly(tab):
    page = tab.load("#/image/folder%2Fsecond.png")
    expect(page.locator("#image-page h1")).to_have_text(SECOND)
    expect(page.locator("#overview")).to_be_hidden()


# ---- the chart


def test_codecs_can_be_switched_off_and_on(page):
    everything = {JPEG_LABEL, "WebP", "ours", "from a paper"}
    assert set(datasets(page)) == everything
    page.click("#curves .chip:has-text('WebP')")
    assert set(datasets(page)) == everything - {"WebP"}
    page.click("#curves button:text-is('none')")
    assert datasets(page) == {}
    page.click("#curves .chip:has-text('ours')")
    assert set(datasets(page)) == {"ours"}
    page.click("#curves button:text-is('all')")
    assert set(datasets(page)) == everything


def test_metric_can_be_chosen_for_chart_and_tables(run, page):
    page.click("#curves label:has-text('SSIMULACRA2')")
    assert scales(page)["title"] == "SSIMULACRA2"
    shown = [(round(p["x"], 4), round(p["y"], 3)) for p in datasets(page)["WebP"]]
    means = next(c["points"] for c in run.results["curves"] if c["codec"] == "webp")
    assert shown == sorted((round(p["bpp"], 4), round(p["ssimulacra2"], 3)) for p in means)
    assert "from a paper" not in datasets(page)  # which has no such values
    assert "SSIMULACRA2" in page.locator("#bd-rate caption").nth(1).inner_text()
    assert page.locator("#bd-rate label:has-text('SSIMULACRA2') input").is_checked()


def test_curves_of_one_image_can_be_chosen(run, page):
    page.select_option("#curves select >> nth=0", SECOND)
    shown = [round(p["y"], 2) for p in datasets(page)["ours"]]
    assert shown == [round(run.row("ours", q, SECOND)["psnr"], 2) for q in (1, 4, 8)]
    assert "from a paper" not in datasets(page)
    page.select_option("#curves select >> nth=0", "")
    assert "from a paper" in datasets(page)


def test_axes_can_be_logarithmic_where_values_allow(page):
    assert (scales(page)["x"], scales(page)["y"]) == ("logarithmic", "linear")
    page.click("#curves label:has-text('log bpp')")
    page.click("#curves label:has-text('log metric')")
    assert (scales(page)["x"], scales(page)["y"]) == ("linear", "logarithmic")
    page.click("#curves label:has-text('SSIMULACRA2')")
    assert scales(page)["y"] == "linear"  # some are below zero
    assert "not all above 0" in scales(page)["title"]
    page.select_option("#curves select >> nth=1", "1")
    assert scales(page)["max"] == 1


def test_pointing_at_a_curve_reads_its_values_and_those_of_the_others(run, page):
    page.locator("#curves canvas").scroll_into_view_if_needed()
    point = page.eval_on_selector(
        "#curves canvas",
        """canvas => {
            const chart = Chart.getChart(canvas), box = canvas.getBoundingClientRect();
            const index = chart.data.datasets.findIndex(({ label }) => label === "ours");
            const { x, y } = chart.getDatasetMeta(index).data[1].getCenterPoint();
            return { x: x + box.left, y: y + box.top };
        }""",
    )
    page.mouse.move(point["x"] - 2, point["y"] + 1)
    page.mouse.move(point["x"], point["y"])
    page.wait_for_function("() => document.querySelector('#curves .readout').textContent.startsWith('ours, q 4:')")
    middle = next(c["points"][1] for c in run.results["curves"] if c["codec"] == "ours")
    text = page.inner_text("#curves .readout")
    assert text.startswith(f"ours, q 4: {middle['bpp']:.3f} bpp, {middle['psnr']:.2f}")
    assert re.search(r"At the same rate, interpolated: .*WebP \d\d\.\d\d", text)
    body = page.eval_on_selector("#curves canvas", "canvas => Chart.getChart(canvas).tooltip.body[0].lines[0]")
    assert text.startswith(body)


def test_points_can_be_read_with_the_keyboard(page):
    page.focus("#curves canvas")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#curves .readout")
    page.keyboard.press("ArrowRight")
    second = page.inner_text("#curves .readout")
    page.keyboard.press("ArrowDown")
    other = page.inner_text("#curves .readout")
    assert first.startswith(f"{JPEG_LABEL}, q 5:") and second.startswith(f"{JPEG_LABEL}, q 20:")
    assert other.startswith("WebP")


# ---- tables


def test_tables_sort_by_mouse_and_keyboard_and_keep_what_is_missing_last(page):
    assert column(page, "#speed", 1) == [JPEG_LABEL, "ours", "WebP"]
    button = page.locator("#speed thead button", has_text="Encode").first
    assert page.locator("#speed thead th").nth(3).get_attribute("aria-sort") == "ascending"
    button.click()
    assert column(page, "#speed", 1) == ["WebP", "ours", JPEG_LABEL]
    assert page.locator("#speed thead th").nth(3).get_attribute("aria-sort") == "descending"
    page.locator("#speed thead button", has_text="Codec").first.focus()
    page.keyboard.press("Enter")
    assert column(page, "#speed", 1) == sorted([JPEG_LABEL, "ours", "WebP"], key=str.lower)
    for _ in range(2):
        page.locator("#bd-rate table").nth(1).locator("thead button", has_text="BD-rate").click()
        assert set(column(page, "#bd-rate", 1, 1)[-2:]) == {"from a paper", "JPEG XL"}


def test_bd_rates_stand_with_interval_range_and_notes_and_the_missing_are_named(run, page):
    rows = {row[0]: row[1:] for row in zip(*(column(page, "#bd-rate", n, 1) for n in range(1, 8)), strict=True)}
    entry = next(e for e in run.results["bd"] if (e["codec"], e["metric"]) == ("ours", "psnr"))
    assert rows["ours"][0] == f"{signed(entry['bd_rate'])} %"
    assert rows["ours"][1] == f"{signed(entry['low'])} to {signed(entry['high'])} %"
    assert rows["ours"][3] == "{:.2f} to {:.2f}".format(*entry["range"])
    assert rows["ours"][4:] == ("80 %", f"few points {NASTY}")
    assert rows["JPEG XL"][-1] == f"not measured: no cjxl {NASTY}"
    assert rows["from a paper"][-1] == "not defined"


# ---- one image


def test_slider_follows_the_mouse(image_page):
    image_page.locator(".stage").scroll_into_view_if_needed()
    box = image_page.locator(".stage").bounding_box()
    assert fraction(image_page) == pytest.approx(0.5)
    y = box["y"] + box["height"] / 3
    image_page.mouse.move(box["x"] + box["width"] / 2, y)
    image_page.mouse.down()
    image_page.mouse.move(box["x"] + box["width"] * 0.2, y, steps=4)
    assert fraction(image_page) == pytest.approx(0.2, abs=0.01)
    image_page.mouse.move(box["x"] - 200, y)
    assert fraction(image_page) == 0
    image_page.mouse.up()
    image_page.mouse.move(box["x"] + box["width"] * 0.7, y)
    assert fraction(image_page) == 0
    image_page.mouse.click(box["x"] + box["width"] * 0.75, y)
    assert fraction(image_page) == pytest.approx(0.75, abs=0.01)


def test_slider_follows_the_keyboard_and_says_where_it_is(image_page):
    handle = image_page.locator(".handle")
    handle.focus()
    keys = {"ArrowRight": 52, "ArrowLeft": 50, "PageUp": 60, "End": 100, "ArrowUp": 100, "Home": 0}
    for key, expected in keys.items():
        image_page.keyboard.press(key)
        assert handle.get_attribute("aria-valuenow") == str(expected)
        assert fraction(image_page) == pytest.approx(expected / 100)
    assert handle.get_attribute("role") == "slider"
    assert "Original" in handle.get_attribute("aria-valuetext")


def test_slider_takes_any_two_pictures(image_page):
    sources = "() => [...document.querySelectorAll('.stage img')].map(img => img.src)"
    image_page.select_option("#pictures .controls select >> nth=0", "jpeg")
    image_page.select_option("#pictures .controls select >> nth=1", "webp")
    below, above = image_page.evaluate(sources)
    assert above.startswith("data:image/jpeg") and below.startswith("data:image/webp")
    assert image_page.locator(".stage .tag").all_inner_texts() == [JPEG_LABEL, "WebP"]
    image_page.click("button:text-is('Swap')")
    assert image_page.evaluate(sources) == [above, below]
    assert image_page.locator(".stage .tag").all_inner_texts() == ["WebP", JPEG_LABEL]
    image_page.click("#pictures label:has-text('bpp') >> nth=0")
    assert image_page.locator(".stage .tag").all_inner_texts() == ["WebP", JPEG_LABEL]
    assert image_page.evaluate(sources) != [above, below]


def test_two_pictures_can_be_flipped_and_subtracted(image_page):
    image_page.click("label:has-text('Flip')")
    image_page.focus(".handle")
    seen = []
    for _ in range(3):
        seen.append((fraction(image_page), image_page.locator(".tag:visible").inner_text()))
        image_page.keyboard.press(" ")
    assert seen == [(1, "Original"), (0, "ours"), (1, "Original")]
    image_page.click("label:has-text('Difference')")
    style = image_page.eval_on_selector(".stage .above", "img => getComputedStyle(img).mixBlendMode")
    assert style == "difference" and fraction(image_page) == 1


def test_crops_stand_at_about_the_same_rate_with_their_values(run, image_page):
    target = image_page.locator("#pictures fieldset").first.locator("label:has(:checked)").inner_text()
    captions = image_page.locator(".place").first.locator("figcaption").all_inner_texts()
    assert captions[0].strip() == "Original"
    names = [caption.split("\n")[0] for caption in captions[1:]]
    assert names == [JPEG_LABEL, "WebP", "ours"]
    ours = captions[3]
    quality = float(re.search(r"q ([\d.]+)", ours)[1])
    row = run.row("ours", quality, FIRST)
    assert f"{row['bpp']:.2f} bpp" == target  # all are matched to the file of our model
    assert f"PSNR {row['psnr']:.2f}" in ours
    assert f"SSIMULACRA2 {row['ssimulacra2']:.2f}".replace("-", "−") in ours
    assert re.search(r"Crop: PSNR \d\d\.\d\d", ours)
    for caption in captions[1:3]:
        rate = re.search(r"([\d.]+) bpp", caption)
        assert float(rate[1]) / row["bpp"] == pytest.approx(1, abs=0.5)
    boxes = [one.bounding_box() for one in image_page.locator(".place:first-child figure > :first-child").all()]
    assert {(box["width"], box["height"]) for box in boxes} == {(256, 256)}
    # JPEG is cut out of the whole file: there the same pixels must be seen as in a lossless crop of it.
    frame = image_page.locator(".place").first.locator(".cut").first
    place = next(p for p in places_of(image_page) if p["kind"] == "structure")
    seen = np.asarray(PIL.Image.open(io.BytesIO(frame.screenshot())).convert("RGB"))[9:249:2, 9:249:2].astype(int)
    quality = float(re.search(r"q ([\d.]+)", captions[1])[1])
    x, y = place["x"] + 4, place["y"] + 4
    expected = run.decoded("jpeg", quality, FIRST)[y : y + 120, x : x + 120].astype(int)
    assert abs(seen - expected).mean() < 1
    image_page.click("label:has-text('3×')")
    assert image_page.locator(".crops img").first.bounding_box()["width"] == 3 * 128
    assert image_page.locator(".mark:visible").count() == 0
    image_page.click("label:has-text('Mark the crops')")
    assert image_page.locator(".mark:visible").count() == 2


def test_a_crop_can_be_put_under_the_slider(image_page):
    image_page.locator(".place").nth(1).locator("figure:has-text('WebP') button").click()
    assert image_page.locator(".stage .tag").all_inner_texts() == ["Original", "WebP"]
    assert image_page.evaluate("document.activeElement.className") == "handle"


def test_choices_hold_from_page_to_page(page):
    page.click("#curves label:has-text('MS-SSIM')")
    page.click("#curves .chip:has-text('WebP')")
    go(page, SECOND)
    assert scales(page, "#image-curves")["title"] == "MS-SSIM"
    assert set(datasets(page, "#image-curves")) == {JPEG_LABEL, "ours"}
    page.click("#image-curves .chip:has-text('WebP')")
    page.click("a:text-is('All images')")
    assert "WebP" in datasets(page)
    assert page.locator("#curves .chip:has-text('WebP') input").is_checked()


def test_an_image_without_pictures_has_its_curves(page):
    go(page, UNPICTURED)
    assert "pictures of 2 images" in page.inner_text("#image-page .note")
    assert set(datasets(page, "#image-curves")) == {JPEG_LABEL, "WebP", "ours"}
    assert page.locator(".stage").count() == 0


# ---- light and dark, small screens, keyboard


def lightness(page, selector: str = "body") -> float:
    color = page.eval_on_selector(selector, "e => getComputedStyle(e).backgroundColor")
    return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 765


def test_page_is_light_or_dark_as_the_system_is(page):
    line = "canvas => Chart.getChart(canvas).data.datasets[0].borderColor"
    assert lightness(page) > 0.9
    before = page.eval_on_selector("#curves canvas", line)
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("#theme[aria-pressed=true]")
    assert lightness(page) < 0.2
    assert page.eval_on_selector("#curves canvas", line) != before


def test_light_and_dark_can_be_switched_and_the_choice_is_remembered(page):
    ticks = "canvas => Chart.getChart(canvas).options.scales.x.ticks.color"
    before = page.eval_on_selector("#curves canvas", ticks)
    assert page.get_attribute("#theme", "aria-pressed") == "false"
    page.click("#theme")
    assert lightness(page) < 0.2 and page.get_attribute("#theme", "aria-pressed") == "true"
    assert page.eval_on_selector("#curves canvas", ticks) != before
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert lightness(page) < 0.2
    page.click("#theme")
    assert lightness(page) > 0.9


def test_nothing_is_wider_than_a_small_screen(phone):
    page = phone.load()
    page.click("text=All points as a table")
    page.click("text=Where the time goes")
    widths = (320, 390, 768)
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(WIDTH) <= width
        assert page.evaluate("window.visualViewport.scale") == 1
    go(page, FIRST)
    page.click("label:has-text('4×')")
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(WIDTH) <= width
        assert page.locator(".stage").bounding_box()["width"] <= width


def test_slider_follows_a_finger(phone):
    page = phone.load()
    page.set_viewport_size({"width": 390, "height": 800})
    go(page, FIRST)
    page.locator(".stage").scroll_into_view_if_needed()
    box = page.locator(".stage").bounding_box()
    page.touchscreen.tap(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    assert fraction(page) == pytest.approx(0.3, abs=0.02)


def test_everything_that_works_by_mouse_can_be_reached_by_tab_and_shows_focus(image_page):
    page = image_page
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if focus is None:
            break
        assert focus["outlined"], focus
        seen.append(focus["kind"])
    assert {"slider", "select-one", "radio", "checkbox", "button", "img"} <= set(seen)
