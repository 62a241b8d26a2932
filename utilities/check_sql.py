"""Has GoogleSQL's own analyser read the dbt project: every name, every type, without BigQuery.

It reads each model, snapshot and test as dbt writes it, incremental models twice, against
the columns that the sources declare and that the models give each other.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bi_pipeline.command_line import make_french_parser, say_errors
from bi_pipeline.settings import PROJECT_ROOT, load_environment
from support.dbt_offline import DbtProject, NeedsBigQueryError
from support.googlesql import STRING, TIMESTAMP, Columns, SqlAnalyser, SqlError, TablePath
from support.source_columns import (
    FILE_NAME,
    SourceColumns,
    can_be_asked,
    name_command,
    name_source,
    read_source_columns,
)

# BigQuery's API, and a YAML written after it, says FLOAT for the FLOAT64 of its SQL: the cast of
# such a column would be refused.
API_TYPES = {"FLOAT": "FLOAT64"}
# What is read, in French. Seeds and sources, which have no SQL, are said in their own word.
KINDS = {"model": "modèle", "snapshot": "snapshot", "test": "test"}
OWN_MATERIALIZATIONS = {
    *("table", "view", "incremental", "ephemeral", "materialized_view", "snapshot", "test"),
}
# What the analyser does not have and BigQuery may: another team's tables and functions, models.
# A name without a dot is BigQuery's own function, which has to be one of these.
BEYOND = re.compile(
    r"Table not found: \S*\.|Function not found: \S*\.|Table-valued function not found|"
    r"Model not found|Unrecognized name: @@|"
    r"Function not found: (contains_substr|search|vector_search|text_analyze|bag_of_words|tf_idf|"
    r"collate|m(in|ax)_by|dlp_\w+|st_regionstats|external_object_transform)\b",
    re.IGNORECASE,
)


@dataclass
class Check:
    """What has been read of a project so far, and the columns that came out of it."""

    analyser: SqlAnalyser
    project: DbtProject
    # What the project keeps of its sources, None without such a file.
    kept: SourceColumns | None = None
    columns: dict[TablePath, Columns] = field(default_factory=dict)
    # Why a node's columns are not known: a node that reads it cannot be judged either.
    unknown: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    # For a reason, what could not be judged.
    not_judged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    statements: int = 0

    def read(self) -> None:
        """Read the whole project, each node after those it reads."""
        self.project.answer_for_bigquery(self.find_declared_types, self.find_query_columns)
        for source in self.project.manifest.sources.values():
            types = self._find_source_types(source)
            if types:
                self._learn(source, types)
            else:
                name = f"source {source.source_name}.{source.name}"
                self.unknown[source.unique_id] = f"{name} sans `data_type` à chaque colonne"
        for node in self.project.list_nodes():
            if node.resource_type == "seed":
                self._learn(node, self.project.list_seed_columns(node))
            elif node.resource_type in KINDS:
                self._read_node(node)
            elif node.resource_type == "analysis":
                self.not_judged["analyses, que dbt n'exécute pas"].append(node.name)
        self._list_what_stays_apart()

    def find_declared_types(self, relation: str) -> dict[str, str] | None:
        """Return the columns of a relation and their types, as a macro would ask BigQuery."""
        columns = self.columns.get(parse_table_path(relation))
        return None if columns is None else list_type_names(columns)

    def find_query_columns(self, sql: str) -> list[str] | None:
        """Return the names of the columns that a macro's query gives; None if it is refused."""
        try:
            return list(self.analyser.find_columns(sql, self.columns))
        except SqlError:
            return None

    def list_missing_sources(self) -> list[str]:
        """Return the sources that the project reads and that its file, if it has one, lacks."""
        if self.kept is None:
            return []
        manifest = self.project.manifest
        read = {parent for node in manifest.nodes.values() for parent in node.depends_on_nodes}
        sources = (manifest.sources[name] for name in sorted(read & manifest.sources.keys()))
        missing = (source for source in sources if not self._find_source_types(source))
        names = (self._name_source(source) for source in missing if can_be_asked(source))
        return [name for name in names if name not in self.kept]

    def _find_source_types(self, source: Any) -> dict[str, str]:
        """Return the types of a source's columns: of its YAML, else of the file, else none."""
        types = list_types_in_yaml(source)
        if types and all(types.values()):
            return types
        return (self.kept or {}).get(self._name_source(source), {})

    def _name_source(self, source: Any) -> str:
        """Return the name of a source in the file that keeps its columns."""
        return name_source(source, self.project.config.project_name)

    def _read_node(self, node: Any) -> None:
        """Judge a node's SQL, and that of an incremental run where it is another."""
        why = find_reason_to_leave(node)
        if why:
            self._leave(node, why)
            return
        full = self._render(node, incremental=False)
        if full is None:
            return
        self._judge(node, full, incremental=False)
        if node.config.materialized == "incremental":
            sql = self._render(node, incremental=True)
            if sql is not None and sql != full:
                self._judge(node, sql, incremental=True)

    def _render(self, node: Any, *, incremental: bool) -> str | None:
        """Return the SQL of a node; None, once the reason is noted, if it has none."""
        try:
            return self.project.render(node, incremental=incremental)
        except NeedsBigQueryError:
            self._leave(node, "interroge BigQuery pendant sa compilation")
        except Exception as error:
            # A macro can raise anything, which would end the check of all the other nodes.
            self._refuse(node, f"dbt : {error}", incremental=incremental)
            self._declare(node, f"{node.name} est refusé")
        return None

    def _judge(self, node: Any, sql: str, *, incremental: bool) -> None:
        """Have a node's SQL read, and keep its columns.

        Its grammar alone is read when the columns of what it reads are not all known.
        """
        parents = [*node.depends_on_nodes, *([node.unique_id] if incremental else [])]
        causes = [self.unknown[parent] for parent in parents if parent in self.unknown]
        before, after = render_wrapping(node)
        statement = before + sql + after
        self.statements += 1
        try:
            if causes:
                self.analyser.check_grammar(statement)
                self._leave(node, f"grammaire seule : {causes[0]}", causes[0])
                return
            columns = self.analyser.find_columns(statement, self._find_tables(parents))
        except SqlError as error:
            self._note_error(node, sql, error, incremental=incremental)
            return
        if not incremental:
            self.columns[make_table_path(node)] = columns | list_snapshot_columns(node, columns)
            self._check_contract(node, columns)

    def _note_error(self, node: Any, sql: str, error: SqlError, *, incremental: bool) -> None:
        """Note where a node's SQL is refused, or that the analyser lacks what BigQuery may have."""
        if BEYOND.match(str(error)) or ("Function not found" in str(error) and has_header(node)):
            self._leave(node, f"hors de portée : {str(error).partition(';')[0]}")
            return
        line, column = error.place
        if line == 1:
            column = max(column - len(render_wrapping(node)[0]), 1)
        sql_lines = sql.split("\n")
        line = min(line, len(sql_lines))
        found = self.project.find_line(node, sql, (line, column), incremental=incremental)
        message = f"{error}\n{sql_lines[line - 1].strip()}"
        self._refuse(node, message, incremental=incremental, line=found)
        self._declare(node, f"{node.name} est refusé")

    def _refuse(
        self, node: Any, message: str, *, incremental: bool = False, line: int | None = None
    ) -> None:
        """Note a refusal as the user reads it: its place, then the message, indented."""
        lines = [
            f"✗ {self._describe_place(node, incremental, line)} :",
            *message.strip().split("\n"),
        ]
        self.refusals.append("\n    ".join(line for line in lines if line))

    def _describe_place(self, node: Any, incremental: bool, line: int | None) -> str:
        """Return where a refusal stands: file, line when it is sure, node."""
        path = self.project.find_file(node)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        place = f"{shown}, ligne {line}" if line else str(shown)
        kind = KINDS.get(node.resource_type, node.resource_type)
        branch = ", en incrémental" if incremental else ""
        return f"{place} ({kind} {node.name}{branch})"

    def _leave(self, node: Any, why: str, cause: str = "") -> None:
        """Note why a node is not judged, and `cause`, why those that read it cannot be either."""
        self.not_judged[why].append(node.name)
        self._declare(node, cause or f"{node.name} n'est pas jugé")

    def _declare(self, node: Any, cause: str) -> None:
        """Learn the columns of a node from its YAML; `cause` is why they are unknown otherwise."""
        if make_table_path(node) in self.columns:
            # The SQL of its full refresh has given its columns; only its incremental SQL failed. If
            # its columns counted as unknown, the nodes that read it would not be judged.
            return
        types = list_types_in_yaml(node)
        if types and all(types.values()):
            self._learn(node, types)
        else:
            self.unknown[node.unique_id] = cause

    def _learn(self, node: Any, types: dict[str, str]) -> None:
        """Learn the columns of a node from the names of their types."""
        columns = self._find_columns_of_types(node, types)
        if columns is None:
            self.unknown[node.unique_id] = f"{node.name} est refusé"
        else:
            self.columns[make_table_path(node)] = columns

    def _find_columns_of_types(self, node: Any, types: dict[str, str]) -> Columns | None:
        """Return the columns that have these types, None if BigQuery has no such type."""
        casts = (
            f"cast(null as {API_TYPES.get(kind.upper(), kind)}) as `{name}`"
            for name, kind in types.items()
        )
        try:
            return self.analyser.find_columns(f"select {', '.join(casts)}", {})
        except SqlError as error:
            self._refuse(node, f"type d'une colonne : {error}")
            return None

    def _check_contract(self, node: Any, columns: Columns) -> None:
        """Refuse a node whose SQL does not give the columns that its contract promises."""
        if node.resource_type != "model" or not node.config.contract.enforced:
            return
        promised = self._find_columns_of_types(node, list_types_in_yaml(node))
        if promised is None:
            return
        given, wanted = list_type_names(columns), list_type_names(promised)
        differences = [
            f"{name} : {given.get(name, 'absente')} dans le SQL, {wanted.get(name, 'absente')} "
            "dans le YAML"
            for name in given | wanted
            if given.get(name) != wanted.get(name)
        ]
        if differences:
            self._refuse(node, "\n".join(["contrat non tenu", *differences]))

    def _find_tables(self, names: list[str]) -> dict[TablePath, Columns]:
        """Return the columns, as far as they are known, of what a node reads."""
        manifest = self.project.manifest
        nodes = (manifest.nodes.get(name) or manifest.sources.get(name) for name in names)
        paths = (make_table_path(node) for node in nodes if node)
        return {path: self.columns[path] for path in paths if path in self.columns}

    def _list_what_stays_apart(self) -> None:
        """List what stands beside the statements and is not read."""
        manifest = self.project.manifest
        for node in manifest.nodes.values():
            hooks = node.config.get("pre_hook") or node.config.get("post_hook")
            if hooks or has_header(node) or node.resource_type == "operation":
                self.not_judged["scripts : hooks et sql_header"].append(node.name)
            if node.config.get("require_partition_filter"):
                self.not_judged["filtre de partition exigé de ceux qui lisent"].append(node.name)
        for function in manifest.functions.values():
            self.not_judged["corps des UDF"].append(function.name)
        for test in manifest.unit_tests.values():
            self.not_judged["tests unitaires, dont le modèle est lu par ailleurs"].append(test.name)


