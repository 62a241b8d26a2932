"""Faults of BigQuery and the network, at each moment of a query's life.

Three models that follow one another and two tests of the second; the fault hits the
second, or what dbt asks before any query. Faults that pass end in a success and nothing
that succeeded is done twice; those that do not pass are never tried again.
"""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from conftest import copy_project
from fault_proxy import RESET, Fault, Reply, error_reply, fault_proxy

MODELS = {
    "models/first.sql": "{{ config(materialized='table') }} select 1 as id union all select 2",
    "models/second.sql": (
        "{{ config(materialized='incremental') }} select id from {{ ref('first') }}"
        "{% if is_incremental() %} where id > (select max(id) from {{ this }}) {% endif %}"
    ),
    "models/third.sql": (
        "{{ config(materialized='table') }} select count(*) as ids from {{ ref('second') }}"
    ),
    "data-tests/even.sql": "select id from {{ ref('second') }} where id = 0",
    "data-tests/odd.sql": "select id from {{ ref('second') }} where id = -1",
}
EACH_ONCE = ["first", "second", "third"]

BACKEND = error_reply(503, "backendError", "Error encountered during execution.")
RATE_LIMIT = error_reply(429, "rateLimitExceeded", "Exceeded rate limits: too many queries.")
OLD_RATE_LIMIT = error_reply(403, "rateLimitExceeded", "Exceeded rate limits: too many queries.")
GATEWAY_TIMEOUT = error_reply(504, "gatewayTimeout", "The gateway gave up.")
DENIED = error_reply(403, "accessDenied", "Access Denied: Table second")
QUOTA = error_reply(403, "quotaExceeded", "Quota exceeded: too many table updates")
SYNTAX = error_reply(400, "invalidQuery", "Syntax error: Unexpected keyword FROM at [3:8]")
TIME_LIMIT = error_reply(500, "timeout", "Operation timed out after 6.0 hours.")


@dataclass
class Case:
    """A fault, and what has to come of it; `queries` are those that BigQuery took."""

    name: str
    faults: list[Fault]
    exit_code: int = 0
    attempts: int = 1
    queries: list[str] = field(default_factory=lambda: EACH_ONCE)
    message: str = "réussi"
    commands: tuple[str, ...] = ("run",)
    variables: dict[str, str] = field(default_factory=dict)


def at(moment, reply, *, node="second", times=1):
    return [Fault(moment, reply, node, times)]


ABSORBED = [
    Case("submit-503", at("submit", BACKEND)),
    Case("submit-502-without-json", at("submit", Reply(502, b"<html>Bad Gateway</html>"))),
    Case("submit-429", at("submit", RATE_LIMIT)),
    Case("submit-reset", at("submit", RESET)),
    Case("submitted-reset", at("submitted", RESET)),
    Case("poll-reset", at("poll", RESET)),
    Case("poll-403-rate-limit", at("poll", OLD_RATE_LIMIT)),
    Case("metadata-503", at("metadata", BACKEND, node="", times=2)),
]

RETRIED = [
    Case("submit-504", at("submit", GATEWAY_TIMEOUT), attempts=2),
    Case("job-backend-error", at("job", BACKEND), attempts=2),
    Case("job-rate-limit", at("job", RATE_LIMIT), attempts=2),
    Case("metadata-503-for-long", at("metadata", BACKEND, node="", times=4), attempts=2),
    Case(
        "test-job-backend-error",
        at("job", BACKEND, node="even"),
        attempts=2,
        queries=[*EACH_ONCE, "even", "odd"],
        commands=("run", "test"),
    ),
]

EXHAUSTED = [
    Case(
        "job-backend-error-always",
        at("job", BACKEND, times=99),
        exit_code=3,
        attempts=2,
        queries=["first"],
        message="modèle second (models/second.sql) : 500 Error encountered during execution.",
        variables={"DBT_RETRIES": "1"},
    ),
    Case(
        "unreachable",
        at("metadata", RESET, node="", times=99),
        exit_code=3,
        attempts=1,
        queries=[],
        message="Panne passagère de BigQuery ou du réseau, essai 1 sur 1 : relancez plus tard",
        variables={"DBT_RETRIES": "0"},
    ),
]

