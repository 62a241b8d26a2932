"""Has bqemulator 1.4.0 run SQL that BigQuery takes and bqemulator by itself refuses.

It is the SQL that dbt writes (contracts, grants, the second run of an incremental model), and what
hooks have: changes of tables, copies. What the local BigQuery still cannot do is in
`prefect/bi_pipeline/reports/local_limits.py`.

Here, bqemulator also dates each change of a table: by itself, it leaves lastModifiedTime as it is
after DML, loads, copies and insertAll.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlglot
from bqemulator.api.dependencies import AppContext
from bqemulator.catalog import ddl_sync
from bqemulator.catalog.ddl_sync import _split_target
from bqemulator.catalog.duckdb_repository import DuckDBCatalogRepository
from bqemulator.catalog.models import TableFieldSchema, TableMeta, TableSchema
from bqemulator.domain.errors import InvalidQueryError
from bqemulator.jobs import executor
from bqemulator.scripting import interpreter
from bqemulator.scripting.ast import BeginStmt, SetStmt, SqlStmt, Statement
from bqemulator.scripting.lexer import tokenize
from bqemulator.scripting.parser import Parser
from bqemulator.sql import inner_query, table_rewriter, translator
from bqemulator.sql.rewriter import (
    aggregate_variants,
    create_table_schema_ctas,
    row_access_filter,
)
from bqemulator.storage import sql_identifiers
from bqemulator.storage.sql_identifiers import quoted_table_ref
from bqemulator.udf.naming import qualified_routine_name_parts
from bqemulator.versioning.snapshots import SnapshotManager
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

parse_sql_statement = Parser._parse_sql_statement
parse_set = Parser._parse_set
introspect_schema = ddl_sync._introspect_schema
expand_views = row_access_filter._Rewriter.rewrite_tree
type_parameters = DuckDB.Generator.TYPE_PARAM_SETTINGS
sync_dropped_object = executor.sync_dropped_object
rewrite_and_translate = inner_query.rewrite_and_translate_statement
rewrite_datetime_helpers = translator.rewrite_datetime_helpers
cast_to_schema = create_table_schema_ctas._cast_projections_to_schema
find_first_select = create_table_schema_ctas._first_select
find_filter_target = aggregate_variants._filter_target
flatten_calls = table_rewriter._rewrite_schema_qualified_calls
validate_id = sql_identifiers._validate_sql_id
create_table = DuckDBCatalogRepository.create_table
update_table = DuckDBCatalogRepository.update_table
record_change = SnapshotManager.record_change
execute_immediate = interpreter.ScriptInterpreter._run_statement_with_params

# tables.get cuts a float down to milliseconds, which may lose one: two changes that are one apart
# could get the same lastModifiedTime.
STEP = timedelta(milliseconds=2)

NAME = r"(?:`[^`]+`|[\w-]+)(?:\.(?:`[^`]+`|[\w-]+))*"


def compile_start(pattern: str) -> re.Pattern[str]:
    """Return what matches the start of a statement; a space stands for any number of them."""
    return re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE | re.DOTALL)


# Grants mean nothing here, where one user may do everything. bqemulator would refuse them, and each
# model that has some would fail.
RIGHTS = compile_start("(?:grant|revoke) ")
INGESTION_TIME = compile_start(rf"insert (?:into )?{NAME}\s*\(\s*_PARTITIONTIME\b")
LOAD = compile_start("load data ")
COPY = compile_start(
    rf"(create (?:or replace )?table (?:if not exists )?{NAME}) (?:clone|copy) "
    rf"({NAME}(?: for system_time as of .+?)?)(\s*options\s*\(.*\))?\s*\Z"
)
ALTER = compile_start(rf"alter (?:table|schema|(?:materialized )?view) (?:if exists )?{NAME} ")
# Changes of a table that change no row: keys, which BigQuery does not enforce, and options. DuckDB
# would refuse them.
WITHOUT_EFFECT = compile_start(
    rf"add (?:constraint (?:if not exists )?{NAME} )?(?:primary|foreign) key\b|"
    rf"drop (?:primary key\b|constraint )|(?:alter column (?:if exists )?{NAME} )?set options\b"
)
NO_PRIVILEGE = sqlglot.parse_one(
    "(select '' as object_schema, '' as object_name, '' as privilege_type, '' as grantee limit 0)"
)
STRUCT_OF_VARIABLES = compile_start(r"(\(\s*select) as struct\b")

# The period of each unit, for DuckDB's TIME_BUCKET. It counts weeks from a Monday, months and years
# from January 2000.
BUCKETS = {
    "DAY": (1, "DAY"),
    "ISOWEEK": (7, "DAY"),
    "ISOYEAR": (372, "DAY"),
    "MONTH": (1, "MONTH"),
    "QUARTER": (3, "MONTH"),
    "YEAR": (1, "YEAR"),
}
# DuckDB has no BIGNUMERIC. With 10 decimals, as no NUMERIC has, such a column is known by its type
# in DuckDB; otherwise `make types` would record NUMERIC.
BIGNUMERIC = {exp.DType.BIGDECIMAL: ((38, 10), (38, 38))}
DUCKDB_TYPES = {"DECIMAL(38,10)": "BIGNUMERIC", "INTERVAL": "INTERVAL", "JSON": "JSON"}
WEEK_DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")

# Letters of any alphabet, digits, spaces, _ and -; and accents as characters of their own, as macOS
# writes them in names of files. BigQuery allows more; a quote would end the name in DuckDB's SQL.
TABLE_NAME = re.compile(r"[\w\u0300-\u036f -]{1,255}")


def parse_statement(parser: Parser) -> Statement:
    """Return the statement at the parser's place as one, or several, that bqemulator can run.

    InvalidQueryError if it cannot. The parser knows strings and comments, and each statement of a
    script. In the place of several, or of none, is a block of them.
    """
    statement = parse_sql_statement(parser)
    rewritten = rewrite(statement.sql)
    if rewritten == [statement.sql]:
        return statement
    return BeginStmt(tuple(SqlStmt(sql) for sql in rewritten), exception_handler=None)


def rewrite(sql: str) -> list[str]:
    """Return what bqemulator is to run for a statement: itself, others, or nothing."""
    if INGESTION_TIME.match(sql):
        # bqemulator would put CURRENT_TIMESTAMP() among the columns, and its syntax error would not
        # name what it cannot do.
        raise InvalidQueryError("_PARTITIONTIME: no partitions by ingestion time.")
    if LOAD.match(sql):
        # DuckDB's syntax error would not say what the local BigQuery cannot do.
        raise InvalidQueryError("LOAD DATA: Cannot resolve gs:// URIs.")
    if RIGHTS.match(sql):
        return []
    if copy := COPY.match(sql):
        return [copy.expand(r"\1\3 as select * from \2")]
    if altered := ALTER.match(sql):
        # DuckDB takes one change of a table at a time.
        changes = split_list(sql[altered.end() :])
        return [f"{altered[0]}{change}" for change in changes if not WITHOUT_EFFECT.match(change)]
    return [sql]


def split_list(sql: str) -> list[str]:
    """Return the parts between commas, but for those inside of parentheses or of a type."""
    parts, depth, part = [], 0, ""
    end = 0
    for token in tokenize(sql):
        if token.kind == "EOF" or (token.value == "," and not depth):
            parts.append(part)
            part = ""
        else:
            # Comments before a part are left out: WITHOUT_EFFECT would not match behind them.
            part += sql[end if part else token.start : token.end]
        end = token.end
        if token.kind in ("PUNCT", "OP") and set(token.value) <= set("(<>)"):
            depth += sum(1 if sign in "(<" else -1 for sign in token.value)
    return parts


def parse_assignment(parser: Parser) -> SetStmt:
    """Return the SET at the parser's place, with the sense that BigQuery gives it.

    `set (name) = (select as struct value)` gives BigQuery's variable the value, and that of
    bqemulator a struct of one field.
    """
    has_list = parser._cursor.peek().value == "("
    statement = parse_set(parser)
    if not (has_list and (struct := STRUCT_OF_VARIABLES.match(statement.source_expr))):
        return statement
    return replace(statement, source_expr=struct[1] + statement.source_expr[struct.end() :])


def parse(sql: str) -> exp.Expression | None:
    """Return a statement as a tree; None if it cannot be read, of which bqemulator says more."""
    try:
        tree = sqlglot.parse_one(sql, read="bigquery")
    except sqlglot.errors.ParseError:
        return None
    return tree if isinstance(tree, exp.Expression) else None


async def translate(bq_sql: str, **options: Any) -> str:
    """Return a statement in DuckDB's SQL, to which nobody has been given a right."""
    tree = parse(bq_sql) if "object_privileges" in bq_sql.lower() else None
    if tree:
        for table in list(tree.find_all(exp.Table)):
            if table.name.upper() == "INFORMATION_SCHEMA.OBJECT_PRIVILEGES":
                nothing = NO_PRIVILEGE.copy()
                nothing.set("alias", table.args.get("alias"))
                table.replace(nothing)
        bq_sql = tree.sql("bigquery")
    return str(await rewrite_and_translate(bq_sql, **options))