def find_reason_to_leave(node: Any) -> str:
    """Return why a node has no statement to read, nothing if it has one."""
    if node.language == "python":
        return "modèle Python"
    if node.config.materialized not in OWN_MATERIALIZATIONS:
        return f"matérialisation « {node.config.materialized} », propre au projet"
    return ""


def has_header(node: Any) -> bool:
    """Return whether a script comes before the node's statement."""
    return bool(node.config.get("sql_header"))


def parse_table_path(relation: str) -> TablePath:
    """Return the path of a relation that is quoted as BigQuery quotes it."""
    return tuple(relation.replace("`", "").split("."))


def list_type_names(columns: Columns) -> dict[str, str]:
    """Return the name of each column's type."""
    return {name: str(kind) for name, kind in columns.items()}


def list_types_in_yaml(node: Any) -> dict[str, str]:
    """Return the name of the type that the YAML gives to each column of a node."""
    return {column.name: column.data_type for column in node.columns.values()}


def make_table_path(node: Any) -> TablePath:
    """Return the path under which the SQL of other nodes names this one."""
    if node.relation_name and node.config.get("materialized") != "ephemeral":
        return parse_table_path(node.relation_name)
    return (f"__dbt__cte__{getattr(node, 'alias', node.name)}",)


def render_wrapping(node: Any) -> tuple[str, str]:
    """Return what dbt writes around a node's SQL, on its first and after its last line."""
    if node.resource_type == "test":
        return "select count(*) as failures from (", "\n) as dbt_internal_test"
    return "create table `relation` as (", "\n)"


