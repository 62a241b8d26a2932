"""The road of a new user: outputs of Terraform, `.env`, block, run, from the files alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ONE_MODEL, copy_project

from local_bigquery import UNIVERSE_DOMAIN, throwaway_key
from pipeline_settings import PROJECT_ROOT


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    """A project with `.env` and key file, and no setting in the environment."""
    project = copy_project(tmp_path_factory.mktemp("road"), local_environment, ONE_MODEL)
    outputs = {
        "bq_dev_dataset_id": "road_dev",
        "bq_prod_dataset_id": "road_prod",
        "bq_raw_dataset_id": local_environment["DBT_BIGQUERY_DATASET_RAW"],
        "project_id": local_environment["GCP_PROJECT_ID"],
    }
    infrastructure = project.root / "infrastructure"
    infrastructure.mkdir()
    (infrastructure / "terraform-outputs.json").write_text(
        json.dumps({name: {"value": value} for name, value in outputs.items()})
    )
    names = ("HOME", "TMPDIR", "PATH")
    project.environment = {name: project.environment[name] for name in names} | {
        # The local BigQuery is not Google's: local_bigquery.py says why it takes this.
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": UNIVERSE_DOMAIN,
    }
    generated = project.run("utilities/generate_env.py")
    assert generated.returncode == 0, generated.stderr
    with (project.root / ".env").open("a") as env:
        env.write(f"DBT_BIGQUERY_API_ENDPOINT={local_environment['DBT_BIGQUERY_API_ENDPOINT']}\n")
    write_key(project)
    return project


def write_key(project):
    """Write a new key where Terraform would."""
    secrets = project.root / ".secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "sa_key.json").write_text(json.dumps(throwaway_key()))
    (secrets / "sa_key.json").chmod(0o600)


def test_pipeline_runs_from_the_env_file_alone_and_again_after_a_key_rotation(project, bigquery):
    created = project.run("utilities/create_gcp_block.py")
    first = project.run_pipeline()
    write_key(project)
    replaced = project.run("utilities/create_gcp_block.py")
    second = project.run_pipeline()

    assert "créé dans la base locale" in created.stdout, created.stderr
    assert "remplacé dans la base locale" in replaced.stdout, replaced.stderr
    for run in (first, second):
        assert run.returncode == 0, run.stderr
        assert "Dataset utilisé  : road_dev" in run.stdout
    assert bigquery.get_table("road_dev.one")
    # A new key does not make dbt parse the project again.
    assert "full parse" in first.stderr
    assert "full parse" not in second.stderr


def test_recipe_of_the_readme_saves_the_block(project):
    readme = (PROJECT_ROOT / "README.md").read_text()
    recipe = readme.split("python -c '")[1].split("'\n")[0]

    saved = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", recipe],
        env=project.environment,
        cwd=project.root,
        capture_output=True,
        text=True,
    )
    checked = project.run("utilities/create_gcp_block.py", "--check")

    assert saved.returncode == 0, saved.stderr
    assert "road_dev" in checked.stdout + checked.stderr


@pytest.mark.parametrize("key_variable", [False, True])
def test_dbt_runs_without_prefect(project, key_variable, tmp_path):
    readme = (PROJECT_ROOT / "README.md").read_text()
    line = next(x for x in readme.splitlines() if "dotenv" in x and "dbt run" in x)
    environment = project.environment | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), project.environment["PATH"]])
    }
    if key_variable:
        key = (project.root / ".secrets" / "sa_key.json").rename(tmp_path / "key.json")
        environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(key)

    run = subprocess.run(
        ["bash", "-c", line], cwd=project.root, env=environment, capture_output=True, text=True
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "OK created sql view model road_dev.one" in run.stdout
    assert "Nothing to do" in run.stdout or "Completed successfully" in run.stdout
