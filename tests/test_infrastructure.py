"""The Terraform files: what they promise to the rest of the project."""

import subprocess

import hcl2
import pytest

from generate_env import OUTPUTS
from pipeline_settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "infrastructure"


def read(name):
    """Return a file as python-hcl2 reads it, its labels without their quotes."""
    with (FOLDER / name).open() as file:
        blocks = hcl2.load(file)
    return {
        kind: {label.strip('"'): body for entry in entries for label, body in entry.items()}
        for kind, entries in blocks.items()
        if kind in ("output", "variable", "resource")
    }


def test_outputs_cover_what_generate_env_reads():
    outputs = read("outputs.tf")["output"]

    assert set(outputs) == set(OUTPUTS) | {"service_account_email"}


def test_outputs_are_described_and_none_is_sensitive():
    outputs = read("outputs.tf")["output"]

    assert all(body.get("description") for body in outputs.values())
    assert not any(body.get("sensitive") for body in outputs.values())


def test_variables_are_typed_described_and_in_order():
    variables = read("variables.tf")["variable"]

    assert list(variables) == sorted(variables)
    assert all(body.get("description") and body.get("type") for body in variables.values())


def test_service_account_has_no_other_role_on_the_project():
    text = (FOLDER / "main.tf").read_text()

    assert text.count("google_project_iam_member") == 1
    assert 'role    = "roles/bigquery.jobUser"' in text


def test_only_dev_is_deleted_with_its_contents_and_expires():
    text = (FOLDER / "main.tf").read_text()

    assert 'delete_contents_on_destroy  = each.key == "dev"' in text
    assert 'default_table_expiration_ms = each.key == "dev" ?' in text


def test_key_is_written_for_its_owner_only_and_is_no_output():
    assert 'file_permission      = "0600"' in (FOLDER / "main.tf").read_text()
    assert "key" not in (FOLDER / "outputs.tf").read_text()


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".secrets/sa_key.json",
        ".local/prefect/prefect.db",
        "infrastructure/terraform-outputs.json",
        "infrastructure/terraform.tfstate",
        "infrastructure/terraform.tfstate.backup",
        "infrastructure/plan.tfplan",
        "infrastructure/.terraform/x",
        "infrastructure/terraform.tfvars",
        "dbt/target/manifest.json",
        "dbt/logs/dbt.log",
    ],
)
def test_git_ignores(path):
    result = subprocess.run(["git", "check-ignore", "-q", path], cwd=PROJECT_ROOT)

    assert result.returncode == 0
