"""SQL that BigQuery runs and bqemulator by itself does not: run as BigQuery does."""

import asyncio
from datetime import UTC, date, datetime

import duckdb
import pytest
from bqemulator.api.dependencies import AppContext
from bqemulator.api.routes import jobs
from bqemulator.api.routes.tables import _table_to_rest
from bqemulator.catalog.duckdb_repository import DuckDBCatalogRepository
from bqemulator.config import PersistenceMode, Settings
from bqemulator.domain.clock import SystemClock
from bqemulator.domain.errors import DomainError
from bqemulator.domain.events import EventBus
from bqemulator.domain.result import Err
from bqemulator.jobs import executor
from bqemulator.observability.metrics import MetricsRegistry
from bqemulator.row_access.policy import RowAccessPolicyManager
from bqemulator.sql.table_rewriter import rewrite_table_refs
from bqemulator.sql.translator import SQLTranslator
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.storage.sql_identifiers import quoted_table_ref
from bqemulator.udf.runtime import UDFRegistry
from bqemulator.versioning.snapshots import SnapshotManager

from support import bqemulator_sql
from support.bqemulator_sql import REPLACEMENTS


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
    "date_trunc(day, isoyear)": ("DATE", date(2024, 1, 1)),
    "date_trunc(date_sub(day, interval 3 day), isoyear)": ("DATE", date(2023, 1, 2)),
    "date_trunc(date '2021-01-02', isoyear)": ("DATE", date(2019, 12, 30)),
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


# In Paris, it is then the 1st of April 2024, a Monday, half past midnight.
@pytest.mark.parametrize(
    ("unit", "begin"),
    [
        ("month", datetime(2024, 3, 31, 22, tzinfo=UTC)),
        ("week", datetime(2024, 3, 30, 23, tzinfo=UTC)),
        ("week(monday)", datetime(2024, 3, 31, 22, tzinfo=UTC)),
        ("isoyear", datetime(2023, 12, 31, 23, tzinfo=UTC)),
        ("hour", datetime(2024, 3, 31, 22, tzinfo=UTC)),
    ],
)
def test_date_trunc_keeps_its_zone(unit, begin, bigquery):
    moment = "timestamp '2024-03-31 22:30:00'"

    assert bigquery(f"select date_trunc({moment}, {unit}, 'Europe/Paris')") == [(begin,)]


@pytest.mark.parametrize("name", ["données", "donne\u0301es", "Ω_1-a", "a b"])
def test_table_is_named_in_any_alphabet(name, ours):
    assert quoted_table_ref("p", "d", name) == f'"p__d"."{name}"'


@pytest.mark.parametrize("name", ['a"b', "a;b", "", "a.b", "a'b", "a\0"])
def test_table_has_no_name_that_ends_its_quotes(name, ours):
    with pytest.raises(DomainError):
        quoted_table_ref("p", "d", name)


def test_dataset_has_no_accent_as_in_bigquery(ours):
    with pytest.raises(DomainError):
        quoted_table_ref("p", "données", "t")


@pytest.fixture(scope="module")
def context():
    """The catalog and the engine of a bqemulator without servers."""
    settings = Settings(persistence_mode=PersistenceMode.EPHEMERAL, enable_format_extensions=False)
    engine, clock, events = DuckDBEngine(settings), SystemClock(), EventBus()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DuckDBEngine, "_load_spatial", lambda _: None)
        asyncio.run(engine.start())
    catalog = DuckDBCatalogRepository(engine)
    catalog.ensure_ready()
    yield AppContext(
        settings,
        clock,
        engine,
        catalog,
        MetricsRegistry(),
        events,
        UDFRegistry(settings),
        SnapshotManager(
            engine=engine, catalog=catalog, clock=clock, events=events, retention_days=1
        ),
        RowAccessPolicyManager(catalog=catalog, clock=clock),
    )
    engine.connection.close()


@pytest.fixture
def bigquery(context, ours):
    """Returns the rows of the last of some queries, in a dataset `d`, which is then dropped."""

    def query(*statements):
        for sql in statements:
            asyncio.run(jobs.execute_query_job("p", "job", sql, None, context))
        return [tuple(row.values()) for row in executor.JOB_RESULTS["job"].to_pylist()]

    query("create schema d")
    yield query
    query("drop schema d cascade")


@pytest.fixture
def list_columns(context):
    """Returns the columns of the tables in `d`, as tables.get of BigQuery does."""
    return lambda: {
        table.table_id: [
            (field.name, field.type)
            for field in context.catalog.get_table("p", "d", table.table_id).schema_.fields
        ]
        for table in context.catalog.list_tables("p", "d")
    }


