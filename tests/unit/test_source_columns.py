"""The columns of the sources: how they are written, kept and compared."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from google.api_core.exceptions import Forbidden, NotFound
from google.cloud.bigquery import SchemaField

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import DBT_PROJECT_DIR
from check_sql import Check
from record_sources import (
    describe_changes,
    describe_failure,
    list_column_types,
    render_sources_yaml,
)
from support.source_columns import (
    HEADER,
    name_command,
    name_source,
    read_source_columns,
    render_source_columns,
    write_source_columns,
)


def make_field(kind, **more):
    """Return a column as BigQuery's API answers it."""
    return SchemaField.from_api_repr({"name": "x", "type": kind, **more})


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (make_field("INTEGER"), "INT64"),
        (make_field("FLOAT"), "FLOAT64"),
        (make_field("BOOLEAN", mode="REQUIRED"), "BOOL"),
        (make_field("TIMESTAMP"), "TIMESTAMP"),
        (make_field("STRING", mode="REPEATED"), "ARRAY<STRING>"),
        (make_field("STRING", maxLength="5"), "STRING(5)"),
        (make_field("NUMERIC", precision="10", scale="2"), "NUMERIC(10, 2)"),
        (make_field("BIGNUMERIC", precision="40", mode="REPEATED"), "ARRAY<BIGNUMERIC(40)>"),
        (make_field("RANGE", rangeElementType={"type": "DATE"}), "RANGE<DATE>"),
        (
            make_field(
                "RECORD",
                mode="REPEATED",
                fields=[
                    {"name": "key", "type": "STRING"},
                    {"name": "value", "type": "RECORD", "fields": [{"name": "a", "type": "FLOAT"}]},
                ],
            ),
            "ARRAY<STRUCT<key STRING, value STRUCT<a FLOAT64>>>",
        ),
        (
            make_field(
                "STRUCT",
                fields=[{"name": n, "type": "INTEGER"} for n in ("order", "Order", "é", "_2", "2")],
            ),
            "STRUCT<`order` INT64, `Order` INT64, `é` INT64, _2 INT64, `2` INT64>",
        ),
    ],
)
def test_type_is_written_as_in_sql(field, kind):
    assert list_column_types([field]) == {"x": kind}


SALES = {"id": "INT64", "amount": "FLOAT64", "sold_at": "TIMESTAMP"}


@pytest.mark.parametrize(
    ("after", "line"),
    [
        ({"shop.sales": SALES}, None),
        (
            {"shop.sales": SALES | {"country": "STRING"}},
            "+ shop.sales : country est nouvelle (STRI",
        ),
        ({"shop.sales": SALES | {"amount": "NUMERIC"}}, "! shop.sales : amount est NUMERIC, était"),
        (
            {"shop.sales": {"id": "INT64", "sold_at": "TIMESTAMP", "total": "FLOAT64"}},
            "! shop.sales : amount a disparu ; total est nouvelle (FLOAT64)",
        ),
        (
            {"shop.sales": dict(reversed(SALES.items()))},
            "! shop.sales : ses colonnes sont dans un autre ordre",
        ),
        ({"shop.sales": SALES, "shop.a": {"id": "INT64"}}, "+ shop.a : 1 colonne"),
        ({}, "! shop.sales : n'est plus une source du projet, retirée"),
    ],
)
def test_change_of_a_source_is_one_line(after, line):
    lines = describe_changes({"shop.sales": SALES}, after)

    assert len(lines) == (1 if line else 0)
    assert not line or lines[0].startswith(line)


def test_file_has_its_sources_by_name_and_a_type_a_line():
    nested = f"STRUCT<{', '.join(f'field_{n} INT64' for n in range(30))}>"
    sources = {"shop.sales": {"yes": "DATE", "à b": nested}, "shop.customers": {"id": "INT64"}}

    assert render_source_columns(sources) == (
        f"{HEADER}shop.customers:\n  id: INT64\nshop.sales:\n  'yes': DATE\n  à b: {nested}\n"
    )


