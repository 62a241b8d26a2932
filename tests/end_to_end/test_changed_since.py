"""`--changed-since`: only what differs from prod is built, the rest is read there."""

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


@pytest.fixture(scope="module")
def changed(project, unchanged):
    """A run after a change that is in no commit: the eighth model of a chain."""
    (project.root / "dbt" / "models" / "b7.sql").write_text(
        "select id + 1 as id from {{ ref('b6') }}"
    )
    return project.run_pipeline(
        "--changed-since", "HEAD", "--commands", "run", DBT_ARTIFACTS_DIR=""
    )


def test_one_changed_model_of_thirty_is_built_with_what_hangs_on_it(changed):
    assert changed.returncode == 0, changed.stderr
    assert built(changed) == ["b7", "b8", "b9"]


def test_mistyped_selection_does_not_pass_for_one_that_has_not_changed(changed, project):
    run = project.run_pipeline("--changed-since", "HEAD", "--select", "b77", DBT_ARTIFACTS_DIR="")

    assert run.returncode == 1
    assert "--select b77 : la sélection ne correspond à aucun nœud" in run.stderr.splitlines()[-1]


def test_the_rest_is_read_from_prod(changed, project):
    client = connect(project.environment)
    dev = project.environment["DBT_BIGQUERY_DATASET_DEV"]

    (row,) = client.query_and_wait(f"select id from {dev}.b9")

    assert row.id == 2
    assert sorted(table.table_id for table in client.list_tables(dev)) == ["b7", "b8", "b9"]


def test_repository_is_left_as_it_was(changed, project):
    assert git(project.root, "status", "--porcelain", "--ignored=no").split() == [
        "M",
        "dbt/models/b7.sql",
    ]
    assert git(project.root, "worktree", "list").count("\n") == 1
    assert not list((project.root.parent / "tmp").glob("commit-*"))


def test_last_run_of_prod_stands_for_a_commit(changed, project):
    run = project.run_pipeline(*("--changed-since", "--select", "b8", "--commands", "run"))

    assert run.returncode == 0, run.stderr
    assert built(run) == ["b8"]


def test_clone_brings_prod_to_dev(changed, project):
    run = project.run_pipeline("--commands", "clone", "--select", "a9", DBT_ARTIFACTS_DIR="")

    assert run.returncode == 0, run.stderr
    assert built(run) == ["a9"]


def write_model(project, name, sql):
    (project.root / "dbt" / "models" / f"{name}.sql").write_text(sql)


def test_tests_judge_what_was_just_built_and_not_prod(changed, project):
    write_model(project, "b7", "select id from {{ ref('b6') }} union all select 1")

    # At this level Prefect logs nothing of what dbt says: if the result were read in the log, the
    # failure would be missed.
    run = project.run_pipeline("--changed-since", "HEAD", PREFECT_LOGGING_LEVEL="ERROR")

    assert run.returncode == 1
    assert "unique_b8_id" in run.stderr.splitlines()[-1]


def test_retry_after_it_reads_what_was_built_and_the_rest_in_prod(changed, project):
    write_model(project, "b7", "select id + 10 as id from {{ ref('b6') }}")
    write_model(project, "b9", "select nowhere from {{ ref('b8') }}")
    failed = project.run_pipeline("--changed-since", "HEAD", "--commands", "run")
    write_model(project, "b9", "select id + 100 as id from {{ ref('b8') }}")
    for path in (project.root / "dbt" / "target" / "dev").rglob("*.json"):
        # A new container has no target/: `retry` has to find all in DBT_ARTIFACTS_DIR.
        path.unlink()

    run = project.run_pipeline("--commands", "retry")

    dev = project.environment["DBT_BIGQUERY_DATASET_DEV"]
    (row,) = connect(project.environment).query_and_wait(f"select id from {dev}.b9")
    assert failed.returncode == 1
    assert run.returncode == 0, run.stderr
    assert built(run) == ["b9"]
    assert row.id == 111


def test_changed_seed_that_no_command_loads_is_said_and_read_in_prod(changed, project):
    (project.root / "dbt" / "seeds").mkdir()
    (project.root / "dbt" / "seeds" / "colours.csv").write_text("id\n1\n")

    run = project.run_pipeline("--changed-since", "HEAD", "--select", "colours")

    assert run.returncode == 0, run.stderr
    assert "seed.project.colours a changé" in run.stderr
    assert "rien n'a changé depuis HEAD." in run.stderr


def test_project_that_does_not_compile_is_said_in_one_line(project):
    model = project.root / "dbt" / "models" / "astray.sql"
    model.write_text("select * from {{ ref('nowhere') }}")

    run = project.run_pipeline("--changed-since", "HEAD")
    model.unlink()

    assert run.returncode == 1
    assert "Ce qui a changé : dbt list a échoué : Compilation Error : Model" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--changed-since", "nowhere"], "« nowhere » n'est pas un commit de ce dépôt"),
        (["--changed-since"], "DBT_ARTIFACTS_DIR n'est pas défini"),
    ],
)
def test_state_that_is_not_there_is_said(arguments, message, project):
    run = project.run_pipeline(*arguments, DBT_ARTIFACTS_DIR="")

    assert run.returncode == 2
    assert message in run.stderr.split("Finished in state")[-1]
    assert "Traceback" not in run.stderr
