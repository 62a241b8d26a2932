"""The image: what Docker is given to build it from, and who it runs as."""

import re

import pytest
from docker.utils.build import exclude_paths

from bi_pipeline.settings import PROJECT_ROOT

NEVER = [
    *(".env", ".env.prod", ".secrets/sa_key_prod.json", ".git/config", ".local/prefect/prefect.db"),
    *(".venv/bin/python", "infrastructure/terraform.tfstate", "infrastructure/terraform.tfvars"),
    *("dbt/target/dev/manifest.json", "dbt/logs/dbt.log", "dbt/.user.yml", "dbt/.env"),
    *("dbt/dashboard/build_report.py", "dbt/example-tests/test_flights.py"),
    *("prefect/__pycache__/pipeline.cpython-311.pyc", "prefect/.env", "tests/project.py"),
]
ALWAYS = [
    *("prefect/pipeline.py", "dbt/models/marts/fct_flights.sql", "dbt/dbt_project.yml"),
    *("requirements.txt", "pyproject.toml", "prefect.toml"),
]


@pytest.fixture
def context(tmp_path):
    """The files that Docker takes of a checkout that has everything in it."""
    for name in NEVER + ALWAYS:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    lines = (PROJECT_ROOT / ".dockerignore").read_text().splitlines()
    return exclude_paths(str(tmp_path), [x for x in lines if x and not x.startswith("#")])


def test_image_is_made_of_the_flow_and_of_nothing_of_this_machine(context):
    assert set(ALWAYS) <= context
    assert not context & set(NEVER)


def test_everything_that_is_copied_is_there(context):
    dockerfile = (PROJECT_ROOT / "Dockerfile").read_text()
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
        for name in re.sub(r"--\S+ ", "", line).split()[:-1]
    ]

    assert copied
    assert set(copied) <= context


def test_image_does_not_run_as_root_and_installs_what_is_locked():
    dockerfile = (PROJECT_ROOT / "Dockerfile").read_text()

    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["1000"]
    installs = re.findall(r"pip install[^&]*", dockerfile.replace("\\\n", ""))
    assert len(installs) == 2
    assert all("--require-hashes" in x for x in installs)
