"""SQL that BigQuery runs and bqemulator by itself does not: run as BigQuery does."""

import time
from datetime import date

import duckdb
import pytest
from bqemulator.domain.errors import DomainError
from bqemulator.domain.result import Err
from bqemulator.sql.table_rewriter import rewrite_table_refs
from bqemulator.sql.translator import SQLTranslator
from bqemulator.storage.sql_identifiers import quoted_table_ref

from support.bqemulator_sql import REPLACEMENTS, rewrite


@pytest.fixture
def ours(monkeypatch):
    for module, name, replacement in REPLACEMENTS:
        monkeypatch.setattr(module, name, replacement)


def run(sql, query="select * from d.t"):
    """Run a statement as bqemulator does, in a DuckDB of its own; return what the query gives."""
    connection = duckdb.connect()
    connection.execute('create schema "p__d"; create macro p__d__double(x) as 2 * x')
    for statement in (sql, query):
        translated = SQLTranslator().translate(statement)
        if isinstance(translated, Err):
            raise translated.error
        answer = connection.execute(rewrite_table_refs(translated.value, "p")).fetchall()
    return answer


# By what dbt uses it for: a statement, and the rows of the table that it makes. As dbt writes it.
STATEMENTS = {
    "contract": (
        """create or replace table d.t (
            id int64 not null options (description="l'id"), price numeric, tags array<string>,
            primary key (id) not enforced
        ) cluster by id options (description="d") as (
            select id, price, tags from (select 1 as id, 2 as price, ['a'] as tags) as model_subq
        )""",
        [(1, 2, ["a"])],
    ),
    "partitions to overwrite": (
        """create table d.t as (
            select array_agg(distinct date(day) ignore nulls) as days
            from (select '2024-01-01' as day union all select null)
        )""",
        [([date(2024, 1, 1)],)],
    ),
    "function of the project": ("create table d.t as select `p`.`d`.`double`(2) as id", [(4,)]),
    "functions in each other": (
        "create table d.t as select p.d.double(p.d.double(2) + 1) as id",
        [(10,)],
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_runs_as_in_bigquery(name, ours):
    sql, rows = STATEMENTS[name]

    assert run(sql) == rows


@pytest.mark.parametrize("name", STATEMENTS)
def test_bqemulator_refuses_the_statement(name):
    """If this fails, bqemulator has learnt it: its replacement in bqemulator_sql.py can go."""
    with pytest.raises((duckdb.Error, DomainError)):
        run(STATEMENTS[name][0])


def test_contract_refuses_a_null(ours):
    sql = """create table d.t (id int64, at date not null, part struct<x int64 not null>) as (
        select id, at, part from (
            select null as id, date '2024-01-01' as at, struct(1 as x) as part
            union all select 2, {}, struct(1 as x)
        ) as model_subq
    )"""

    assert len(run(sql.format("date '2024-01-02'"))) == 2
    with pytest.raises(duckdb.Error, match="Required field at cannot be null"):
        run(sql.format("null"))


# 2024-01-03 is a Wednesday.
TRUNCATED = {
    "date_trunc(day, month)": ("DATE", date(2024, 1, 1)),
    "date_trunc(min(day), quarter)": ("DATE", date(2024, 1, 1)),
    "date_trunc(date_trunc(date_sub(day, interval 5 day), month), year)": (
        "DATE",
        date(2023, 1, 1),
    ),
    "date_trunc(day, week)": ("DATE", date(2023, 12, 31)),
    "date_trunc(day, week(friday))": ("DATE", date(2023, 12, 29)),
    "date_trunc(day, isoweek)": ("DATE", date(2024, 1, 1)),
    "date_trunc(date '1999-12-31', month)": ("DATE", date(1999, 12, 1)),
    "cast(date_trunc(timestamp(day), month) as date)": ("DATE", date(2024, 1, 1)),
}


@pytest.mark.parametrize("expression", TRUNCATED)
def test_date_trunc_of_a_date_is_a_date(expression, ours):
    sql = f"create table d.t as select {expression} as x from (select date '2024-01-03' as day)"
    if "min(" not in expression:
        sql += " group by day"

    assert run(sql, "select typeof(x), x from d.t") == [TRUNCATED[expression]]


def test_date_trunc_of_a_timestamp_stays_one(ours):
    sql = "create table d.t as select date_trunc(timestamp '2024-01-03 10:00:00', {}) as x"

    for unit, moment in (("month", "2024-01-01 00:00:00+00"), ("hour", "2024-01-03 10:00:00+00")):
        rows = run(sql.format(unit), "select typeof(x), cast(x as string) from d.t")
        assert rows == [("TIMESTAMP WITH TIME ZONE", moment)]


@pytest.mark.parametrize("name", ["données", "donne\u0301es", "Ω_1-a"])
def test_table_is_named_in_any_alphabet(name, ours):
    assert quoted_table_ref("p", "d", name) == f'"p__d"."{name}"'


@pytest.mark.parametrize("name", ['a"b', "a b", "a;b", "", "a.b", "a'b", "a\0"])
def test_table_has_no_name_that_ends_its_quotes(name, ours):
    with pytest.raises(DomainError):
        quoted_table_ref("p", "d", name)


def test_dataset_has_no_accent_as_in_bigquery(ours):
    with pytest.raises(DomainError):
        quoted_table_ref("p", "données", "t")


COMMENT = '/* {"node_id": "model.p.t"} */ -- and\n'


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        (
            COMMENT + 'grant `roles/bigquery.dataViewer` on table `p`.`d`.`t` to "user:a@b.c"',
            ["select 1"],
        ),
        ('revoke `r` on view `p`.`d`.`t` from "user:a@b.c"', ["select 1"]),
        ("select grant from d.t", ["select grant from d.t"]),
        (
            "select privilege_type from `p`.`region-US`.INFORMATION_SCHEMA.OBJECT_PRIVILEGES where "
            "object_schema = 'd'",
            [
                "select privilege_type from (select '' as object_schema, '' as object_name, '' as "
                "privilege_type, '' as grantee limit 0) where object_schema = 'd'"
            ],
        ),
        (
            "declare days array<date>;\nset (days) = (\n select as struct\n array_agg(day) from t)",
            ["declare days array<date>;\nset (days) = (\n select\n array_agg(day) from t)"],
        ),
        (
            "set (a, b) = (select as struct 1, 2); set a = (select as struct 1)",
            ["set (a, b) = (select as struct 1, 2); set a = (select as struct 1)"],
        ),
        (
            "alter table `p`.`d`.`t` drop column `a`, drop column `b`",
            [
                "ALTER TABLE `p`.`d`.`t` DROP COLUMN `a`",
                "ALTER TABLE `p`.`d`.`t` DROP COLUMN `b`",
            ],
        ),
        (COMMENT + "alter table d.t set OPTIONS()", [COMMENT + "alter table d.t set OPTIONS()"]),
    ],
)
def test_statement_is_rewritten_only_when_bqemulator_needs_it(sql, statements):
    assert rewrite(sql) == statements


def test_insert_by_ingestion_time_is_refused_by_its_name():
    sql = "insert into `p`.`d`.`t` (_PARTITIONTIME, `id`)\n select timestamp(d), id from t"

    with pytest.raises(DomainError, match="_PARTITIONTIME: no partitions by ingestion time"):
        rewrite(sql)


def test_statement_with_many_comments_is_read_at_once():
    sql = "/* comment */\n" * 100 + "select 1"
    started_at = time.perf_counter()

    assert rewrite(sql) == [sql]
    assert time.perf_counter() - started_at < 1