def test_file_is_read_as_it_was_written_through_its_link_and_nothing_else_is_left(tmp_path):
    (tmp_path / "kept.yml").touch()
    (tmp_path / "source_columns.yml").symlink_to("kept.yml")
    sources = {"shop.empty": {}, "shop.sales": {"on": "DATE", "1e3": "INT64", "null": "JSON"}}

    write_source_columns(tmp_path, sources)

    assert read_source_columns(tmp_path) == sources
    assert (tmp_path / "source_columns.yml").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_writing_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    write_source_columns(tmp_path, {"shop.sales": SALES})
    before = (tmp_path / "source_columns.yml").read_text()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))

    with pytest.raises(OSError, match="full"):
        write_source_columns(tmp_path, {})

    assert [path.read_text() for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize(
    "text", ["<<<<<<< HEAD\n", "shop.sales: INT64\n", "[]\n", "a: {b", "shop.sales:\n  id: 1\n"]
)
def test_file_of_another_form_is_refused_with_the_remedy(tmp_path, text):
    (tmp_path / "source_columns.yml").write_text(text)

    with pytest.raises(ConfigurationError, match=r"source_columns\.yml .* supprimez-le, puis"):
        read_source_columns(tmp_path)


def test_project_without_the_file_keeps_nothing(tmp_path):
    assert read_source_columns(tmp_path) is None


def test_remedy_is_the_command_for_the_folder_of_the_project(tmp_path):
    assert name_command(DBT_PROJECT_DIR) == "make types"
    assert name_command(tmp_path).endswith(f"utilities/record_sources.py --project-dir {tmp_path}")
    # Pasted, it names this folder.
    assert shlex.split(name_command(Path("/projet d'Alice")))[-1] == "/projet d'Alice"


def make_source(package="cafe", relation="`p`.`raw`.`sales`"):
    """Return a source as dbt parses it, without types."""
    return SimpleNamespace(
        **{
            "package_name": package,
            "source_name": "shop",
            "name": "sales",
            "columns": {},
            "external": None,
        },
        **{"unique_id": f"source.{package}.shop.sales", "relation_name": relation},
        **{"original_file_path": "models/s.yml", "database": "p", "schema": "raw"},
    )


def test_source_of_a_package_bears_its_name():
    assert name_source(make_source("ga4"), "cafe") == "ga4.shop.sales"
    assert name_source(make_source("cafe"), "cafe") == "shop.sales"


def test_yaml_declares_the_columns_of_the_project_s_own_sources():
    sources = {"shop.sales": make_source(), "ga4.shop.sales": make_source("ga4")}

    text = render_sources_yaml(sources, {name: {"id": "INT64"} for name in sources})

    columns = [{"name": "id", "data_type": "INT64"}]
    tables = [{"name": "sales", "columns": columns}]
    assert yaml.safe_load(text) == {"sources": [{"name": "shop", "tables": tables}]}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotFound("Not found: Table p:raw.sales"), "Table p:raw.sales\n    → corrigez"),
        (Forbidden("Access Denied"), "Access Denied\n    → donnez au compte de service le rôle"),
    ],
)
def test_table_that_cannot_be_read_is_said_with_the_remedy(error, words):
    said = describe_failure("shop.sales", make_source(), error)

    assert said.startswith("✗ shop.sales : ")
    assert words in said
    assert "models/s.yml" in said


@pytest.mark.parametrize(
    ("kept", "read", "relation", "missing"),
    [
        (None, True, "`p`.`raw`.`sales`", []),
        ({}, True, "`p`.`raw`.`sales`", ["shop.sales"]),
        ({}, False, "`p`.`raw`.`sales`", []),
        ({"shop.sales": {}}, True, "`p`.`raw`.`sales`", []),
        # make types cannot ask for it.
        ({}, True, "`p`.`region-eu.INFORMATION_SCHEMA`.`JOBS`", []),
    ],
)
def test_source_is_missing_from_the_file_if_the_project_reads_it(kept, read, relation, missing):
    source = make_source(relation=relation)
    node = SimpleNamespace(depends_on_nodes=[source.unique_id] if read else [])
    manifest = SimpleNamespace(nodes={"model": node}, sources={source.unique_id: source})
    project = SimpleNamespace(manifest=manifest, config=SimpleNamespace(project_name="cafe"))

    assert Check(None, project, kept).list_missing_sources() == missing
