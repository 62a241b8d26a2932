"""A dbt project parsed and rendered without BigQuery."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NoReturn

import agate
import dbt.flags
import jinja2
from dbt.adapters.bigquery.connections import BigQueryConnectionManager
from dbt.adapters.contracts.connection import AdapterResponse
from dbt.adapters.factory import get_adapter_by_type
from dbt.clients.jinja import add_rendered_test_kwargs, get_rendered
from dbt.context.providers import generate_runtime_model_context
from google.cloud.bigquery import SchemaField

from bi_pipeline.dbt_runs.encoding import name_undecodable_files
from bi_pipeline.dbt_runs.packages import packages_are_missing
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import DBT_PROJECT_DIR

# A mark in a template carries the number of its line into the SQL. If a mark were no SQL comment, a
# query that a macro makes of marked text would be refused.
MARK = re.compile(r"/\*line:(\d+)\*/")

DEFAULTS = {
    # Without a value, env_var() in a project fails the parse. Any name will do: it only stands in
    # the rendered SQL, which is never sent.
    "GCP_PROJECT_ID": "projet",
    "DBT_BIGQUERY_DATASET_DEV": "dev",
    "DBT_BIGQUERY_DATASET_PROD": "prod",
    # Otherwise dbt 1.12, after a long parse, gives a hint and writes in ~/.dbt that it did.
    "DBT_ENGINE_HINTS_ENABLED": "false",
    # Otherwise dbt 1.12 loads `.env` from the current folder upwards: a DBT_… line in it would set
    # a flag of this parse.
    "PYTHON_DOTENV_DISABLED": "1",
}

# dbt's own function, which `pretend_to_build` replaces: read there, it would be the replacement.
GET_FLAGS = dbt.flags.get_flag_obj

Place = tuple[int, int]


class NeedsBigQueryError(Exception):
    """A macro asks BigQuery something while it compiles."""


class DbtProject:
    """A dbt project, each node of which can be rendered without BigQuery."""

    def __init__(self, folder: Path, arguments: list[str], work: Path) -> None:
        """Parse the project with these further `arguments` of dbt, which writes in `work` alone."""
        self.folder = folder.resolve()
        self.config, self.manifest = parse_project(self.folder, arguments, work)
        self._asked_bigquery = False

    def answer_for_bigquery(
        self,
        find_columns: Callable[[str], list[SchemaField] | None],
        find_query_columns: Callable[[str], list[str] | None],
    ) -> None:
        """Have the macros that ask BigQuery answered by these functions, or refused.

        `find_columns` returns the columns of a relation (project, dataset and name, quoted), or
        None. `find_query_columns` returns the names of those of a query, which is answered by no
        row; None if it has no such answer.
        """
        adapter: Any = get_adapter_by_type("bigquery")
        adapter.set_macro_resolver(self.manifest)

        def refuse(*_: object, **__: object) -> NoReturn:
            self._asked_bigquery = True
            raise NeedsBigQueryError

        def get_columns(relation: Any) -> list[Any]:
            columns = find_columns(str(relation))
            if columns is None:
                refuse()
            return [adapter.Column.create_from_field(column) for column in columns]

        def get_relation(database: str, schema: str, identifier: str) -> Any:
            relation = adapter.Relation.create(database, schema, identifier, type="table")
            return None if find_columns(str(relation)) is None else relation

        def execute(sql: str, **_: object) -> tuple[AdapterResponse, agate.Table]:
            names = find_query_columns(sql)
            if names is None:
                refuse()
            self._asked_bigquery = True
            return AdapterResponse("OK"), agate.Table([], names, [agate.Text()] * len(names))

        adapter.execute = execute
        adapter.get_columns_in_relation = get_columns
        adapter.get_relation = get_relation
        BigQueryConnectionManager.open = refuse
        # Not connection_named(), which releases the connection: BigQuery's close() opens the lazy
        # handle first (dbt-bigquery 1.12.1), and `open` is `refuse`.
        adapter.acquire_connection("check")

    def list_nodes(self) -> Iterator[Any]:
        """Yield the nodes that dbt runs, each after those it reads."""
        nodes = self.manifest.nodes
        graph = {
            name: [parent for parent in node.depends_on_nodes if parent in nodes]
            for name, node in nodes.items()
        }
        for name in TopologicalSorter(graph).static_order():
            # dbt leaves in the manifest, disabled, the test of a model that is disabled or missing.
            if nodes[name].config.enabled:
                yield nodes[name]

    def list_seed_columns(self, seed: Any) -> dict[str, str]:
        """Return the columns of a seed and their types, as `dbt seed` would make them."""
        table = self._make_context(seed)["load_agate_table"]()
        adapter: Any = get_adapter_by_type("bigquery")
        types = seed.config.column_types
        return {
            # BigQuery's API, which makes the table, says FLOAT for the FLOAT64 of its SQL.
            name: adapter.Column.translate_type(
                types.get(name) or adapter.convert_type(table, index)
            )
            for index, name in enumerate(table.column_names)
        }

    def render(self, node: Any, *, incremental: bool, raw_code: str | None = None) -> str:
        """Return the SQL of a node, in which an ephemeral model is a table of its name.

        A macro's query is answered, by no row, only if `incremental`: that SQL has to be right on
        an empty table too. Raises NeedsBigQueryError, or what dbt raises when the node does not
        compile.
        """
        context = self._make_context(node)
        context["is_incremental"] = lambda: incremental
        if hasattr(node, "test_metadata"):
            add_rendered_test_kwargs(context, node)
        self._asked_bigquery = False
        try:
            sql = str(get_rendered(raw_code or node.raw_code, context, node))
        except Exception:
            # dbt may turn NeedsBigQueryError into an exception of its own: a model that only asks
            # BigQuery something would be called refused, instead of not judged.
            if self._asked_bigquery:
                raise NeedsBigQueryError from None
            raise
        if self._asked_bigquery and not incremental:
            # A macro may make columns out of BigQuery's answer, as a pivot does. Here the answer is
            # empty and the SQL lacks those columns: models that read them would be refused.
            raise NeedsBigQueryError
        return sql

    def find_partition_type(self, node: Any) -> str | None:
        """Return the type of `_dbt_max_partition` in the incremental SQL of a model, if any.

        dbt-bigquery declares it where it makes a temporary table of that SQL.
        """
        config = node.config
        partition = config.get("partition_by")
        is_merged = (config.incremental_strategy or "merge") == "merge"
        if not isinstance(partition, dict) or (is_merged and config.on_schema_change == "ignore"):
            return None
        kind = str(partition.get("data_type", "date"))
        if partition.get("time_ingestion_partitioning") and kind.lower() != "date":
            return "timestamp"
        return kind

    def find_file(self, node: Any) -> Path:
        """Return the file that a node is written in."""
        folder = self.folder
        if node.package_name != self.config.project_name:
            folder = Path(self.config.load_dependencies()[node.package_name].project_root)
        return folder / node.original_file_path

    def find_line(self, node: Any, sql: str, place: Place, *, incremental: bool) -> int | None:
        """Return the line of the node's file that a place in its SQL comes from, None if unsure.

        SQL that a macro writes comes from the line that calls the macro. A generic test or a
        snapshot that is written in YAML comes from the line that names it there.
        """
        text = self.find_file(node).read_text(encoding="utf-8")
        start = text.find(node.raw_code)
        if start < 0:
            return find_line_in_yaml(text, self._list_names(node))
        marked = ""
        with suppress(Exception):
            marked = self.render(node, incremental=incremental, raw_code=mark_lines(node.raw_code))
        # A macro that compares, counts or cuts its text does so with the marks too: if the SQL then
        # differs by more than the marks, a line found in it would be wrong.
        if MARK.sub("", marked) != sql:
            return None
        return text.count("\n", 0, start) + find_marked_line(marked, *place)

    def _list_names(self, node: Any) -> list[str]:
        """Return the names under which a node stands in its YAML file, from the outermost."""
        if not hasattr(node, "test_metadata"):
            return [node.name]
        tested = self.manifest.nodes.get(node.attached_node)
        names = (
            [tested.name] if tested else [parent.split(".")[-1] for parent in node.depends_on_nodes]
        )
        return [*names[:1], *([node.column_name] if node.column_name else [])]

    def _make_context(self, node: Any) -> dict[str, Any]:
        return generate_runtime_model_context(node, self.config, self.manifest)


def add_project_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which dbt project is read, and with which variables."""
    parser.add_argument(
        "--project-dir",
        type=Path,
        default=DBT_PROJECT_DIR,
        help="dossier du projet dbt (par défaut : dbt)",
    )
    parser.add_argument("--vars", default="{}", help="variables dbt, en YAML (par défaut : aucune)")