# As dbt begins all its statements.
COMMENT = '/* {"app": "dbt", "node_id": "model.p.t"} */\n'


@pytest.mark.parametrize("script", ["{}", "begin {}; end"])
@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("drop table `p`.`d`.`t`", {"v"}),
        ("drop table if exists `p.d.t`", {"v"}),
        ("drop view d.v", {"t"}),
        ("alter table d.t rename to new", {"new", "v"}),
        ("create table d.u clone d.t", {"t", "u", "v"}),
    ],
)
def test_table_list_follows_a_statement(sql, tables, script, bigquery, list_columns):
    bigquery("create table d.t as select 1 as id", "create view d.v as select * from d.t")

    bigquery(COMMENT + script.format(sql))

    assert list_columns().keys() == tables
    bigquery("select * from d.INFORMATION_SCHEMA.PARTITIONS")


def test_dropped_schema_is_forgotten(bigquery, context):
    bigquery("create schema gone", "drop schema gone")

    assert context.catalog.get_dataset("p", "gone") is None


@pytest.mark.parametrize("script", ["{}", "declare x int64; {}"])
@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ("drop column `b`, drop column `c`", ["id"]),
        ("add column z int64, -- and\n drop column b", ["id", "c", "z"]),
        ("add column z struct<a int64, b numeric(9, 2)>, drop column c", ["id", "b", "z"]),
        ("rename column b to z", ["id", "z", "c"]),
        ("add primary key (id) not enforced, drop column c", ["id", "b"]),
        (
            "add constraint k foreign key (id) references d.t (id) not enforced",
            ["id", "b", "c"],
        ),
        ("drop primary key if exists", ["id", "b", "c"]),
        ("set OPTIONS()", ["id", "b", "c"]),
        (
            "set options (expiration_timestamp = timestamp_add(current_timestamp(), "
            "interval 1 hour))",
            ["id", "b", "c"],
        ),
        ("alter column b set options (description = 'b, \"c\"')", ["id", "b", "c"]),
    ],
)
def test_table_changes_in_each_way(changes, columns, script, bigquery, list_columns):
    bigquery("create table d.t as select 1 as id, 2 as b, 3 as c")

    bigquery(COMMENT + script.format(f"alter table if exists `p`.`d`.`t` {changes}"))

    assert [name for name, _ in list_columns()["t"]] == columns


def test_columns_keep_the_types_that_duckdb_knows_otherwise(bigquery, list_columns):
    bigquery(
        "create table d.t as select json '{}' as j, interval 1 day as i, numeric '1.5' as n, "
        "cast('1.123456789' as bignumeric) as b, bignumeric '1.5' as bb, "
        "[struct(json '{}' as x)] as l",
        "create table d.empty (j json, b bignumeric)",
        "create view d.v as select j, b from d.t",
        "alter table d.t add column k json",
    )

    columns = list_columns()

    assert [kind for _, kind in columns["t"]] == (
        ["JSON", "INTERVAL", "NUMERIC", "BIGNUMERIC", "BIGNUMERIC", "RECORD", "JSON"]
    )
    assert [kind for _, kind in columns["empty"]] == ["JSON", "BIGNUMERIC"]
    assert [kind for _, kind in columns["v"]] == ["JSON", "BIGNUMERIC"]
    assert bigquery("select cast(b as string) from d.t") == [("1.1234567890",)]


@pytest.mark.parametrize(
    "copy",
    [
        "create or replace table d.u clone `p.d.t`",
        "create table if not exists `p`.`d`.`u`\ncopy `p`.`d`.`t`",
        "create table d.u clone d.t options (description = 'options (')",
        "create table d.u copy d.t for system_time as of current_timestamp()",
    ],
)
def test_table_is_copied(copy, bigquery):
    bigquery("create table d.t as select 1 as id", COMMENT + copy)

    assert bigquery("select * from d.u") == [(1,)]


def test_names_may_have_spaces(bigquery):
    bigquery(
        "create table `p`.`d`.`my table` as select 1 as id",
        "create view `p`.`d`.`my view` as select * from `p.d.my table`",
        "insert into d.`my table` (id) select id + 1 from d.`my view`",
    )

    assert bigquery("select sum(id) from `p.d.my view`") == [(3,)]