def list_snapshot_columns(node: Any, columns: Columns) -> Columns:
    """Return the columns that dbt adds to those of a snapshot; none for anything else."""
    if node.resource_type != "snapshot":
        return {}
    names = node.config.snapshot_meta_column_names
    given = {name.lower(): kind for name, kind in columns.items()}
    updated_at = given.get(str(node.config.updated_at).lower(), TIMESTAMP)
    added = {"dbt_scd_id": STRING}
    added |= dict.fromkeys(("dbt_updated_at", "dbt_valid_from", "dbt_valid_to"), updated_at)
    if node.config.get("hard_deletes") == "new_record":
        added["dbt_is_deleted"] = STRING
    return {getattr(names, name, None) or name: kind for name, kind in added.items()}


def render_report(check: Check) -> str:
    """Return what the user reads: refusals, what was not judged, and the count."""
    lines = list(check.refusals)
    for why, names in check.not_judged.items():
        others = f" et {len(names) - 5} autres" if len(names) > 6 else ""
        lines.append(f"! Pas jugé ({why}) : {', '.join(names[:5] if others else names)}{others}")
    if missing := check.list_missing_sources():
        folder = check.project.folder
        lines.append(
            f"! Dans {folder.name}/{FILE_NAME}, il manque {', '.join(missing)} : "
            f"`{name_command(folder)}`"
        )
    lines.append(
        f"{check.statements} requêtes lues par l'analyseur de GoogleSQL, "
        f"{len(check.refusals)} refusée{'s' if len(check.refusals) > 1 else ''}."
    )
    return "\n".join(lines)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Read the project's SQL and say what is refused; return 1 if anything is."""
    parser = make_french_parser(
        "check_sql.py",
        "Fait lire le SQL du projet dbt par l'analyseur de GoogleSQL, celui de BigQuery, "
        "sans compte ni réseau.",
    )
    parser.add_argument(
        "--project-dir",
        type=Path,
        default=PROJECT_ROOT / "dbt",
        help="dossier du projet dbt (par défaut : dbt)",
    )
    parser.add_argument("--vars", default="{}", help="variables dbt, en YAML (par défaut : aucune)")
    arguments = parser.parse_args(argv)
    load_environment()
    work = PROJECT_ROOT / ".local" / "check"
    project = DbtProject(arguments.project_dir, ["--vars", arguments.vars], work)
    kept = read_source_columns(project.folder)
    check = Check(SqlAnalyser(work / "googlesql"), project, kept)
    check.read()
    print(render_report(check))
    return int(bool(check.refusals))


if __name__ == "__main__":
    raise SystemExit(main())
