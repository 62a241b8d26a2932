"""GoogleSQL's own analyser: what BigQuery would say of a statement, without BigQuery.

The `zetasql` package holds Google's C++ analyser as a WebAssembly module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import wasmtime
from zetasql import types
from zetasql.core import wasm_client
from zetasql.core.exceptions import ServerError
from zetasql.core.local_service import ZetaSqlLocalService

# A table's columns, in order, and the path of a table: project, dataset, name (or a name alone).
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
POSITION = re.compile(r" \[at (\d+):(\d+)\]$")


class SqlError(Exception):
    """A refusal by the analyser, in its words, at a place: line and column, from 1."""

    def __init__(self, message: str, place: tuple[int, int]) -> None:
        super().__init__(message)
        self.place = place


class SqlAnalyser:
    """The analyser, with BigQuery's product mode and every released feature of the language."""

    def __init__(self, cache: Path) -> None:
        """Start the analyser: 15 s, under one once `cache` holds the compiled module."""
        keep_compiled_modules(cache)
        self.service = ZetaSqlLocalService.get_instance()
        self.language = types.LanguageOptions.maximum_features()
        self.language.product_mode = types.ProductMode.PRODUCT_EXTERNAL
        self.language.reserved_keywords = ["QUALIFY"]
        self.language.supported_statement_kinds = [
            kind for kind in types.ResolvedNodeKind if kind.name.endswith("_STMT")
        ]
        self.options = types.AnalyzerOptions(
            language_options=self.language,
            default_timezone="UTC",
            error_message_mode=types.ErrorMessageMode.ERROR_MESSAGE_ONE_LINE,
        )

    def find_columns(self, statement: str, tables: Mapping[TablePath, Columns]) -> Columns:
        """Return the columns that a statement gives on a BigQuery that has these tables alone.

        Raises SqlError.
        """
        try:
            answer = self.service.analyze(
                sql_statement=statement,
                options=self.options,
                simple_catalog=self._make_catalog(tables),
            )
        except ServerError as error:
            raise _make_sql_error(error) from None
        outputs = answer.resolved_statement.output_column_list
        return {output.name: output.column.type for output in outputs}

    def check_grammar(self, statement: str) -> None:
        """Read a statement for its grammar alone. Raises SqlError."""
        try:
            self.service.parse(sql_statement=statement, options=self.language)
        except ServerError as error:
            raise _make_sql_error(error) from None

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


def keep_compiled_modules(folder: Path) -> None:
    """Have wasmtime keep, in this folder, the modules that it compiles for zetasql.

    The package gives no way to configure wasmtime. The cache is keyed by the module and by
    wasmtime's version; what is damaged or deleted is compiled again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "wasmtime.toml"
    # Quoted as JSON, which TOML reads too: a quote or a backslash in the path would otherwise break
    # the file.
    directory = json.dumps(str(folder.resolve() / "modules"), ensure_ascii=False)
    settings.write_text(f"[cache]\ndirectory = {directory}\n", encoding="utf-8")

    def make_config() -> wasmtime.Config:
        config = wasmtime.Config()
        config.cache = str(settings)
        return config

    wasm_client.Config = make_config


def _make_table(name: str, columns: Columns) -> types.SimpleTable:
    pseudo_columns = {
        "_PARTITIONTIME": types.TypeKind.TYPE_TIMESTAMP,
        "_PARTITIONDATE": types.TypeKind.TYPE_DATE,
        "_TABLE_SUFFIX": types.TypeKind.TYPE_STRING,
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