def find_dropped(drop: exp.Drop) -> exp.Expression | None:
    """Return what a DROP drops, where bqemulator looks for it.

    sqlglot 30.30 has it in a list: bqemulator would keep in its catalog what is dropped, and put
    the query of a view in the place of its name.
    """
    return next(iter(drop.args.get("tables") or ()), None)


def sync_changed_object(sql: str, project_id: str, context: AppContext) -> None:
    """Have the catalog follow a DROP, an ALTER TABLE or a DML statement that has run."""
    sync_dropped_object(sql, project_id, context)
    tree = parse(sql)
    if executor._is_dml(tree):
        for target in executor._dml_target_tables(tree, project_id):
            touch(context.catalog, *target)
    elif isinstance(tree, exp.Alter):
        sync_altered_table(tree, project_id, context)


def sync_altered_table(alter: exp.Alter, project_id: str, context: AppContext) -> None:
    """Give the catalog the name, or the columns, that ALTER TABLE has left."""
    project, dataset, name = _split_target(alter.this, project_id)
    table, change = context.catalog.get_table(project, dataset, name), alter.args["actions"][0]
    if table and isinstance(change, exp.AlterRename):
        context.catalog.delete_table(project, dataset, name)
        context.catalog.create_table(table.model_copy(update={"table_id": change.this.name}))
    elif table:
        described = {(field.name, field.type): field for field in table.schema_.fields}
        schema = describe_columns(project, dataset, name, context)
        fields: list[TableFieldSchema] = [
            described.get((field.name, field.type), field) for field in schema.fields
        ]
        schema = schema.model_copy(update={"fields": tuple(fields)})
        context.catalog.update_table(table.model_copy(update={"schema_": schema}))


