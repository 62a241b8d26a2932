"""Finds in a node's SQL what makes its result depend on more than the project and its sources.

Such a node may give something else although nothing that we can compare has changed. The text is
read before dbt renders it: rendering may ask BigQuery. A doubt counts as a find, as the cost of
that is a model built again; that of the other mistake is an old table that passes for new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

UNNAMED = "nomme une table sans ref() ni source()"

CALL = re.compile(
    r"(?:\b(?:current_(?:date|time|datetime|timestamp|rendered_by|table_of)\w*|snapshot_get_time|generate_uuid"
    r"|session_user|external_query|information_schema|tablesample|execute\s+immediate"
    r"|math\s*\.\s*random|date\s*\.\s*now|new\s+date|(?:appends|changes)(?=\s*\(\s*table\b)"
    r"|rand(?=`?\s*\())|@@\w+)\b",
    re.IGNORECASE,
)
# These mean it in Jinja alone: in SQL they may be names of columns.
CALL_IN_JINJA = re.compile(
    r"\b(?:run_started_at|invocation_id|invocation_args_dict|thread_id|selected_resources|env_var"
    r"|dbt_metadata_envs|py_current_timestring|list_schemas"
    r"|(?:get|list)_relations?\w*(?=\s*\()|context(?=\s*[.\[])|(?<!['\"])graph(?!['\"\w])"
    r"|modules(?!\s*\.\s*(?:re|itertools)\b)(?=\s*[.\[])"
    r"|api(?=\s*\.)(?!\s*\.\s*(?:Column|Relation\s*\.\s*add_ephemeral_prefix)\b))\b"
)

FROM_JINJA = re.compile(r"\b(from|join)(?=\{\{)", re.IGNORECASE)
JINJA_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
JINJA = re.compile(r"\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
LITERAL = r"""(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
LITERALS = re.compile(LITERAL, re.DOTALL)
# « `chiffre d'affaires` » is a name: its apostrophe begins no literal.
NAME_OR_LITERAL = re.compile(rf"(`[^`\n]*`)|{LITERAL}", re.DOTALL)
# Together: a dash in a literal begins no comment, and an apostrophe in a comment no literal.
LITERAL_OR_COMMENT = re.compile(rf"({LITERAL}|`[^`\n]*`)|/\*.*?\*/|(?:--|#)[^\n]*", re.DOTALL)

PARAMETERS = re.compile(
    r"\{%-?\s*(?:macro|test|materialization)\s+\w+\s*\((.*?)\)\s*-?%\}", re.DOTALL
)
PARAMETER = re.compile(r"(?:^|,)\s*(\w+)\s*(?==|,|$)")
VARIABLE = re.compile(r"\{%-?\s*(?:set|for)\s+(\w+)(.*?)%\}", re.DOTALL)
# Without a dataset, a name after FROM is that of a CTE: dbt gives BigQuery no default dataset.
ONE_WORD = re.compile(r"""\s*=\s*["']\w+["']\s*-?""")
CTE = re.compile(r"(\w+)\s+as\s*\(", re.IGNORECASE)
# In a generic test, these hold the model that it tests.
PROJECT_TABLES = {"this", "ref", "source", "_dbt_generic_test_kwargs"}
# Another table may be made of one of the project: `this.schema ~ '.b'`, `ref('a').incorporate(…)`.
REMADE = re.compile(
    r"[~|+%]|\b(?:replace|replace_path|incorporate|format|create|include)\b|\bvar\s*\("
)
EITHER = re.compile(r"(.*?)\bif\b.*?\belse\b(.*)", re.DOTALL)
# A name that is put together after a FROM in a text, with what comes next, and one in two parts.
JOINED = re.compile(r"""\b(?:from|join)\s+`?(?:["']\s*[~+]\s*(\w*)|%s|\{)""", re.IGNORECASE)
QUALIFIED = re.compile(
    r"""["']`?[A-Za-z_][\w-]*`?\.`?[A-Za-z_"']|["']\.`?[A-Za-z_]|[~+]\s*["']\.["']"""
)

# In the place of an expression of Jinja: one that gives a table of the project, and any other.
OF_THE_PROJECT, RENDERED = "table_of_the_project", "rendered_by_jinja"
PLACEHOLDERS = {OF_THE_PROJECT, RENDERED}
TOKEN = re.compile(r"(?:`[^`]*`|[A-Za-z_][\w-]*)(?:\s*\.\s*(?:`[^`]*`|[\w*-]+))*|[(),;]|\S")
NAMESPACES = {"safe", "net", "hll_count", "kll_quantiles"}
# `appends(table a.b)`, `merge into a.b using c.d`, `create table x clone a.b`.
BEFORE_A_TABLE = {"from", "join", "table", "into", "using", "update", "clone", "copy", "graph"}
CLAUSES = {
    *("where", "group", "order", "having", "qualify", "window", "limit"),
    *("select", "union", "intersect", "except"),
}
NO_ALIAS = CLAUSES | {
    *("on", "using", "join", "inner", "left", "right", "full", "outer", "cross", "for", "pivot"),
    *("unpivot", "tablesample", "when", "set"),
}


@cache
def find_undetermined(text: str, table_macros: frozenset[str] = frozenset()) -> str:
    """Return what makes a text of a dbt project undetermined, in French; empty if nothing does.

    Args:
        text: that of a node or of its hooks, or of a macro that it calls, before dbt renders it.
        table_macros: the names of the macros that read a table which they are given.
    """
    return _find(text, table_macros, _list_parameters(text))


def takes_a_table(text: str, table_macros: frozenset[str]) -> bool:
    """Whether a macro reads a table that it is given, by itself or through one of the others."""
    parameters = _list_parameters(text)
    if not parameters or _find(text, table_macros, parameters):
        return False
    if _find(text, table_macros, set()):
        return True
    calls = [set(re.findall(r"\w+", x[0])) for x in JINJA.finditer(JINJA_COMMENT.sub(" ", text))]
    return any(words & parameters and words & set(table_macros) for words in calls[1:])


def _list_parameters(text: str) -> set[str]:
    return {name for names in PARAMETERS.findall(text) for name in PARAMETER.findall(names)}


def _find(text: str, table_macros: frozenset[str], parameters: set[str]) -> str:
    """Return what `find_undetermined` does; these parameters hold tables of the project."""
    text = FROM_JINJA.sub(r"\1 ", JINJA_COMMENT.sub(" ", text))
    names = PROJECT_TABLES | parameters
    values: dict[str, list[str]] = {}
    unsure: set[str] = set()
    for variable, value in VARIABLE.findall(text):
        values.setdefault(variable, []).append(value)
    for variable, given in values.items():
        if all(_is_table_of_the_project(x, names) or ONE_WORD.fullmatch(x) for x in given):
            names.add(variable)
        elif any(_may_name_a_table(x, unsure) for x in given):
            unsure.add(variable)
    for found in JINJA.finditer(text):
        if call := CALL.search(found[0]) or CALL_IN_JINJA.search(found[0]):
            return f"appelle {call[0].lower()}"
        if PARAMETERS.match(found[0]):
            continue
        expression = found[1] or found[2]
        is_given = not table_macros.isdisjoint(re.findall(r"\w+", expression))
        if _has_a_query(expression, names) or (is_given and _may_name_a_table(expression, unsure)):
            return UNNAMED

    def replace_jinja(found: re.Match[str]) -> str:
        if found[1] is None:
            return " "
        return OF_THE_PROJECT if _is_table_of_the_project(found[1], names) else RENDERED

    # Jinja first: dbt renders it in a comment and in a literal, too, whatever it has of quotes.
    sql = LITERAL_OR_COMMENT.sub(lambda x: x[1] or " ", JINJA.sub(replace_jinja, text))
    if call := CALL.search(sql):
        return f"appelle {call[0].lower()}"
    for name in _find_tables(sql):
        is_rendered = any(placeholder in name for placeholder in PLACEHOLDERS)
        return UNNAMED if is_rendered else f"nomme {name} sans ref() ni source()"
    return ""


def _is_table_of_the_project(expression: str, names: set[str]) -> bool:
    """Whether an expression of Jinja gives one of these, as it is."""
    if branches := EITHER.fullmatch(expression):
        return all(_is_table_of_the_project(branch, names) for branch in branches.groups())
    code = LITERALS.sub("''", expression)
    return not (names.isdisjoint(re.findall(r"\w+", code)) or REMADE.search(code.strip(" -")))


def _may_name_a_table(expression: str, unsure: set[str]) -> bool:
    """Whether an expression of Jinja may give the name of a table with its dataset.

    `unsure` are the variables that may hold one.
    """
    code = LITERALS.sub("''", expression)
    words = {*re.findall(r"\w+", code)}
    return bool(QUALIFIED.search(expression)) or not words.isdisjoint({"var", "target", *unsure})


def _has_a_query(expression: str, names: set[str]) -> bool:
    """Whether an expression of Jinja has the text of a query of a table of no ref()."""
    if any(joined[1] not in names for joined in JOINED.finditer(expression)):
        return True
    literals = [literal[0].strip("'\"") for literal in LITERALS.finditer(expression)]
    queries = [text for text in literals if re.search(r"\bselect\b", text, re.IGNORECASE)]
    return any(name for query in queries for name in _find_tables(query))


@dataclass
class _Parenthesis:
    """A level of parentheses: the names that its FROM clause has given so far, if it is in one."""

    opener: str = ""
    in_from: bool = False
    expects_table: bool = False
    outer: frozenset[str] = frozenset()
    names: set[str] = field(default_factory=set)
    last: str = ""


def _find_tables(sql: str) -> Iterator[str]:
    """Yield the names of tables and routines that a SQL text without Jinja has."""
    sql = NAME_OR_LITERAL.sub(lambda found: found[1] or "''", sql)
    levels, before, ctes = [_Parenthesis()], "", set(CTE.findall(sql))
    for found in TOKEN.finditer(sql):
        token, level = re.sub(r"\s*\.\s*", ".", found[0]), levels[-1]
        word, path = token.lower(), token.replace("`", "").split(".")
        is_name = re.match(r"[`\w]", token) is not None
        if word == "(":
            # `from (a.b join c)`: the parenthesis is in the FROM clause, until a SELECT comes.
            seen = level.outer | level.names
            expects_table = level.expects_table or before == "graph_table"
            inner = _Parenthesis(before, expects_table, expects_table, seen)
            level.expects_table = False
            levels.append(inner)
        elif word == ")":
            levels = levels[:-1] or [_Parenthesis()]
        elif word == "from" and (before == "distinct" or level.opener == "extract"):
            pass
        elif word in BEFORE_A_TABLE or (word == "," and level.in_from):
            if word == "from":
                level.in_from, level.names = True, set()
            level.expects_table = True
        elif word in CLAUSES:
            level.in_from = level.expects_table = False
        elif token not in ctes and _is_table(token, path, level, sql[found.end() :].lstrip()[:1]):
            yield token
        elif level.expects_table:
            level.expects_table = False
            level.last = path[-1].lower() if is_name else ""
            level.names |= {level.last} - PLACEHOLDERS
        elif level.in_from and is_name and word not in NO_ALIAS | {"as"}:
            # « from orders as o »: `orders.items` is then a table of the dataset `orders`.
            if level.last or before in (")", "as"):
                level.names -= {level.last}
                level.names |= {path[-1].lower()} - PLACEHOLDERS
            level.last = ""
        elif word != "as":
            level.last = ""
        before = word


def _is_table(token: str, path: list[str], level: _Parenthesis, after: str) -> bool:
    """Whether a name, in its parts, is that of a table or of a routine of no ref()."""
    if len(path) == 1:
        # `{{ target.schema }}_raw.orders`, `{{ ref('a') }}_old`.
        is_made = token != OF_THE_PROJECT and any(x in token for x in PLACEHOLDERS)
        return is_made and level.expects_table and after != "("
    if "." in token.partition("`")[2].partition("`")[0]:
        return True
    if after == "(":
        return path[0].lower() not in NAMESPACES
    return level.expects_table and path[0].lower() not in level.names | level.outer