@pytest.mark.parametrize(
    "sql",
    [
        'grant `roles/bigquery.dataViewer` on table `p`.`d`.`t` to "user:a@b.c"',
        'revoke `r` on view `p`.`d`.`t` from "user:a@b.c";\ngrant `r` on schema d to "user:a@b.c";',
    ],
)
def test_rights_are_neither_given_nor_taken(sql, bigquery):
    assert bigquery(COMMENT + sql) == []


def test_statement_after_a_grant_runs(bigquery):
    bigquery('grant `r` on table d.t to "user:a;b"; create table d.t as select 1 as id')

    assert bigquery("select * from d.t") == [(1,)]
    with pytest.raises(DomainError):
        bigquery('grant `r` on table d.t to "user:a"; nonsense d.t')


def test_nobody_has_a_right(bigquery):
    privileges = "`p`.`region-US`.INFORMATION_SCHEMA.OBJECT_PRIVILEGES"

    assert bigquery(f"select grantee from {privileges} where object_schema = 'd'") == []
    assert bigquery(f"select count(x.grantee) from {privileges} as x") == [(0,)]


@pytest.mark.parametrize(
    ("script", "row"),
    [
        (
            "declare days array<int64>; set (days) = (\n select as struct\n -- a comment\n "
            "array_agg(x) from unnest([1]) as x); select days",
            ([1],),
        ),
        (
            "declare a, b int64; set (a, b) = (select as struct 1, 2); select a * 10 + b as x",
            (12,),
        ),
    ],
)
def test_variables_are_set_from_a_struct(script, row, bigquery):
    assert bigquery(script) == [row]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "insert into `p`.`d`.`t` (_PARTITIONTIME, `id`)\n select timestamp(d), 1 from t",
            "_PARTITIONTIME: no partitions by ingestion time",
        ),
        (
            "load data into d.t from files (format = 'CSV', uris = ['gs://b/f.csv'])",
            "Cannot resolve gs:// URIs",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(sql, message, bigquery):
    with pytest.raises(DomainError, match=message):
        bigquery(COMMENT + sql)


@pytest.mark.parametrize(
    "text",
    [
        "set (a) = (select as struct 1)",
        "from `p`.`region-US`.INFORMATION_SCHEMA.OBJECT_PRIVILEGES",
        "; grant x to y",
        "alter table t add column a int64, drop column b",
    ],
)
def test_words_in_a_string_or_in_a_comment_are_no_statement(text, bigquery):
    comment = f"/* {text}; insert into t (_PARTITIONTIME) */"

    assert bigquery(f"select '{text}' as x {comment}") == [(text,)]


def read_time(catalog):
    """Return lastModifiedTime of the table `t`, as tables.get of BigQuery does."""
    return _table_to_rest(catalog.get_table("p", "d", "t"))["lastModifiedTime"]


def test_bqemulator_does_not_date_an_insert(context):
    """If this fails, bqemulator has learnt it: `date_change` and its callers can go."""
    times = []
    for sql in (
        "create schema d",
        "create table d.t (a int64)",
        "insert into d.t (a) values (1)",
        "drop schema d cascade",
    ):
        if sql.startswith("drop"):
            context.catalog.delete_table("p", "d", "t")
        asyncio.run(jobs.execute_query_job("p", "job", sql, None, context))
        if context.catalog.get_table("p", "d", "t"):
            times.append(read_time(context.catalog))

    assert times[0] == times[1]


def test_two_changes_never_have_the_same_time(bigquery, context):
    catalog, times = context.catalog, []
    bigquery("create table d.t (a int64)")
    table = catalog.get_table("p", "d", "t")

    for _ in range(200):
        catalog.update_table(table)
        times.append(read_time(catalog))
        catalog.delete_table("p", "d", "t")
        catalog.create_table(table)
        times.append(read_time(catalog))

    assert times == sorted(set(times))


def test_time_outlives_a_restart_and_a_clock_that_is_set_back(bigquery, context, monkeypatch):
    bigquery("create table d.t (a int64)", "insert into d.t (a) values (1)")
    before = read_time(context.catalog)

    restarted = DuckDBCatalogRepository(context.engine)
    restarted.ensure_ready()
    after = read_time(restarted)
    monkeypatch.setattr(bqemulator_sql, "datetime", ClockSetBack)
    restarted.update_table(restarted.get_table("p", "d", "t"))

    assert before == after < read_time(restarted)


class ClockSetBack(datetime):
    """A clock that has lost some decades."""

    @classmethod
    def now(cls, tz=None):
        """Return a time in 2000."""
        return cls(2000, 1, 1, tzinfo=tz)
