"""Finds in a node's SQL what makes its result depend on more than the project and its sources.

Such a node may give something else although nothing that we can compare has changed. The text is
read before dbt renders it: rendering may ask BigQuery. A doubt counts as a find, as the cost of
that is a model built again; that of the other mistake is an old table that passes for new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

UNDETERMINED_CALL = re.compile(
    r"\b(?:current_(?:date|time|datetime|timestamp)\w*|snapshot_get_time|run_started_at"
    r"|rand(?=\s*\()|generate_uuid|tablesample|execute\s+immediate|session_user|invocation_id|thread_id|selected_resources"
    r"|env_var|invocation_args_dict|external_query|information_schema|modules"
    r"|math\.random|date\.now|new\s+date"
    r"|graph(?=\s*[.\[])|api(?=\s*\.)|(?:get|list)_relations?\w*(?=\s*\())\b|@@\w+",
    re.IGNORECASE,
)
LITERAL = r"""(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
COMMENT = r"\{#.*?#\}|/\*.*?\*/|(?:--|#(?![}%]))[^\n]*"
# Together: a dash in a literal begins no comment, and an apostrophe in a comment no literal.
LITERAL_OR_COMMENT = re.compile(f"({LITERAL})|{COMMENT}", re.DOTALL)
JINJA = re.compile(r"\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
# A table's name in the text of an expression: whole, after a FROM, or put together.
TABLE_IN_JINJA = re.compile(
    r"""\b(?:from|join)\s+(?:`|[\w-]+\s*\.|["']\s*~(?!\s*(?:this|ref|source)\b))"""
    r"""|["']`?[A-Za-z_][\w-]*`?\.`?[A-Za-z_"']|["']\.`?[A-Za-z_]|~\s*["']\.["']""",
    re.IGNORECASE,
)
PROJECT_TABLES = {"this", "ref", "source"}
# Another table may be made of one of the project: `this.schema ~ '.b'`, `ref('a').incorporate(…)`.
REMADE = re.compile(r"[~|]|\b(?:replace|replace_path|incorporate|format)\b")
# A variable of Jinja may hold such a table, and so may the parameters of a macro: the node that
# calls it names the tables, and is read as well.
VARIABLE = re.compile(r"\{%-?\s*(?:set|for)\s+(\w+)(.*?)%\}", re.DOTALL)
PARAMETERS = re.compile(r"\{%-?\s*(?:macro|test|materialization)\s+\w+\s*\(([^)]*)\)")
UNNAMED = "nomme une table sans ref() ni source()"

# In the place of an expression of Jinja: one that gives a table of the project, and any other.
OF_THE_PROJECT, RENDERED = "table_of_the_project", "rendered_by_jinja"
TOKEN = re.compile(r"(?:`[^`]*`|[A-Za-z_][\w-]*)(?:\s*\.\s*(?:`[^`]*`|[\w*-]+))*|[(),;]|\S")
NAMESPACES = {"safe", "net", "hll_count", "kll_quantiles"}
# `appends(table a.b)`, `merge into a.b using c.d`.
BEFORE_A_TABLE = {"join", "table", "into", "using", "update"}
CLAUSES = {
    *("where", "group", "order", "having", "qualify", "window", "limit"),
    *("select", "union", "intersect", "except"),
}


def find_undetermined(text: str) -> str:
    """Return what makes a text of a dbt project undetermined, in French; empty if nothing does.

    Args:
        text: that of a node or of its hooks, or of a macro that it calls, before dbt renders it.
    """
    text = LITERAL_OR_COMMENT.sub(lambda found: found[1] or " ", text)
    if call := UNDETERMINED_CALL.search(text):
        return f"appelle {call[0].lower()}"
    if any(TABLE_IN_JINJA.search(jinja[0]) for jinja in JINJA.finditer(text)):
        return UNNAMED
    names = {name for names in PARAMETERS.findall(text) for name in re.findall(r"\w+", names)}
    names |= PROJECT_TABLES
    for variable, value in VARIABLE.findall(text):
        if _is_table_of_the_project(value, names):
            names.add(variable)

    def replace_jinja(found: re.Match[str]) -> str:
        if found[1] is None:
            return " "
        return f" {OF_THE_PROJECT if _is_table_of_the_project(found[1], names) else RENDERED} "

    sql = LITERAL_OR_COMMENT.sub("''", JINJA.sub(replace_jinja, text))
    for name in _find_tables(sql):
        is_rendered = RENDERED in name or OF_THE_PROJECT in name
        return UNNAMED if is_rendered else f"nomme {name} sans ref() ni source()"
    return ""


def _is_table_of_the_project(expression: str, names: set[str]) -> bool:
    """Whether an expression of Jinja gives one of these, as it is."""
    return not (names.isdisjoint(re.findall(r"\w+", expression)) or REMADE.search(expression))


@dataclass
class _Parenthesis:
    """A level of parentheses: the names that its FROM clause has given so far, if it is in one."""

    opener: str = ""
    in_from: bool = False
    expects_table: bool = False
    names: set[str] = field(default_factory=set)


def _find_tables(sql: str) -> Iterator[str]:
    """Yield the names of tables and routines that a SQL text without Jinja has."""
    levels, before = [_Parenthesis()], ""
    for found in TOKEN.finditer(sql):
        token, level = re.sub(r"\s*\.\s*", ".", found[0]), levels[-1]
        word, path = token.lower(), token.replace("`", "").split(".")
        if word == "(":
            # `from (a.b join c)`: the parenthesis is in the FROM clause, until a SELECT comes.
            inner = _Parenthesis(before, level.expects_table, level.expects_table)
            level.expects_table = False
            levels.append(inner)
        elif word == ")":
            levels = levels[:-1] or [_Parenthesis()]
        elif word == "from":
            if before != "distinct" and level.opener != "extract":
                level.in_from = level.expects_table = True
                level.names = set()
        elif word in BEFORE_A_TABLE or (word == "," and level.in_from):
            level.expects_table = True
        elif word in CLAUSES:
            level.in_from = level.expects_table = False
        elif (len(path) > 1 or token == RENDERED) and _is_table(
            token, path, level, sql[found.end() :].lstrip()[:1]
        ):
            yield token
        elif level.in_from:
            # A table's name or alias: « from rendered_by_jinja as t, t.items » reads an array.
            level.names.add(path[-1].lower())
        if level.expects_table and word not in BEFORE_A_TABLE | {"from", ",", "("}:
            level.expects_table = False
        before = word


def _is_table(token: str, path: list[str], level: _Parenthesis, after: str) -> bool:
    """Whether a path of several names is that of a table or of a routine."""
    if token == RENDERED:
        return level.expects_table and after != "("
    if "." in token.partition("`")[2].partition("`")[0]:
        return True
    if after == "(":
        return path[0].lower() not in NAMESPACES
    return level.expects_table and path[0].lower() not in level.names
