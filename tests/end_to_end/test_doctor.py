"""The doctor: one line each for what is ready and what is missing."""

from pathlib import Path

import pytest

import doctor
from bi_pipeline import settings as pipeline_settings
from project import in_environment, run_main

# The model reads a setting of which there is only the default. No flag in dbt_project.yml keeps dbt
# from reporting its use, for which it would write a file.
DBT_FILES = {
    "dbt_project.yml": "name: project\nprofile: project\n",
    "models/one.sql": "select {{ env_var('DBT_RETRIES') }} as retries",
}


@pytest.fixture
def project(make_project, local_environment):
    """A project whose datasets exist."""
    project = make_project(DBT_FILES)
    for name in ("DBT_BIGQUERY_DATASET_DEV", "DBT_BIGQUERY_DATASET_PROD"):
        project.environment[name] = local_environment[name]
    del project.environment["DBT_RETRIES"]
    return project


def snapshot(project):
    """Return every file of the project, with its content and date."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in project.root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_everything_ready_is_said_and_nothing_changes(project):
    (project.root / ".env").write_text("DBT_TARGTE=prod\n")
    before = snapshot(project)

    run = project.run("utilities/doctor.py")

    assert run.returncode == 0, run.stdout + run.stderr
    assert "✗" not in run.stdout
    assert "! DBT_TARGTE, dans .env, n'est pas un réglage : écrivez DBT_TARGET ?" in run.stdout
    for ready in ("Python", "Dépendances", "Réglages", "Block sa-key", "Dataset", "Projet dbt"):
        assert f"✓ {ready}" in run.stdout
    assert snapshot(project) == before


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PREFECT_GCP_CREDENTIALS_BLOCK": "pas-la"}, ["pas-la", "create_gcp_block.py"]),
        ({"DBT_BIGQUERY_DATASET_DEV": "pas_la"}, ["pas_la", "make infra"]),
        ({"GCP_REGION": "europe-west9"}, ["europe-west9", "GCP_REGION"]),
        ({"DBT_BIGQUERY_API_ENDPOINT": "http://127.0.0.1:1"}, ["Dataset", "127.0.0.1"]),
    ],
    ids=["block", "dataset", "region", "BigQuery"],
)
def test_what_is_missing_is_said_with_the_remedy(local_environment, capsys, variables, words):
    diagnosis = doctor.Diagnosis()

    with in_environment(local_environment | variables):
        settings = doctor.check_settings(diagnosis)
        client = doctor.check_block(diagnosis, settings)
        if client:
            doctor.check_datasets(diagnosis, settings, client)

    assert diagnosis.failed
    problem = capsys.readouterr().out.split("✗", 1)[1]
    assert all(word in problem for word in words), problem


def test_prefect_that_does_not_answer_is_said_with_the_remedy(local_environment, capsys):
    with in_environment(local_environment | {"PREFECT_API_URL": "http://127.0.0.1:1/api"}):
        assert doctor.main([]) == 1

    problem = capsys.readouterr().out.split("✗", 1)[1]
    assert "127.0.0.1:1" in problem
    assert "PREFECT_API_URL" in problem


def test_missing_setting_is_said_with_the_remedy(local_environment):
    without = local_environment | {"DBT_BIGQUERY_DATASET_DEV": ""}

    run = run_main(doctor.main, environment=without)

    assert run.returncode == 1
    problem = run.stdout[run.stdout.index("✗") :]
    assert "DBT_BIGQUERY_DATASET_DEV" in problem
    assert "generate_env.py" in problem


def test_unreadable_env_file_is_said(local_environment, tmp_path, monkeypatch):
    (tmp_path / ".env").write_bytes(b"\xff")
    monkeypatch.setattr(pipeline_settings, "ENV_FILE", tmp_path / ".env")

    run = run_main(doctor.main, environment=local_environment)

    assert run.returncode == 1
    assert ".env illisible" in run.stdout


def test_package_that_differs_from_the_lock_is_said(local_environment, tmp_path, monkeypatch):
    lock = tmp_path / "requirements.txt"
    lock.write_text("prefect==0.1 \\\n    --hash=sha256:0\nno-such-package==1.0\n")
    monkeypatch.setattr(doctor, "LOCK", lock)

    run = run_main(doctor.main, environment=local_environment)

    assert run.returncode == 1
    assert "✗ Dépendances : 2 à réinstaller" in run.stdout
    assert "no-such-package absent" in run.stdout


def test_package_without_one_of_its_files_is_incomplete(tmp_path):
    for name in ("whole", "half", "unnamed"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
    for name in ("whole", "half"):
        (tmp_path / f"{name}-1.0.dist-info" / "RECORD").write_text(
            f'"{name}.py",sha256=0,1\n__pycache__/{name}.pyc,,\n'
        )
    (tmp_path / "whole.py").touch()

    incomplete = sorted(doctor.find_incomplete_packages(tmp_path))

    assert incomplete == ["half incomplet", "unnamed incomplet"]


def test_dependency_that_is_half_there_is_said_with_the_remedy(project, tmp_path):
    (tmp_path / "half" / "packaging").mkdir(parents=True)
    (tmp_path / "half" / "packaging" / "__init__.py").touch()

    run = project.run("utilities/doctor.py", PYTHONPATH=str(tmp_path / "half"))

    assert run.returncode == 1
    assert "✗ Dépendances : No module named 'packaging.requirements'" in run.stdout
    assert "rm -rf .venv" in run.stdout
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_user_without_prefect_learns_of_the_block_and_of_the_dbt_project(project):
    """The home stays empty: Prefect would make a ~/.prefect there."""
    home = Path(project.environment["HOME"])
    project.environment = {
        name: value for name, value in project.environment.items() if "PREFECT" not in name
    }
    (project.root / "dbt" / "models" / "lost.sql").write_text("select * from {{ ref('x') }}")

    run = project.run("utilities/doctor.py")

    assert run.returncode == 1
    assert "✗ Block" in run.stdout
    assert "✗ Projet dbt" in run.stdout
    assert "lost.sql" in run.stdout
    assert list(home.iterdir()) == []
