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

from google.cloud.bigquery import SchemaField

from bi_pipeline.command_line import count, make_french_parser, say_errors
from bi_pipeline.settings import PROJECT_ROOT, load_environment
from support.column_guesses import (
    DependsOnGuessError,
    GuessedTable,
    Guesser,
    Tables,
    make_guess,
)
from support.dbt_offline import DbtProject, NeedsBigQueryError, add_project_options, show_path
from support.declared_types import (
    explain_type_error,
    list_contract_types,
    list_declared_types,
    lists_all_columns,
)
from support.googlesql import (
    STRING,
    TIMESTAMP,
    TOO_DEEP,
    Columns,
    SqlAnalyser,
    SqlError,
    TablePath,
    is_compiled,
    list_types,
    make_schema_field,
)
from support.source_columns import (
    FILE_NAME,
    SourceColumns,
    can_be_asked,
    name_command,
    name_source,
    read_source_columns,
)

KINDS = {"model": "modèle", "snapshot": "snapshot", "test": "test"}
OWN_MATERIALIZATIONS = {
    *("table", "view", "incremental", "ephemeral", "materialized_view", "snapshot", "test"),
}
COMMENT = re.compile(r"--[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)
# The analyser refuses other teams' tables and functions, ML models, and some functions of BigQuery.
# If such a node counted as refused, valid SQL would fail the check: it is not judged. A function
# without a dot that is not listed here is a mistake, as BigQuery has none of that name.
BEYOND = re.compile(
    r"Table not found: \S*\.|Function not found: \S*\.|Table-valued function not found|"
    rf"Model not found|Property graph not found|Unrecognized name: @@|{TOO_DEEP}|"
    r"Function not found: (contains_substr|search|vector_search|text_analyze|bag_of_words|tf_idf|"
    r"collate|m(in|ax)_by|dlp_\w+|st_regionstats|external_object_transform)\b",
    re.IGNORECASE,
)
# A script before the statement (`sql_header`) may have made these: a temporary table, a function, a
# variable. The analyser, which does not run it, would refuse every model that uses them.
MADE_BY_HEADER = re.compile(r"(?:Function not found|Table not found|Unrecognized name): `?(\w+)")


@dataclass
class Check:
    """A project as far as it is read: the columns that came out of it, and what is said of it.

    Attributes:
        analyser, project: those that it reads with.
        kept: the columns that the project's file keeps of its sources; None without such a file.
        columns: those known, by table.
        unknown: why the columns of a node are not known, by `unique_id`. A node that reads them is
            not judged with them: it would be refused for columns that may be there.
        guesses: the tables whose columns are not known, with what is guessed of them.
        refusals: the messages, in French.
        errors: node, line and reason of each refusal. An incremental model, whose SQL is read
            twice, is not refused again for the same one.
        judged, read_for_grammar: how many statements were judged in full, and for their grammar
            alone; those refused are in neither.
        judged_by_guesses, not_judged: names of nodes, by reason.
    """

    analyser: SqlAnalyser
    project: DbtProject
    kept: SourceColumns | None = None
    columns: dict[TablePath, Columns] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    guesses: Tables = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    errors: set[tuple[str, int | None, str]] = field(default_factory=set)
    judged: int = 0
    read_for_grammar: int = 0
    judged_by_guesses: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    not_judged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def read(self) -> None:
        """Read the whole project, each node after those it reads."""
        self.project.answer_for_bigquery(self.find_declared_types, self.find_query_columns)
        for source in self.project.manifest.sources.values():
            is_typed = all(list_declared_types(source).values()) and source.columns
            lack = "ses `partitions`" if is_typed else "`data_type` à chaque colonne"
            self._declare(source, f"source {source.source_name}.{source.name} sans {lack}")
        for node in self.project.list_nodes():
            if node.resource_type == "seed":
                self._learn(node, self.project.list_seed_columns(node))
            elif node.resource_type in KINDS:
                self._read_node(node)
            elif node.resource_type == "analysis":
                self.not_judged["analyses, que dbt n'exécute pas"].append(node.name)
        self._list_what_stays_apart()

    def find_declared_types(self, relation: str) -> list[SchemaField] | None:
        """Return the columns of a relation, as BigQuery would describe them to a macro."""
        columns = self.columns.get(parse_table_path(relation))
        if columns is None:
            return None
        return [make_schema_field(name, kind) for name, kind in columns.items()]

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
        missing = (source for source in sources if not lists_all_columns(source))
        names = (self._name_source(source) for source in missing if can_be_asked(source))
        return [name for name in names if name not in self.kept]

    def _find_known_types(self, node: Any) -> tuple[dict[str, str], bool]:
        """Return the types of the columns that are known of a node, and whether they are all.

        Those of a source are its YAML's if it has all, else those kept. Without a contract, the
        YAML of a model need not name all its columns: if it counted as the whole list, a node that
        reads another column would be refused.
        """
        types = list_declared_types(node)
        if node.resource_type != "source":
            return types, bool(types and node.config.contract.enforced)
        are_all = lists_all_columns(node)
        kept = None if are_all else (self.kept or {}).get(self._name_source(node))
        return (types, are_all) if kept is None else (kept, bool(kept))

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
        if not COMMENT.sub("", full).strip():
            self._leave(node, "SQL vide")
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

        Those of its parents that are unknown are guessed. If the SQL is right or wrong according
        to a guess, only its grammar counts.
        """
        parents = [*node.depends_on_nodes, *([node.unique_id] if incremental else [])]
        causes = [self.unknown[parent] for parent in parents if parent in self.unknown]
        paths = self._find_paths(parents)
        known = {path: self.columns[path] for path in paths if path in self.columns}
        guesses = {path: self.guesses[path] for path in paths if path in self.guesses}
        variables = self._find_variables(node) if incremental else {}
        before, after = render_wrapping(node)
        statement = before + sql + after
        try:
            if causes:
                found = Guesser(self.analyser, statement, known, variables).judge(guesses)
            else:
                columns = self.analyser.find_columns(statement, known, variables)
        except DependsOnGuessError:
            self.read_for_grammar += 1
            self._leave(node, f"grammaire seule : {causes[0]}", causes[0])
            return
        except SqlError as error:
            self._note_error(node, sql, error, incremental=incremental)
            return
        if causes:
            self.judged += 1
            self.judged_by_guesses[causes[0]].append(node.name)
            if not incremental:
                self._keep_guesses(node, found, causes[0])
        elif incremental or self._keep_columns(node, columns):
            self.judged += 1

    def _keep_guesses(self, node: Any, found: GuessedTable, cause: str) -> None:
        """Keep the columns that a node's SQL gives, some of which come from guesses."""
        self.unknown[node.unique_id] = cause
        added = list_snapshot_columns(node, {})
        found.columns |= {name.lower(): make_guess(kind) for name, kind in added.items()}
        self.guesses[make_table_path(node)] = found
        if has_contract(node):
            self.not_judged["contrat : ses colonnes viennent de colonnes devinées"].append(
                node.name
            )

    def _keep_columns(self, node: Any, columns: Columns) -> bool:
        """Keep the columns that a node's SQL gives; return whether its contract is kept."""
        self.columns[make_table_path(node)] = columns | list_snapshot_columns(node, columns)
        before = len(self.refusals)
        self._check_contract(node, columns)
        return len(self.refusals) == before

    def _note_error(self, node: Any, sql: str, error: SqlError, *, incremental: bool) -> None:
        """Note where a node's SQL is refused, or that the analyser lacks what BigQuery may have."""
        made = MADE_BY_HEADER.match(str(error))
        if BEYOND.match(str(error)) or (made and names_in_header(node, made[1])):
            self.read_for_grammar += 1
            self._leave(node, f"hors de portée : {str(error).partition(';')[0]}")
            return
        line, column = error.place
        if line == 1:
            column = max(column - len(render_wrapping(node)[0]), 1)
        sql_lines = sql.split("\n")
        line = min(line, len(sql_lines))
        found = self.project.find_line(node, sql, (line, column), incremental=incremental)
        message = f"{error}\n{sql_lines[line - 1].strip()}"
        if incremental and (node.unique_id, found, message) in self.errors:
            return
        self.errors.add((node.unique_id, found, message))
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
        shown = show_path(self.project.find_file(node))
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
        path = make_table_path(node)
        if path in self.columns or path in self.guesses:
            # The SQL of its full refresh has given its columns; only its incremental SQL failed. If
            # its columns counted as unknown, the nodes that read it would not be judged.
            return
        types, are_all = self._find_known_types(node)
        columns, faults = self._find_types(types)
        if are_all and len(columns) == len(types):
            self.columns[path] = columns
            return
        # BigQuery never reads these types, so a wrong one is no reason to refuse the SQL.
        self.unknown[node.unique_id] = f"{node.name}.{faults[0]}" if faults else cause
        self.guesses[path] = GuessedTable(
            {
                name.lower(): make_guess(columns[name]) if name in columns else "STRING"
                for name in types
            }
        )

    def _learn(self, node: Any, types: dict[str, str]) -> None:
        """Learn the columns of a node, which BigQuery makes with the names of these types."""
        columns, faults = self._find_types(types)
        if faults:
            self._refuse(node, "\n".join(faults))
            self._declare(node, f"{node.name} est refusé")
        else:
            self.columns[make_table_path(node)] = columns

    def _find_types(self, types: dict[str, str]) -> tuple[Columns, list[str]]:
        """Return the columns whose type is known, and why BigQuery would refuse the others'."""
        columns, faults = {}, []
        for name, kind in types.items():
            try:
                if kind:
                    columns[name] = self.analyser.find_type(kind)
            except SqlError as error:
                faults.append(explain_type_error(name, kind, error))
        return columns, faults

    def _check_contract(self, node: Any, columns: Columns) -> None:
        """Refuse a node whose SQL does not give the columns that its contract promises."""
        if not has_contract(node):
            return
        given = list_types(columns)
        untyped = [
            f"{column.name} n'a pas de data_type ({given.get(column.name, 'absente')} dans le SQL)"
            for column in node.columns.values()
            if not column.data_type
        ]
        if untyped:
            self._refuse(node, f"contrat incomplet : {', '.join(untyped)}")
            return
        promised, faults = self._find_types(list_contract_types(node))
        wanted = list_types(promised)
        differences = faults or [
            f"{name} : {given.get(name, 'absente')} dans le SQL, {wanted.get(name, 'absente')} "
            "dans le YAML"
            for name in given | wanted
            if given.get(name) != wanted.get(name)
        ]
        if differences:
            self._refuse(node, "\n".join(["contrat non tenu", *differences]))

    def _find_variables(self, node: Any) -> Columns:
        """Return the variables that the script of an incremental run declares."""
        kind = self.project.find_partition_type(node)
        try:
            return {"_dbt_max_partition": self.analyser.find_type(kind)} if kind else {}
        except SqlError:
            return {}

    def _find_paths(self, names: list[str]) -> list[TablePath]:
        """Return the paths of the nodes and sources of these names."""
        manifest = self.project.manifest
        nodes = (manifest.nodes.get(name) or manifest.sources.get(name) for name in names)
        return [make_table_path(node) for node in nodes if node]

    def _list_what_stays_apart(self) -> None:
        """Note as not judged what is no part of a statement: hooks, UDF, unit tests."""
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


def has_contract(node: Any) -> bool:
    """Return whether a node promises its columns in its YAML."""
    return node.resource_type == "model" and bool(node.config.contract.enforced)


def has_header(node: Any) -> bool:
    """Return whether a script comes before the node's statement."""
    return bool(node.config.get("sql_header"))


def names_in_header(node: Any, name: str) -> bool:
    """Return whether the script before the node's statement has this name in it."""
    header = str(node.config.get("sql_header") or "")
    return bool(re.search(rf"\b{re.escape(name)}\b", header, re.IGNORECASE))


def parse_table_path(relation: str) -> TablePath:
    """Return the path of a relation that is quoted as BigQuery quotes it."""
    return tuple(relation.replace("`", "").split("."))


def make_table_path(node: Any) -> TablePath:
    """Return the path under which the SQL of other nodes names this one."""
    if node.relation_name and node.config.get("materialized") != "ephemeral":
        return parse_table_path(node.relation_name)
    return (f"__dbt__cte__{getattr(node, 'alias', node.name)}",)


def render_wrapping(node: Any) -> tuple[str, str]:
    """Return what dbt writes around a node's SQL, on its first and after its last line."""
    if node.resource_type == "test":
        return "select count(*) as failures from (", "\n) as dbt_internal_test"
    if node.config.materialized == "ephemeral":
        # A common table expression may have a column without a name. As a table, the model would be
        # refused for it.
        return "select * from (", "\n)"
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


def start_analyser(folder: Path) -> SqlAnalyser:
    """Return the analyser, once the user knows why it takes long when it compiles itself."""
    if not is_compiled(folder):
        print(
            "L'analyseur de GoogleSQL se compile, une seule fois : 15 à 30 s, davantage si la "
            "machine est occupée.",
            file=sys.stderr,
            flush=True,
        )
    return SqlAnalyser(folder)


def shorten(names: list[str]) -> str:
    """Return the first names of a list, and how many others there are."""
    # The SQL of an incremental model is read twice: its name would be listed twice.
    names = list(dict.fromkeys(names))
    others = f" et {len(names) - 5} autres" if len(names) > 6 else ""
    return f"{', '.join(names[:5] if others else names)}{others}"


def render_report(check: Check) -> str:
    """Return what the user reads: refusals, what was not judged, and the count."""
    lines = list(check.refusals)
    lines += (f"! Pas jugé ({why}) : {shorten(names)}" for why, names in check.not_judged.items())
    guessed = check.judged_by_guesses
    lines += (f"! Colonnes devinées ({why}) : {shorten(names)}" for why, names in guessed.items())
    if missing := check.list_missing_sources():
        folder = check.project.folder
        lines.append(
            f"! Dans {folder.name}/{FILE_NAME}, il manque {', '.join(missing)} : "
            f"`{name_command(folder)}`"
        )
    read = len(check.refusals) + check.judged + check.read_for_grammar
    guesses = f", dont {sum(map(len, guessed.values()))} avec des colonnes devinées"
    grammar = f", {check.read_for_grammar} pour leur grammaire seule"
    lines.append(
        f"{count(read, 'requête lue', 'requêtes lues')} par l'analyseur de GoogleSQL : "
        f"{count(len(check.refusals), 'refusée', 'refusées')}, "
        f"{count(check.judged, 'jugée', 'jugées')}"
        f"{guesses if guessed else ''}{grammar if check.read_for_grammar else ''}."
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
    add_project_options(parser)
    arguments = parser.parse_args(argv)
    load_environment()
    work = PROJECT_ROOT / ".local" / "check"
    project = DbtProject(arguments.project_dir, ["--vars", arguments.vars], work)
    kept = read_source_columns(project.folder)
    check = Check(start_analyser(work / "googlesql"), project, kept)
    check.read()
    print(render_report(check))
    return int(bool(check.refusals))


if __name__ == "__main__":
    raise SystemExit(main())
