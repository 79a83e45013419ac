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
from selenium.webdriver.support.ui import WebDriverWait

from liftflow import gallery

HTML = Path(__file__).parent / "_build" / "html"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WIDTHS = [400, 1400]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
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
    assert {"index.html", "start.html", "gallery/index.html", "api.html"} <= {*PAGES}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_page(browser, base, page, width):
    visit(browser, base + page, width)
    assert not failures(browser, base)
    run = browser.execute_script
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
    visit(browser, base + "gallery/index.html")
    shown = "return [...document.querySelectorAll('.sphx-glr-thumbcontainer img')]"
    widths = browser.execute_script(shown + ".map(image => image.naturalWidth)")
    assert len(widths) == len(gallery.scripts())
    assert min(widths) > 100


# Figures have the ground of the page, be it light or dark.

FIGURES = ["start.html", "concepts.html", "benchmarks.html", "gallery/plot_01_quick_start.html"]


@pytest.fixture
def theme(browser, request):
    """Ask for pages in the light or the dark theme, as the reader's system would."""
    wanted = [{"name": "prefers-color-scheme", "value": request.param}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
    yield request.param
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def first_figure(browser):
    """Return the pixels of the first figure of the page as they are seen, from 0 to 255."""
    figure = browser.find_element("css selector", ".bd-article img")
    return np.asarray(Image.open(io.BytesIO(figure.screenshot_as_png)).convert("RGB"), int)


def ground_of_figure(pixels):
    edges = [pixels[5:-5, 5], pixels[5:-5, -5], pixels[5, 5:-5], pixels[-5, 5:-5]]
    return np.median(np.concatenate(edges), axis=0)


def ground_of_page(browser):
    rgb = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return np.array(re.findall(r"\d+", rgb)[:3], int)


@pytest.mark.parametrize("theme", ["light", "dark"], indirect=True)
@pytest.mark.parametrize("page", FIGURES)
def test_figures_have_the_ground_of_the_page(browser, base, page, theme):
    visit(browser, base + page)
    ground, pixels = ground_of_page(browser), first_figure(browser)
    assert (ground.mean() < 50) == (theme == "dark")
    np.testing.assert_allclose(ground_of_figure(pixels), ground, atol=3)
    assert np.abs(pixels - ground).max(axis=(0, 1)).min() > 150, "no ink is seen"


@pytest.mark.parametrize("theme", ["dark"], indirect=True)
def test_a_light_figure_on_a_dark_page_is_noticed(browser, base, theme):
    visit(browser, base + FIGURES[0])
    image = "document.querySelector('.bd-article img')"
    browser.execute_script(f"{image}.style.setProperty('filter', 'none', 'important')")
    contrast = ground_of_figure(first_figure(browser)) - ground_of_page(browser)
    assert contrast.min() > 150


@pytest.mark.parametrize(("words", "found"), [("relaxed balanced", True), ("qwertyuiop", False)])
def test_search(browser, base, words, found):
    visit(browser, base + "search.html?q=" + words.replace(" ", "+"))
    said = "return document.querySelector('.search-summary')?.textContent || ''"
    WebDriverWait(browser, 20).until(
        lambda _: re.search("finished|did not match", browser.execute_script(said))
    )
    links = browser.execute_script(
        "return [...document.querySelectorAll('#search-results li a')].map(a => a.textContent)"
    )
    assert bool(links) == found
    assert ("Choose a metric" in links) == found
    assert not failures(browser, base)