def parse_project(folder: Path, arguments: list[str], work: Path) -> tuple[Any, Any]:
    """Return the configuration and the manifest of a dbt project; nothing in it changes.

    dbt writes in `work` alone. Raises ConfigurationError with dbt's words.
    """
    require_project(folder)
    for name, value in DEFAULTS.items():
        # An empty variable counts as unset, as in PipelineSettings: left empty, it would give the
        # tables an empty project or dataset.
        os.environ[name] = os.environ.get(name) or value
    # Imported here: dbt.cli.main reads `.env` as soon as it is imported, unless
    # PYTHON_DOTENV_DISABLED is set.
    from dbt.cli.main import dbtRunner

    pretend_to_build()
    target = os.environ.get("DBT_TARGET") or "dev"
    output = {
        **{"type": "bigquery", "method": "oauth", "threads": 1},
        "project": os.environ["GCP_PROJECT_ID"],
        "dataset": os.environ.get(f"DBT_BIGQUERY_DATASET_{target.upper()}", target),
    }
    with tempfile.TemporaryDirectory(prefix="check-") as profiles:
        (Path(profiles) / "profiles.yml").write_text(
            json.dumps({"check": {"target": target, "outputs": {target: output}}})
        )
        answer = dbtRunner().invoke(
            [
                *("--log-level", "none", "--log-level-file", "none"),
                *("--no-send-anonymous-usage-stats", "parse"),
                *("--project-dir", str(folder), "--profiles-dir", profiles),
                *("--profile", "check", "--target", target),
                *("--target-path", str(work / "target"), "--log-path", str(work / "logs")),
                *arguments,
            ]
        )
    if isinstance(answer.exception, KeyboardInterrupt):
        raise answer.exception
    if answer.exception:
        (reason,) = name_undecodable_files([str(answer.exception)], folder)
        raise ConfigurationError(f"Projet dbt : {reason}\n{find_remedy(folder)}")
    return get_adapter_by_type("bigquery").config, answer.result