def touch(catalog: Any, project: str, dataset: str, name: str) -> None:
    """Date a change of a table's rows, if the catalog has the table."""
    if table := catalog.get_table(project, dataset, name):
        catalog.update_table(table)


def date_change(catalog: Any, table: TableMeta) -> TableMeta:
    """Return a table as changed now, and later than all that was changed before.

    Tables that have been dropped count: one that is created again is not as old as it was.
    """
    latest = getattr(catalog, "latest_change", None)
    if latest is None:
        # The clock may have been set back since the server last ran.
        times = (one.last_modified_time for one in catalog._cache._tables.values())
        latest = max(times, default=datetime.min.replace(tzinfo=UTC))
    catalog.latest_change = max(datetime.now(UTC), latest + STEP)
    return table.model_copy(update={"last_modified_time": catalog.latest_change})


def create_dated_table(catalog: DuckDBCatalogRepository, table: TableMeta) -> TableMeta:
    """Add a table, or a view, to the catalog."""
    return create_table(catalog, date_change(catalog, table))


def update_dated_table(catalog: DuckDBCatalogRepository, table: TableMeta) -> TableMeta:
    """Replace a table, or a view, in the catalog.

    bqemulator does so after each change but DML and copies into a table. Of reads, only one of a
    materialized view that is out of date does, as it builds the view again.
    """
    return update_table(catalog, date_change(catalog, table))


def record_dated_change(snapshots: SnapshotManager, *table: str) -> Any:
    """Keep the rows that a table has now, and date their change (copies)."""
    touch(snapshots._catalog, *table)
    return record_change(snapshots, *table)


