"""Faults of BigQuery and the network, at each moment of a query's life.

Three models that follow one another, two tests of the second, and models that nothing
follows, one a fault. Faults that pass end in a success and nothing that succeeded is done
twice; those that do not pass are never tried again.
"""

import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from fault_proxy import RESET, Fault, Reply, error_reply, fault_proxy
from project import built, copy_project, last_run, prefect_client

BACKEND = error_reply(503, "backendError", "Error encountered during execution.")
RATE_LIMIT = error_reply(429, "rateLimitExceeded", "Exceeded rate limits: too many queries.")
OLD_RATE_LIMIT = error_reply(403, "rateLimitExceeded", "Exceeded rate limits: too many queries.")
GATEWAY_TIMEOUT = error_reply(504, "gatewayTimeout", "The gateway gave up.")
DENIED = error_reply(403, "accessDenied", "Access Denied: Table second")
QUOTA = error_reply(403, "quotaExceeded", "Quota exceeded: too many table updates")
SYNTAX = error_reply(400, "invalidQuery", "Syntax error: Unexpected keyword FROM at [3:8]")
TIME_LIMIT = error_reply(500, "timeout", "Operation timed out after 6.0 hours.")

# For each model a fault, and what is said of it from dbt's words. If dbt changed these,
# PASSING_FAULT would no longer tell the faults that pass from those that last.
LASTING = {
    "submit_denied": (Fault("submit", DENIED), "Access Denied: Table second"),
    "submit_quota": (Fault("submit", QUOTA), "quota BigQuery épuisé (too many table updates)"),
    "submit_syntax": (Fault("submit", SYNTAX), "Syntax error: Unexpected keyword FROM at [3:8]"),
    "job_syntax": (Fault("job", SYNTAX), "Syntax error: Unexpected keyword FROM at [3:8]"),
    "job_time_limit": (Fault("job", TIME_LIMIT), "500 Operation timed out after 6.0 hours"),
}
BESIDE = {"beside": (Fault("job", BACKEND), "500 Error encountered during execution")}
PASSING = {
    "submit_timeout": (Fault("submit", GATEWAY_TIMEOUT), "504 POST http"),
    "job_rate_limit": (
        Fault("job", RATE_LIMIT),
        "limite de débit de BigQuery atteinte (too many queries)",
    ),
}

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
MODELS |= {f"models/lasting/{name}.sql": "select 1 as id" for name in [*LASTING, *BESIDE]}
MODELS |= {f"models/passing/{name}.sql": "select 1 as id" for name in PASSING}
EACH_ONCE = ["first", "second", "third"]


@dataclass
class Case:
    """Faults, and the outcome that they must have.

    `left_out` are the folders of models that the run excludes. `starts` counts dbt's processes, and
    `queries` are those that BigQuery took. The output has `message`, and its last line starts with
    `end`.
    """

    name: str
    faults: list[Fault]
    commands: tuple[str, ...] = ("run",)
    left_out: str = "lasting passing"
    starts: int = 1
    exit_code: int = 0
    queries: list[str] = field(default_factory=lambda: EACH_ONCE)
    message: str = "réussi"
    end: str = ""
    variables: dict[str, str] = field(default_factory=dict)


