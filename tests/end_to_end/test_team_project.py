"""A dbt project that is not ours, put in the place of the example as the README says.

`tests/team_project` has the shape of what teams bring: names of its own, a local package,
seeds that a variable switches on, custom schemas, a snapshot, a `generate_schema_name`.
"""

import os
import re
import shutil
import subprocess

import pytest

from bi_pipeline.settings import PROJECT_ROOT
from project import connect, copy_project, git

pytestmark = pytest.mark.slow

# The first run of the team's README: its seeds load the raw data once, if the variable says so.
FIRST_RUN = ("--commands", "seed", "run", "snapshot", "test", "--vars", "load_source_data: true")


def shell_block(title: str) -> str:
    """Return the first block of commands under a title of the README."""
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition(f"### {title}\n")[2]
    return re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    """Our project, in whose dbt/ the README's commands have put the team's."""
    root = tmp_path_factory.mktemp("team")
    project = copy_project(root, local_environment, {})
    shutil.copytree(PROJECT_ROOT / "tests" / "team_project", root / "mon-projet-dbt")
    for name in ("Makefile", "requirements.in", "requirements-dev.txt"):
        shutil.copy(PROJECT_ROOT / name, project.root)
    for folder in (project.root, root / "mon-projet-dbt"):
        git(folder, "init", "--quiet")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", "one")
    # git leaves these, which the tests have written.
    for name in ("dashboard", "example-tests"):
        (project.root / "dbt" / name / "__pycache__").mkdir(parents=True, exist_ok=True)
        (project.root / "dbt" / name / "__pycache__" / "x.pyc").touch()
    subprocess.run(
        ["bash", "-euc", shell_block("Votre projet dbt")],
        cwd=project.root,
        check=True,
        env=dict(os.environ),
    )
    return project


@pytest.mark.parametrize("words", [["help"], ["--dry-run", "lint"]])
def test_make_names_nothing_of_the_example(words, project):
    make = ["make", "--no-print-directory", *words]

    run = subprocess.run(make, cwd=project.root, capture_output=True, text=True, check=True)

    assert run.stdout
    assert not re.search(r"report|dashboard|sqlfluff lint", run.stdout)
    assert run.stderr == ""


@pytest.fixture(scope="module")
def first_run(project):
    """The first run, with the seeds; in prod, where a custom schema is not that of dev."""
    return project.run_pipeline("--target", "prod", *FIRST_RUN)


def test_nothing_of_the_example_is_left_but_the_profile(project):
    theirs = {path.name for path in (PROJECT_ROOT / "tests" / "team_project").iterdir()}

    assert {path.name for path in (project.root / "dbt").iterdir()} - {"target", "logs"} >= theirs
    for file in ("models/staging/stg_flights.sql", "dashboard", "example-tests", ".sqlfluff"):
        assert not (project.root / "dbt" / file).exists()
    assert "projet_m2_bi" in (project.root / "dbt" / "profiles.yml").read_text()


def test_first_run_is_green_with_packages_seeds_snapshot_and_tests(first_run):
    assert first_run.returncode == 0, first_run.stderr
    assert "Task run 'dbt deps-" in first_run.stderr
    assert "PASS customers::customer_without_an_order_has_spent_nothing" in first_run.stderr
    assert "PASS no_negative_order" in first_run.stderr


def test_relations_are_where_the_project_s_own_macro_puts_them(first_run, project):
    prod = project.environment["DBT_BIGQUERY_DATASET_PROD"]

    summary = first_run.stdout.partition("Construit (cible prod) :\n")[2]

    assert {line.split()[0] for line in summary.splitlines()} == {
        *(f"{prod}_raw.raw_customers", f"{prod}_raw.raw_orders"),
        *(f"{prod}.stg_customers", f"{prod}.stg_orders", f"{prod}_marts.customers"),
        f"{prod}.orders_snapshot",
    }


def test_figures_are_those_of_the_seeds(first_run, project):
    prod = project.environment["DBT_BIGQUERY_DATASET_PROD"]
    rows = connect(project.environment).query_and_wait(
        "select customer_name, order_count, lifetime_spend "
        f"from {prod}_marts.customers order by customer_id"
    )

    assert [(row[0], row[1], float(row[2])) for row in rows] == [
        ("Ada", 2, 18.5),
        ("Blaise", 1, 3.5),
        ("Émilie", 0, 0.0),
    ]


def test_next_run_is_the_plain_pipeline(first_run, project):
    run = project.run_pipeline("--target", "prod")

    assert run.returncode == 0, run.stderr
    assert "Task run 'dbt deps-" not in run.stderr


def test_doctor_takes_the_project_as_it_is(first_run, project):
    assert "✓ Projet dbt" in project.run("utilities/doctor.py").stdout