async def sync_execute_immediate(script: Any, sql: str, values: list[Any]) -> None:
    """Run a statement of EXECUTE IMMEDIATE, which bqemulator hides from its catalog."""
    await execute_immediate(script, sql, values)
    interpreter.sync_created_table(sql, script._project_id, script._ctx)
    interpreter.sync_created_view(sql, script._project_id, script._ctx)
    interpreter.sync_dropped_object(sql, script._project_id, script._ctx)


def describe_columns(project: str, dataset: str, table: str, context: AppContext) -> TableSchema:
    """Return the columns of a table, with the types that Arrow does not tell from others."""
    schema = introspect_schema(project, dataset, table, context)
    rows = context.engine.execute(f"FROM {quoted_table_ref(project, dataset, table)} LIMIT 0")
    types = [data_type for _, data_type, *_ in rows.description]
    fields = tuple(map(restore_type, schema.fields, types))
    return schema.model_copy(update={"fields": fields})


def restore_type(field: TableFieldSchema, data_type: Any) -> TableFieldSchema:
    """Return a column, or a field of one, with the type that it has in DuckDB (DuckDBPyType)."""
    if data_type.id == "list":
        return restore_type(field, data_type.children[0][1])
    if data_type.id == "struct":
        types = [child for _, child in data_type.children]
        fields = tuple(map(restore_type, field.fields, types))
        return field.model_copy(update={"fields": fields})
    return field.model_copy(update={"type": DUCKDB_TYPES.get(str(data_type), field.type)})


def quote_views(rewriter: Any, tree: exp.Expression, *, depth: int) -> bool:
    """Put the queries of views in their place, under names that may have spaces; return if any."""
    expanded = expand_views(rewriter, tree, depth=depth)
    for name in tree.find_all(exp.Identifier):
        name.set("quoted", name.quoted or " " in name.name)
    return bool(expanded)


def unwrap_select(body: exp.Expression | None) -> exp.Select | None:
    """Return the first SELECT of the body of a CREATE TABLE, also of one in parentheses.

    dbt puts them around the model; bqemulator would leave the columns of the contract there, which
    DuckDB does not take together with a SELECT.
    """
    return find_first_select(body.unnest() if isinstance(body, exp.Subquery) else body)


def refuse_nulls(
    columns: list[exp.ColumnDef], projections: list[exp.Expression]
) -> list[exp.Expression]:
    """Return the projections as the columns' types, with an error for a NULL in one NOT NULL.

    Fields of structs lose their constraints, which DuckDB does not know.
    """
    for column in columns:
        for field in column.kind.find_all(exp.ColumnDef) if column.kind else ():
            field.set("constraints", None)
    casts = cast_to_schema(columns, projections)
    for column, cast in zip(columns, casts, strict=True):
        if any(isinstance(one.kind, exp.NotNullColumnConstraint) for one in column.constraints):
            refusal = exp.Literal.string(f"Required field {column.name} cannot be null")
            cast.set("this", exp.func("coalesce", cast.this, exp.func("error", refusal)))
    return casts


def unwrap_distinct(operand: exp.Expression) -> exp.Expression:
    """Return the value that ARRAY_AGG(… IGNORE NULLS) compares with NULL, without its DISTINCT."""
    value = find_filter_target(operand)
    return value.expressions[0] if isinstance(value, exp.Distinct) else value


def keep_dates(sql: str) -> str:
    """Return a statement whose DATE_TRUNC gives a DATE of a DATE, and begins weeks on their day.

    In DuckDB, DATE_TRUNC of a DATE is a TIMESTAMP, which breaks a contract, and TIME_BUCKET is not.
    """
    tree = parse(sql) if "date_trunc" in sql.lower() else None
    if not tree:
        return str(rewrite_datetime_helpers(sql))
    # The inner calls first: truncate() copies what an ISO year truncates, and a call in the copy
    # would stay as it is.
    for call in reversed(list(tree.find_all(exp.DateTrunc))):
        call.replace(truncate(call))
    return str(rewrite_datetime_helpers(tree.sql("bigquery")))


