"""The built documentation in headless Chromium; ``make docs`` before, then ``make browser``."""

import functools
import http.server
import io
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

from liftflow import gallery

HTML = Path(__file__).parent / "_build" / "html"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WIDTHS = [400, 1400]
THEMES = ["light", "dark"]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU, for the figure in 3-D
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]
if not (CHROMIUM and DRIVER):
    pytest.skip(
        "no chromium and chromedriver; on Debian: apt-get install chromium chromium-driver",
        allow_module_level=True,
    )
if not (HTML / "index.html").is_file():
    pytest.fail("there are no pages in docs/_build/html; run: make docs", pytrace=False)

PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for pattern in ("*.html", "gallery/*.html", "api/liftflow.*.html")
    for path in HTML.glob(pattern)
    if path.name != "search.html" and path.stem.count(".") < 2  # of the API, the rooms
)
OWN = {path.stem for path in Path(__file__).parent.glob("*.md")} | {
    "start",
    "api",
    "bibliography",
    "gallery",
}
SCRIPTS = {f"gallery/plot_{script.name}" for script in gallery.scripts()}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve files and log nothing."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def base():
    """Serve the pages on the loopback and return their address."""
    handler = functools.partial(QuietHandler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def visit(browser, url, width=1400):
    """Open a page of this width, wait for its pictures and formulas, and forget earlier logs."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(url)
    browser.execute_async_script("""
        const done = arguments[arguments.length - 1];
        const images = [...document.images];
        images.forEach(image => { image.loading = 'eager'; });
        const pictures = images.map(image => image.decode().catch(() => null));
        const formulas = window.MathJax ? MathJax.startup.promise : null;
        Promise.all([...pictures, formulas]).then(() => done());
    """)


@pytest.fixture
def theme(browser, request):
    """Ask for pages in the light or the dark theme, as the reader's system would."""
    wanted = [{"name": "prefers-color-scheme", "value": request.param}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
    yield request.param
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def pixels_of(element):
    """Return the pixels of an element as they are seen, from 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"), int)


def failures(browser, base):
    """Return what went wrong on the network and on the console since the page was opened."""
    wrong = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        match message["method"], message["params"]:
            case "Network.requestWillBeSent", {"request": {"url": url}}:
                if not url.startswith((base, "data:", "blob:", "chrome:")):
                    wrong.append(f"asks {url}")
            case "Network.responseReceived", {"response": {"status": status, "url": url}}:
                if status >= 400:
                    wrong.append(f"{status} for {url}")
            case "Network.loadingFailed", {"errorText": text}:
                wrong.append(f"a request failed: {text}")
    return wrong


def test_the_pages_are_found():
    assert {f"{name}.html" for name in {*OWN, *SCRIPTS, "gallery"}} <= {*PAGES}


@pytest.mark.parametrize("theme", THEMES, indirect=True)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_page(browser, base, page, width, theme):
    visit(browser, base + page, width)
    assert not failures(browser, base)
    run = browser.execute_script
    assert run("return document.documentElement.dataset.theme") == theme
    formulas = run("return document.querySelectorAll('span.math, div.math').length")
    typeset = run("return document.querySelectorAll('.math mjx-container').length")
    assert typeset >= formulas
    assert run("return document.querySelectorAll('mjx-merror, [data-mjx-error]').length") == 0
    broken = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
    assert run(broken) == []
    beyond = run("return document.documentElement.scrollWidth - window.innerWidth")
    assert beyond <= 0, f"{beyond} pixels too wide"


def test_a_page_that_is_not_there_is_noticed(browser, base):
    visit(browser, base + "nowhere.html")
    assert any("404" in failure for failure in failures(browser, base))


def test_formulas_are_there_to_be_typeset(browser, base):
    visit(browser, base + "concepts.html")
    assert browser.execute_script("return document.querySelectorAll('mjx-container').length") > 20


def test_the_gallery_shows_a_thumbnail_for_each_script(browser, base):
    visit(browser, base + "gallery.html")
    shown = "return [...document.querySelectorAll('.sphx-glr-thumbcontainer img')]"
    widths = browser.execute_script(shown + ".map(image => image.naturalWidth)")
    assert len(widths) == len(gallery.scripts())
    assert min(widths) > 100


# The figure in 3-D: a drag turns it, its slider moves the curve.


def camera(browser):
    """Return where the figure is seen from; plotly writes it down when the mouse is let go."""
    scene = "document.getElementById('hyperboloid')._fullLayout.scene"
    return browser.execute_script(f"return Object.values({scene}.camera.eye)")


def curves(browser):
    """Return the points of the curves, surfaces aside, that are shown, by name."""
    shown = browser.execute_script("""
        return document.getElementById('hyperboloid')._fullData
            .filter(trace => trace.visible === true && trace.type === 'scatter3d')
            .map(trace => [trace.name, ['x', 'y', 'z'].map(axis => Array.from(trace[axis]))]);
    """)
    return {name: np.array(points) for name, points in shown}


def figure_3d(browser):
    return pixels_of(browser.find_element("css selector", "#hyperboloid canvas"))


@pytest.mark.parametrize("theme", THEMES, indirect=True)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_drag_turns_the_figure(browser, base, width, theme):
    visit(browser, base + "hyperboloid.html", width)
    scene = browser.find_element("css selector", "#hyperboloid canvas")
    eye, pixels = camera(browser), figure_3d(browser)
    ActionChains(browser).move_to_element(scene).move_by_offset(60, 20).perform()
    assert camera(browser) == eye, "it turns without a button"
    ActionChains(browser).drag_and_drop_by_offset(scene, 60, 20).perform()
    assert np.linalg.norm(np.subtract(camera(browser), eye)) > 0.1
    assert (figure_3d(browser) != pixels).mean() > 0.02
    assert not failures(browser, base)


@pytest.mark.parametrize("theme", THEMES, indirect=True)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_slider_moves_the_curve(browser, base, width, theme):
    visit(browser, base + "hyperboloid.html", width)
    grip, rail = (
        browser.find_element("css selector", f"#hyperboloid .slider-{part}-rect")
        for part in ("grip", "rail")
    )
    eye, pixels, before = camera(browser), figure_3d(browser), curves(browser)
    drag = ActionChains(browser).click_and_hold(grip)
    drag.move_to_element_with_offset(rail, rail.rect["width"] // 2 - 2, 0).release().perform()
    after = curves(browser)
    fibre = next(name for name in before if "fibre" in name)
    np.testing.assert_array_equal(after.pop(fibre), before.pop(fibre))
    assert len(after) == 3  # both flows, and where they start
    for h, shown in ((-1.0, before), (1.0, after)):
        for x, y, w in shown.values():
            np.testing.assert_allclose(x**2 + y**2 - w**2, h, atol=1e-3)
    said = browser.find_element("css selector", "#hyperboloid .slider-label").text
    assert said == "h = 1"
    numbers = browser.find_element("css selector", "#hyperboloid .slider-labels text")
    shade = np.array(re.findall(r"\d+", numbers.value_of_css_property("fill"))[:3], int)
    assert np.abs(shade - ground_of_page(browser)).min() > 150, "its numbers are faint"
    assert camera(browser) == eye
    assert (figure_3d(browser) != pixels).mean() > 0.02
    assert not failures(browser, base)


# Figures have the ground of the page, be it light or dark.

FIGURES = ["start", "index", "concepts", "geometers", "trainers", "torch", "benchmarks", *SCRIPTS]
FIGURES = [f"{name}.html" for name in sorted(FIGURES)]


def first_figure(browser):
    return pixels_of(browser.find_element("css selector", ".bd-article img"))


def ground_of_figure(pixels):
    edges = [pixels[5:-5, 5], pixels[5:-5, -5], pixels[5, 5:-5], pixels[-5, 5:-5]]
    return np.median(np.concatenate(edges), axis=0)


def ground_of_page(browser):
    rgb = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return np.array(re.findall(r"\d+", rgb)[:3], int)


@pytest.mark.parametrize("theme", THEMES, indirect=True)
@pytest.mark.parametrize("page", FIGURES)
def test_figures_have_the_ground_of_the_page(browser, base, page, theme):
    visit(browser, base + page)
    ground, pixels = ground_of_page(browser), first_figure(browser)
    assert (ground.mean() < 50) == (theme == "dark")
    np.testing.assert_allclose(ground_of_figure(pixels), ground, atol=3)
    assert np.abs(pixels - ground).max(axis=(0, 1)).min() > 150, "no ink is seen"


@pytest.mark.parametrize("theme", ["dark"], indirect=True)
def test_a_light_figure_on_a_dark_page_is_noticed(browser, base, theme):
    visit(browser, base + "benchmarks.html")
    browser.execute_async_script("""
        const image = document.querySelector('.bd-article img'), done = arguments[0];
        image.src = image.dataset.light;
        image.decode().then(() => done());
    """)
    contrast = ground_of_figure(first_figure(browser)) - ground_of_page(browser)
    assert contrast.min() > 150


@pytest.mark.parametrize("theme", THEMES, indirect=True)
@pytest.mark.parametrize("page", ["gallery.html", "torch.html", "api/liftflow.flows.compare.html"])
def test_pictures_are_of_the_theme_without_a_filter(browser, base, page, theme):
    visit(browser, base + page)
    shown = browser.execute_script("""
        return [...document.querySelectorAll('.bd-article img')]
            .map(image => [image.getAttribute('src'), getComputedStyle(image).filter]);
    """)
    assert shown
    assert {way for _, way in shown} == {"none"}
    assert all(("_dark." in source) == (theme == "dark") for source, _ in shown)


# What helps to find one's way.


@pytest.mark.parametrize("width", [1280, 1400])
def test_the_header_is_one_line(browser, base, width):
    visit(browser, base + "concepts.html", width)
    middles = browser.execute_script("""
        return [...document.querySelectorAll('.bd-header :is(.nav-link, .search-button-field)')]
            .map(link => link.getBoundingClientRect()).filter(box => box.height)
            .map(box => box.top + box.height / 2);
    """)
    assert len(middles) > 6
    assert np.ptp(middles) < 5, "a title is broken, or stands below the others"


def results(browser, base, words):
    """Search, and return address and title of each result."""
    visit(browser, base + "search.html?q=" + words.replace(" ", "+"))
    said = "return document.querySelector('.search-summary')?.textContent || ''"
    WebDriverWait(browser, 20).until(
        lambda _: re.search("finished|did not match", browser.execute_script(said))
    )
    found = "return [...document.querySelectorAll('#search-results li > a')]"
    links = browser.execute_script(found + ".map(a => [a.getAttribute('href'), a.textContent])")
    assert not failures(browser, base)
    return links


@pytest.mark.parametrize(("words", "found"), [("relaxed balanced", True), ("qwertyuiop", False)])
def test_search(browser, base, words, found):
    links = results(browser, base, words)
    assert bool(links) == found
    assert ("Choose a metric" in {title for _, title in links}) == found


@pytest.mark.parametrize(
    ("words", "page"),
    [("geodesic", "gallery/plot_12"), ("momentum", "gallery/plot_14"), ("torch", "torch.html")],
)
def test_the_page_that_is_looked_for_comes_first(browser, base, words, page):
    places = [address for address, _ in results(browser, base, words)]
    found = next(place for place, address in enumerate(places) if address.startswith(page))
    assert found < 3, places[:12]


def test_a_page_of_the_gallery_begins_with_its_figure_and_gives_its_notebook(browser, base):
    visit(browser, base + "gallery/plot_08_three_layers.html")
    figure = browser.find_element("css selector", ".bd-article img")
    assert figure.location["y"] < 500
    links = browser.find_elements("css selector", ".sphx-glr-download-jupyter a")
    (address,) = {link.get_attribute("href") for link in links}
    notebook = json.loads((HTML / address.removeprefix(base)).read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_code_can_be_copied_and_pages_turned(browser, base):
    visit(browser, base + "howto.html")
    blocks = len(browser.find_elements("css selector", ".highlight pre"))
    assert len(browser.find_elements("css selector", "button.copybtn")) == blocks > 5
    assert len(browser.find_elements("css selector", ".prev-next-footer a")) == 2


def test_the_api_has_sources_and_examples(browser, base):
    visit(browser, base + "api/liftflow.manifolds.InvariantSet.html")
    assert browser.find_elements("css selector", "a[href*='_modules/']")
    assert browser.find_elements("css selector", ".sphx-glr-thumbcontainer")
    visit(browser, base + "concepts.html")
    assert browser.find_elements("css selector", "a.api-link[href*='liftflow.criteria.classify']")
