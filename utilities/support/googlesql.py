"""GoogleSQL's own analyser: what BigQuery would say of a statement, without BigQuery.

The `zetasql` package holds Google's C++ analyser as a WebAssembly module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import wasmtime
from google.cloud.bigquery import SchemaField
from google.protobuf.message import DecodeError
from zetasql import types
from zetasql.core import wasm_client
from zetasql.core.exceptions import ServerError
from zetasql.core.local_service import ZetaSqlLocalService

# A table's columns: in the table's own order, as `select *` and `union all` go by it.
Columns = dict[str, types.Type]
TablePath = tuple[str, ...]
STRING = types.Type(type_kind=types.TypeKind.TYPE_STRING)
TIMESTAMP = types.Type(type_kind=types.TypeKind.TYPE_TIMESTAMP)

# BigQuery's other names for its types. The analyser knows one name a type: without these, it
# would refuse `cast(x as integer)`, which BigQuery accepts.
ALIASES = {
    **dict.fromkeys(("INT", "INTEGER", "BIGINT", "SMALLINT", "TINYINT", "BYTEINT"), "INT64"),
    **{"BOOLEAN": "BOOL", "DECIMAL": "NUMERIC", "BIGDECIMAL": "BIGNUMERIC"},
}
# dbt compares types by the names of BigQuery's SQL and of its API. With the analyser's own names
# (DOUBLE), a contract that holds would be refused.
SQL_NAMES = {"DOUBLE": "FLOAT64"}
API_NAMES = {"DOUBLE": "FLOAT", "INT64": "INTEGER", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
# The analyser's released language is not quite BigQuery's: with the first, it would accept arrays
# and JSON that are compared, ordered or grouped by; without the second, refuse what BigQuery takes.
NOT_IN_BIGQUERY = {"JSON_TYPE_COMPARISON", "ARRAY_EQUALITY", "ARRAY_ORDERING"}
ALSO_IN_BIGQUERY = {"DIFFERENTIAL_PRIVACY", "LIKE_ANY_SOME_ALL_ARRAY"}
TOO_DEEP = "Expression too deep for zetasql"
POSITION = re.compile(r" \[at (\d+):(\d+)\]$")


class SqlError(Exception):
    """A refusal by the analyser, in its words, at a place: line and column, from 1."""

    def __init__(self, message: str, place: tuple[int, int]) -> None:
        super().__init__(message)
        self.place = place


class SqlAnalyser:
    """The analyser, with BigQuery's product mode and BigQuery's language."""

    def __init__(self, folder: Path) -> None:
        """Start the analyser: 15 s, under one once `folder` holds the compiled module."""
        keep_compiled_modules(folder)
        self.service = ZetaSqlLocalService.get_instance()
        self.language = types.LanguageOptions.maximum_features()
        self.language.product_mode = types.ProductMode.PRODUCT_EXTERNAL
        released = set(self.language.enabled_language_features)
        self.language.enabled_language_features = sorted(
            released - _find_features(NOT_IN_BIGQUERY) | _find_features(ALSO_IN_BIGQUERY)
        )
        self.language.reserved_keywords = ["QUALIFY", "MATCH_RECOGNIZE", "GRAPH_TABLE"]
        self.language.supported_statement_kinds = [
            kind for kind in types.ResolvedNodeKind if kind.name.endswith("_STMT")
        ]
        self.options = types.AnalyzerOptions(
            language_options=self.language,
            default_timezone="UTC",
            error_message_mode=types.ErrorMessageMode.ERROR_MESSAGE_ONE_LINE,
        )
        # A project has thousands of columns, of some ten types: without a cache, the analyser would
        # be asked for each column.
        self.find_type = cache(self._find_type)

    def find_columns(
        self,
        statement: str,
        tables: Mapping[TablePath, Columns],
        variables: Mapping[str, types.Type] | None = None,
    ) -> Columns:
        """Return the columns that a statement gives on a BigQuery that has these tables alone.

        `variables` are those that its script has declared before it. Raises SqlError.
        """
        catalog = self._make_catalog(tables)
        # The statement is read without the script that declares its variables: unless they are
        # there as constants, each would be an unknown name.
        catalog.constant = [
            types.SimpleConstant(name_path=[name], type=kind, value=types.Value())
            for name, kind in (variables or {}).items()
        ]
        try:
            answer = self.service.analyze(
                sql_statement=statement, options=self.options, simple_catalog=catalog
            )
        except ServerError as error:
            raise _make_sql_error(error) from None
        except DecodeError:
            # protobuf refuses answers of more than a hundred levels, as a sum of sixty terms makes:
            # a traceback, for SQL that BigQuery takes.
            raise SqlError(TOO_DEEP, (1, 1)) from None
        outputs = answer.resolved_statement.output_column_list
        return {output.name: output.column.type for output in outputs}

    def _find_type(self, name: str) -> types.Type:
        """Return the type that has this name in BigQuery's SQL. Raises SqlError."""
        return self.find_columns(f"select cast(null as {name}) as x", {})["x"]

    def list_expressions(self, statement: str) -> list[range]:
        """Return where the expressions of a statement are, in bytes, but names and literals.

        The smallest comes first. None are returned for a statement that is TOO_DEEP.
        """
        try:
            parsed = self.service.parse(sql_statement=statement, options=self.language)
        except DecodeError:
            return []
        found = (
            range(place.start, place.end)
            for node in _list_nodes(parsed.parsed_statement)
            if isinstance(node, types.ASTExpression)
            and not isinstance(node, (types.ASTLeaf, types.ASTIdentifier, types.ASTPathExpression))
            and (place := node.parse_location_range)
        )
        return sorted(found, key=len)

    def _make_catalog(self, tables: Mapping[TablePath, Columns]) -> types.SimpleCatalog:
        root = types.SimpleCatalog(
            name="bigquery",
            builtin_function_options=types.ZetaSQLBuiltinFunctionOptions(
                language_options=self.language
            ),
            named_type=[
                types.SimpleCatalog.NamedType(
                    name=alias, type=types.Type(type_kind=types.TypeKind[f"TYPE_{name}"])
                )
                for alias, name in ALIASES.items()
            ],
        )
        folders: dict[TablePath, types.SimpleCatalog] = {(): root}
        for path, columns in tables.items():
            for depth in range(1, len(path)):
                if path[:depth] not in folders:
                    folders[path[:depth]] = types.SimpleCatalog(name=path[depth - 1])
                    folders[path[: depth - 1]].catalog.append(folders[path[:depth]])
            folders[path[:-1]].table.append(_make_table(path[-1], columns))
        return root


