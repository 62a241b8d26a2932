"""Asks BigQuery for the columns of the dbt project's sources, and keeps them in the project.

Each table is asked for once, for its metadata: no query, no bytes billed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bi_pipeline.command_line import count, make_french_parser, say_errors
from support.bigquery_access import connect_to_bigquery
from support.dbt_offline import DbtProject, add_project_options
from support.source_columns import (
    FILE_NAME,
    ColumnTypes,
    SourceColumns,
    can_be_asked,
    dump_yaml,
    name_source,
    read_source_columns,
    write_source_columns,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.api_core.exceptions import ClientError
    from google.cloud.bigquery import Client, SchemaField
    from google.cloud.bigquery.table import TableReference

# The API's names of types that have another one in SQL.
SQL_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
TIMEOUT_SECONDS = 30


def list_column_types(schema: Sequence[SchemaField]) -> ColumnTypes:
    """Return the columns of a table and their types, as GoogleSQL writes them."""
    return {field.name: render_type(field) for field in schema}


def render_type(field: SchemaField) -> str:
    """Return the type of a column, or of a field of one, as GoogleSQL writes it."""
    kind = SQL_TYPES.get(field.field_type, field.field_type)
    limits = [n for n in (field.max_length, field.precision, field.scale) if n is not None]
    if kind == "STRUCT":
        parts = (f"{quote_name(part.name)} {render_type(part)}" for part in field.fields)
        kind += f"<{', '.join(parts)}>"
    elif kind == "RANGE":
        kind += f"<{field.range_element_type.element_type}>"
    elif limits:
        kind += f"({', '.join(map(str, limits))})"
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else kind


def quote_name(name: str) -> str:
    """Return a name as it can stand in SQL, in backquotes where it must."""
    from sqlglot.dialects.bigquery import BigQuery

    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    reserved = name.lower() in BigQuery.Generator.RESERVED_KEYWORDS
    return name if plain and not reserved else f"`{name}`"


def describe_changes(before: SourceColumns, after: SourceColumns) -> list[str]:
    """Return one line for each source that has changed, what may break a model as such."""
    lines = []
    for name in sorted(before | after):
        if name not in after:
            lines.append(f"! {name} : n'est plus une source du projet, retirée")
        elif name not in before:
            lines.append(f"+ {name} : {count(len(after[name]), 'colonne', 'colonnes')}")
        elif list(before[name].items()) != list(after[name].items()):
            lines.append(_describe_change(name, before[name], after[name]))
    return lines


def _describe_change(name: str, before: ColumnTypes, after: ColumnTypes) -> str:
    """Return the line of a source whose columns are not the same any more."""
    common = [column for column in before if column in after]
    changes = [f"{column} a disparu" for column in before if column not in after]
    changes += [
        f"{column} est {after[column]}, était {before[column]}"
        for column in common
        if after[column] != before[column]
    ]
    if common != [column for column in after if column in before]:
        changes.append("ses colonnes sont dans un autre ordre")
    sign = "!" if changes else "+"
    added = [column for column in after if column not in before]
    changes += [f"{column} est nouvelle ({after[column]})" for column in added]
    return f"{sign} {name} : {' ; '.join(changes)}"


def render_sources_yaml(sources: dict[str, Any], columns: SourceColumns) -> str:
    """Return the `sources:` that declare these columns; those of packages are not ours to declare.

    `sources` are dbt's, by their name in the file.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, source in sources.items():
        if name in columns and name == f"{source.source_name}.{source.name}":
            types = columns[name].items()
            declared = [{"name": column, "data_type": kind} for column, kind in types]
            table = {"name": source.name, "columns": declared}
            tables.setdefault(source.source_name, []).append(table)
    return dump_yaml({"sources": [{"name": name, "tables": tables[name]} for name in tables]})


def ask_columns(client: Client, source: Any) -> ColumnTypes:
    """Return the columns of a source's table. Raises ClientError if BigQuery does not show it."""
    from google.cloud.bigquery import DEFAULT_RETRY

    options = {"retry": DEFAULT_RETRY.with_timeout(TIMEOUT_SECONDS), "timeout": TIMEOUT_SECONDS}
    table = find_table(client, source, options)
    return list_column_types(client.get_table(table, **options).schema)


