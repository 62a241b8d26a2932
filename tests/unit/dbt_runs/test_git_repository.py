"""The files of a commit, of a real repository that nothing changes."""

import pytest

from bi_pipeline.dbt_runs.git_repository import check_out_commit, read_current_commit
from bi_pipeline.errors import ConfigurationError
from project import git


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository in which `project/model.sql` was 1, then 2, and is 3 in no commit."""
    root = tmp_path_factory.mktemp("l'équipe")
    (root / "project").mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    for text in ("1", "2"):
        (root / "project" / "model.sql").write_text(text)
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", text)
        git(root, "tag", f"v{text}")
    (root / "project" / "model.sql").write_text("3")
    return root


@pytest.mark.parametrize(
    ("reference", "text"), [("v1", "1"), ("HEAD~1", "1"), ("main", "2"), ("HEAD", "2")]
)
def test_files_are_those_of_the_commit(reference, text, repository):
    with check_out_commit(repository / "project", reference) as files:
        assert [path.name for path in files.iterdir()] == ["model.sql"]
        assert (files / "model.sql").read_text() == text

    assert not files.exists()


def test_repository_is_only_read(repository):
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}

    with check_out_commit(repository, "v1"):
        pass

    after = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("reference", ["nowhere", "--output=x", "v1:project", ""])
def test_what_is_no_commit_is_said_with_the_remedy(reference, repository):
    message = f"« {reference} » n'est pas un commit de ce dépôt.*--unshallow"
    with pytest.raises(ConfigurationError, match=message), check_out_commit(repository, reference):
        pass


def test_folder_that_is_no_repository_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    with pytest.raises(ConfigurationError, match="git clone"), check_out_commit(tmp_path, "HEAD"):
        pass


def test_machine_without_git_is_said(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")

    with pytest.raises(ConfigurationError, match="installez"), check_out_commit(repository, "v1"):
        pass


def test_commit_of_a_folder_says_whether_files_differ_from_it(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    head = git(repository, "rev-parse", "--short", "HEAD").strip()

    assert read_current_commit(repository) == f"{head}+"
    assert read_current_commit(tmp_path) == ""


def test_repository_is_that_of_the_folder_whatever_the_shell_names(repository, monkeypatch):
    head = git(repository, "describe", "--always", "--exclude=*").strip()
    monkeypatch.setenv("GIT_DIR", "/nowhere")

    assert read_current_commit.__wrapped__(repository) == f"{head}+"
