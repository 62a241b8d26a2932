"""Has bqemulator 1.4.0 run SQL that BigQuery takes and bqemulator by itself refuses.

It is the SQL that dbt writes: contracts, grants, the second run of an incremental model. What the
local BigQuery still cannot do is in `prefect/bi_pipeline/reports/local_limits.py`.
"""

from __future__ import annotations

import re
from typing import Any

import sqlglot
from bqemulator.api.dependencies import AppContext
from bqemulator.api.routes import jobs
from bqemulator.catalog.ddl_sync import _introspect_schema, _split_target
from bqemulator.catalog.models import JobMeta, TableFieldSchema
from bqemulator.domain.errors import InvalidQueryError
from bqemulator.jobs import executor
from bqemulator.sql import table_rewriter, translator
from bqemulator.sql.rewriter import aggregate_variants, create_table_schema_ctas
from bqemulator.storage import sql_identifiers
from bqemulator.udf.naming import qualified_routine_name_parts
from sqlglot import exp

execute = jobs.execute_query_job
sync_dropped_object = executor.sync_dropped_object
rewrite_datetime_helpers = translator.rewrite_datetime_helpers
cast_to_schema = create_table_schema_ctas._cast_projections_to_schema
find_first_select = create_table_schema_ctas._first_select
find_filter_target = aggregate_variants._filter_target
flatten_calls = table_rewriter._rewrite_schema_qualified_calls
validate_id = sql_identifiers._validate_sql_id

# A comment ends at its first */: with `.*?`, many of them would be tried in all their combinations.
COMMENTS = r"(?:\s|/\*(?:[^*]|\*(?!/))*\*/|--[^\n]*\n)*"
ALTER_TABLE = re.compile(rf"{COMMENTS}alter\s+table\s", re.IGNORECASE)
INGESTION_TIME = re.compile(r"\binsert\s+into\s+[^\s(]+\s*\(\s*_PARTITIONTIME\b", re.IGNORECASE)

# Statements of dbt's, and what has the same sense here.
REWRITES = {
    # There is one user, who may do everything: a right is neither given nor taken.
    rf"\A{COMMENTS}(?:grant|revoke)\s.*": "select 1",
    r"`[^`]+`\.`region-[^`]+`\.INFORMATION_SCHEMA\.OBJECT_PRIVILEGES": (
        "(select '' as object_schema, '' as object_name, '' as privilege_type, '' as grantee "
        "limit 0)"
    ),
    # `set (name) = (select as struct value)` gives BigQuery's variable the value, and that of
    # bqemulator a struct of one field.
    r"(\bset\s*\(\s*\w+\s*\)\s*=\s*\(\s*select)\s+as\s+struct\b": r"\1",
}

# DuckDB's TIME_BUCKET counts weeks from a Monday, months and years from January 2000.
BUCKETS = {
    "DAY": (1, "DAY"),
    "ISOWEEK": (7, "DAY"),
    "MONTH": (1, "MONTH"),
    "QUARTER": (3, "MONTH"),
    "YEAR": (1, "YEAR"),
}
WEEK_DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")

# Letters of any alphabet, accents apart from their letters (as in names of files on macOS), digits,
# _ and -. BigQuery allows more; a quote would end the identifier in DuckDB's SQL.
TABLE_NAME = re.compile(r"[\w\u0300-\u036f-]{1,255}")


async def rewrite_and_execute(
    project_id: str, job_id: str, sql: str, *others: Any, **options: Any
) -> JobMeta:
    """Run the statement of a job as one, or several, that bqemulator can run."""
    for statement in rewrite(sql):
        job = await execute(project_id, job_id, statement, *others, **options)
    return job


def rewrite(sql: str) -> list[str]:
    """Return what bqemulator is to run for a statement; InvalidQueryError if it cannot."""
    if INGESTION_TIME.search(sql):
        # bqemulator would put CURRENT_TIMESTAMP() among the columns, and its syntax error would not
        # name what it cannot do.
        raise InvalidQueryError("_PARTITIONTIME: no partitions by ingestion time.")
    for pattern, replacement in REWRITES.items():
        sql = re.sub(pattern, replacement, sql, flags=re.IGNORECASE | re.DOTALL)
    alter = parse(sql) if ALTER_TABLE.match(sql) else None
    if not isinstance(alter, exp.Alter) or len(alter.args["actions"]) == 1:
        # As it is: sqlglot would write `set options ()` without its options.
        return [sql]
    # DuckDB takes one change of a table at a time.
    statements = []
    for action in alter.args["actions"]:
        one = alter.copy()
        one.set("actions", [action.copy()])
        statements.append(one.sql("bigquery"))
    return statements


def parse(sql: str) -> exp.Expression | None:
    """Return a statement as a tree; None if it cannot be read, of which bqemulator says more."""
    try:
        tree = sqlglot.parse_one(sql, read="bigquery")
    except sqlglot.errors.ParseError:
        return None
    return tree if isinstance(tree, exp.Expression) else None


def sync_altered_object(sql: str, project_id: str, context: AppContext) -> None:
    """Remove from the catalog what DROP has dropped; give it the columns that ALTER TABLE left."""
    sync_dropped_object(sql, project_id, context)
    alter = parse(sql) if ALTER_TABLE.match(sql) else None
    if not isinstance(alter, exp.Alter):
        return
    name = _split_target(alter.this, project_id)
    if table := context.catalog.get_table(*name):
        described = {(field.name, field.type): field for field in table.schema_.fields}
        schema = _introspect_schema(*name, context)
        fields: list[TableFieldSchema] = [
            described.get((field.name, field.type), field) for field in schema.fields
        ]
        schema = schema.model_copy(update={"fields": tuple(fields)})
        context.catalog.update_table(table.model_copy(update={"schema_": schema}))


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
    for call in list(tree.find_all(exp.DateTrunc)):
        unit, shift = call.args["unit"], 0
        if isinstance(unit, exp.WeekStart) or unit.name == "WEEK":
            first_day = unit.name.upper() if isinstance(unit, exp.WeekStart) else "SUNDAY"
            unit, shift = exp.var("ISOWEEK"), WEEK_DAYS.index(first_day)
        if unit.name in BUCKETS:
            count, period = BUCKETS[unit.name]
            width, offset = make_interval(count, period), make_interval(shift, "DAY")
            arguments = [width, call.this, offset]
            call.replace(exp.Anonymous(this="time_bucket", expressions=arguments))
    return str(rewrite_datetime_helpers(tree.sql("bigquery")))


def make_interval(count: int, unit: str) -> exp.Interval:
    """Return a length of time, as SQL."""
    return exp.Interval(this=exp.Literal.number(count), unit=exp.var(unit))


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
    (jobs, "execute_query_job", rewrite_and_execute),
    (executor, "sync_dropped_object", sync_altered_object),
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
