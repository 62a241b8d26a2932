"""The reason why a node failed is found in dbt's files and log, and the seed that it misses."""

import json

import pytest

from bi_pipeline.dbt_runs.dbt_log import read_log
from bi_pipeline.dbt_runs.run_results import read_results

MANIFEST = {
    "nodes": {
        "seed.p.raw_customers": {
            "name": "raw_customers",
            "relation_name": "`my-project`.`dev_seeds`.`customers`",
        },
        "model.p.orders": {"name": "orders", "relation_name": "`my-project`.`dev`.`orders`"},
        "model.p.ephemeral": {"name": "ephemeral", "relation_name": None},
    },
    "sources": {
        "source.p.raw.flights": {"name": "flights", "relation_name": "`my-project`.`r`.`f`"}
    },
}


@pytest.mark.parametrize(
    ("message", "seed"),
    [
        # BigQuery's words, then bqemulator's.
        ("Not found: Table my-project:dev_seeds.customers was not found in location EU", True),
        ("Not found: Table my-project.dev_seeds.customers was not found in location US", True),
        ("Not found: Table my-project:dev.customers was not found in location EU", False),
        ("Not found: Table other:dev_seeds.customers was not found in location EU", False),
        ("Not found: Table my-project:dev.orders was not found in location EU", False),
        ("Not found: Table my-project:r.f was not found in location EU", False),
        ("Not found: Dataset my-project:dev_seeds was not found in location EU", False),
        ("Unrecognized name: raw_customers", False),
    ],
)
def test_missing_table_is_that_of_a_seed(message, seed, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    failed = {
        "unique_id": "model.p.a",
        "status": "error",
        "message": f"Database Error\n  {message}",
    }

    (node,) = read_results({"results": [failed]}, tmp_path / "manifest.json", {}, is_local=False)

    assert node.missing_seed == ("raw_customers" if seed else "")


# As dbt 1.12.6 logs and writes it: the reason is in no file of results.
BATCH_ERROR = {
    "data": {"unique_id": "model.p.days"},
    "info": {
        "name": "GenericExceptionOnRun",
        "level": "error",
        "msg": "[ERROR]: Unhandled error while executing \nException on worker thread. Database "
        "Error\n  Not found: Table my-project.dev_seeds.customers was not found in location US",
    },
}
LATER_ERROR = BATCH_ERROR | {"info": BATCH_ERROR["info"] | {"msg": "[ERROR]: x\nLater"}}
MICROBATCH = {
    "status": "error",
    "message": "ERROR",
    "batch_results": {"successful": [], "failed": [["2024-01-01", "2024-01-02"]]},
}


def test_microbatch_has_the_reason_of_its_first_batch_that_failed(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    log = read_log("run", [json.dumps(BATCH_ERROR), json.dumps(LATER_ERROR)])
    results = [MICROBATCH | {"unique_id": f"model.p.{name}"} for name in ("days", "other")]

    days, other = read_results(
        {"results": results}, tmp_path / "manifest.json", log.batch_errors, is_local=False
    )

    assert days.message.startswith("Exception on worker thread. Database Error\n  Not found: Table")
    assert days.missing_seed == "raw_customers"
    assert other.message == ""


def read(tmp_path, statuses, parents, **known):
    """Return the nodes of a command that ended so, by name: `a` reads what `parents` gives."""
    nodes = {name: {"depends_on": {"nodes": parents.get(name, [])}} for name in statuses}
    (tmp_path / "manifest.json").write_text(json.dumps({"nodes": nodes}))
    results = [{"unique_id": name, "status": status} | known for name, status in statuses.items()]
    found = read_results({"results": results}, tmp_path / "manifest.json", {}, is_local=False)
    return {node.unique_id: node for node in found}


@pytest.mark.parametrize(
    ("statuses", "parents", "blocker"),
    [
        ({"model.p.a": "error"}, {"model.p.z": ["model.p.a"]}, "model.p.a"),
        (
            {"model.p.a": "error", "model.p.b": "skipped"},
            {"model.p.z": ["source.p.x", "model.p.b"], "model.p.b": ["model.p.a"]},
            "model.p.a",
        ),
        # In a build, dbt skips the children of a model whose test fails.
        (
            {"model.p.a": "success", "test.p.t": "fail"},
            {"model.p.z": ["model.p.a"], "test.p.t": ["model.p.a"]},
            "test.p.t",
        ),
        ({"unit_test.p.z.t": "fail"}, {"unit_test.p.z.t": ["model.p.z"]}, "unit_test.p.z.t"),
        ({"operation.p.hook": "error"}, {}, "operation.p.hook"),
        ({"model.p.a": "error"}, {}, ""),
    ],
    ids=["parent", "ancestor", "test of the parent", "unit test", "hook", "unknown"],
)
def test_skipped_node_names_the_one_that_failed(statuses, parents, blocker, tmp_path):
    nodes = read(tmp_path, statuses | {"model.p.z": "skipped"}, parents)

    assert nodes["model.p.z"].blocked_by == blocker


def test_test_has_the_number_of_rows_that_fail_it(tmp_path):
    nodes = read(tmp_path, {"test.p.t": "warn"}, {}, failures=2512)

    assert nodes["test.p.t"].failures == 2512


SALES = {"owner": {"name": "équipe ventes", "email": "ventes@example.org"}}
TEST_OF_A = {"depends_on": {"nodes": ["source.p.x", "model.p.a"]}}


@pytest.mark.parametrize(
    ("nodes", "owner"),
    [
        ({"model.p.a": {"config": {"meta": {"owner": "ana"}}}}, "ana"),
        ({"model.p.a": {"meta": {"owner": ["ana", "bob"]}}}, "ana, bob"),
        ({"model.p.a": {"group": "sales"}}, "équipe ventes (ventes@example.org)"),
        ({"model.p.a": {"group": "sales", "meta": {"owner": "ana"}}}, "ana"),
        ({"model.p.a": {"group": "unknown"}}, ""),
        ({"test.p.t": TEST_OF_A, "model.p.a": {"meta": {"owner": "ana"}}}, "ana"),
        ({"test.p.t": TEST_OF_A | {"meta": {"owner": "bob"}}, "model.p.a": {}}, "bob"),
        # A test of relations reads another model first: dbt says which one it is of.
        (
            {
                "test.p.t": TEST_OF_A | {"attached_node": "model.p.b"},
                "model.p.a": {"meta": {"owner": "ana"}},
                "model.p.b": {"meta": {"owner": "bob"}},
            },
            "bob",
        ),
        ({"model.p.a": {}}, ""),
    ],
)
def test_owner_is_that_of_the_node_of_its_group_or_of_the_model_tested(nodes, owner, tmp_path):
    manifest = {"nodes": nodes, "groups": {"group.p.sales": SALES}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    failed = {"unique_id": next(iter(nodes)), "status": "error"}

    (node,) = read_results({"results": [failed]}, tmp_path / "manifest.json", {}, is_local=False)

    assert node.owner == owner


@pytest.mark.parametrize(
    ("unique_id", "config", "table"),
    [
        ("test.p.t", {}, "p.audit.t"),
        ("test.p.t", {"store_failures_as": "view"}, ""),
        ("model.p.a", {}, ""),
    ],
)
def test_table_of_stored_failures_is_that_of_a_test(unique_id, config, table, tmp_path):
    manifest = {"nodes": {unique_id: {"config": config}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    failed = {"unique_id": unique_id, "status": "error", "relation_name": "`p`.`audit`.`t`"}

    (node,) = read_results({"results": [failed]}, tmp_path / "manifest.json", {}, is_local=False)

    assert node.stored_failures == table


def test_compiled_sql_is_kept_of_what_failed_alone(tmp_path):
    statuses = {"model.p.a": "error", "model.p.b": "success"}

    nodes = read(tmp_path, statuses, {}, compiled_code="select 1")

    assert [node.compiled_code for node in nodes.values()] == ["select 1", ""]
