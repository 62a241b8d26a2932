"""The pipeline on small dbt projects: what fails is named, with the remedy."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from google.auth.exceptions import DefaultCredentialsError
from httpx import HTTPStatusError
from prefect.client.schemas.actions import BlockDocumentCreate
from prefect.variables import Variable

import create_gcp_block
from bi_pipeline import settings as pipeline_settings
from bi_pipeline.bigquery.connection import load_credentials
from bi_pipeline.errors import ConfigurationError, InfrastructureError
from bi_pipeline.explanations import explain
from bi_pipeline.settings import PROJECT_ROOT, PipelineSettings, load_settings
from doctor import check_block
from project import ONE_MODEL, built, copy_project, prefect_client
from stand_in_cloud import KEY, stand_in_cloud
from support.diagnosis import Diagnosis
from support.local_content import use_prefect_server


@pytest.mark.slow
def test_build_of_many_models_gives_no_hint_and_leaves_none_in_the_home(make_project):
    # From the hundredth model on, dbt 1.12 gives a hint, and notes it in ~/.dbt.
    model = "{{ config(materialized='view') }} select 1 as id"
    project = make_project({f"models/m{number}.sql": model for number in range(101)})

    run = project.run_pipeline("--commands", "build", DBT_ENGINE_HINTS_ENABLED="true")

    assert run.returncode == 0, run.stderr
    # dbt, confined to the project, could not write the note, and would repeat the hint in each run.
    assert "?utm_source=dbt-cli" not in run.stderr
    assert not (Path(project.environment["HOME"]) / ".dbt").exists()


def test_missing_and_wrong_settings_are_said_at_once(make_project):
    project = make_project(ONE_MODEL)

    run = project.run_pipeline(DBT_BIGQUERY_DATASET_DEV="", DBT_THREADS="x")

    assert run.returncode == 2
    assert "DBT_BIGQUERY_DATASET_DEV" in run.stderr.splitlines()[-2]
    assert "generate_env.py" in run.stderr.splitlines()[-2]
    assert "DBT_THREADS" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_unreachable_prefect_api_is_named_with_the_remedy(make_project):
    project = make_project(ONE_MODEL)

    run = project.run_pipeline(PREFECT_API_URL="http://127.0.0.1:1/api")

    assert run.returncode == 3
    assert "http://127.0.0.1:1/api" in run.stderr
    assert "PREFECT_API_URL" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.fixture(scope="module")
def failing_project(tmp_path_factory, local_environment):
    """A project of three nodes, two of which fail."""
    broken = {
        "models/broken.sql": "select nowhere from (select 1 as a)",
        "data-tests/never.sql": "select *, lower('VALEUR') as found from {{ ref('one') }}",
    }
    root = tmp_path_factory.mktemp("failures")
    return copy_project(root, local_environment, ONE_MODEL | broken)


@pytest.fixture(scope="module")
def failed_run(failing_project):
    """A run whose first command fails on a model and on a data test."""
    return failing_project.run_pipeline("--commands", "build", "test", DBT_SHOW_FAILING_ROWS="2")


def test_rows_that_fail_a_test_are_on_the_page_alone(failed_run, failing_project):
    with prefect_client(failing_project.environment) as client:
        dataset = failing_project.environment["DBT_BIGQUERY_DATASET_DEV"].replace("_", "-")
        (page,) = (page for page in client.read_artifacts() if page.key.endswith(dataset))

    assert "1 ligne fautive sur 1 :\n\n| id | found |\n| --- | --- |\n| 1 | valeur |" in page.data
    assert "valeur" not in failed_run.stderr + failed_run.stdout


def test_broken_model_and_failing_data_test_are_named(failed_run):
    end = failed_run.stderr[failed_run.stderr.rindex("\ndbt build a échoué") :]

    assert failed_run.returncode == 1
    assert re.search(r"broken : .*nowhere.* \(models/broken.sql\)", end)
    assert "never : 1 ligne en défaut (data-tests/never.sql)" in end
    assert "Traceback" not in failed_run.stderr


def test_reason_is_said_once_at_the_end_without_the_repr_of_a_state(failed_run):
    assert failed_run.stderr.count("dbt build a échoué") == 1
    assert "Failed(" not in failed_run.stderr


def test_what_a_failed_command_built_is_shown(failed_run):
    assert re.search(r"Construit \(cible dev\) :\n  \S+\.one  +vue", failed_run.stdout)


def test_command_that_failed_is_not_tried_again_and_no_other_follows(failed_run):
    assert failed_run.stderr.count("Running with dbt") == 1
    assert "dbt test" not in failed_run.stderr
    assert "essai" not in failed_run.stderr


@pytest.mark.slow
def test_model_that_does_not_compile_is_named(failing_project):
    lost = failing_project.root / "dbt" / "models" / "lost.sql"
    lost.write_text("select * from {{ ref('nothing') }}")
    try:
        run = failing_project.run_pipeline("--commands", "run")
    finally:
        lost.unlink()

    end = "\n".join(run.stderr.splitlines()[-3:])
    assert run.returncode == 1
    assert "models/lost.sql" in end
    assert "'nothing'" in end


@pytest.mark.slow
def test_page_that_prefect_does_not_take_is_a_warning_and_no_failure(
    make_project, local_environment
):
    project = make_project(ONE_MODEL)
    with stand_in_cloud(local_environment) as server:
        server.broken = "/artifacts/"
        run = project.run_pipeline(
            *("--commands", "run"),
            PREFECT_API_URL=server.workspace_url,
            PREFECT_CLOUD_API_URL=server.url,
            PREFECT_API_KEY=KEY,
            PREFECT_API_AUTH_STRING="",
        )

    assert run.returncode == 0, run.stderr
    assert "L'artefact dbt-run-projet-local-" in run.stderr
    assert "n'a pas pu être écrit" in run.stderr
    assert built(run) == ["one"]


@pytest.mark.parametrize("folder", ["project", "."], ids=["its root", "elsewhere"])
def test_unreadable_env_file_is_named_wherever_the_pipeline_starts(folder, make_project, tmp_path):
    """From the root, Prefect reads it too, while it is imported."""
    project = make_project(ONE_MODEL)
    (project.root / ".env").write_bytes("DBT_TARGET=dév\n".encode("latin-1"))

    run = subprocess.run(
        [sys.executable, str(project.root / "prefect" / "pipeline.py")],
        cwd=tmp_path / folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )

    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert "UTF-8" in run.stderr


@pytest.fixture
def in_this_process(local_environment, tmp_path, monkeypatch):
    """Have this process use the local servers, as a user whom Google does not know."""
    for name, value in local_environment.items():
        if name.startswith(("DBT_", "GCP_", "PREFECT_API_")):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(pipeline_settings, "ENV_FILE", tmp_path / ".env")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    with use_prefect_server(local_environment):
        yield


def test_prefect_variable_gives_the_target_unless_the_environment_does(
    in_this_process, monkeypatch
):
    Variable.set("dbt_target", "prod")
    try:
        targets = []
        for environment in ("", "dev"):
            monkeypatch.setenv("DBT_TARGET", environment)
            targets.append(load_settings().target)
    finally:
        Variable.unset("dbt_target")

    assert targets == ["prod", "dev"]


def test_settings_are_read_whatever_the_number_of_prefect_variables(
    in_this_process, local_environment, monkeypatch
):
    """Prefect lists 200 Variables at most, sorted by name: dbt_target comes after them."""
    names = [(f"a{number}",) for number in range(500)]
    # Written into the database: 500 requests would take the server half a minute.
    with closing(sqlite3.connect(Path(local_environment["PREFECT_HOME"]) / "prefect.db")) as server:
        server.executemany("insert into variable (name, value) values (?, '\"x\"')", names)
        server.commit()
    Variable.set("dbt_target", "prod")
    monkeypatch.setenv("DBT_TARGET", "")
    try:
        with prefect_client(local_environment) as client:
            listed = {variable.name for variable in client.read_variables()}
        target = load_settings().target
    finally:
        Variable.unset("dbt_target")

    assert "dbt_target" not in listed
    assert target == "prod"


def test_address_of_bigquery_is_never_taken_from_a_prefect_variable(in_this_process, monkeypatch):
    """Otherwise, all who may write Variables could have Google's tokens sent to their address."""
    address = os.environ["DBT_BIGQUERY_API_ENDPOINT"]
    monkeypatch.setenv("DBT_BIGQUERY_API_ENDPOINT", "")
    Variable.set("dbt_bigquery_api_endpoint", "https://bigquery.example.org")
    try:
        with pytest.raises(ConfigurationError) as refused:
            load_settings()
        monkeypatch.setenv("DBT_BIGQUERY_API_ENDPOINT", address)
        settings = load_settings()
    finally:
        Variable.unset("dbt_bigquery_api_endpoint")

    assert "Variable Prefect dbt_bigquery_api_endpoint" in str(refused.value)
    assert ".env" in str(refused.value)
    assert settings.endpoint == address


