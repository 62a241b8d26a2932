"""The incremental load of fct_flights: which rows it takes, which partitions it reads."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from sqlglot import exp, parse_one
from sqlglot.optimizer.merge_subqueries import merge_subqueries
from sqlglot.optimizer.pushdown_predicates import pushdown_predicates
from sqlglot.optimizer.qualify import qualify

from fault_proxy import fault_proxy
from project import copy_project
from support.sample_data import TABLES

pytestmark = pytest.mark.slow

PARTITION_COLUMNS = {"flights": "time_hour", "fct_flights": "flight_date_key"}
RAW = "test_incremental_raw"
# The last day that the first load knows is January 10; a run reads from the 7th on.
FIRST_LOAD = "time_hour < timestamp '2013-01-11 05:00:00+00' and not (day = 8 and carrier = 'HA')"
LATER = [
    # A late flight of the 8th, and a new day.
    f"""insert into {RAW}.flights select * from {{raw}}.flights
    where time_hour < timestamp '2013-01-12 05:00:00+00' and not ({FIRST_LOAD})""",
    f"update {RAW}.flights set dep_delay = 1234 where day = 9 and carrier = 'HA'",
    f"update {RAW}.flights set dep_delay = 1234 where day = 2 and carrier = 'HA'",
]


@pytest.fixture(scope="module")
def loads(tmp_path_factory, local_environment, bigquery):
    """What fct_flights holds after each load, and what the second one asked of BigQuery."""
    raw = local_environment["DBT_BIGQUERY_DATASET_RAW"]
    bigquery.create_dataset(RAW)
    for name in TABLES:
        rows = f"select * from {raw}.{name}" + (f" where {FIRST_LOAD}" if name == "flights" else "")
        partition = "partition by date(time_hour)" if name == "flights" else ""
        bigquery.query_and_wait(f"create table {RAW}.{name} {partition} as {rows}")
    project = copy_project(tmp_path_factory.mktemp("incremental"), local_environment, {})
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"]

    with fault_proxy(local_environment["DBT_BIGQUERY_API_ENDPOINT"]) as proxy:

        def load() -> list[tuple[int, str, int]]:
            proxy.configurations.clear()
            run = project.run_pipeline(
                *("--commands", "run", "--select", "+fct_flights"),
                DBT_BIGQUERY_DATASET_RAW=RAW,
                DBT_BIGQUERY_API_ENDPOINT=proxy.url,
            )
            assert run.returncode == 0, run.stdout + run.stderr
            rows = bigquery.query_and_wait(
                "select extract(day from flight_date_key), airline_code, departure_delay_minutes, "
                f"flight_key from {dataset}.fct_flights"
            )
            return [tuple(row.values()) for row in rows]

        first = load()
        for sql in LATER:
            bigquery.query_and_wait(sql.format(raw=raw))
        second = load()
        configurations = list(proxy.configurations)
        bigquery.query_and_wait(f"delete from {dataset}.fct_flights where true")
        emptied = load()
    expected = bigquery.query_and_wait(f"select count(*) from {RAW}.flights")
    return SimpleNamespace(
        project=project,
        first=first,
        second=second,
        emptied=emptied,
        configurations=configurations,
        expected=next(iter(expected))[0],
    )


def delays(rows, day):
    """Return the departure delays of Hawaiian, which has one flight a day."""
    return [delay for when, airline, delay, _ in rows if (when, airline) == (day, "HA")]


def test_late_rows_and_new_days_come_once(loads):
    assert delays(loads.first, 8) == []
    assert len(delays(loads.second, 8)) == 1
    assert {day for day, *_ in loads.second} == set(range(1, 12))
    assert len({key for *_, key in loads.second}) == len(loads.second) == loads.expected


def test_changes_are_taken_as_far_back_as_the_window_goes(loads):
    assert delays(loads.second, 9) == [1234]
    assert delays(loads.second, 2) == delays(loads.first, 2) != [1234]


def test_emptied_table_is_loaded_whole_with_every_change(loads):
    assert len(loads.emptied) == loads.expected
    assert delays(loads.emptied, 2) == [1234]


def statements(loads) -> list[exp.Expression]:
    """Return what the second load asked of BigQuery to load fct_flights."""
    queries = [configuration["query"]["query"] for configuration in loads.configurations]
    return [
        parse_one(query, dialect="bigquery")
        for query in queries
        if '"node_id": "model.projet_m2_bi.fct_flights"' in query
    ]


def conjuncts(condition: exp.Expression | None) -> Iterator[exp.Expression]:
    """Yield the conditions that all have to hold."""
    condition = condition.unnest() if condition else None
    if isinstance(condition, exp.And):
        yield from conjuncts(condition.left)
        yield from conjuncts(condition.right)
    elif condition:
        yield condition


def prunes(condition: exp.Expression | None, alias: str, column: str) -> bool:
    """Return whether a condition compares this column with a constant, in a way BigQuery prunes."""
    for part in conjuncts(condition):
        if not isinstance(part, (exp.GTE, exp.GT, exp.EQ)):
            continue
        constant = not part.right.find(exp.Column, exp.Query)
        if constant and (part.left.name, getattr(part.left, "table", "")) == (column, alias):
            return True
    return False


def is_partitioned(table: exp.Table) -> bool:
    """Return whether this is a partitioned table, and not a CTE of its name."""
    return bool(table.db) and table.name in PARTITION_COLUMNS


def read_scans(statement: exp.Expression, views, schema) -> dict[str, bool]:
    """Return the partitioned tables that a statement reads, and whether each scan is pruned."""
    if isinstance(statement, exp.Merge):
        column = PARTITION_COLUMNS[statement.this.name]
        return {statement.this.name: prunes(statement.args["on"], statement.this.alias, column)}
    query = statement.expression if isinstance(statement, exp.Create) else statement
    query = query.unnest().copy()
    where = query.args.get("where")
    if where and any(part == exp.false() for part in conjuncts(where.this)):
        # dbt asks for the columns, to compare them with the contract: BigQuery reads nothing.
        return {}
    for table in list(query.find_all(exp.Table)):
        if view := views.get(table.name):
            table.replace(view.copy().subquery(table.alias_or_name))
    if not any(is_partitioned(table) for table in query.find_all(exp.Table)):
        return {}
    query = pushdown_predicates(
        merge_subqueries(qualify(query, schema=schema, dialect="bigquery")), dialect="bigquery"
    )
    scans = {}
    for table in query.find_all(exp.Table):
        if is_partitioned(table):
            column = PARTITION_COLUMNS[table.name]
            where = table.find_ancestor(exp.Select).args.get("where")
            read = {
                c.name for c in query.find_all(exp.Column) if c.table == table.alias_or_name
            } - {column}
            # To find where to start, the column of the partitions is read, and nothing else.
            scans[table.name] = prunes(where and where.this, table.alias_or_name, column) or (
                isinstance(statement, exp.Select) and not read
            )
    return scans


def test_each_scan_of_a_partitioned_table_is_pruned_by_a_constant(loads, bigquery):
    dataset = loads.project.environment["DBT_BIGQUERY_DATASET_DEV"]
    tables = [
        bigquery.get_table(table) for name in (dataset, RAW) for table in bigquery.list_tables(name)
    ]
    schema = {
        "projet-local": {
            name: {
                table.table_id: {field.name: field.field_type for field in table.schema}
                for table in tables
                if table.dataset_id == name
            }
            for name in (dataset, RAW)
        }
    }
    compiled = loads.project.root / "dbt" / "target" / "dev" / "compiled"
    views = {
        path.stem: parse_one(path.read_text(), dialect="bigquery")
        for path in compiled.rglob("stg_*.sql")
        if path.parent.name == "staging"
    }

    scans = [read_scans(statement, views, schema) for statement in statements(loads)]

    # The newest day, the columns of the SQL and of the contract, the rows, their oldest day (in a
    # temporary table), the merge.
    assert scans == [
        {"fct_flights": True},
        *({}, {}),
        {"flights": True},
        {},
        {"fct_flights": True},
    ]


def test_each_job_carries_the_node_as_a_label(loads):
    for configuration in loads.configurations:
        if '"node_id": "model.' in configuration["query"]["query"]:
            assert configuration["labels"]["node_id"].startswith("model_projet_m2_bi_")
