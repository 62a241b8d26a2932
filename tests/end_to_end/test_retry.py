"""`retry` across runs: only what failed is redone, wherever the results were kept.

The rules are tested without dbt in tests/unit/dbt_runs (test_runner.py, test_dbt_artifacts.py).
"""

import json

import pytest
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from project import DBT_PROJECT, built, copy_project, prefect_client

# `half` fails until the test mends it.
MODELS = {
    "models/one.sql": "select 1 as id",
    "models/half.sql": "select id from {{ ref('one') }} where nowhere",
    "models/after.sql": "select id from {{ ref('half') }}",
    "models/one.yml": "models: [{name: after, columns: [{name: id, data_tests: [not_null]}]}]",
}
BUCKET = "resultats"


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a Google Cloud Storage on this machine, and the variables that keep results."""
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    url = f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
    client = Client("projet", AnonymousCredentials(), client_options={"api_endpoint": url})
    variables = {"DBT_ARTIFACTS_DIR": f"gs://{BUCKET}/x", "STORAGE_EMULATOR_HOST": url}
    yield client.bucket(BUCKET), variables
    server.stop()


def list_kept(bucket):
    """Return the names of what the bucket keeps."""
    return sorted(blob.name for blob in bucket.list_blobs())


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    return copy_project(tmp_path_factory.mktemp("retry"), local_environment, MODELS)


@pytest.fixture(scope="module")
def retried(project, bucket):
    """A run that failed, `half` mended, and two retries: of `target/`, then of the bucket alone."""
    kept, variables = bucket
    failed = project.run_pipeline("--commands", "run", **variables)
    kept_of_failed = list_kept(kept)
    (project.root / "dbt" / "models" / "half.sql").write_text("select id from {{ ref('one') }}")
    of_target = project.run_pipeline("--commands", "retry")
    # As in a new container, nothing is left of what dbt wrote.
    for path in (project.root / "dbt" / "target" / "dev").glob("*.json"):
        path.unlink()
    of_bucket = project.run_pipeline("--commands", "retry", "test", **variables)
    return failed, kept_of_failed, of_target, of_bucket


def test_retry_redoes_only_what_failed_then_the_tests(retried, bucket):
    failed, kept_of_failed, of_target, of_bucket = retried

    assert failed.returncode == 1
    assert of_target.returncode == 0, of_target.stderr
    assert built(of_target) == ["half", "after"]
    assert of_bucket.returncode == 0, of_bucket.stderr
    assert built(of_bucket) == ["half", "after"]
    assert "PASS not_null_after_id" in of_bucket.stderr
    # No manifest.json: a model that failed, or that the retry did not redo and that has changed
    # since it was built, would pass for built.
    assert kept_of_failed == list_kept(bucket[0]) == ["x/dev/run_results.json"]


@pytest.mark.slow
def test_command_that_left_no_results_is_not_taken_for_the_one_before(retried, project, bucket):
    """The one before succeeded; this one does not compile."""
    kept, variables = bucket
    model = project.root / "dbt" / "models" / "one.sql"
    model.write_text("select {{ ref('nowhere') }}")

    failed = project.run_pipeline("--commands", "run", **variables)
    model.write_text(MODELS["models/one.sql"])
    again = project.run_pipeline("--commands", "retry", **variables)

    assert failed.returncode == 1
    assert list_kept(kept) == []
    assert not (project.root / "dbt" / "target" / "dev" / "run_results.json").exists()
    assert again.returncode == 2
    assert (
        "n'a laissé de résultats lisibles dans gs://resultats/x." in again.stderr.splitlines()[-1]
    )
    assert "Traceback" not in again.stderr


SELECTOR = """
selectors:
  - {name: nightly, default: true, definition: {method: fqn, value: one}}
"""


@pytest.mark.slow
def test_default_selector_of_the_project_counts_as_a_selection(make_project, tmp_path):
    """dbt says nothing of it in the arguments of its results."""
    project = make_project(
        {
            "models/one.sql": "select 1 as id",
            "models/two.sql": "select 2 as id",
            "selectors.yml": SELECTOR,
        }
    )
    folder = tmp_path / "l'archive"

    run = project.run_pipeline(
        *("--commands", "docs", "generate", "run", "docs", "generate"),
        DBT_ARTIFACTS_DIR=str(folder),
    )

    with prefect_client(project.environment) as client:
        dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"].replace("_", "-")
        pages = {page.key: page.data for page in client.read_artifacts()}
    assert run.returncode == 0, run.stderr
    # No manifest.json: it would make the models that a selection leaves out pass for built.
    assert sorted(path.name for path in folder.rglob("*.*")) == ["docs.html", "run_results.json"]
    assert "select 1 as id" in (folder / "dev" / "docs.html").read_text()
    # The run finds in Prefect, on the page of `docs generate`, where the documentation is.
    for command in ("run", "docs-generate"):
        page = pages[f"dbt-{command}-projet-local-{dataset}"]
        assert f"Documentation du projet : `{folder}/dev/docs.html`" in page
    results = json.loads((folder / "dev" / "run_results.json").read_text())
    # If the results of `docs generate` took the place of the run's, `retry` would redo nothing.
    assert results["args"]["which"] == "run"
    assert [result["unique_id"] for result in results["results"]] == ["model.project.one"]


HOOK = "on-run-end: [\"select error('Exceeded rate limits: too many table updates')\"]"


@pytest.mark.slow
def test_hook_that_failed_is_never_taken_for_done(make_project):
    """`dbt retry` leaves hooks out: with nothing else failed, it does nothing and exits 0."""
    project = make_project(
        {"models/one.sql": "select 1 as id", "dbt_project.yml": f"{DBT_PROJECT}\n{HOOK}\n"}
    )

    run = project.run_pipeline("--commands", "run", DBT_RETRIES="1")

    assert run.returncode == 3
    assert run.stderr.count("Running with dbt") == 2
    assert "opération project-on-run-end-0" in run.stderr.splitlines()[-2]
    assert "too many table updates" in run.stderr.splitlines()[-2]
    assert "essai 2 sur 2" in run.stderr.splitlines()[-1]
    results = (project.root / "dbt" / "target" / "dev" / "run_results.json").read_text()
    statuses = {node["unique_id"]: node["status"] for node in json.loads(results)["results"]}
    # With these, `retry` refuses (tests/unit/dbt_runs/test_runner.py).
    assert statuses["operation.project.project-on-run-end-0"] == "error"
