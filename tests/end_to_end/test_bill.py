"""The bill of a run is said on the terminal and on the page, and kept within a budget.

The local BigQuery bills nothing: a proxy bills each query a GiB.
"""

import pytest
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from bi_pipeline.reports.page import PastRun, dump_history
from bi_pipeline.result import WITH_WARNINGS
from fault_proxy import Fault, error_reply, fault_proxy
from project import DBT_PROJECT, built, copy_project, last_run, prefect_client

GIB = 2**30
# dbt asks for the newest row before it fills `loaded`, and reports one query of the two.
MODELS = {
    "dbt_project.yml": f"{DBT_PROJECT}query-comment: {{job-label: true}}\n",
    "models/loaded.sql": (
        "{{ config(materialized='table') }}"
        "{% if execute %}{% do run_query('select 2 as newest') %}{% endif %}select 1 as id"
    ),
    "models/shown.sql": "select id from {{ ref('loaded') }}",
    "data-tests/never.sql": "select id from {{ ref('loaded') }} where id = 0",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    return copy_project(tmp_path_factory.mktemp("bill"), local_environment, MODELS)


@pytest.fixture
def proxy(project, bigquery, local_environment):
    """A proxy that bills, before the local BigQuery, where the dataset is."""
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"]
    bigquery.create_dataset(dataset, exists_ok=True)
    with fault_proxy(local_environment["DBT_BIGQUERY_API_ENDPOINT"]) as proxy:
        proxy.billed = GIB
        yield proxy


def keep_history(project, *billed):
    """Keep in Prefect the page of `dbt run` with a history of runs that billed so many bytes."""
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"].replace("_", "-")
    history = [PastRun(1000.0 - number, "", 0, each, 1.0, 2) for number, each in enumerate(billed)]
    page = ArtifactCreate(
        key=f"dbt-run-projet-local-{dataset}",
        type="markdown",
        data="",
        metadata_=dump_history(history),
    )
    with prefect_client(project.environment) as client:
        client.create_artifact(page)


def test_run_that_bills_far_more_than_usual_ends_with_a_warning_and_each_model_s_bill(
    project, proxy
):
    keep_history(project, GIB // 2, GIB // 2, GIB // 2)

    run = project.run_pipeline(
        *("--commands", "run", "--full-refresh"), DBT_BIGQUERY_API_ENDPOINT=proxy.url
    )

    with prefect_client(project.environment) as client:
        of_prefect = last_run(client)
        filter_ = FlowRunFilter(id=FlowRunFilterId(any_=[of_prefect.id]))
        (page,) = client.read_artifacts(flow_run_filter=filter_)
    warning = (
        "dbt run : BigQuery a facturé 3,0 Gio, et d'habitude 512,0 Mio (médiane de ses 3 dernières "
        "réussites) ; loaded à lui seul : 2,0 Gio. C'est attendu avec --full-refresh."
    )
    assert run.returncode == 0, run.stderr
    assert of_prefect.state.name == WITH_WARNINGS
    assert warning in of_prefect.state.message
    assert warning in run.stderr
    assert page.data.startswith(f"> ⚠️ {warning}")
    rows = [line for line in page.data.splitlines() if line.startswith("| réussi")]
    (loaded,) = (row for row in rows if "[loaded](" in row)
    (shown,) = (row for row in rows if "[shown](" in row)
    assert "| 2,0 Gio |" in loaded
    assert "| 1,0 Gio |" in shown


def test_run_over_its_budget_ends_before_the_next_command_with_what_it_built(project, proxy):
    run = project.run_pipeline(
        *("--commands", "run", "test"),
        DBT_BIGQUERY_API_ENDPOINT=proxy.url,
        DBT_RUN_MAXIMUM_BYTES_BILLED=str(2 * GIB),
    )

    assert run.returncode == 143, run.stderr
    assert sorted(built(run)) == ["loaded", "shown"]
    assert "\nFacturé : 3,0 Gio, 0,02 USD\n" in run.stdout
    assert run.stderr.splitlines()[-1].startswith(
        "Arrêtée avant dbt test : BigQuery a facturé 3,0 Gio à cette exécution, et son budget est "
        "de 2,0 Gio. Relevez DBT_RUN_MAXIMUM_BYTES_BILLED"
    )
    assert "never" not in proxy.queries


@pytest.mark.slow
def test_run_over_its_budget_is_not_tried_again_after_a_fault_that_passes(project, proxy):
    proxy.faults = [Fault("job", error_reply(503, "backendError", "Error encountered."), "shown")]

    run = project.run_pipeline(
        *("--commands", "run"),
        DBT_BIGQUERY_API_ENDPOINT=proxy.url,
        DBT_RUN_MAXIMUM_BYTES_BILLED=str(GIB),
    )

    assert run.returncode == 143, run.stderr
    assert run.stderr.count("Running with dbt") == 1
    assert "dbt run a échoué : modèle shown : " in run.stderr
    assert run.stderr.splitlines()[-1].startswith(
        "Panne passagère, mais sans nouvel essai : BigQuery a facturé 2,0 Gio"
    )