# One case of each kind, as each runs dbt: absorbed by dbt, redone by `dbt retry`, never ending. The
# kind of each fault is tested without dbt in tests/unit/test_result.py.
ABSORBED = [
    Case(
        "absorbed-without-another-start",
        [
            Fault("metadata", BACKEND, times=2),
            Fault("submit", BACKEND, "first"),
            Fault("submit", RESET, "first"),
            Fault("poll", OLD_RATE_LIMIT, "first"),
            Fault("submitted", RESET, "second"),
            Fault("poll", RESET, "second"),
            Fault("submit", RATE_LIMIT, "third"),
            Fault("submit", Reply(502, b"<html>Bad Gateway</html>"), "third"),
        ],
    ),
]
DONE_AGAIN = [
    Case(
        "metadata-503-for-long-then-nodes-of-both-commands",
        [
            *(Fault("metadata", BACKEND, times=4), Fault("job", BACKEND, "second")),
            *(replace(fault, node=name) for name, (fault, _) in PASSING.items()),
            Fault("job", BACKEND, "even"),
        ],
        commands=("run", "test"),
        left_out="lasting",
        starts=5,
        queries=[*EACH_ONCE, *PASSING, "even", "odd"],
    ),
]
NEVER_ENDING = [
    Case(
        "job-backend-error-always",
        [Fault("job", BACKEND, "second", times=2)],
        exit_code=3,
        starts=2,
        queries=["first"],
        message="modèle second : 500 Error encountered during execution",
        end="Panne passagère de BigQuery ou du réseau, essai 2 sur 2 : relancez plus tard",
        variables={"DBT_RETRIES": "1"},
    ),
    Case(
        "job-backend-error-without-retries",
        [Fault("job", BACKEND, "second")],
        exit_code=3,
        queries=["first"],
        message="modèle second : 500 Error encountered during execution",
        end="Panne passagère de BigQuery ou du réseau, essai 1 sur 1 : relancez plus tard",
        variables={"DBT_RETRIES": "0"},
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    return copy_project(tmp_path_factory.mktemp("faults"), local_environment, MODELS)


@pytest.fixture
def proxy(project, bigquery, local_environment):
    """A proxy before the local BigQuery, in whose dataset nothing is built yet."""
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"]
    bigquery.delete_dataset(dataset, delete_contents=True, not_found_ok=True)
    with fault_proxy(local_environment["DBT_BIGQUERY_API_ENDPOINT"]) as proxy:
        # If the dataset were missing, dbt would create it by a query, which the faults could hit.
        bigquery.create_dataset(dataset)
        yield proxy


def run(project, proxy, *arguments, **variables):
    return project.run_pipeline(*arguments, DBT_BIGQUERY_API_ENDPOINT=proxy.url, **variables)


def rows(bigquery, project, table):
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"]
    result = bigquery.query_and_wait(f"select * from {dataset}.{table} order by 1")
    return [tuple(row.values()) for row in result]


def pages_of_last_run(environment):
    with prefect_client(environment) as client:
        run = FlowRunFilter(id=FlowRunFilterId(any_=[last_run(client).id]))
        return len(client.read_artifacts(flow_run_filter=run))


def check_words(pipeline, folder, faults):
    """Check that each fault is said of its model, from the words that dbt has for it today."""
    for name, (_, words) in faults.items():
        line = next(x for x in pipeline.stderr.splitlines() if f"{name} : {words}" in x)
        assert f"(models/{folder}/{name}.sql)" in line


@pytest.mark.parametrize(
    "case",
    [
        *ABSORBED,
        *(pytest.param(case, marks=pytest.mark.slow) for case in DONE_AGAIN + NEVER_ENDING),
    ],
    ids=lambda case: case.name,
)
def test_fault(case, project, proxy, bigquery, local_environment):
    proxy.faults = case.faults

    pipeline = run(
        *(project, proxy, "--commands", *case.commands, "--exclude", case.left_out),
        **case.variables,
    )

    assert pipeline.returncode == case.exit_code, pipeline.stderr
    assert case.message in pipeline.stderr
    assert pipeline.stderr.splitlines()[-1].startswith(case.end)
    assert "Traceback" not in pipeline.stderr
    assert "NoneType" not in pipeline.stderr
    assert pipeline.stderr.count("Running with dbt") == case.starts
    assert Counter(node for node in proxy.queries if node) == Counter(case.queries)
    assert pages_of_last_run(local_environment) == len(case.commands)
    # A fault that no request has met would prove nothing.
    assert [fault for fault in proxy.faults if fault.times] == []
    if case.exit_code == 0:
        assert sorted(built(pipeline)) == sorted({*case.queries} - {"even", "odd"})
        assert rows(bigquery, project, "second") == [(1,), (2,)]
        assert rows(bigquery, project, "third") == [(2,)]
    if "passing" not in case.left_out:
        check_words(pipeline, "passing", PASSING)


def test_fault_that_lasts_is_not_tried_again_even_beside_one_that_passes(project, proxy):
    faults = LASTING | BESIDE
    proxy.faults = [replace(fault, node=name) for name, (fault, _) in faults.items()]

    pipeline = run(project, proxy, "--commands", "run", "--select", "lasting")

    assert pipeline.returncode == 1, pipeline.stderr
    assert pipeline.stderr.count("Running with dbt") == 1
    assert "essai" not in pipeline.stderr
    check_words(pipeline, "lasting", faults)


@pytest.mark.slow
def test_fault_that_lasts_is_said_while_dbt_goes_on_trying(project, proxy):
    proxy.faults = [Fault("submit", BACKEND, "second", times=1000)]

    with subprocess.Popen(
        [sys.executable, str(project.root / "prefect" / "pipeline.py"), "--commands", "run"],
        env=project.environment | {"DBT_BIGQUERY_API_ENDPOINT": proxy.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = iter(process.stderr.readline, "")
        said = next((line for line in lines if "toujours pas abouti" in line), "")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert "| WARNING | Task run 'dbt run" in said
    assert f"503 POST {proxy.url}/bigquery/v2/projects/projet-local/jobs" in said
    assert process.returncode == 130
