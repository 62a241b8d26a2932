"""The Terraform files: their own tests, what make infra leaves, what becomes of older states."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from dotenv import dotenv_values

from bi_pipeline.settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "infrastructure"
# Runs the real Terraform with the two providers replaced.
WITH_STUB = PROJECT_ROOT / "tests" / "terraform_stub" / "with-stub"
OLDER = Path(__file__).with_name("infrastructure_of_one_account.tf")

DEV = "pipeline-dbt@mon-projet.iam.gserviceaccount.com"
PROD = "pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".secrets/sa_key.json",
        ".secrets/sa_key_prod.json",
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
        self.folder = self.root / "infrastructure"
        of_this_machine = (".terraform*", "*.tfstate*", "*.tfvars", "backend.tf")
        shutil.copytree(FOLDER, self.folder, ignore=shutil.ignore_patterns(*of_this_machine))
        shutil.copy(PROJECT_ROOT / "Makefile", self.root)
        self.set_variables()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")} | {
            "HOME": str(root),
            "CHECKPOINT_DISABLE": "1",
            "TERRAFORM_STUB_HOME": str(PROJECT_ROOT / ".local" / "terraform-stub"),
        }

    def set_variables(self, **values: object) -> None:
        """Write terraform.tfvars."""
        values = {"project_id": "mon-projet"} | values
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in values.items()]
        (self.folder / "terraform.tfvars").write_text("".join(lines))

    def try_to_run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell and say yes to Terraform."""
        return subprocess.run(
            [WITH_STUB, "sh", "-c", command],
            cwd=self.root,
            env=self.environment,
            input="yes\n",
            capture_output=True,
            text=True,
            umask=0o022,
        )

    def run(self, command: str) -> str:
        """Run a line of shell that has to succeed; return what it printed."""
        process = self.try_to_run(command)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def plan(self) -> dict:
        """Return what `make infra` would do."""
        self.run("terraform -chdir=infrastructure plan -out=x.tfplan")
        return json.loads(self.run("terraform -chdir=infrastructure show -json x.tfplan"))

    def resources(self) -> list[dict]:
        """Return what there is, by the state."""
        state = json.loads(self.run("terraform -chdir=infrastructure show -json"))
        return state["values"]["root_module"]["resources"]

    def state_modes(self) -> dict[str, str]:
        """Return the permissions of the state and its backup."""
        states = self.folder.glob("*.tfstate*")
        return {path.name: oct(path.stat().st_mode & 0o777) for path in states}

    def key_id(self) -> str:
        """Return which key is in the file."""
        return json.loads((self.root / ".secrets" / "sa_key.json").read_text())["private_key_id"]


