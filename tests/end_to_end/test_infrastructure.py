"""The Terraform files: what they promise to the rest of the project, and what make infra leaves."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import hcl2
import pytest

from generate_env import OUTPUTS
from pipeline_settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "infrastructure"
# Runs the real Terraform with the two providers replaced; it is not part of the project.
WITH_STUB = PROJECT_ROOT.parent / "shared" / "terraform-stub" / "with-stub"


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
        "infrastructure/.terraform.lock.hcl",
        "infrastructure/terraform.tfvars",
        "dbt/target/manifest.json",
        "dbt/logs/dbt.log",
    ],
)
def test_git_ignores(path):
    result = subprocess.run(["git", "check-ignore", "-q", path], cwd=PROJECT_ROOT)

    assert result.returncode == 0


class Infrastructure:
    """A copy of what `make infra` reads, and what it wrote."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        shutil.copytree(
            FOLDER,
            self.root / "infrastructure",
            ignore=lambda _, names: [name for name in names if not name.endswith(".tf")],
        )
        shutil.copy(PROJECT_ROOT / "Makefile", self.root)
        (self.root / "infrastructure" / "terraform.tfvars").write_text('project_id = "mon-projet"')
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")} | {
            "HOME": str(root),
            "CHECKPOINT_DISABLE": "1",
            "TERRAFORM_STUB_HOME": str(PROJECT_ROOT / ".local" / "terraform-stub"),
        }

    def run(self, command: str) -> str:
        """Run a line of shell and say yes to Terraform; return what it printed."""
        process = subprocess.run(
            [WITH_STUB, "sh", "-c", command],
            cwd=self.root,
            env=self.environment,
            input="yes\n",
            capture_output=True,
            text=True,
            umask=0o022,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def state_modes(self) -> dict[str, str]:
        """Return the permissions of the state and its backup."""
        states = (self.root / "infrastructure").glob("*.tfstate*")
        return {path.name: oct(path.stat().st_mode & 0o777) for path in states}

    def key_id(self) -> str:
        """Return which key is in the file."""
        return json.loads((self.root / ".secrets" / "sa_key.json").read_text())["private_key_id"]


@pytest.fixture
def infrastructure(tmp_path):
    """The infrastructure of a project, made once."""
    if not WITH_STUB.exists():
        pytest.skip(f"no Google here, and no stand-in for its provider ({WITH_STUB})")
    if not (shutil.which("tofu") or shutil.which("terraform")):
        pytest.skip("neither tofu nor terraform is here")
    infrastructure = Infrastructure(tmp_path)
    infrastructure.run("make infra")
    return infrastructure


def rotation():
    """Return the command of the README that makes another key."""
    lines = (PROJECT_ROOT / "README.md").read_text().splitlines()
    return next(line for line in lines if "-replace=" in line).split("  #")[0]


def test_state_which_holds_the_key_is_for_its_owner_only(infrastructure):
    infrastructure.run(rotation())

    modes = infrastructure.state_modes()
    assert modes == {"terraform.tfstate": "0o600", "terraform.tfstate.backup": "0o600"}


def test_state_that_others_could_read_is_closed(infrastructure):
    infrastructure.run("chmod 644 infrastructure/terraform.tfstate")
    infrastructure.run(
        "cp infrastructure/terraform.tfstate infrastructure/terraform.tfstate.backup"
    )

    infrastructure.run("make infra")

    modes = infrastructure.state_modes()
    assert modes == {"terraform.tfstate": "0o600", "terraform.tfstate.backup": "0o600"}


def test_key_is_replaced_and_the_old_one_destroyed_last(infrastructure):
    old = infrastructure.key_id()

    output = infrastructure.run(rotation())

    assert infrastructure.key_id() != old
    created = output.index("google_service_account_key.pipeline[0]: Creation complete")
    destroyed = output.index("google_service_account_key.pipeline[0] (deposed")
    assert created < destroyed