def find_table(client: Client, source: Any, options: dict[str, Any]) -> TableReference:
    """Return the table that a source names: of a wildcard's, the one whose columns BigQuery takes.

    `options` are those of the request. Raises NotFound for a wildcard of no table.
    """
    from google.api_core.exceptions import NotFound
    from google.cloud.bigquery import DatasetReference

    dataset = DatasetReference(source.database, source.schema)
    if not source.identifier.endswith("*"):
        return dataset.table(source.identifier)
    prefix = source.identifier.removesuffix("*")
    tables = client.list_tables(dataset, page_size=1000, **options)
    matching = [table for table in tables if table.table_id.startswith(prefix)]
    if not matching:
        raise NotFound(f"Aucune table {dataset.dataset_id}.{source.identifier}")
    return max(matching, key=lambda table: (table.created, table.table_id)).reference


def ask_all_columns(client: Client, sources: dict[str, Any]) -> tuple[SourceColumns, list[str]]:
    """Return the columns of these sources, and one message for each that BigQuery does not show.

    `sources` are dbt's, by their name in the file.
    """
    from google.api_core.exceptions import ClientError

    columns, failures = {}, []
    for name, source in sources.items():
        try:
            columns[name] = ask_columns(client, source)
        except ClientError as error:
            failures.append(describe_failure(name, source, error))
    return columns, failures


def describe_failure(name: str, source: Any, error: ClientError) -> str:
    """Return why BigQuery does not show the table of a source, and the remedy."""
    from google.api_core.exceptions import Forbidden

    reason = error.errors[0]["message"] if error.errors else error.message
    remedy = (
        f"corrigez cette source dans {source.original_file_path}, ou désactivez-la "
        "(`enabled: false`)"
    )
    if isinstance(error, Forbidden):
        remedy = (
            "donnez au compte de service le rôle BigQuery Metadata Viewer sur "
            f"{source.database}.{source.schema}, ou {remedy}"
        )
    return f"✗ {name} : {reason.splitlines()[0]}\n    → {remedy}"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_french_parser(
        "record_sources.py",
        f"Demande à BigQuery les colonnes des sources du projet dbt, sans lire une ligne, et les "
        f"garde dans son fichier {FILE_NAME}, que `make check` lit. Dit ce qui a changé.",
    )
    parser.add_argument(
        "--yaml",
        action="store_true",
        help="montrer le YAML à coller dans le fichier de vos sources, sans rien écrire",
    )
    add_project_options(parser)
    return parser.parse_args(argv)


def list_sources(folder: Path, variables: str) -> dict[str, Any]:
    """Return dbt's sources of the project in this folder, by their name in the file.

    Those over INFORMATION_SCHEMA are left out.
    """
    with tempfile.TemporaryDirectory(prefix="types-") as work:
        project = DbtProject(folder, ["--vars", variables], Path(work))
    own_name, sources = project.config.project_name, project.manifest.sources.values()
    asked = (source for source in sources if can_be_asked(source))
    return {name_source(source, own_name): source for source in asked}


def say_changes(folder: Path, before: SourceColumns, after: SourceColumns) -> None:
    """Say what has changed of what the dbt project in this folder keeps, if anything has."""
    changes = describe_changes(before, after)
    everything = [column for columns in after.values() for column in columns]
    columns = count(len(everything), "colonne", "colonnes")
    total = f"{count(len(after), 'source', 'sources')}, {columns}"
    file = f"{folder.resolve().name}/{FILE_NAME}"
    for line in changes:
        print(line)
    if changes:
        print(f"{file} est à jour ({total}) : committez-le.")
    else:
        print(f"Rien n'a changé dans {file} ({total}).")


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Keep the columns of the sources, or show them as YAML; return 2 if one cannot be read."""
    arguments = parse_arguments(argv)
    folder: Path = arguments.project_dir
    kept = {} if arguments.yaml else read_source_columns(folder) or {}
    client, settings = connect_to_bigquery()
    # The project's YAML names the datasets of its sources by env_var(): without these variables,
    # dbt could not parse it.
    os.environ |= settings.to_mapping() | {"GCP_PROJECT_ID": client.project}
    sources = list_sources(folder, arguments.vars)
    columns, failures = ask_all_columns(client, sources)
    if arguments.yaml:
        print(render_sources_yaml(sources, columns), end="")
    else:
        unread = sources.keys() - columns.keys()
        columns |= {name: types for name, types in kept.items() if name in unread}
        if columns or kept:
            write_source_columns(folder, columns)
        say_changes(folder, kept, columns)
    for line in failures:
        print(line, file=sys.stderr)
    if failures and kept:
        print("Ce que le fichier en disait reste.", file=sys.stderr)
    return 2 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
