"""The page of charts, as a phone and a laptop show it, in headless Chromium."""

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

import build_report
from build_report import main
from project import copy_project, in_environment

DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DRIVER, reason="Chromium's driver is not installed"),
]

# What lies outside of the window, and texts that are wider than their cell.
OUTSIDE = """
return [...document.querySelectorAll("h1, h2, p, dl div, table, th, td")]
  .map(element => [element.textContent.trim().slice(0, 40), element.getBoundingClientRect()])
  .filter(([_, box]) => box.left < 0 || box.right > innerWidth + 0.5)
  .map(([text, _]) => text);
"""
TOO_WIDE = """
return [...document.querySelectorAll("th, td")]
  .filter(cell => cell.scrollWidth > cell.clientWidth)
  .map(cell => cell.textContent.trim());
"""
SMALLEST_LETTERS = """
return Math.min(...[...document.querySelectorAll("th, td")].map(cell =>
  parseFloat(getComputedStyle(cell).fontSize)));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, local_environment):
    """The page of the sample data, and what the tool said."""
    project = copy_project(tmp_path_factory.mktemp("report"), local_environment, {})
    run = project.run_pipeline("--commands", "run")
    assert run.returncode == 0, run.stdout + run.stderr
    report = project.run("dbt/dashboard/build_report.py")
    assert report.returncode == 0, report.stdout + report.stderr
    path = project.root / ".local" / "report.html"
    assert str(path) in report.stdout
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium."""
    options = webdriver.ChromeOptions()
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as browser:
        yield browser


def show(browser, page, width, scheme="light"):
    """Open the page in a window of this width, in the light or in the dark."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(width, page, browser):
    show(browser, page, width)

    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth") == 0
    assert browser.execute_script(OUTSIDE) == []
    assert browser.execute_script(TOO_WIDE) == []


def test_letters_of_the_tables_can_be_read_on_a_phone(page, browser):
    show(browser, page, 390)

    assert browser.execute_script(SMALLEST_LETTERS) >= 9


def test_page_says_the_published_numbers_in_french(page, browser):
    show(browser, page, 1280)

    figures = browser.find_element(By.TAG_NAME, "dl").get_attribute("textContent")
    tables = browser.find_elements(By.CSS_SELECTOR, "table")
    cells = [table.get_attribute("textContent") for table in tables]
    assert "336\N{NARROW NO-BREAK SPACE}776" in figures
    assert "73,4\N{NO-BREAK SPACE}%" in figures  # 247,246 of 336,776
    assert "2,5\N{NO-BREAK SPACE}%" in figures  # 8,255
    assert "6,9\N{NO-BREAK SPACE}min" in figures  # the mean arrival delay
    assert len(cells) == 3
    assert "Hawaiian Airlines" in cells[0]
    assert "Newark Liberty Intl → Columbia Metropolitan" in cells[1]
    assert "Précipitations" in cells[2]


def test_page_follows_the_light_and_the_dark(page, browser):
    colors = {}
    for scheme in ("light", "dark"):
        show(browser, page, 390, scheme)
        name = browser.find_element(By.XPATH, "//th[.='United Air Lines']")
        colors[scheme] = (
            name.value_of_css_property("color"),
            browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"),
        )

    assert colors == {
        "light": ("rgba(27, 36, 48, 1)", "rgba(246, 247, 249, 1)"),
        "dark": ("rgba(232, 236, 241, 1)", "rgba(17, 22, 29, 1)"),
    }


def test_page_asks_nothing_of_the_network(page, browser):
    show(browser, page, 1280)

    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    html = page.read_text()
    assert asked == []
    assert "<script" not in html
    assert "http" not in html


def test_marts_that_are_not_there_are_named_with_the_remedy(
    local_environment, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(build_report, "PAGE", tmp_path / "report.html")

    with in_environment(local_environment | {"DBT_BIGQUERY_DATASET_DEV": "pas_la"}):
        assert main([]) == 2

    said = capsys.readouterr().err
    assert "pas_la" in said
    assert "make demo" in said
    assert list(tmp_path.iterdir()) == []
