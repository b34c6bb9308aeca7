"""The report in a browser: it opens without an error, and ranks as the library does."""

import shutil

import numpy as np
import pytest

from skwsdhq import HypersphereEmbedder, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.report import retrieval_report
from skwsdhq.search import CodeIndex

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
HOSTILE = "</script><img src=x onerror=window.hacked=1><script>window.hacked=1</script>"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no Chromium with its driver"),
]


@pytest.fixture(scope="module")
def made():
    made = make_tagged_images(180, random_state=0)
    made.tags = [list(row) for row in made.tags]
    made.tags[4].append(HOSTILE)
    made.tags[9].append(HOSTILE)
    return made


@pytest.fixture(scope="module")
def fitted(made):
    embedder = HypersphereEmbedder(max_iter=3, hidden_layer_sizes=(16,), random_state=0)
    # Codes of 8 bits: many rows tie.
    quantizer = WSDHQuantizer(embedder, n_bits=8, n_codewords=16, random_state=0)
    return quantizer.fit(made.data, made.tags)


@pytest.fixture(scope="module")
def index(fitted, made):
    return CodeIndex(fitted.codebooks_, fitted.encode(made.data))


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, fitted, made, tmp_path):
    """A page of pictures without names of their own, and with a hostile one."""
    pictures = make_tagged_images(180, kind="images", random_state=0).data
    names = [f"row {i}" for i in range(179)] + [HOSTILE]
    labels = [f"{HOSTILE} {label}" for label in made.target]
    path = tmp_path / "report.html"
    retrieval_report(
        fitted, made.data, made.tags, labels, path=path, images=pictures, names=names
    )  # fmt: skip
    browser.get(path.as_uri())
    yield Page(browser)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2


class Page:
    def __init__(self, browser):
        self.browser = browser

    def do(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def wait(self, is_so):
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, 30, poll_frequency=0.05).until(lambda _: is_so())

    def rows(self):
        """Return all results in their order, which come as they are scrolled to."""
        n = int(self.find("#told").text.split()[0])
        shown = "return [...document.querySelectorAll('#results .pic')].map(e => +e.dataset.row)"

        def all_are_there():
            self.do("document.getElementById('more').scrollIntoView({behavior: 'instant'})")
            return len(self.do(shown)) == n

        self.wait(all_are_there)
        return self.do(shown)

    def write(self, selector, text):
        field = self.find(selector)
        field.clear()
        field.send_keys(text + "\n")


def assert_ranked(rows, expected, similarities):
    """The library's own first rows; behind them another order only where all but equal."""
    expected = np.asarray(expected)
    assert sorted(rows) == sorted(expected.tolist())
    assert rows[:100] == expected[:100].tolist()
    by_row = dict(zip(expected.tolist(), similarities.tolist(), strict=True))
    assert np.diff([by_row[row] for row in rows]).max() < 1e-5


def test_it_opens(opened):
    assert opened.do("return document.documentElement.dataset.ready") == "1"
    assert opened.find("#told").text == "180 pictures"
    # Pictures are made as they come into view.
    assert 0 < len(opened.browser.find_elements("css selector", "#results img")) <= 120
    assert opened.rows() == list(range(180))
    assert opened.do("return document.querySelector('#results img').complete")
    assert opened.browser.title == "Retrieval report"


@pytest.mark.parametrize("row", [0, 61, 179])
def test_a_picture_that_is_clicked_is_looked_for(opened, fitted, made, index, row):
    opened.rows()
    opened.do("document.querySelector(`#results [data-row='${arguments[0]}']`).click()", row)
    values, found = index.search(fitted.transform(made.data)[[row]], 180, exclude=[row])
    assert_ranked(opened.rows(), found[0], values[0])
    target = np.asarray(made.target)
    hits = opened.do(
        "return [...document.querySelectorAll('#results li')].map(e => e.className === 'hit')"
    )
    assert hits == (target[opened.rows()] == target[row]).tolist()


@pytest.mark.parametrize(
    ("typed", "query"),
    [
        ("c2_t0", "c2_t0"),
        (" C2 T0 ", "c2_t0"),
        ("c2_t0, -c1_t0", ["c2_t0", "-c1_t0"]),
        ("C1_T1,c2_t0,", ["c1_t1", "c2_t0"]),
        ("-c1_t0", ["-c1_t0"]),
    ],
)
def test_words(opened, fitted, typed, query):
    opened.write("#words", typed)
    values, found = fitted.kneighbors_of_tags([query], 180)
    if isinstance(query, str):
        assert_ranked(opened.rows(), found[0], values[0])
    else:
        by_row = dict(zip(found[0].tolist(), values[0].tolist(), strict=True))
        assert np.diff([by_row[row] for row in opened.rows()]).max() < 1e-5


def test_unknown_words_and_tags_are_told(opened):
    opened.write("#words", "c2_zebra")
    assert "No picture has the tag “c2_zebra”. There are: c2_t" in opened.find("#problem").text
    assert opened.find("#told").text == "180 pictures"
    opened.write("#filter", HOSTILE + "?")
    assert HOSTILE in opened.find("#problem").text


def test_filter(opened, fitted, made, index):
    carried = [i for i, row in enumerate(made.tags) if "c1_t0" in row]
    opened.write("#filter", "C1_t0")
    assert opened.rows() == carried
    # Together with a query.
    row = carried[1]
    opened.do("document.querySelector(`#results [data-row='${arguments[0]}']`).click()", row)
    _, found = index.search(
        fitted.transform(made.data)[[row]], 100, exclude=[row], filter=np.array(carried)
    )
    assert opened.rows() == found[0].tolist()
    opened.write("#filter", HOSTILE)
    assert sorted(opened.rows()) == [4, 9]
    opened.do("document.getElementById('clear').click()")
    assert opened.rows() == list(range(180))


def test_by_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    opened.find("#results .pic").send_keys(Keys.ENTER)
    assert opened.find("#told").text == "179 pictures by likeness to row 0"
    assert opened.do("return document.activeElement.id") == "told"
    opened.find(".chip").send_keys(Keys.SPACE)
    assert "with the tag" in opened.find("#told").text


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(opened, width):
    opened.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    assert opened.do("return document.documentElement.scrollWidth") <= width
    opened.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
