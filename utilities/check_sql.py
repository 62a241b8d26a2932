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

from command_line import french_parser, say_errors
from dbt_offline import DbtProject, NeedsBigQueryError
from googlesql import STRING, TIMESTAMP, Columns, SqlAnalyser, SqlError, TablePath
from pipeline_settings import PROJECT_ROOT, load_environment

# What BigQuery's API calls otherwise than its SQL.
API_TYPES = {"FLOAT": "FLOAT64"}
KINDS = {"model": "modèle", "snapshot": "snapshot", "test": "test", "seed": "seed"}
OWN_MATERIALIZATIONS = {
    *("table", "view", "incremental", "ephemeral", "materialized_view", "snapshot", "test"),
}
ASKS_BIGQUERY = "interroge BigQuery pendant sa compilation"
# What the analyser does not have and BigQuery may: another team's tables and functions, models.
# A name without a dot is BigQuery's own function, which has to be one of these.
BEYOND = re.compile(
    r"Table not found: \S*\.|Function not found: \S*\.|Table-valued function not found|"
    r"Model not found|Unrecognized name: @@|"
    r"Function not found: (contains_substr|search|vector_search|text_analyze|bag_of_words|tf_idf|"
    r"collate|m(in|ax)_by|dlp_\w+|st_regionstats|external_object_transform)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Refusal:
    """A statement that the analyser refuses, and where it stands in the project."""

    where: str
    message: str
    extract: str = ""

    def __str__(self) -> str:
        lines = [f"✗ {self.where} :", *self.message.strip().split("\n"), self.extract.strip()]
        return "\n    ".join(line for line in lines if line)


@dataclass
class Check:
    """What has been read so far, and the columns that came out of it."""

    analyser: SqlAnalyser
    columns: dict[TablePath, Columns] = field(default_factory=dict)
    # Why a node's columns are not known: a node that reads it cannot be judged either.
    unknown: dict[str, str] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    # For a reason, what could not be judged.
    not_judged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    statements: int = 0

    def declared_types(self, relation: str) -> dict[str, str] | None:
        """Return the columns of a relation and their types, as a macro would ask BigQuery."""
        columns = self.columns.get(path_of(relation))
        return None if columns is None else {name: str(kind) for name, kind in columns.items()}

    def columns_of_query(self, sql: str) -> list[str] | None:
        """Return the names of the columns that a macro's query gives; None if it is refused."""
        try:
            return list(self.analyser.columns(sql, self.columns))
        except SqlError:
            return None

    def read(self, project: DbtProject) -> None:
        """Read the whole project, each node after those it reads."""
        for source in project.manifest.sources.values():
            self._declare(project, source, f"source {source.source_name}.{source.name}")
        for node in project.nodes():
            if node.resource_type == "seed":
                self._learn(node, project.seed_columns(node))
            elif node.resource_type in KINDS:
                self._read_node(project, node)
            elif node.resource_type == "analysis":
                self.not_judged["analyses, que dbt n'exécute pas"].append(node.name)
        self._list_what_stays_apart(project)

    def _read_node(self, project: DbtProject, node: Any) -> None:
        """Read a node's SQL, and a second time as an incremental run would have it."""
        why = reason_to_leave(node)
        if why:
            self._leave(project, node, why)
            return
        full = self._read_branch(project, node, incremental=False)
        if node.config.materialized == "incremental" and full is not None:
            self._read_branch(project, node, incremental=True, already_read=full)

    def _read_branch(
        self, project: DbtProject, node: Any, *, incremental: bool, already_read: str = ""
    ) -> str | None:
        """Read one branch of a node, and keep its columns; return its SQL, None if it has none."""
        try:
            sql = project.render(node, incremental=incremental)
        except NeedsBigQueryError:
            self._leave(project, node, ASKS_BIGQUERY)
            return None
        except Exception as error:
            self.refusals.append(Refusal(title(project, node, incremental), f"dbt : {error}"))
            self._leave(project, node, "", f"{node.name} est refusé")
            return None
        if sql == already_read:
            return sql
        parents = [*node.depends_on_nodes, *([node.unique_id] if incremental else [])]
        causes = [self.unknown[parent] for parent in parents if parent in self.unknown]
        before, after = wrapping(node)
        self.statements += 1
        try:
            if causes:
                self.analyser.check_grammar(before + sql + after)
                self._leave(project, node, f"grammaire seule : {causes[0]}", causes[0])
            else:
                tables = self._tables(project, parents)
                columns = self.analyser.columns(before + sql + after, tables)
                if not incremental:
                    self.columns[table_path(node)] = columns | snapshot_columns(node, columns)
                    self._check_contract(project, node, columns)
        except SqlError as error:
            self._refuse(project, node, sql, error, incremental)
        return sql

    def _refuse(
        self, project: DbtProject, node: Any, sql: str, error: SqlError, incremental: bool
    ) -> None:
        """Note a refusal, or that the analyser lacks what BigQuery may have."""
        if BEYOND.match(str(error)) or ("Function not found" in str(error) and has_header(node)):
            self._leave(project, node, f"hors de portée : {str(error).partition(';')[0]}")
            return
        line, column = error.place
        if line == 1:
            column = max(column - len(wrapping(node)[0]), 1)
        sql_lines = sql.split("\n")
        line = min(line, len(sql_lines))
        found = project.line(node, sql, (line, column), incremental=incremental)
        where = title(project, node, incremental, found)
        self.refusals.append(Refusal(where, str(error), sql_lines[line - 1]))
        if not incremental:
            self._leave(project, node, "", f"{node.name} est refusé")

    def _leave(self, project: DbtProject, node: Any, why: str, cause: str = "") -> None:
        """Note why a node is not judged; its YAML says its columns to those that read it."""
        if why:
            self.not_judged[why].append(node.name)
        if table_path(node) not in self.columns:
            self._declare(project, node, cause or f"{node.name} n'est pas jugé")

    def _declare(self, project: DbtProject, node: Any, cause: str) -> None:
        """Learn the columns that the YAML of a source or model declares, if all have a type."""
        types = {column.name: column.data_type for column in node.columns.values()}
        if types and all(types.values()):
            self._learn(node, types)
            return
        if node.resource_type == "source":
            cause += " sans `data_type` à chaque colonne"
        self.unknown[node.unique_id] = cause

    def _learn(self, node: Any, types: dict[str, str]) -> None:
        """Learn the columns of a node from the names of their types."""
        columns = self._columns_of_types(node, types)
        if columns is None:
            self.unknown[node.unique_id] = f"{node.name} est refusé"
        else:
            self.columns[table_path(node)] = columns

    def _columns_of_types(self, node: Any, types: dict[str, str]) -> Columns | None:
        """Return the columns that have these types, None if BigQuery has no such type."""
        casts = (
            f"cast(null as {API_TYPES.get(kind.upper(), kind)}) as `{name}`"
            for name, kind in types.items()
        )
        try:
            return self.analyser.columns(f"select {', '.join(casts)}", {})
        except SqlError as error:
            where = f"{node.original_file_path} ({node.name})"
            self.refusals.append(Refusal(where, f"type d'une colonne : {error}"))
            return None

    def _check_contract(self, project: DbtProject, node: Any, columns: Columns) -> None:
        """Refuse a node whose SQL does not give the columns that its contract promises."""
        if node.resource_type != "model" or not node.config.contract.enforced:
            return
        types = {column.name: column.data_type for column in node.columns.values()}
        promised = self._columns_of_types(node, types)
        if promised is None:
            return
        given = {name: str(kind) for name, kind in columns.items()}
        wanted = {name: str(kind) for name, kind in promised.items()}
        differences = [
            f"{name} : {given.get(name, 'absente')} dans le SQL, {wanted.get(name, 'absente')} "
            "dans le YAML"
            for name in given | wanted
            if given.get(name) != wanted.get(name)
        ]
        if differences:
            message = "\n".join(["contrat non tenu", *differences])
            self.refusals.append(Refusal(title(project, node, incremental=False), message))

    def _tables(self, project: DbtProject, names: list[str]) -> dict[TablePath, Columns]:
        manifest = project.manifest
        nodes = (manifest.nodes.get(name) or manifest.sources.get(name) for name in names)
        paths = (table_path(node) for node in nodes if node)
        return {path: self.columns[path] for path in paths if path in self.columns}

    def _list_what_stays_apart(self, project: DbtProject) -> None:
        """List what stands beside the statements and is not read."""
        manifest = project.manifest
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


def reason_to_leave(node: Any) -> str:
    """Return why a node has no statement to read, nothing if it has one."""
    if node.language == "python":
        return "modèle Python"
    if node.config.materialized not in OWN_MATERIALIZATIONS:
        return f"matérialisation « {node.config.materialized} », propre au projet"
    return ""


def has_header(node: Any) -> bool:
    """Return whether a script comes before the node's statement."""
    return bool(node.config.get("sql_header"))


def path_of(relation: str) -> TablePath:
    """Return the path of a relation that is quoted as BigQuery quotes it."""
    return tuple(relation.replace("`", "").split("."))


def table_path(node: Any) -> TablePath:
    """Return the path under which the SQL of other nodes names this one."""
    if node.relation_name and node.config.get("materialized") != "ephemeral":
        return path_of(node.relation_name)
    return (f"__dbt__cte__{getattr(node, 'alias', node.name)}",)


def wrapping(node: Any) -> tuple[str, str]:
    """Return what dbt writes around a node's SQL, on its first and after its last line."""
    if node.resource_type == "test":
        return "select count(*) as failures from (", "\n) as dbt_internal_test"
    return "create table `relation` as (", "\n)"


def snapshot_columns(node: Any, columns: Columns) -> Columns:
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


def title(
    project: DbtProject, node: Any, incremental: bool = False, line: int | None = None
) -> str:
    """Return where a refusal stands: file, line when it is sure, node."""
    path = project.file(node)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    place = f"{shown}, ligne {line}" if line else str(shown)
    branch = ", en incrémental" if incremental else ""
    return f"{place} ({KINDS[node.resource_type]} {node.name}{branch})"


def report(check: Check) -> str:
    """Return what the user reads: refusals, what was not judged, and the count."""
    lines = [str(refusal) for refusal in check.refusals]
    for why, names in check.not_judged.items():
        others = f" et {len(names) - 5} autres" if len(names) > 6 else ""
        lines.append(f"! Pas jugé ({why}) : {', '.join(names[:5] if others else names)}{others}")
    lines.append(
        f"{check.statements} requêtes lues par l'analyseur de GoogleSQL, "
        f"{len(check.refusals)} refusée{'s' if len(check.refusals) > 1 else ''}."
    )
    return "\n".join(lines)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Read the project's SQL and say what is refused; return 1 if anything is."""
    parser = french_parser(
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
    check = Check(SqlAnalyser(work / "googlesql"))
    options = ["--vars", arguments.vars]
    answers = (check.declared_types, check.columns_of_query)
    check.read(DbtProject(arguments.project_dir, options, work, *answers))
    print(report(check))
    return int(bool(check.refusals))


if __name__ == "__main__":
    raise SystemExit(main())
