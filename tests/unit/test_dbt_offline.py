"""The line of a model's file that a line of its SQL comes from."""

import pytest

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import DBT_PROJECT_DIR
from support.dbt_offline import (
    MARK,
    find_line_in_yaml,
    find_marked_line,
    find_remedy,
    mark_lines,
    parse_project,
)
from support.googlesql import POSITION

TEMPLATE = """\
{{ config(
    materialized='table'
) }}
select
    {% for x in [1, 2] -%}
    {{ x }} as a{{ x }},
    {% endfor %}
    nope
from t"""


def render(template):
    """Return what the template gives, as dbt's own Jinja would."""
    from dbt.clients.jinja import get_rendered

    return get_rendered(template, {"config": lambda **_: ""})


@pytest.mark.parametrize(
    ("text", "raw_line"),
    [("select", 4), ("1 as a1", 6), ("2 as a2", 6), ("nope", 8), ("from t", 9)],
)
def test_place_in_the_sql_leads_to_the_line_of_the_template(text, raw_line):
    sql = render(TEMPLATE)
    before = sql[: sql.index(text)]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1

    found = find_marked_line(render(mark_lines(TEMPLATE)), line, column)

    assert found == raw_line


def test_marks_are_comments_that_leave_the_sql_as_it_was():
    assert MARK.sub("", render(mark_lines(TEMPLATE))) == render(TEMPLATE)


@pytest.mark.parametrize(
    ("names", "line"), [(["orders", "id"], 7), (["orders", "date"], None), (["id"], 4)]
)
def test_generic_test_leads_to_its_column_of_its_model(names, line):
    text = """\
models:
  - name: other
    columns:
      - name: id
  - name: orders
    columns:
      - name: id
"""

    assert find_line_in_yaml(text, names) == line


def test_place_of_an_error_is_read_from_its_end():
    assert POSITION.search("Type not found: [at 1:1] x [at 3:14]").groups() == ("3", "14")


def test_remedy_for_a_project_elsewhere_names_its_folder(tmp_path):
    assert find_remedy(tmp_path) == f"Corrigez {tmp_path}."

    (tmp_path / "packages.yml").write_text("packages: [{package: dbt-labs/dbt_utils}]")

    assert f"`.venv/bin/dbt deps --project-dir {tmp_path}`" in find_remedy(tmp_path)


def test_remedy_for_the_packages_of_our_project_is_the_pipeline_that_installs_them(monkeypatch):
    monkeypatch.setattr("support.dbt_offline.packages_are_missing", lambda folder: True)

    assert "prefect/pipeline.py --commands deps" in find_remedy(DBT_PROJECT_DIR)


def test_folder_without_a_project_is_said_with_what_to_give(tmp_path):
    for folder, what in ((tmp_path / "nowhere", "n'existe pas"), (tmp_path, "n'a pas de")):
        with pytest.raises(ConfigurationError) as error:
            parse_project(folder, [], tmp_path / "work")

        assert f"le dossier {folder} {what}" in str(error.value)
        assert "Donnez à --project-dir celui qui contient dbt_project.yml." in str(error.value)
