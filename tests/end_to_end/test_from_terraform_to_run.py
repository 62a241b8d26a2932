"""The road of a new user: outputs of Terraform, `.env`, block, run, from the files alone."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bi_pipeline.settings import PROJECT_ROOT
from project import ONE_MODEL, copy_project, in_environment, saved_key
from support.local_content import UNIVERSE_DOMAIN

pytestmark = pytest.mark.slow

README = (PROJECT_ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment, key):
    """A project with `.env` and key file, and no setting in the environment."""
    project = copy_project(tmp_path_factory.mktemp("road"), local_environment, ONE_MODEL)
    outputs = {
        "bq_dev_dataset_id": "road_dev",
        "bq_prod_dataset_id": "road_prod",
        "bq_raw_dataset_id": local_environment["DBT_BIGQUERY_DATASET_RAW"],
        "project_id": local_environment["GCP_PROJECT_ID"],
        # In the place of a bucket, which test_retry.py has.
        "dbt_artifacts_dir": str(project.root / "kept"),
    }
    infrastructure = project.root / "infrastructure"
    infrastructure.mkdir()
    (infrastructure / "terraform-outputs.json").write_text(
        json.dumps({name: {"value": value} for name, value in outputs.items()})
    )
    names = ("HOME", "TMPDIR", "PATH")
    project.environment = {name: project.environment[name] for name in names} | {
        # The key is of the local universe (local_content.py): without this variable, Google's
        # clients expect googleapis.com, and refuse the key.
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": UNIVERSE_DOMAIN,
    }
    generated = project.run("utilities/generate_env.py")
    assert generated.returncode == 0, generated.stderr
    with (project.root / ".env").open("a") as env:
        env.write(f"DBT_BIGQUERY_API_ENDPOINT={local_environment['DBT_BIGQUERY_API_ENDPOINT']}\n")
    write_key(project, key)
    return project


def write_key(project, key):
    """Write the key, under a new id, where Terraform would; return this id."""
    key = key | {"private_key_id": secrets.token_hex(20)}
    path = project.root / ".secrets" / "sa_key.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(key))
    path.chmod(0o600)
    return key["private_key_id"]


def follow_recipe(project, environment):
    """Save the key in the block « road », as the README does without our tool."""
    recipe = README.split("python -c '")[1].split("'\n")[0]
    with in_environment(environment), contextlib.chdir(project.root):
        exec(recipe.replace('"sa-key"', '"road"'), {})


@pytest.fixture(scope="module")
def road(project, local_environment, key):
    """A block and a run; then a new key, saved by the recipe in another Prefect, and a run."""
    created = project.run("utilities/create_gcp_block.py")
    first = project.run_pipeline("--commands", "run")
    follow_recipe(project, local_environment)
    key_id = write_key(project, key)
    follow_recipe(project, local_environment)
    block = local_environment | {"PREFECT_GCP_CREDENTIALS_BLOCK": "road"}
    names = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_GCP_CREDENTIALS_BLOCK")
    second = project.run_pipeline("--commands", "run", **{name: block[name] for name in names})
    return SimpleNamespace(
        created=created,
        first=first,
        key_id=key_id,
        saved_id=saved_key(block)["private_key_id"],
        second=second,
    )


def test_tool_saves_the_first_block_in_the_local_base(road):
    assert "créé dans la base locale" in road.created.stdout, road.created.stderr


def test_pipeline_runs_from_the_env_file_alone(road, bigquery):
    assert road.first.returncode == 0, road.first.stderr
    assert "Dataset utilisé  : road_dev" in road.first.stdout
    assert bigquery.get_table("road_dev.one")


def test_results_are_kept_where_terraform_says(road, project):
    assert road.first.returncode == 0, road.first.stderr
    kept = {path.name for path in (project.root / "kept" / "dev").iterdir()}
    assert kept == {"manifest.json", "run_results.json"}


def test_recipe_of_the_readme_replaces_the_key_of_the_block(road):
    assert road.saved_id == road.key_id


def test_pipeline_runs_again_after_a_key_rotation_without_parsing_again(road):
    assert road.second.returncode == 0, road.second.stderr
    assert "Dataset utilisé  : road_dev" in road.second.stdout
    assert "full parse" in road.first.stderr
    assert "full parse" not in road.second.stderr


def test_dbt_runs_without_prefect(project):
    line = next(x for x in README.splitlines() if "dotenv" in x and "dbt run" in x)
    environment = project.environment | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), project.environment["PATH"]]),
        "GOOGLE_APPLICATION_CREDENTIALS": str(project.root / ".secrets" / "sa_key.json"),
    }

    run = subprocess.run(
        ["bash", "-c", line], cwd=project.root, env=environment, capture_output=True, text=True
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "OK created sql view model road_dev.one" in run.stdout
    assert "Nothing to do" in run.stdout or "Completed successfully" in run.stdout
