"""The files of a dbt project that dbt cannot decode."""

import pytest

from bi_pipeline.dbt_runs.encoding import name_undecodable_files

# dbt 1.12, which names no file.
UNDECODABLE = (
    "[ERROR]: Encountered an error:\n"
    "'utf-8' codec can't decode byte 0xe9 in position 18: invalid continuation byte"
)


@pytest.fixture
def project_dir(tmp_path):
    """A project with a model in Latin-1, and such a file that dbt does not read."""
    for folder in ("models", "target"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "late.sql").write_bytes("select 1 as id\n-- été".encode("latin-1"))
    (tmp_path / "models" / "fine.sql").write_text("-- été")
    return tmp_path


def test_file_that_is_not_utf_8_is_named_with_its_line(project_dir):
    (said,) = name_undecodable_files([UNDECODABLE], project_dir)

    assert said.startswith("pas en UTF-8 : models/late.sql (ligne 2). Enregistrez")


def test_other_errors_are_left_as_they_are(project_dir):
    assert name_undecodable_files(["Compilation Error"], project_dir) == ["Compilation Error"]
