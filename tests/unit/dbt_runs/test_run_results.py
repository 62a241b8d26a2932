"""What dbt's files say of nodes: the seed that a failed one misses."""

import json

import pytest

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

    (node,) = read_results({"results": [failed]}, tmp_path / "manifest.json", is_local=False)

    assert node.missing_seed == ("raw_customers" if seed else "")