def need_terraform():
    """Skip the test without Terraform."""
    if not shutil.which("terraform"):
        pytest.skip("Terraform is not on PATH: install it to run the tests of infrastructure/")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The plan of a project with the example of variables."""
    need_terraform()
    project = Infrastructure(tmp_path_factory.mktemp("example"))
    shutil.copy(FOLDER / "terraform.tfvars.example", project.folder / "terraform.tfvars")
    project.run("terraform -chdir=infrastructure init")
    return project.plan()


@pytest.fixture(scope="module")
def keyless(tmp_path_factory):
    """The infrastructure of a project that asks for all but a key, made once."""
    need_terraform()
    project = Infrastructure(tmp_path_factory.mktemp("keyless"))
    project.set_variables(
        load_sample_data=True,
        impersonators=["group:equipe@example.com"],
        github_repository="octocat/hello-world",
        extra_datasets={"dev": ["marketing"], "prod": ["marketing"]},
    )
    project.run("make infra")
    return project


def find_rotation():
    """Return the command of the README that makes another key."""
    lines = (PROJECT_ROOT / "README.md").read_text().splitlines()
    return next(line for line in lines if "-replace=" in line).split("  #")[0]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """The life of a project with a key: one account, then two, then another key."""
    need_terraform()
    project = Infrastructure(tmp_path_factory.mktemp("keyed"))
    files = {path: path.read_text() for path in project.folder.glob("*.tf")}
    for path in files:
        if path.name != "versions.tf":
            path.unlink()
    shutil.copy(OLDER, project.folder / "main.tf")
    project.run("make infra")
    first_key = project.key_id()
    for path, text in files.items():
        path.write_text(text)
    project.set_variables(create_key=True)
    plan = project.plan()
    project.run("make infra")
    taken_over = SimpleNamespace(
        plan=plan,
        key_id=project.key_id(),
        modes=project.state_modes(),
        next_plan=project.run("terraform -chdir=infrastructure plan -no-color"),
        outputs=project.run("terraform -chdir=infrastructure output -json"),
        key=(project.root / ".secrets" / "sa_key.json").read_bytes(),
    )
    # As Terraform leaves them when it is not `make infra` that runs it.
    project.run("chmod 644 infrastructure/terraform.tfstate*")
    output = project.run(find_rotation())
    rotated = SimpleNamespace(output=output, key_id=project.key_id(), modes=project.state_modes())
    return SimpleNamespace(first_key=first_key, taken_over=taken_over, rotated=rotated)


@pytest.mark.slow
def test_tests_of_terraform_pass(tmp_path):
    need_terraform()
    project = Infrastructure(tmp_path)
    command = [WITH_STUB, "terraform"]
    # `terraform test` reads terraform.tfvars: a user's values would be tested, not the defaults.
    (project.folder / "terraform.tfvars").unlink()
    options = {"cwd": project.folder, "env": project.environment, "capture_output": True}
    subprocess.run([*command, "init", "-backend=false"], check=True, **options)

    result = subprocess.run([*command, "test", "-no-color"], text=True, **options)

    assert result.returncode == 0, result.stdout + result.stderr
    runs = sum(path.read_text().count('\nrun "') for path in FOLDER.glob("tests/*.tftest.hcl"))
    assert f"{runs} passed, 0 failed" in result.stdout


def test_variables_and_outputs_are_described_and_no_output_is_sensitive(example):
    configuration = example["configuration"]["root_module"]

    described = configuration["variables"] | configuration["outputs"]
    assert all(body.get("description") for body in described.values())
    assert not any(body.get("sensitive") for body in configuration["outputs"].values())


def test_example_of_variables_shows_them_all_and_lets_the_sample_data_in(example):
    text = (FOLDER / "terraform.tfvars.example").read_text()

    shown = re.findall(r"(?m)^(?:# )?(\w+) +=", text)

    assert sorted(shown) == sorted(example["configuration"]["root_module"]["variables"])
    created = {change["address"] for change in example["resource_changes"]}
    assert 'google_bigquery_dataset_iam_member.data_editor["raw"]' in created


def test_road_without_a_key_goes_from_make_infra_to_env(keyless):
    keyless.run("make outputs")
    generated = subprocess.run(
        [
            *(sys.executable, PROJECT_ROOT / "utilities" / "generate_env.py"),
            *("--outputs-json", keyless.folder / "terraform-outputs.json"),
            *("--output", keyless.root / ".env"),
        ],
        capture_output=True,
        text=True,
    )

    assert generated.returncode == 0, generated.stderr
    assert "laissé de côté" not in generated.stdout
    assert dotenv_values(keyless.root / ".env") == {
        "PREFECT_GCP_CREDENTIALS_BLOCK": "sa-key",
        "DBT_TARGET": "dev",
        "DBT_BIGQUERY_DATASET_DEV": "mon_projet_dev",
        "DBT_BIGQUERY_DATASET_PROD": "mon_projet_prod",
        "DBT_PROFILE_NAME": "projet_m2_bi",
        "DBT_BIGQUERY_DATASET_RAW": "mon_projet_raw",
        "GCP_PROJECT_ID": "mon-projet",
        "GCP_REGION": "EU",
        "DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT": DEV,
        "DBT_ARTIFACTS_DIR": "gs://mon-projet-dbt-artifacts",
    }
    assert not (keyless.root / ".secrets").exists()


def find_object(right):
    """Return the name of what a right is on and, in a bucket, which objects it is limited to."""
    names = ("dataset_id", "service_account_id", "bucket")
    name = next((right[name] for name in names if right.get(name)), "project").split("/")[-1]
    expressions = [condition["expression"] for condition in right.get("condition") or []]
    return " ".join([name, *(re.findall(r"/objects/(.*)\"\)$", x)[0] for x in expressions)])


def test_rights_are_these_and_no_other(keyless):
    # Every resource with a role, whatever its type: otherwise a right that a new kind of resource
    # gives would be missed.
    rights = {
        (
            right["member"].split(":", 1)[1],
            right["role"].removeprefix("roles/"),
            find_object(right),
        )
        for resource in keyless.resources()
        if "role" in (right := resource["values"]) or "iam" in resource["type"].split("_")[-2:]
    }

    pool = "//iam.googleapis.com/google_iam_workload_identity_pool.name/attribute.repository"
    assert rights == {
        (DEV, "bigquery.jobUser", "project"),
        (DEV, "bigquery.dataViewer", "mon_projet_raw"),
        (DEV, "bigquery.dataEditor", "mon_projet_raw"),
        (DEV, "bigquery.dataEditor", "mon_projet_dev"),
        (DEV, "bigquery.dataEditor", "mon_projet_dev_marketing"),
        (DEV, "storage.legacyBucketReader", "mon-projet-dbt-artifacts"),
        (DEV, "storage.objectUser", "mon-projet-dbt-artifacts dev/"),
        (DEV, "storage.objectViewer", "mon-projet-dbt-artifacts prod/"),
        (PROD, "bigquery.jobUser", "project"),
        (PROD, "bigquery.dataViewer", "mon_projet_raw"),
        (PROD, "bigquery.dataEditor", "mon_projet_prod"),
        (PROD, "bigquery.dataEditor", "mon_projet_prod_marketing"),
        (PROD, "storage.legacyBucketReader", "mon-projet-dbt-artifacts"),
        (PROD, "storage.objectUser", "mon-projet-dbt-artifacts prod/"),
        ("equipe@example.com", "iam.serviceAccountTokenCreator", DEV),
        (f"{pool}/octocat/hello-world", "iam.workloadIdentityUser", PROD),
    }


def test_accounts_are_those_of_the_outputs(keyless):
    outputs = json.loads(keyless.run("terraform -chdir=infrastructure output -json"))

    accounts = {
        resource["index"]: resource["values"]["email"]
        for resource in keyless.resources()
        if resource["type"] == "google_service_account"
    }
    assert accounts == {"dev": DEV, "prod": PROD}
    assert outputs["dev_service_account_email"]["value"] == DEV
    assert outputs["prod_service_account_email"]["value"] == PROD


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "options"),
    [({}, "-destroy"), ({"region": "US"}, "")],
    ids=["destroyed", "moved to another region, without its extra dataset"],
)
def test_prod_and_raw_are_neither_deleted_nor_replaced(variables, options, keyless):
    tfvars = keyless.folder / "terraform.tfvars"
    before = tfvars.read_text()

    try:
        if variables:
            keyless.set_variables(**variables)
        plan = keyless.try_to_run(f"terraform -chdir=infrastructure plan -no-color {options}")
    finally:
        tfvars.write_text(before)

    assert plan.returncode != 0
    refused = re.findall(
        r'google_bigquery_dataset\.guarded\["(\w+)"\]\s+has\s+lifecycle', plan.stderr
    )
    assert sorted(refused) == ["prod", "prod_marketing", "raw"]


@pytest.mark.slow
def test_state_of_one_account_is_taken_over(keyed):
    changes = keyed.taken_over.plan["resource_changes"]

    lost = {x["address"] for x in changes if "delete" in x["change"]["actions"]}

    # Only the account's rights on raw and prod go. If a dataset, an account or a key went, data or
    # access would be lost.
    rights = "google_bigquery_dataset_iam_member.data_editor"
    assert lost == {f'{rights}["prod"]', f'{rights}["raw"]'}
    assert keyed.taken_over.key_id == keyed.first_key
    assert "No changes" in keyed.taken_over.next_plan


CLOSED = {"terraform.tfstate": "0o600", "terraform.tfstate.backup": "0o600"}


@pytest.mark.slow
def test_state_which_holds_the_key_is_for_its_owner_only(keyed):
    assert keyed.taken_over.modes == CLOSED


@pytest.mark.slow
def test_state_that_others_could_read_is_closed(keyed):
    assert keyed.rotated.modes == CLOSED


@pytest.mark.slow
def test_no_output_gives_the_key(keyed):
    outputs, key = keyed.taken_over.outputs, keyed.taken_over.key

    assert '"dev_key_file"' in outputs
    # Google's provider gives the key in base64: an output could show that, or the decoded text.
    assert base64.b64encode(key).decode() not in outputs
    assert "PRIVATE KEY" not in outputs


@pytest.mark.slow
def test_key_is_replaced_and_the_old_one_destroyed_last(keyed):
    output = keyed.rotated.output

    assert keyed.rotated.key_id != keyed.taken_over.key_id
    created = output.index("google_service_account_key.pipeline[0]: Creation complete")
    destroyed = output.index("google_service_account_key.pipeline[0] (deposed")
    assert created < destroyed
