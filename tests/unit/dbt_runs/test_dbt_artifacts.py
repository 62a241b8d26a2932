"""A command leaves the files that `retry` and --changed-since can build on, and no other."""

import pytest

from bi_pipeline.dbt_runs.dbt_artifacts import DEFERRED, DbtArtifactsDir, list_files_to_keep
from bi_pipeline.result import DbtResult, NodeResult

RESULTS, DOCS = "run_results.json", "docs.html"
MANIFEST = "manifest.json"
TWO_MODELS = {"model.p.a", "model.p.b"}


def result(command, *models, which=None, failed=False, **arguments):
    """Return the result of a command that took up these models."""
    nodes = [NodeResult(f"model.p.{name}", "error" if failed else "success") for name in models]
    arguments["which"] = which or command
    return DbtResult(command, int(failed), nodes=nodes, arguments=arguments)


@pytest.mark.parametrize(
    ("done", "kept"),
    [
        (result("run", "a", "b"), {RESULTS, MANIFEST}),
        (result("build", "a", "b"), {RESULTS, MANIFEST}),
        # With the manifest, --changed-since would take for built the models that were left out (by
        # --select or by a default selector, of which dbt says nothing), that failed, or that have
        # no rows.
        (result("run", "a"), {RESULTS}),
        (result("run", "a", "b", failed=True), {RESULTS}),
        (result("run", "a", "b", empty=True), {RESULTS}),
        (result("clone", "a", "b"), {RESULTS}),
        # A model that a retry does not redo may have changed since it was built: with the manifest,
        # it would pass for built as it stands.
        (result("retry", "b", which="run"), {RESULTS}),
        (result("retry", "a", "b", which="run"), {RESULTS, MANIFEST}),
        (result("retry", "a", "b", which="clone"), {RESULTS}),
        # The results of these would replace those that can be retried.
        (result("compile", "a", "b"), set()),
        (result("docs generate", "a", "b", which="generate"), {DOCS}),
    ],
)
def test_manifest_is_kept_only_when_all_models_are_built_as_it_says(done, kept):
    files = list_files_to_keep(done, lambda: TWO_MODELS, deferred=False)

    assert set(files.values()) == kept


def test_manifest_of_a_project_without_models_is_kept_by_no_retry_of_a_test():
    done = result("retry", which="test")

    assert MANIFEST not in list_files_to_keep(done, set, deferred=False)


def test_what_a_run_reads_in_prod_is_kept_with_its_results():
    assert DEFERRED in list_files_to_keep(result("run", "a"), lambda: TWO_MODELS, deferred=True)


def test_file_kept_in_a_folder_is_found_until_it_is_removed(tmp_path):
    folder = DbtArtifactsDir(str(tmp_path / "l'archive"), None, "projet")
    (tmp_path / RESULTS).write_text("{}")
    found = tmp_path / "dev" / "found.json"

    folder.keep(tmp_path / RESULTS, f"dev/{RESULTS}")
    assert folder.fetch(f"dev/{RESULTS}", found)
    assert found.read_text() == "{}"

    folder.remove(f"dev/{RESULTS}")
    folder.remove(f"dev/{RESULTS}")
    assert not folder.fetch(f"dev/{RESULTS}", found)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("gs://b/a b/", "https://storage.cloud.google.com/b/a%20b/dev/docs.html"),
        ("gs://b", "https://storage.cloud.google.com/b/dev/docs.html"),
        ("/srv/dbt", "/srv/dbt/dev/docs.html"),
    ],
)
def test_file_of_a_bucket_is_a_page_of_google_s_that_of_a_folder_a_path(address, found):
    assert DbtArtifactsDir(address, None, "projet").locate(f"dev/{DOCS}") == found
