"""What a person sees of a failed run in Prefect's interface, in headless Chromium."""

import shutil
import subprocess

import pytest
from conftest import ONE_MODEL, copy_project, prefect_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), "")

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory, local_environment):
    """The page of a flow run whose model does not run, and that of its artifact."""
    broken = {"models/broken.sql": "select nowhere from (select 1 as a)"}
    project = copy_project(tmp_path_factory.mktemp("page"), local_environment, ONE_MODEL | broken)
    assert project.run_pipeline().returncode == 1
    with prefect_client(local_environment) as client:
        (run,) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
        filter_ = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        (artifact,) = client.read_artifacts(flow_run_filter=filter_)
    base = local_environment["PREFECT_API_URL"].removesuffix("/api")
    return {
        "run": f"{base}/runs/flow-run/{run.id}?tab=Details",
        "artifact": f"{base}/artifacts/artifact/{artifact.id}",
    }


def read_page(url, profile):
    """Return the page as the browser has it once its scripts have run."""
    return subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={profile}", "--virtual-time-budget=20000"),
            *("--window-size=1280,1400", "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    ).stdout


@pytest.mark.parametrize("page", ["run", "artifact"])
def test_page_names_the_failed_model(page, failed_run, tmp_path):
    html = read_page(failed_run[page], tmp_path)

    assert "broken" in html
    assert "models/broken.sql" in html


def test_artifact_has_the_reason_a_timeline_and_links_to_the_jobs(failed_run, tmp_path):
    html = read_page(failed_run["artifact"], tmp_path)

    assert "nowhere" in html
    assert "█" in html
    assert "console.cloud.google.com/bigquery?project=projet-local" in html
