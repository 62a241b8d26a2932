"""make check judges a statement whose tables nobody describes, by guessing their columns."""

import re

import pytest

from bi_pipeline.settings import PROJECT_ROOT
from support.column_guesses import SCALARS, DependsOnGuessError, GuessedTable, Guesser
from support.googlesql import SqlAnalyser, SqlError

pytestmark = pytest.mark.slow

ORDERS, CUSTOMERS = ("p", "d", "orders"), ("p", "d", "customers")
KNOWN = {
    ORDERS: {"id": "INT64", "customer_id": "INT64", "amount": "NUMERIC", "status": "STRING",
             "ordered_at": "TIMESTAMP", "day": "DATE", "is_paid": "BOOL"},
    CUSTOMERS: {"customer_id": "INT64", "name": "STRING", "since": "DATE"},
}  # fmt: skip

RIGHT = """
select id, lower(status) as status, amount * 2 as twice, date_trunc(day, month) as month from o
select o.id, c.name, o.amount + c.fee as total from o join c on o.customer_id = c.customer_id
select id, x, c.x as y from (select * from o) as o left join c using (customer_id)
with a as (select * from o), b as (select *, row_number() over (partition by id order by updated_at) as n from a) select id, sum(amount) as s from b where n = 1 group by id
select (select value.string_value from unnest(params) where key = 'page') as page, device.kind from o
select p.key, p.value.int_value + 1 as v, items[safe_offset(0)].name as i from o, unnest(params) as p
select * from o union all select * from o
select `my col` as a, o.`b-c` as b, s.`d e` as d, * except (`f g`) from o join c using (`h i`)
select string_field_0 as a from o where string_field_1 is not null
select case when status = 'a' then 1 when flag then 2 else 0 end as k, coalesce(z, 0) as z from o
select json_value(payload, '$.x') as x, parse_json(more) as j, extract(year from day) as y from o
select timestamp_diff(a, b, hour) as h, date_diff(c, d, day) as d, e between f and date '2020-01-01' as i from o
select * except (status), concat(status, name) as both from o
select id, array_agg(struct(x, y) order by x) as l from o group by 1
select split(b, ',')[offset(0)] as s, format_date('%Y', d) as f, if(a = 'x', n, 0) as i, n / nullif(m, 0) as q from o
with a as (select coalesce(x, y) as z from o) select z + 1 as one, x from a join (select x from o) on true
""".strip().splitlines()  # noqa: E501

# A statement that BigQuery refuses -> the answer if the columns of its tables are not known.
WRONG = {
    "select getdate() as x from o": "refused",
    "select datediff(day, day) as x from o": "refused",
    "select nvl(amount, 0) as x from o": "refused",
    "select 'a' = 1 as x, lower(status) as s from o": "refused",
    "select id from o where 1 = 'x'": "refused",
    "select lower(1) as x, amount * 2 as y from o": "refused",
    "select date_add('2020-01-01', interval 1 foo) as x from o": "refused",
    "select cast('x' as strng) as x from o": "refused",
    "select id from o whre id > 1": "refused",
    "select id, from from o": "refused",
    "select id from o limit": "refused",
    "with a as (select id, lower(status) as s from o) select id, nope from a": "refused",
    "with a as (select id from o) select a.nope from a": "refused",
    "with a as (select id from o) select id from a join c using (customer_id)": "refused",
    "with a as (select id from o) select * except (nope) from a": "refused",
    "select id, sum(amount) as s from o": "refused",
    "select status, count(*) as n from o group by id": "refused",
    "with a as (select count(*) as n from o) select lower(n) as x from a": "refused",
    "with a as (select count(*) as n from o) select n || 'x' = 2 as x from a": "refused",
    "select row_number() over (order by id) as n from o where n = 1": "accepted",
    "select id as one, one + 1 as two from o where two = 3": "accepted",
    "select timestamp_add(timestamp '2013-01-01', interval 1 month) as x from o": "refused",
    "select if(true, 'a', 1) as x from o": "refused",
    "select id from o union all select 1, 2": "refused",
    "with a as (select lower(status) as s from o) select s + 1 as x from a": "depends",
    "select status + 1 as x, lower(status) as y from o": "depends",
    "select date_trunc(day, month) as m, day || 'x' = true as x from o": "depends",
    "select nope from o": "accepted",
    # Unless the table has no other column, of which nothing is known.
    "select * from o join p.d.orders as p using (id)": "depends",
    "select lower(amount) as x from o": "accepted",
    "select sum(status) as s from o": "accepted",
    "select * from o where day > 5": "accepted",
}


def make_statement(sql):
    """Return what dbt would send: `o` and `c` are the orders and the customers."""
    for alias, path in (("o", ORDERS), ("c", CUSTOMERS)):
        sql = re.sub(rf"\b(from|join) {alias}\b(?! as)", rf"\1 {'.'.join(path)} as {alias}", sql)
    return f"create table x as ({sql}\n)"


@pytest.fixture(scope="module")
def analyser():
    return SqlAnalyser(PROJECT_ROOT / ".local" / "check" / "googlesql")


def judge(analyser, sql):
    """Return what is said of a statement, its tables unknown."""
    tables = {ORDERS: GuessedTable(), CUSTOMERS: GuessedTable()}
    try:
        Guesser(analyser, make_statement(sql), {}, {}).judge(tables)
    except SqlError:
        return "refused"
    except DependsOnGuessError:
        return "depends"
    return "accepted"


@pytest.mark.parametrize("sql", RIGHT)
def test_right_statement_is_judged_whole(analyser, sql):
    assert judge(analyser, sql) == "accepted"


@pytest.mark.parametrize(("sql", "said"), WRONG.items())
def test_wrong_statement_is_refused_unless_a_guess_may_make_it_right(analyser, sql, said):
    known = {
        path: {name: SCALARS[kind] for name, kind in columns.items()}
        for path, columns in KNOWN.items()
    }

    with pytest.raises(SqlError):
        analyser.find_columns(make_statement(sql), known)
    assert judge(analyser, sql) == said


def test_columns_that_come_out_of_a_star_stay_open(analyser):
    sql = "select *, 1 as one from o"

    found = Guesser(analyser, make_statement(sql), {}, {}).judge({ORDERS: GuessedTable()})

    assert found == GuessedTable({"one": "INT64"}, is_open=True)
