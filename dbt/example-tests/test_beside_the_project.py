"""The example stands in a folder that is named as a library, and brings targets of make."""

import subprocess
from importlib.util import find_spec

from bi_pipeline.settings import PROJECT_ROOT


def make(*words):
    """Return what make says in the project."""
    command = ["make", *words]
    run = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    return run.stdout


def test_tests_of_the_example_leave_the_name_dbt_to_the_library():
    assert find_spec("dbt.cli")


def test_help_shows_the_dashboard_while_it_is_there():
    assert "\nreport " in make("help")


def test_lint_reads_the_types_of_the_dashboard_and_the_style_of_the_sql():
    commands = make("--dry-run", "lint")

    assert "mypy dbt/dashboard\n" in commands
    assert "sqlfluff lint dbt/models dbt/data-tests\n" in commands