def test_wrong_block_name_is_named_with_the_remedy(in_this_process):
    with pytest.raises(ConfigurationError, match=r"« pas-la » introuvable.*create_gcp_block\.py"):
        load_credentials("pas-la")


def test_wrong_secret_of_the_prefect_api_is_named_with_the_remedy(local_environment):
    wrong = local_environment | {"PREFECT_API_AUTH_STRING": "wrong"}
    with use_prefect_server(wrong):
        with pytest.raises(HTTPStatusError) as refused:
            load_credentials("sa-key")
        said = explain(refused.value)

    assert isinstance(said, InfrastructureError)
    assert f"{wrong['PREFECT_API_URL']}) : accès refusé" in str(said)
    assert "PREFECT_API_AUTH_STRING" in str(said)


def save_block(client, name, data):
    """Save a GcpCredentials block as it is, which Prefect's own class would refuse."""
    block_type = client.read_block_type_by_slug("gcp-credentials")
    schema = client.get_most_recent_block_schema_for_block_type(block_type.id)
    client.create_block_document(
        BlockDocumentCreate(
            name=name, data=data, block_type_id=block_type.id, block_schema_id=schema.id
        )
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"service_account_info": {"type": "service_account", "private_key": "cut"}},
            ["ne contient pas une clé valable", "create_gcp_block.py"],
        ),
        ({}, ["ne contient pas de clé", "gcloud auth application-default login"]),
    ],
    ids=["broken key", "no key"],
)
def test_block_without_a_usable_key_is_named(
    data, words, local_environment, in_this_process, capsys
):
    """The pipeline, the doctor and the tool that saves the key all do."""
    name = f"unusable-{len(data)}"
    with prefect_client(local_environment) as client:
        save_block(client, name, data)

    with pytest.raises((ConfigurationError, DefaultCredentialsError)) as refused:
        load_credentials(name)
    pipeline = explain(refused.value)
    diagnosis = Diagnosis()
    check_block(
        diagnosis,
        PipelineSettings.from_mapping(local_environment | {"PREFECT_GCP_CREDENTIALS_BLOCK": name}),
    )
    check = create_gcp_block.main(["--check", "--block-name", name])

    assert (pipeline.exit_code, diagnosis.failed, check) == (2, True, 2)
    captured = capsys.readouterr()
    for said in (str(pipeline), captured.out, captured.err):
        assert all(word in said for word in words), said


def test_windows_is_refused_with_what_to_do():
    """Windows has no fcntl."""
    pipeline = PROJECT_ROOT / "prefect" / "pipeline.py"
    code = f"import runpy, sys; sys.modules['fcntl'] = None; runpy.run_path({str(pipeline)!r})"

    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(pipeline.parent)!r}); {code}"],
        capture_output=True,
        text=True,
    )

    assert run.returncode == 1
    assert "WSL 2" in run.stderr
    assert "Traceback" not in run.stderr
