"""A run is estimated before it is paid: dbt compiles, and BigQuery judges the SQL."""

import json

from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from fault_proxy import Reply, error_reply, fault_proxy, make_certificate
from project import ONE_MODEL, prefect_client

PROJECT = {
    "models/small.sql": "{{ config(materialized='table') }} select 1 as id",
    "models/large.sql": (
        "{{ config(materialized='incremental') }} select id from {{ ref('small') }}"
    ),
    "models/seen.sql": "{{ config(materialized='view') }} select id from {{ ref('large') }}",
    "models/later.sql": "{{ config(materialized='table') }} select id from {{ ref('seen') }}",
    "data-tests/none.sql": "select * from {{ ref('large') }} where id = 0",
}
GIB = 2**30


def answer_as_google(query):
    """Return what BigQuery answers to a dry run, where only `small` and `large` are built."""
    if "`seen`" in query:
        message = "Not found: Table projet-local:raw.seen was not found in location EU"
        return error_reply(404, "notFound", message)
    read = 3 * GIB if "`small`" in query else 1 if "`large`" in query else 0
    job = {
        "jobReference": {"projectId": "projet-local", "location": "EU"},
        "configuration": {"dryRun": True},
        "statistics": {
            "query": {"totalBytesProcessed": str(read), "totalBytesProcessedAccuracy": "PRECISE"}
        },
        "status": {"state": "DONE"},
    }
    return Reply(200, json.dumps(job).encode())


def test_estimate_says_bytes_and_price_of_each_node_and_runs_none(make_project, tmp_path):
    project = make_project(PROJECT)
    certificate = make_certificate(tmp_path / "localhost.pem")
    upstream = project.environment["DBT_BIGQUERY_API_ENDPOINT"]
    with fault_proxy(upstream, certificate) as proxy:
        proxy.on_dry_run = answer_as_google
        run = project.run_pipeline(
            *("--commands", "estimate"),
            DBT_BIGQUERY_API_ENDPOINT=proxy.url,
            DBT_BIGQUERY_MAXIMUM_BYTES_BILLED=str(GIB),
            REQUESTS_CA_BUNDLE=str(certificate),
        )

    assert run.returncode == 0, run.stderr
    assert proxy.queries == []
    table = run.stdout.partition("Estimation (cible dev) :\n")[2].splitlines()
    assert table == [
        "  large  au moins    3,0 Gio  0,0183 USD",
        "  none              10,0 Mio  0,0001 USD",
        "  small  rien",
        "  seen   rien",
        "  later  inconnu : lit raw.seen, qui n'existe pas encore",
        "Au-delà de DBT_BIGQUERY_MAXIMUM_BYTES_BILLED (1,0 Gio), BigQuery les refuserait : large",
        "Facturé : rien",
    ]
    sentence = (
        "Estimation : au moins 3,0 Gio, 0,0184 USD à la demande, pour 4 nœuds ; 1 nœud inconnu ; "
        "rien n'a été facturé."
    )
    assert run.stderr.splitlines()[-1] == sentence
    key = f"dbt-estimate-projet-local-{project.environment['DBT_BIGQUERY_DATASET_DEV']}"
    by_key = ArtifactFilter(key=ArtifactFilterKey(any_=[key.replace("_", "-")]))
    with prefect_client(project.environment) as client:
        (page,) = client.read_artifacts(artifact_filter=by_key)
    assert sentence in page.data
    assert table[0] in page.data


def test_estimate_on_the_local_bigquery_is_refused_before_dbt_starts(make_project):
    """bqemulator answers dry runs, with 0 bytes: a green estimate would say that all is free."""
    run = make_project(ONE_MODEL).run_pipeline("--commands", "estimate")

    assert run.returncode == 2
    assert "le BigQuery local ne peut pas savoir" in run.stderr.splitlines()[-1]
    assert "Running with dbt" not in run.stderr