PERMANENT = [
    Case(name, fault, exit_code=1, queries=["first"], message=f"(models/second.sql) : {message}")
    for name, fault, message in (
        ("submit-denied", at("submit", DENIED), "Access Denied: Table second"),
        ("submit-quota", at("submit", QUOTA), "Quota exceeded"),
        ("submit-syntax", at("submit", SYNTAX), "Syntax error: Unexpected keyword FROM"),
        ("job-syntax", at("job", SYNTAX), "Syntax error: Unexpected keyword FROM"),
        ("job-time-limit", at("job", TIME_LIMIT), "500 Operation timed out after 6.0 hours."),
    )
]


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    project = copy_project(tmp_path_factory.mktemp("faults"), local_environment, MODELS)
    pipeline = project.root / "prefect" / "pipeline.py"
    text = pipeline.read_text()
    assert "RETRY_SECONDS = 5\n" in text
    pipeline.write_text(text.replace("RETRY_SECONDS = 5\n", "RETRY_SECONDS = 1\n"))
    return project


@pytest.fixture
def proxy(project, bigquery, local_environment):
    """A proxy before the local BigQuery, in whose dataset nothing is built yet."""
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"]
    bigquery.delete_dataset(dataset, delete_contents=True, not_found_ok=True)
    with fault_proxy(local_environment["DBT_BIGQUERY_API_ENDPOINT"]) as proxy:
        # dbt's own, so that the queries counted are those of the nodes.
        bigquery.create_dataset(dataset)
        yield proxy


def run(project, proxy, *arguments, **variables):
    return project.run_pipeline(*arguments, DBT_BIGQUERY_API_ENDPOINT=proxy.url, **variables)


def rows(bigquery, project, table):
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"]
    result = bigquery.query_and_wait(f"select * from {dataset}.{table} order by 1")
    return [tuple(row.values()) for row in result]


def check(case, project, proxy, bigquery):
    proxy.faults = case.faults

    pipeline = run(project, proxy, "--commands", *case.commands, **case.variables)

    assert pipeline.returncode == case.exit_code, pipeline.stderr
    assert case.message in pipeline.stderr
    assert "Traceback" not in pipeline.stderr
    assert "NoneType" not in pipeline.stderr
    assert pipeline.stderr.count("Running with dbt") == case.attempts + len(case.commands) - 1
    assert Counter(node for node in proxy.queries if node) == Counter(case.queries)
    if case.exit_code == 0:
        assert rows(bigquery, project, "second") == [(1,), (2,)]
        assert rows(bigquery, project, "third") == [(2,)]


# A class each, for the processes of pytest to share them.
class TestOneAttempt:
    @pytest.mark.parametrize("case", [*ABSORBED, *PERMANENT], ids=lambda case: case.name)
    def test_fault(self, case, project, proxy, bigquery):
        check(case, project, proxy, bigquery)


class TestSeveralAttempts:
    @pytest.mark.parametrize("case", [*RETRIED, *EXHAUSTED], ids=lambda case: case.name)
    def test_fault(self, case, project, proxy, bigquery):
        check(case, project, proxy, bigquery)


def test_failing_data_test_is_not_tried_again(project, proxy):
    test = project.root / "dbt" / "data-tests" / "even.sql"
    passing = test.read_text()
    test.write_text("select id from {{ ref('second') }}")
    try:
        pipeline = run(project, proxy)
    finally:
        test.write_text(passing)

    assert pipeline.returncode == 1
    assert "dbt test a échoué : test even (data-tests/even.sql) : Got 2 results" in pipeline.stderr
    assert Counter(proxy.queries)["even"] == 1


def test_sql_error_beside_a_passing_fault_is_not_tried_again(project, proxy):
    proxy.faults = [Fault("job", SYNTAX, "even", 1), Fault("job", BACKEND, "odd", 1)]

    pipeline = run(project, proxy)

    assert pipeline.returncode == 1
    end = pipeline.stderr.splitlines()[-4:]
    assert end[0].startswith("dbt test a échoué (et 1 de plus) : test ")
    assert end[1] == "Tests en échec :"
    assert "essai" not in pipeline.stderr


def test_results_on_the_disk_are_those_of_all_the_nodes_after_a_retry(project, proxy):
    proxy.faults = at("job", BACKEND)

    run(project, proxy, "--commands", "run")

    results = (project.root / "dbt" / "target" / "run_results.json").read_text()
    assert [f'"model.projet_m2_bi.{name}"' in results for name in EACH_ONCE] == [True] * 3
    assert results.count('"status": "success"') == 3
