"""`retry` across runs: only what failed is redone, wherever the results were kept."""

import json

import pytest
from gcp_storage_emulator.server import create_server

from project import DBT_PROJECT, built, copy_project

# `half` fails until the test mends it.
MODELS = {
    "models/one.sql": "select 1 as id",
    "models/half.sql": "select id from {{ ref('one') }} where nowhere",
    "models/after.sql": "select id from {{ ref('half') }}",
    "models/one.yml": "models: [{name: after, columns: [{name: id, data_tests: [not_null]}]}]",
}
BUCKET = "resultats"


@pytest.fixture(scope="module")
def storage():
    """A Google Cloud Storage on this machine, with one bucket; yields its URL."""
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    yield f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
    server.stop()


SLOW = pytest.param("a bucket", marks=pytest.mark.slow)


@pytest.fixture(params=["the folder of the project", SLOW])
def kept(request, tmp_path):
    """The variables that say where results are kept, and whether they outlive `target/`."""
    if request.param == "the folder of the project":
        return {}
    url = request.getfixturevalue("storage")
    address = f"gs://{BUCKET}/{tmp_path.name}"
    return {"DBT_ARTIFACTS_DIR": address, "STORAGE_EMULATOR_HOST": url}


def forget_target(project):
    """Remove what dbt has left in its folder, as a new container would."""
    for path in (project.root / "dbt" / "target" / "dev").glob("*.json"):
        path.unlink()


def test_retry_redoes_only_what_failed_then_the_tests(make_project, kept):
    project = make_project(MODELS)
    failed = project.run_pipeline(**kept)
    (project.root / "dbt" / "models" / "half.sql").write_text("select id from {{ ref('one') }}")
    if kept:
        forget_target(project)

    run = project.run_pipeline("--commands", "retry", "test", **kept)

    assert failed.returncode == 1
    assert run.returncode == 0, run.stderr
    assert built(run) == ["half", "after"]
    assert "PASS not_null_after_id" in run.stderr


def test_results_are_always_kept_and_the_manifest_when_the_whole_project_is_built(
    tmp_path, local_environment
):
    project = copy_project(tmp_path, local_environment, MODELS)
    folder = tmp_path / "l'archive"

    failed = project.run_pipeline("--commands", "run", DBT_ARTIFACTS_DIR=str(folder))
    after_failure = sorted(path.name for path in folder.rglob("*.*"))
    part = project.run_pipeline(
        *("--commands", "run", "docs", "generate", "--select", "one"),
        DBT_ARTIFACTS_DIR=str(folder),
    )
    after_a_part = sorted(path.name for path in folder.rglob("*.*"))
    results = json.loads((folder / "dev" / "run_results.json").read_text())["results"]
    failed_again = project.run_pipeline("--commands", "run", DBT_ARTIFACTS_DIR=str(folder))
    (project.root / "dbt" / "models" / "half.sql").write_text("select id from {{ ref('one') }}")
    forget_target(project)
    retried = project.run_pipeline("--commands", "retry", DBT_ARTIFACTS_DIR=str(folder))
    after_a_retry = sorted(path.name for path in folder.rglob("*.*"))
    whole = project.run_pipeline("--commands", "run", DBT_ARTIFACTS_DIR=str(folder))

    assert failed.returncode == 1
    assert after_failure == ["run_results.json"]
    assert part.returncode == 0, part.stderr
    # No manifest.json: it would make the models that a selection leaves out pass for built.
    assert after_a_part == ["docs.html", "run_results.json"]
    assert "select 1 as id" in (folder / "dev" / "docs.html").read_text()
    assert [result["unique_id"].split(".")[-1] for result in results] == ["one"]
    assert (failed_again.returncode, retried.returncode) == (1, 0)
    # No manifest.json either: a model that the retry did not redo may have changed since it was
    # built, and would pass for built.
    assert after_a_retry == ["docs.html", "run_results.json"]
    assert whole.returncode == 0, whole.stderr
    assert (folder / "dev" / "manifest.json").exists()


SELECTOR = """
selectors:
  - {name: nightly, default: true, definition: {method: fqn, value: NAME}}
"""


