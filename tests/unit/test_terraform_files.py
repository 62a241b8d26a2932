"""Promises of the Terraform files that can be read without Terraform."""

import re

from bi_pipeline.settings import PROJECT_ROOT
from generate_env import OUTPUTS

# Kind, labels and body of each block, as `terraform fmt`, which `make lint` runs, writes them.
BLOCK = re.compile(r"^(\w+)((?: \"[\w-]+\")*) \{\n(.*?)^\}$", re.MULTILINE | re.DOTALL)


def blocks(wanted):
    """Return the body of each block of a kind, by its labels."""
    files = sorted((PROJECT_ROOT / "infrastructure").glob("*.tf"))
    return {
        labels.replace('"', "").strip(): body
        for path in files
        for kind, labels, body in BLOCK.findall(path.read_text())
        if kind == wanted
    }


def test_variables_have_a_type_and_a_description():
    variables = blocks("variable")

    assert "project_id" in variables
    for body in variables.values():
        assert re.search(r"^  type\s+= ", body, re.MULTILINE), body
        assert re.search(r"^  description\s+= ", body, re.MULTILINE), body


def test_outputs_are_all_that_generate_env_reads():
    assert set(OUTPUTS) <= set(blocks("output"))


def test_no_output_gives_a_key():
    outputs = blocks("output")

    assert "project_id" in outputs
    assert [name for name, body in outputs.items() if "private_key" in body] == []


def test_accounts_have_no_other_role_on_the_project():
    roles = [name for name in blocks("resource") if name.startswith("google_project_iam")]

    assert roles == [
        "google_project_iam_member job_user",
        "google_project_iam_member dataset_creator",
    ]
