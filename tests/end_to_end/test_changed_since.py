"""`--changed-since`: only what differs from prod is built, the rest is read there.

Selections and states that are refused are tested without dbt in tests/unit/dbt_runs/test_runner.py.
"""

import pytest

from project import built, connect, copy_project, git

pytestmark = pytest.mark.slow

# Three chains of ten models, each reading the one before it.
CHAINS, LENGTH = "abc", 10
MODELS = {
    f"models/{chain}{i}.sql": f"select id from {{{{ ref('{chain}{i - 1}') }}}}"
    if i
    else "select 1 as id"
    for chain in CHAINS
    for i in range(LENGTH)
}


# These macros print JSON while dbt lists the nodes that have changed, one of JSON a line: if what
# they print passed for nodes, the run would fail.
MODELS["models/c0.sql"] += "{% do print('{\"unique_id\"') %}{% do print('[1]') %}"
MODELS["models/c1.sql"] += "{% do print('{\"unique_id\": 5}') %}"
MODELS["models/b8.yml"] = "models: [{name: b8, columns: [{name: id, data_tests: [unique]}]}]"


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    """A repository whose one commit is in prod, and kept in DBT_ARTIFACTS_DIR; dev is empty."""
    project = copy_project(tmp_path_factory.mktemp("changed"), local_environment, MODELS)
    project.environment["DBT_ARTIFACTS_DIR"] = str(project.root.parent / "kept")
    git(project.root, "init", "--quiet")
    git(project.root, "add", "--all")
    git(project.root, "commit", "--quiet", "--message", "one")
    run = project.run_pipeline("--target", "prod", "--commands", "run")
    assert run.returncode == 0, run.stderr
    return project


@pytest.fixture(scope="module")
def unchanged(project):
    """A run for which nothing has changed, of the tests too."""
    return project.run_pipeline("--changed-since", "HEAD", DBT_ARTIFACTS_DIR="")


def test_nothing_changed_is_a_success_that_says_so(unchanged):
    assert unchanged.returncode == 0, unchanged.stderr
    assert "rien n'a changé depuis HEAD." in unchanged.stderr
    assert not built(unchanged)


def write_model(project, name, sql):
    (project.root / "dbt" / "models" / f"{name}.sql").write_text(sql)


@pytest.fixture(scope="module")
def changed(project, unchanged):
    """A run after changes that are in no commit: the eighth model of a chain, and a wrong tenth."""
    write_model(project, "b7", "select id + 1 as id from {{ ref('b6') }}")
    write_model(project, "b9", "select nowhere from {{ ref('b8') }}")
    return project.run_pipeline("--changed-since", "HEAD", "--commands", "run")


def test_changed_model_of_thirty_is_built_with_what_hangs_on_it(changed):
    assert changed.returncode == 1
    assert "PASS=2 WARN=0 ERROR=1 SKIP=0" in changed.stderr
    assert "modèle b9 : " in changed.stderr.splitlines()[-1]


def test_repository_is_left_as_it_was(changed, project):
    status = git(project.root, "status", "--porcelain", "--ignored=no").split()

    assert status == ["M", "dbt/models/b7.sql", "M", "dbt/models/b9.sql"]
    assert git(project.root, "worktree", "list").count("\n") == 1
    assert not list((project.root.parent / "tmp").glob("commit-*"))


@pytest.fixture(scope="module")
def retried(changed, project):
    """A retry of what failed, mended, where `target/` is empty, as in a new container."""
    write_model(project, "b9", "select id + 100 as id from {{ ref('b8') }}")
    for path in (project.root / "dbt" / "target" / "dev").rglob("*.json"):
        path.unlink()
    return project.run_pipeline("--commands", "retry")


def test_retry_after_it_reads_what_was_built_and_the_rest_in_prod(retried, project):
    client = connect(project.environment)
    dev = project.environment["DBT_BIGQUERY_DATASET_DEV"]

    (row,) = client.query_and_wait(f"select id from {dev}.b9")

    assert retried.returncode == 0, retried.stderr
    assert built(retried) == ["b9"]
    # 1 in prod, 1 more in b7 of dev.
    assert row.id == 102
    assert sorted(table.table_id for table in client.list_tables(dev)) == ["b7", "b8", "b9"]


@pytest.fixture(scope="module")
def judged(retried, project):
    """A run since the last one of prod: a test fails in dev only, and a seed is new."""
    write_model(project, "b7", "select id from {{ ref('b6') }} union all select 1")
    (project.root / "dbt" / "seeds").mkdir()
    (project.root / "dbt" / "seeds" / "colours.csv").write_text("id\n1\n")
    # At this level Prefect logs none of dbt's results: if they were read in the log, the failure
    # would be missed.
    return project.run_pipeline("--changed-since", PREFECT_LOGGING_LEVEL="WARNING")


def test_last_run_of_prod_stands_for_a_commit(judged):
    assert built(judged) == ["b7", "b8", "b9"]


def test_tests_judge_what_was_just_built_and_not_prod(judged):
    assert judged.returncode == 1
    assert "unique_b8_id" in judged.stderr.splitlines()[-1]


def test_changed_seed_that_no_command_loads_is_said(judged):
    assert "seed.project.colours a changé" in judged.stderr


def test_clone_brings_prod_to_dev(changed, project):
    run = project.run_pipeline("--commands", "clone", "--select", "a9", DBT_ARTIFACTS_DIR="")

    assert run.returncode == 0, run.stderr
    assert built(run) == ["a9"]