def test_default_selector_of_the_project_counts_as_a_selection(tmp_path, local_environment):
    """dbt says nothing of it in the arguments of its results."""
    models = {"models/one.sql": "select 1 as id", "models/two.sql": "select 2 as id"}
    project = copy_project(tmp_path, local_environment, models)
    selector, kept = project.root / "dbt" / "selectors.yml", tmp_path / "kept"

    selector.write_text(SELECTOR.replace("NAME", "one"))
    part = project.run_pipeline("--commands", "run", DBT_ARTIFACTS_DIR=str(kept))
    files = [path.name for path in kept.rglob("*.*")]
    selector.write_text(SELECTOR.replace("NAME", "none"))
    nothing = project.run_pipeline("--commands", "run", DBT_ARTIFACTS_DIR=str(kept))

    assert part.returncode == 0, part.stderr
    assert files == ["run_results.json"]
    assert nothing.returncode == 1
    assert "le sélecteur par défaut de selectors.yml" in nothing.stderr.splitlines()[-1]


def test_command_that_left_no_results_is_not_taken_for_the_one_before(tmp_path, local_environment):
    """The one before succeeded; this one does not compile."""
    project = copy_project(tmp_path, local_environment, {"models/one.sql": "select 1 as id"})
    kept = str(tmp_path / "kept")
    project.run_pipeline("--commands", "run", DBT_ARTIFACTS_DIR=kept)
    (project.root / "dbt" / "models" / "one.sql").write_text("select {{ ref('nowhere') }}")
    project.run_pipeline("--commands", "run", DBT_ARTIFACTS_DIR=kept)
    (project.root / "dbt" / "models" / "one.sql").write_text("select 2 as id")

    for variables in ({"DBT_ARTIFACTS_DIR": kept}, {}):
        retried = project.run_pipeline("--commands", "retry", **variables)

        assert retried.returncode == 2
        assert "n'a rien à reprendre" in retried.stderr.splitlines()[-1]


HOOK = "on-run-end: [\"select error('Exceeded rate limits: too many table updates')\"]"


def test_hook_that_failed_is_never_taken_for_done(tmp_path, local_environment):
    """`dbt retry` leaves hooks out: with nothing else failed, it does nothing and exits 0."""
    project = copy_project(
        tmp_path,
        local_environment,
        {"models/one.sql": "select 1 as id", "dbt_project.yml": f"{DBT_PROJECT}\n{HOOK}\n"},
    )

    run = project.run_pipeline("--commands", "run", DBT_RETRIES="1")
    retried = project.run_pipeline("--commands", "retry")

    assert run.returncode == 3
    assert run.stderr.count("Running with dbt") == 2
    assert "opération project-on-run-end-0" in run.stderr.splitlines()[-2]
    assert "Exceeded rate limits" in run.stderr.splitlines()[-2]
    assert "essai 2 sur 2" in run.stderr.splitlines()[-1]
    assert retried.returncode == 2
    assert "seul un hook a échoué" in retried.stderr.splitlines()[-1]


@pytest.mark.slow
def test_manifest_is_not_kept_by_the_retry_of_a_test(tmp_path, local_environment):
    """With it, a model that changed meanwhile would pass for built."""
    project = copy_project(
        tmp_path,
        local_environment,
        {"models/one.sql": "select 1 as id", "data-tests/never.sql": "select 1 as id"},
    )
    folder, data_test = tmp_path / "kept", project.root / "dbt" / "data-tests" / "never.sql"

    failed = project.run_pipeline(DBT_ARTIFACTS_DIR=str(folder))
    (folder / "dev" / "manifest.json").unlink()
    data_test.write_text("select 1 as id limit 0")
    retried = project.run_pipeline("--commands", "retry", DBT_ARTIFACTS_DIR=str(folder))

    assert failed.returncode == 1
    # The models that `run` built are listed, although `test` failed after it.
    assert ".one " in failed.stdout
    assert retried.returncode == 0, retried.stderr
    assert not (folder / "dev" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "n'a laissé de résultats lisibles dans {tmp}/project/dbt/target/dev."),
        ("gs://resultats/x", "n'a laissé de résultats lisibles dans gs://resultats/x."),
    ],
)
def test_nothing_to_retry_is_said(address, message, tmp_path, local_environment, storage):
    project = copy_project(tmp_path, local_environment, MODELS)
    # Results that an earlier retry took out of another DBT_ARTIFACTS_DIR: read here, they would be
    # retried.
    kept = project.root / "dbt" / "target" / "dev" / "kept" / "run_results.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"results": [{"status": "error"}]}')

    run = project.run_pipeline(
        *("--commands", "retry"),
        DBT_ARTIFACTS_DIR=address.format(tmp=tmp_path),
        STORAGE_EMULATOR_HOST=storage,
    )

    assert run.returncode == 2
    assert message.format(tmp=tmp_path) in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
