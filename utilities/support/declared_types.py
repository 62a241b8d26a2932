"""The types that a dbt project's YAML gives to columns, as BigQuery's SQL writes them."""

from __future__ import annotations

import re
from collections import defaultdict
from difflib import get_close_matches
from typing import Any

from dbt.adapters.bigquery.column import BigQueryColumn, get_nested_column_data_types

# A type that BigQuery has not is answered by the nearest of these. Those of other databases have
# their equivalent beside them: by its letters, `varchar` is near none.
TYPES = (
    *("ARRAY", "BIGNUMERIC", "BOOL", "BYTES", "DATE", "DATETIME", "FLOAT64", "GEOGRAPHY", "INT64"),
    *("INTERVAL", "JSON", "NUMERIC", "RANGE", "STRING", "STRUCT", "TIME", "TIMESTAMP"),
)
TYPES_ELSEWHERE = {
    **dict.fromkeys(("CHAR", "CHARACTER", "NCHAR", "NVARCHAR", "TEXT", "VARCHAR"), "STRING"),
    **dict.fromkeys(("DOUBLE", "FLOAT", "REAL"), "FLOAT64"),
    **dict.fromkeys(("BINARY", "BLOB", "VARBINARY"), "BYTES"),
    **dict.fromkeys(("OBJECT", "SUPER", "VARIANT"), "JSON"),
    **{"RECORD": "STRUCT", "NUMBER": "NUMERIC"},
}
UNKNOWN_TYPE = re.compile(r"Type not found: `?(\w+)")


def list_declared_types(node: Any) -> dict[str, str]:
    """Return the type of each column that the YAML of a node lists, empty if it does not say.

    `a.b` is a field of the column `a`: of a struct, or of the array of structs that `a` is said to
    be. A RECORD may be either. The partitions of an external table are columns of it.
    """
    partitions = _list_partitions(node)
    types = {column.name: column.data_type or "" for column in node.columns.values()}
    types |= {partition.name: partition.data_type for partition in partitions}
    # Some quote a column's name in their YAML, for dbt: the table's column has no backticks.
    return _nest({name.replace("`", ""): kind for name, kind in types.items()})


def lists_all_columns(source: Any) -> bool:
    """Return whether the YAML of a source lists all its columns, each with its type.

    An external table has a column for each partition in the paths of its files as well.
    """
    options = source.external.extra.get("options") if source.external is not None else None
    partitioned = "hive_partition_uri_prefix" in (options or {})
    types = list_declared_types(source)
    return bool(types and all(types.values()) and (not partitioned or _list_partitions(source)))


def _list_partitions(node: Any) -> list[Any]:
    """Return the partitions of an external table that have a name and a type in its YAML."""
    partitions = getattr(getattr(node, "external", None), "partitions", None) or []
    return [partition for partition in partitions if not isinstance(partition, str)]


def list_contract_types(node: Any) -> dict[str, str]:
    """Return the type of each column that the contract of a model promises, as dbt reads it."""
    columns = {
        name: {"name": name, "data_type": column.data_type}
        for column in node.columns.values()
        for name in [column.name.replace("`", "")]
    }
    if node.contract.alias_types:
        for column in columns.values():
            column["data_type"] = BigQueryColumn.translate_type(column["data_type"])
    nested = get_nested_column_data_types(columns)
    return {name: column["data_type"] or "" for name, column in nested.items()}


def explain_type_error(column: str, kind: str, error: Exception) -> str:
    """Return why BigQuery has no such type, in French, with the nearest that it has."""
    unknown = UNKNOWN_TYPE.match(str(error))
    if not unknown:
        return f"{column} : type {kind} : {error}"
    nearest = find_nearest_type(unknown[1])
    return f"{column} : BigQuery n'a pas de type {unknown[1]} ; le plus proche est {nearest}"


def find_nearest_type(name: str) -> str:
    """Return the type of BigQuery that is meant, or spelled, most like this one."""
    known = TYPES_ELSEWHERE | {kind: kind for kind in TYPES}
    return known[get_close_matches(name.upper(), known, n=1, cutoff=0)[0]]


def _nest(types: dict[str, str]) -> dict[str, str]:
    """Return the types of the columns, made with those of their fields."""
    fields: dict[str, dict[str, str]] = defaultdict(dict)
    for name, kind in types.items():
        column, _, field = name.partition(".")
        fields[column] |= {field: kind} if field else {}
    return {column: _join(types.get(column, "STRUCT"), _nest(fields[column])) for column in fields}


def _join(kind: str, fields: dict[str, str]) -> str:
    """Return the type of a column that the YAML says of this kind, with these fields."""
    kind = BigQueryColumn.translate_type(kind)
    if kind.upper() not in ("STRUCT", "ARRAY", "ARRAY<STRUCT>"):
        # Any other type is written whole, with its fields. RECORD says neither STRUCT nor ARRAY.
        return "" if kind.upper() == "RECORD" else kind
    if not fields or not all(fields.values()):
        return ""
    struct = f"STRUCT<{', '.join(f'`{field}` {type_}' for field, type_ in fields.items())}>"
    return struct if kind.upper() == "STRUCT" else f"ARRAY<{struct}>"