def truncate(call: exp.Expression) -> exp.Expression:
    """Return a DATE_TRUNC to which DuckDB gives BigQuery's result and type."""
    moment, unit, zone = call.this, call.args["unit"], call.args.get("zone")
    if zone:
        # sqlglot would leave the zone out, and the result be another day's.
        local = call.copy()
        local.set("this", exp.Datetime(this=moment, expression=zone))
        local.set("zone", None)
        return exp.Timestamp(this=truncate(local), zone=zone.copy())
    shift = make_interval(exp.Literal.number(0), "DAY")
    if isinstance(unit, exp.WeekStart) or unit.name == "WEEK":
        first_day = unit.name.upper() if isinstance(unit, exp.WeekStart) else "SUNDAY"
        shift = make_interval(exp.Literal.number(WEEK_DAYS.index(first_day)), "DAY")
        unit = exp.var("ISOWEEK")
    elif unit.name == "ISOYEAR":
        # TIME_BUCKET knows no ISO years: take a bucket that is longer than one, and begins with it.
        origin = exp.cast(exp.Literal.string("2000-01-03"), "date")
        days = exp.DateDiff(this=call.copy(), expression=origin, unit=exp.var("DAY"))
        shift = make_interval(days, "DAY")
    elif unit.name not in BUCKETS:
        return call
    count, period = BUCKETS[unit.name]
    width = make_interval(exp.Literal.number(count), period)
    return exp.Anonymous(this="time_bucket", expressions=[width, moment, shift])


def make_interval(count: exp.Expression, unit: str) -> exp.Interval:
    """Return a length of time, as SQL."""
    return exp.Interval(this=count, unit=exp.var(unit))


def flatten_routines(tree: exp.Expression, project_id: str) -> bool:
    """Give calls of `project.dataset.routine` the routine's name in DuckDB; return if any is.

    bqemulator does so for two parts, and dbt writes three.
    """
    calls = [
        dot
        for dot in tree.find_all(exp.Dot)
        if isinstance(dot.this, exp.Dot) and isinstance(dot.expression, exp.Anonymous)
    ]
    for dot in calls:
        project, dataset, routine = dot.this.this, dot.this.expression, dot.expression
        routine.set("this", qualified_routine_name_parts(project.name, dataset.name, routine.name))
        dot.replace(routine)
    return flatten_calls(tree, project_id) or bool(calls)


def validate_name(value: str, kind: str) -> str:
    """Return an identifier unchanged; ValidationError for one that cannot be quoted in SQL."""
    if kind == "table" and TABLE_NAME.fullmatch(value):
        return value
    return str(validate_id(value, kind))


REPLACEMENTS = (
    (ddl_sync, "_introspect_schema", describe_columns),
    (DuckDB.Generator, "TYPE_PARAM_SETTINGS", type_parameters | BIGNUMERIC),
    (row_access_filter._Rewriter, "rewrite_tree", quote_views),
    (Parser, "_parse_sql_statement", parse_statement),
    (Parser, "_parse_set", parse_assignment),
    (executor, "rewrite_and_translate_statement", translate),
    (interpreter, "rewrite_and_translate_statement", translate),
    (exp.Drop, "this", property(find_dropped)),
    (executor, "sync_dropped_object", sync_changed_object),
    (interpreter, "sync_dropped_object", sync_changed_object),
    (interpreter.ScriptInterpreter, "_run_statement_with_params", sync_execute_immediate),
    (DuckDBCatalogRepository, "create_table", create_dated_table),
    (DuckDBCatalogRepository, "update_table", update_dated_table),
    (SnapshotManager, "record_change", record_dated_change),
    (create_table_schema_ctas, "_first_select", unwrap_select),
    (create_table_schema_ctas, "_cast_projections_to_schema", refuse_nulls),
    (aggregate_variants, "_filter_target", unwrap_distinct),
    (translator, "rewrite_datetime_helpers", keep_dates),
    (table_rewriter, "_rewrite_schema_qualified_calls", flatten_routines),
    (sql_identifiers, "_validate_sql_id", validate_name),
)


def install() -> None:
    """Put all this in the place of bqemulator's own."""
    for module, name, ours in REPLACEMENTS:
        setattr(module, name, ours)
