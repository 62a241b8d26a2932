"""What Google's own analyser says of the example."""

import os
import re

import pytest

from bi_pipeline.settings import PROJECT_ROOT
from project import copy_project

pytestmark = pytest.mark.slow


def test_every_statement_is_judged_and_passes(tmp_path):
    project = copy_project(tmp_path, dict(os.environ), {})
    # `make lint` may have compiled the analyser: to compile it again takes half a minute.
    made = PROJECT_ROOT / ".local" / "check" / "googlesql"
    if made.exists():
        (project.root / ".local" / "check").mkdir(parents=True)
        (project.root / ".local" / "check" / "googlesql").symlink_to(made)

    run = project.run("utilities/check_sql.py")

    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 refusée" in run.stdout
    # 13 models and 69 tests, the incremental branch of fct_flights.
    assert int(re.search(r"(\d+) requêtes lues", run.stdout)[1]) >= 83
    assert "grammaire seule" not in run.stdout
    assert re.findall(r"Pas jugé \((.*?),", run.stdout) == ["tests unitaires"]