def require_project(folder: Path) -> None:
    """Raise ConfigurationError unless this is the folder of a dbt project."""
    if not (folder / "dbt_project.yml").is_file():
        what = "n'a pas de dbt_project.yml" if folder.is_dir() else "n'existe pas"
        raise ConfigurationError(
            f"Projet dbt : le dossier {show_path(folder)} {what}. Donnez à --project-dir celui qui "
            "contient dbt_project.yml."
        )


def pretend_to_build() -> None:
    """Have `flags.WHICH`, in the project's Jinja, say `build`, the command that runs every node.

    The parse has to see it as well: a `ref()` that it does not meet is refused when rendered.
    """

    def get_flag_obj() -> Any:
        flags = GET_FLAGS()
        flags.WHICH = "build"
        return flags

    dbt.flags.get_flag_obj = get_flag_obj


def find_remedy(folder: Path) -> str:
    """Return what to do, in French, about a project that dbt cannot parse."""
    shown = show_path(folder)
    if not packages_are_missing(folder):
        return f"Corrigez {shown}."
    if folder == DBT_PROJECT_DIR:
        return (
            "Les packages qu'il déclare ne sont pas installés : la pipeline les installe, et "
            "sans rien d'autre avec `.venv/bin/python prefect/pipeline.py --commands deps`."
        )
    return (
        "Les packages qu'il déclare ne sont pas installés : "
        f"`.venv/bin/dbt deps --project-dir {shlex.quote(str(shown))}`."
    )


def show_path(path: Path) -> Path:
    """Return a path as the user writes it: from the folder that the command is called from."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def mark_lines(raw_code: str) -> str:
    """Return a template that says, in comments, which line its text and values come from.

    `select {{ x }}` becomes `/*line:1*/select /*line:1*/{{ x }}`. In the SQL that it then gives,
    the last mark before an error says the line of that error, however many lines `x` has.
    """
    pieces = []
    for first, kind, text in jinja2.Environment().lex(raw_code):  # noqa: S701
        if kind == "data":
            lines = enumerate(text.split("\n"), first)
            pieces.append("\n".join(f"/*line:{number}*/{line}" for number, line in lines))
        elif kind == "variable_begin":
            pieces.append(f"/*line:{first}*/{text}")
        else:
            pieces.append(text)
    return "".join(pieces)


def find_marked_line(marked: str, line: int, column: int) -> int:
    """Return the line of the template that a place in what it rendered to comes from."""
    sql_lines = MARK.sub("", marked).split("\n")
    place = sum(len(text) + 1 for text in sql_lines[: line - 1]) + column - 1
    found, marks = 1, 0
    for mark in MARK.finditer(marked):
        if mark.start() - marks > place:
            break
        found, marks = int(mark[1]), marks + len(mark[0])
    return found


def find_line_in_yaml(text: str, names: list[str]) -> int | None:
    """Return the line of the last name, when each stands after the one before it."""
    entries = (rf"^[ -]*name: *['\"]?{re.escape(name)}['\"]? *$" for name in names)
    found = re.search(".*?".join(entries), text, re.MULTILINE | re.DOTALL)
    return text.count("\n", 0, found.end()) + 1 if found else None
