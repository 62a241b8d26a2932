"""A run refuses what dbt would not retry, and a state of prod that is not there."""

import json
from dataclasses import replace

import pytest
from google.auth.credentials import AnonymousCredentials

from bi_pipeline import dbt_runs
from bi_pipeline.bigquery.connection import DbtConnection
from bi_pipeline.dbt_runs import prod_state
from bi_pipeline.dbt_runs.operation import EndedProcess
from bi_pipeline.dbt_runs.options import LAST_RUN, DbtOptions
from bi_pipeline.dbt_runs.prod_state import add_prod_state, defer_to_prod
from bi_pipeline.dbt_runs.runner import DbtRunner
from bi_pipeline.errors import ConfigurationError, DbtError
from bi_pipeline.result import Bill, DbtResult
from bi_pipeline.settings import PipelineSettings

SETTINGS = PipelineSettings.from_mapping(
    {"DBT_BIGQUERY_DATASET_DEV": "dev", "DBT_BIGQUERY_DATASET_PROD": "prod"}
)
FAILED_MODEL = {"unique_id": "model.p.a", "status": "error"}
FAILED_HOOK = {"unique_id": "operation.p.p-on-run-end-0", "status": "error"}


@pytest.fixture
def runner(tmp_path):
    """A runner in whose folder no dbt has run; it keeps results in a folder too."""
    connection = DbtConnection("projet", None, AnonymousCredentials())
    settings = SETTINGS.model_copy(update={"dbt_artifacts_dir": str(tmp_path / "kept")})
    return DbtRunner(connection, settings, ["retry"], tmp_path / "target", lock=-1)


def without_artifacts_dir(runner):
    return replace(runner, settings=SETTINGS)


def write_results(path, which, *results):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"args": {"which": which}, "results": results}))


def test_nothing_to_retry_is_said(runner, tmp_path):
    # Results that an earlier retry took out of another DBT_ARTIFACTS_DIR: read here, they would be
    # retried.
    write_results(runner.target_dir / "kept" / "run_results.json", "run", FAILED_MODEL)

    for where, tried in (("target", without_artifacts_dir(runner)), ("kept", runner)):
        message = rf"aucune exécution .* n'a laissé de résultats lisibles dans {tmp_path}/{where}\."
        with pytest.raises(ConfigurationError, match=message):
            tried.run("retry", DbtOptions())


@pytest.mark.parametrize(
    ("which", "failed", "message"),
    [
        (
            "run",
            FAILED_HOOK,
            r"seul un hook a échoué \(operation.p.p-on-run-end-0\) : relancez run",
        ),
        ("compile", FAILED_MODEL, r"une qui construit ou teste \(compile\)"),
    ],
)
def test_what_dbt_would_not_retry_is_refused_and_never_taken_for_done(
    which, failed, message, runner
):
    """`dbt retry` leaves hooks out: with nothing else failed, it does nothing and exits 0."""
    write_results(runner.target_dir / "run_results.json", which, failed)

    with pytest.raises(ConfigurationError, match=message):
        without_artifacts_dir(runner).run("retry", DbtOptions())


def test_clone_reads_the_project_as_it_stands_when_no_run_of_prod_is_kept(runner, monkeypatch):
    parsed = []
    monkeypatch.setattr(
        prod_state, "_write_manifest", lambda parser, _options: parsed.append(parser.settings)
    )

    for tried in (runner, without_artifacts_dir(runner)):
        add_prod_state(tried, None, DbtOptions())

    assert [settings.target for settings in parsed] == ["prod", "prod"]


def test_last_run_of_prod_that_is_kept_nowhere_is_said(runner, tmp_path):
    with pytest.raises(ConfigurationError, match="DBT_ARTIFACTS_DIR n'est pas défini"):
        add_prod_state(without_artifacts_dir(runner), LAST_RUN, DbtOptions())

    with pytest.raises(ConfigurationError, match=f"{tmp_path}/kept.* ne garde aucune exécution"):
        add_prod_state(runner, LAST_RUN, DbtOptions())


def test_project_that_does_not_compile_is_said_and_not_taken_for_unchanged(runner, monkeypatch):
    failed = DbtResult("list", 2, errors=["Compilation Error\n  Model a depends on nowhere"])
    monkeypatch.setattr(DbtRunner, "list_nodes", lambda *_: failed)

    with pytest.raises(DbtError, match="Ce qui a changé : dbt list a échoué : Compilation Error"):
        defer_to_prod(runner, DbtOptions().select_what_changed())


def test_mistyped_selection_does_not_pass_for_one_that_has_not_changed(runner, monkeypatch):
    monkeypatch.setattr(DbtRunner, "list_nodes", lambda *_: DbtResult("list", 0))

    with pytest.raises(DbtError, match="--select b77 : la sélection ne correspond à aucun nœud"):
        defer_to_prod(runner, DbtOptions("b77").select_what_changed())


@pytest.mark.parametrize(
    ("return_code", "statuses", "bill"),
    [
        # A model that fails in its last query has billed those before.
        (1, ["error", "skipped"], Bill(5)),
        (1, ["skipped"], Bill()),
        (0, [], Bill()),
        # Killed, dbt leaves no results: nobody knows what its queries billed.
        (-9, [], Bill(is_whole=False)),
    ],
)
def test_every_command_that_asked_bigquery_has_a_bill(
    return_code, statuses, bill, runner, monkeypatch
):
    def run_dbt(*_, **__):
        if statuses:
            results = [{"unique_id": "model.p.a", "status": status} for status in statuses]
            write_results(runner.target_dir / "run_results.json", "run", *results)
        return EndedProcess(return_code, [])

    monkeypatch.setattr(dbt_runs.runner, "run_dbt_process", run_dbt)
    # Without a network: what BigQuery answers is tested in test_billing.py.
    monkeypatch.setattr(dbt_runs.runner, "read_bills", lambda *args: (args[3], Bill(5)))

    result = without_artifacts_dir(runner).run("run", DbtOptions())

    assert result.bill == runner.bill == bill
