"""The Markdown of the artifact, from results as dbt writes them."""

import pytest
from dbt.artifacts.schemas.run import RunResultsArtifact

from dbt_artifact import render_markdown
from dbt_command import DbtOutcome
from dbt_report import DbtReport
from pipeline_settings import PipelineSettings

SETTINGS = PipelineSettings.from_mapping(
    {"DBT_BIGQUERY_DATASET_DEV": "mon_dev", "DBT_BIGQUERY_DATASET_PROD": "mon_prod"}
)


def node(name, *, seconds=1.0, status="success", message="", **response):
    return {
        "status": status,
        "timing": [
            {
                "name": "execute",
                "started_at": "2026-11-23T09:00:00.000000Z",
                "completed_at": f"2026-11-23T09:00:{seconds:09.6f}Z",
            }
        ],
        "thread_id": "Thread-1",
        "execution_time": seconds,
        "adapter_response": response,
        "message": message,
        "failures": None,
        "unique_id": f"model.projet.{name}",
        "compiled": True,
        "compiled_code": "select 1",
        "relation_name": f"`p`.`d`.`{name}`",
        "batch_results": None,
    }


def report(*nodes, return_code=0):
    results = RunResultsArtifact.from_dict(
        {
            "metadata": {"dbt_schema_version": "v6", "generated_at": "2026-11-23T09:00:00Z"},
            "results": list(nodes),
            "elapsed_time": 12.34,
            "args": {},
        }
    )
    outcome = DbtOutcome(return_code, [], selection_is_empty=False)
    return DbtReport("run", outcome, list(results.results), results.elapsed_time)


def test_cost_is_that_of_the_bytes_billed():
    text = render_markdown(
        report(node("a", bytes_billed=2**39), node("b", bytes_billed=2**38)), SETTINGS, []
    )

    # Three quarters of a TiB at 6.25 USD.
    assert "Facturé : 768,0 Gio, soit 4,6875 USD à la demande (6,25 USD par Tio)" in text


def test_row_of_a_node_has_all_its_columns():
    job = {"project_id": "p", "location": "EU", "job_id": "j"}

    text = render_markdown(
        report(node("a", seconds=2.5, rows_affected=7, bytes_billed=2**20, slot_ms=3400, **job)),
        SETTINGS,
        [],
    )

    link = "https://console.cloud.google.com/bigquery?project=p&j=bq:EU:j&page=queryresults"
    assert f"| a | réussi | 7 | 1,0 Mio | 3,4 | 2,5 | [job]({link}) |" in text


def test_slowest_node_comes_first_with_the_longest_bar():
    text = render_markdown(report(node("short", seconds=1), node("long", seconds=4)), SETTINGS, [])

    bars = [line for line in text.splitlines() if "█" in line]
    assert [line.split()[0] for line in bars] == ["long", "short"]
    assert [line.count("█") for line in bars] == [40, 10]


def test_thousands_of_nodes_stay_readable():
    nodes = [node(f"n{i}", seconds=1 + i / 1000) for i in range(3000)]

    text = render_markdown(report(*nodes), SETTINGS, [])

    assert "3000 nœuds : réussi 3000." in text
    assert len(text.splitlines()) < 150
    assert "| n2999 |" in text
    assert "… et 2950 nœuds plus courts" in text


def test_failed_node_shows_the_whole_message():
    message = "Database Error in model a (models/a.sql)\n  Syntax error at [1:8]\n  compiled at x"

    text = render_markdown(
        report(node("a", status="error", message=message), return_code=1), SETTINGS, []
    )

    assert text.startswith("# dbt run : échoué")
    assert message in text


@pytest.mark.parametrize("count", [1, 100])
def test_failure_message_gives_the_reason_in_its_first_line(count):
    failed = [
        node(f"n{i}", status="error", message=f"Database Error in model n{i}\n  Reason {i}")
        for i in range(count)
    ]

    lines = report(*failed, return_code=1).failure_message.splitlines()

    assert lines[0].endswith(": modèle n0 (?) : Reason 0")
    assert len(lines) == (1 if count == 1 else 23)
    assert count == 1 or lines[-1] == "  … et 80 de plus"


def test_models_and_tests_are_listed_apart():
    failed_test = node("x", status="fail", message="Got 2 results")
    failed_test["unique_id"] = "test.projet.not_null_a_id.0123456789"
    failed_model = node("a", status="error", message="Database Error in model a\n  Reason")

    message = report(failed_test, failed_model, return_code=1).failure_message

    assert message.splitlines()[1:] == [
        "Modèles en échec :",
        "  - a (?) : Reason",
        "Tests en échec :",
        "  - not_null_a_id (?) : Got 2 results",
    ]


def test_warnings_come_first():
    text = render_markdown(report(node("a")), SETTINGS, ["Attention"])

    assert text.startswith("> ⚠️ Attention")
