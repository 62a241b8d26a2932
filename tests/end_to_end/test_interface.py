"""A failed run as a person sees it in Prefect's interface, in headless Chromium."""

import shutil
from contextlib import suppress

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from project import ONE_MODEL, copy_project, last_run, prefect_client

DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not DRIVER, reason="Chromium's driver is not installed")


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory, local_environment):
    """The page of a flow run whose model does not run, and that of its artifact."""
    broken = {"models/broken.sql": "select nowhere from (select 1 as a)"}
    project = copy_project(tmp_path_factory.mktemp("page"), local_environment, ONE_MODEL | broken)
    assert project.run_pipeline().returncode == 1
    with prefect_client(local_environment) as client:
        run = last_run(client)
        filter_ = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        (artifact,) = client.read_artifacts(flow_run_filter=filter_)
    base = local_environment["PREFECT_API_URL"].removesuffix("/api")
    return {
        "run": f"{base}/runs/flow-run/{run.id}?tab=Details",
        "artifact": f"{base}/artifacts/artifact/{artifact.id}",
    }


@pytest.fixture(scope="module")
def browser(local_environment, tmp_path_factory):
    """A headless Chromium, logged in to the interface as a person is: by typing the secret."""
    options = webdriver.ChromeOptions()
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("window-size=1280,1400", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
    ):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as browser:
        browser.get(local_environment["PREFECT_API_URL"].removesuffix("/api"))
        wait_for(browser, "input[type=password]").send_keys(
            local_environment["PREFECT_API_AUTH_STRING"], Keys.ENTER
        )
        WebDriverWait(browser, 30).until(lambda b: "/login" not in b.current_url)
        yield browser


def wait_for(browser, selector):
    """Return the element of the page once its scripts have made it."""
    return WebDriverWait(browser, 30).until(lambda b: b.find_elements(By.CSS_SELECTOR, selector))[0]


def read_page(browser, url, word):
    """Return the text of the page, once it has the word or after half a minute."""
    browser.get(url)
    body = wait_for(browser, "body")
    with suppress(TimeoutException):
        WebDriverWait(browser, 30).until(lambda _: word in body.text)
    return browser.page_source


@pytest.mark.parametrize("page", ["run", "artifact"])
def test_page_names_the_failed_model(page, failed_run, browser):
    html = read_page(browser, failed_run[page], "models/broken.sql")

    assert "broken" in html
    assert "models/broken.sql" in html


def test_artifact_has_the_reason_a_timeline_the_last_runs_and_links_to_the_jobs(
    failed_run, browser
):
    html = read_page(browser, failed_run["artifact"], "█")

    # bqemulator 1.4.0 keeps the labels of few jobs: the cost of the others is unknown.
    assert "Facturé : au moins 0 o" in html
    assert "Dernières exécutions" in html
    assert "nowhere" in html
    assert "█" in html
    assert "console.cloud.google.com/bigquery?project=projet-local" in html