def _find_features(names: set[str]) -> set[types.LanguageFeature]:
    return {types.LanguageFeature[f"FEATURE_{name}"] for name in names}


def _list_nodes(root: types.ASTNode) -> list[types.ASTNode]:
    """Return a node of a syntax tree, and all those below it."""
    nodes = [root]
    # No recursion: a sum of a thousand terms is a thousand nodes deep, too deep for Python.
    for node in nodes:
        for value in vars(node).values():
            children = value if isinstance(value, list) else [value]
            nodes += (child for child in children if isinstance(child, types.ASTNode))
    return nodes


def keep_compiled_modules(folder: Path) -> None:
    """Have wasmtime keep, in this folder, the modules that it compiles for zetasql.

    The package gives no way to configure wasmtime. The cache is keyed by the module and by
    wasmtime's version; what is damaged or deleted is compiled again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "wasmtime.toml"
    # Quoted as JSON, which TOML reads too: a quote or a backslash in the path would otherwise break
    # the file.
    directory = json.dumps(str(find_module_folder(folder).resolve()), ensure_ascii=False)
    settings.write_text(f"[cache]\ndirectory = {directory}\n", encoding="utf-8")

    def make_config() -> wasmtime.Config:
        config = wasmtime.Config()
        config.cache = str(settings)
        return config

    wasm_client.Config = make_config


def find_module_folder(folder: Path) -> Path:
    """Return where in `folder` the modules of these versions are kept, once compiled."""
    return folder / f"zetasql-{version('zetasql')}-wasmtime-{version('wasmtime')}"


def is_compiled(folder: Path) -> bool:
    """Return whether `folder` holds the compiled module."""
    files = find_module_folder(folder).glob("modules/*/*")
    return any(path.suffix != ".stats" for path in files)


def name_type(kind: types.Type) -> str:
    """Return the name of a type in BigQuery's SQL: `FLOAT64`, `STRUCT<x INT64>`."""
    if kind.array_type:
        return f"ARRAY<{name_type(kind.array_type.element_type)}>"
    if kind.struct_type:
        fields = (f"{x.field_name} {name_type(x.field_type)}" for x in kind.struct_type.field)
        return f"STRUCT<{', '.join(field.strip() for field in fields)}>"
    name = str(kind)
    return SQL_NAMES.get(name, name)


def list_types(columns: Columns) -> dict[str, str]:
    """Return the name of each column's type, fields apart: `{"a": "STRUCT", "a.b": "INT64"}`."""
    return {
        name: kind for column, type_ in columns.items() for name, kind in _flatten(column, type_)
    }


def _flatten(name: str, kind: types.Type) -> Iterator[tuple[str, str]]:
    element = kind.array_type.element_type if kind.array_type else kind
    if not element.struct_type:
        yield name, name_type(kind)
        return
    yield name, "ARRAY<STRUCT>" if kind.array_type else "STRUCT"
    for field in element.struct_type.field:
        yield from _flatten(f"{name}.{field.field_name}", field.field_type)


def make_schema_field(name: str, kind: types.Type) -> SchemaField:
    """Return a column as BigQuery's API describes it, which is what dbt-bigquery reads."""
    element = kind.array_type.element_type if kind.array_type else kind
    type_name = element.type_kind.name.removeprefix("TYPE_")
    fields = element.struct_type.field if element.struct_type else ()
    return SchemaField(
        name,
        API_NAMES.get(type_name, type_name),
        mode="REPEATED" if kind.array_type else "NULLABLE",
        fields=[make_schema_field(field.field_name, field.field_type) for field in fields],
    )


def _make_table(name: str, columns: Columns) -> types.SimpleTable:
    pseudo_columns = {
        "_PARTITIONTIME": types.TypeKind.TYPE_TIMESTAMP,
        "_PARTITIONDATE": types.TypeKind.TYPE_DATE,
        "_TABLE_SUFFIX": types.TypeKind.TYPE_STRING,
        "_FILE_NAME": types.TypeKind.TYPE_STRING,
    }
    return types.SimpleTable(
        name=name,
        column=[types.SimpleColumn(name=column, type=kind) for column, kind in columns.items()]
        + [
            types.SimpleColumn(name=column, type=types.Type(type_kind=kind), is_pseudo_column=True)
            for column, kind in pseudo_columns.items()
        ],
    )


def _make_sql_error(error: ServerError) -> SqlError:
    # Not error.message, which zetasql 0.1.5 cuts after the first line: the place of the error, at
    # the end of the last line, would be lost.
    message = error.raw_error.partition("Message: ")[2] or str(error)
    position = POSITION.search(message)
    place = (int(position[1]), int(position[2])) if position else (1, 1)
    return SqlError(POSITION.sub("", message), place)
