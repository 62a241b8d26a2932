"""BigQuery is asked about the nodes of a manifest that it bills, and its answers bound the bill."""

import pytest
from requests import ConnectionError, Request

from bi_pipeline.bigquery.dry_run import DryRun
from bi_pipeline.dbt_runs import estimate
from bi_pipeline.dbt_runs.estimate import estimate_bill, estimate_node, find_query
from bi_pipeline.errors import DbtError, InfrastructureError
from bi_pipeline.result import Bill, DbtResult, NodeEstimate, NodeResult
from bi_pipeline.settings import GOOGLE_ENDPOINT, PipelineSettings

MIB = 2**20
SETTINGS = PipelineSettings.from_mapping(
    {"DBT_BIGQUERY_DATASET_DEV": "dev", "DBT_BIGQUERY_DATASET_PROD": "prod"}
)


def node(materialized="table", kind="model", language="sql", code="select 1", **config):
    """Return a node of dbt's manifest, after `compile`."""
    if kind == "test":
        config = {"fail_calc": "count(*)"} | config
    return {
        "resource_type": kind,
        "language": language,
        "compiled_code": code,
        "config": {"materialized": materialized} | config,
    }


PYTHON = node(language="python")
MICROBATCH = node("incremental", incremental_strategy="microbatch")


@pytest.mark.parametrize(
    "free", [node("view"), node("seed", "seed", code=None), PYTHON, MICROBATCH]
)
def test_nothing_is_asked_of_what_bills_nothing_or_cannot_be_told(free):
    assert find_query(free) == ""


@pytest.mark.parametrize("materialized", ["table", "incremental", "snapshot", "materialized_view"])
def test_compiled_sql_is_asked_with_the_functions_that_it_needs(materialized):
    asked = find_query(node(materialized, sql_header="create temp function f() as (1);"))

    assert asked.split("\n") == ["create temp function f() as (1);", "select 1"]


def test_test_counts_as_dbt_does_and_so_reads_the_columns_that_it_compares_alone():
    asked = find_query(node("test", "test", code="select * from t where a < 0"))

    assert asked.replace("\n", "") == (
        "select count(*) from (select * from t where a < 0) dbt_internal_test"
    )


def test_test_that_stores_its_failures_reads_all_that_it_stores():
    asked = find_query(node("test", "test", code="select * from t", store_failures=True))

    assert asked.strip() == "select * from t"


@pytest.mark.parametrize(
    ("read", "billed"),
    [(0, 0), (1, 10 * MIB), (10 * MIB, 10 * MIB), (10 * MIB + 1, 11 * MIB)],
)
def test_bytes_are_rounded_as_bigquery_bills_them(read, billed):
    assert estimate_node("model.p.a", node(), DryRun(read, "PRECISE")).billed == billed


@pytest.mark.parametrize(
    ("materialized", "accuracy", "bound"),
    [
        ("table", "PRECISE", ""),
        ("table", "", ""),
        ("table", "LOWER_BOUND", "au moins"),
        ("table", "UPPER_BOUND", "au plus"),
        ("table", "UNKNOWN", "environ"),
        ("test", "PRECISE", ""),
        ("incremental", "PRECISE", "au moins"),
        ("incremental", "UPPER_BOUND", "environ"),
        ("snapshot", "PRECISE", "au moins"),
        ("materialized_view", "PRECISE", "au moins"),
    ],
)
def test_estimate_says_whether_the_bill_may_be_more_or_less(materialized, accuracy, bound):
    assert estimate_node("model.p.a", node(materialized), DryRun(1, accuracy)).bound == bound


@pytest.mark.parametrize("table", ["p:dev.stg_a", "p.dev.stg_a"])
def test_table_that_is_not_built_yet_is_named(table):
    answer = DryRun(None, error=f"Not found: Table {table} was not found in location EU")

    found = estimate_node("model.p.a", node(), answer)

    assert found == NodeEstimate("model.p.a", reason="lit dev.stg_a, qui n'existe pas encore")


def test_other_refusal_is_quoted_by_its_first_line():
    answer = DryRun(None, error="Unrecognized name: nowhere at [1:8].\nMore.")

    found = estimate_node("model.p.a", node(), answer)

    assert found.reason == "Unrecognized name: nowhere at [1:8]"


def bill(monkeypatch, nodes, answers, **result):
    """Return the estimate of these nodes, of whose queries BigQuery says this."""
    monkeypatch.setattr(estimate, "dry_run_queries", lambda *_: answers)
    compiled = DbtResult(
        "compile", 0, nodes=[NodeResult(name, "success") for name in nodes], **result
    )
    return estimate_bill(None, SETTINGS, {"nodes": nodes}, compiled)


def test_what_a_run_never_executes_is_left_out(monkeypatch):
    nodes = {
        "model.p.a": node(),
        "analysis.p.b": node("view", "analysis"),
        "operation.p.c": node("view", "operation"),
        "seed.p.d": node("seed", "seed", code=None),
        "model.p.e": PYTHON,
    }

    found = bill(monkeypatch, nodes, [DryRun(1, "PRECISE", "EU")], bill=Bill(5))

    assert [entry.unique_id for entry in found.nodes] == ["model.p.a", "seed.p.d", "model.p.e"]
    assert [entry.billed for entry in found.nodes] == [10 * MIB, 0, None]
    assert (found.location, found.spent) == ("EU", Bill(5))


def test_estimate_of_nothing_is_a_failure_that_names_a_reason_and_the_remedy(monkeypatch):
    nodes = {"seed.p.d": node("seed", "seed", code=None), "model.p.a": node(), "model.p.b": node()}
    denied = DryRun(None, error="Access Denied: Project p")

    with pytest.raises(DbtError, match=r"aucune requête, 2 en tout\. a : Access Denied.*--target"):
        bill(monkeypatch, nodes, [denied, denied])


def test_bigquery_that_cannot_be_reached_is_named_with_the_remedy(monkeypatch):
    def fail(*_):
        raise ConnectionError("no route", request=Request("POST", GOOGLE_ENDPOINT))

    monkeypatch.setattr(estimate, "dry_run_queries", fail)
    compiled = DbtResult("compile", 0, nodes=[NodeResult("model.p.a", "success")])

    with pytest.raises(InfrastructureError, match="BigQuery injoignable"):
        estimate_bill(None, SETTINGS, {"nodes": {"model.p.a": node()}}, compiled)


def test_project_of_which_nothing_is_billed_is_estimated(monkeypatch):
    found = bill(monkeypatch, {"model.p.a": node("view")}, [])

    assert found.nodes == [NodeEstimate("model.p.a", 0)]
