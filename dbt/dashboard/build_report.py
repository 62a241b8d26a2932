"""Builds one page of charts from the marts: HTML and CSS, without script, server or network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import pandas as pd
from google.api_core.exceptions import BadRequest, NotFound

sys.path.append(str(Path(__file__).resolve().parents[2] / "prefect"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "utilities"))

from bi_pipeline.command_line import make_french_parser, say_errors
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import PROJECT_ROOT
from support.bigquery_access import connect_to_bigquery

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

PAGE = PROJECT_ROOT / ".local" / "report.html"

# An average of the marts' rates would count a month of ten flights as much as one of a thousand.
# So the queries add the marts' sums, and divide last.
PUNCTUALITY = """
select
    airline_name, month_start, flight_count, on_time_count, cancelled_count, arrived_count,
    total_arrival_delay_minutes
from `{dataset}`.punctuality_by_airline_month
"""
ROUTES = """
select
    origin_name,
    -- An airport that the dimension does not know has but its code.
    if(destination_airport_key = 'unknown', destination_code, destination_name) as destination,
    sum(flight_count) as flight_count,
    safe_divide(sum(on_time_count), sum(flight_count)) as on_time_rate,
    safe_divide(sum(total_arrival_delay_minutes), sum(arrived_count)) as mean_arrival_delay
from `{dataset}`.performance_by_route
group by origin_name, destination
having sum(flight_count) >= 100
order by on_time_rate
limit 10
"""
WEATHER = """
select
    weather_condition,
    sum(flight_count) as flight_count,
    safe_divide(sum(on_time_count), sum(flight_count)) as on_time_rate,
    safe_divide(sum(cancelled_count), sum(flight_count)) as cancellation_rate,
    safe_divide(sum(total_departure_delay_minutes), sum(departed_count)) as mean_departure_delay
from `{dataset}`.delay_by_weather
group by weather_condition
order by mean_departure_delay desc
"""


def format_number(value: float, digits: int = 0) -> str:
    """Return a number as French writes it."""
    return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace(".", ",")


def format_percent(share: float, digits: int = 0) -> str:
    """Return a share as a percentage; a dash for one of nothing."""
    return "–" if pd.isna(share) else f"{format_number(100 * share, digits)}\N{NO-BREAK SPACE}%"


def format_minutes(mean: float) -> str:
    """Return a mean duration; a dash for one of nothing."""
    return "–" if pd.isna(mean) else f"{format_number(mean, 1)}\N{NO-BREAK SPACE}min"


def compute_key_figures(punctuality: pd.DataFrame) -> dict[str, str]:
    """Return what to read first, for all the flights."""
    total = punctuality.sum(numeric_only=True)
    flights = total["flight_count"]
    return {
        "vols programmés": format_number(flights),
        "à l'heure": format_percent(total["on_time_count"] / flights, 1),
        "annulés": format_percent(total["cancelled_count"] / flights, 1),
        "de retard moyen à l'arrivée": format_minutes(
            total["total_arrival_delay_minutes"] / total["arrived_count"]
        ),
    }


def compute_punctuality_by_month(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the share of flights on time: a row an airline, those that fly most first, and a
    column each of the last twelve months.
    """
    last = rows[rows["month"].isin(sorted(rows["month"].unique())[-12:])]
    sums = last.groupby(["airline_name", "month"])[["on_time_count", "flight_count"]].sum()
    flights = sums["flight_count"].groupby("airline_name").sum()
    shares = (sums["on_time_count"] / sums["flight_count"]).unstack()
    shares = shares.loc[flights.sort_values(ascending=False).index]
    # « Delta Air Lines », not « Delta Air Lines Inc. », which would widen the table for nothing.
    return shares.rename(index=lambda name: re.sub(r",? (Inc\.|Co\.|Corporation)$", "", name))


def render_page(
    source: str, punctuality: pd.DataFrame, routes: pd.DataFrame, weather: pd.DataFrame
) -> str:
    """Return the page, from the rows of each query and the name of where they are."""
    # The mart's DATE is a DATETIME in bqemulator 1.4.0: from here on, one type for both.
    months = pd.to_datetime(punctuality["month_start"], utc=True)
    punctuality = punctuality.assign(month=months).drop(columns="month_start")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    environment.filters |= {
        "french": format_number,
        "percent": format_percent,
        "minutes": format_minutes,
    }
    return environment.get_template("report.html.jinja").render(
        source=source,
        first=months.min(),
        last=months.max(),
        figures=compute_key_figures(punctuality),
        shares=compute_punctuality_by_month(punctuality),
        routes=routes,
        weather=weather,
    )


def read_marts(client: Client, dataset: str) -> list[pd.DataFrame]:
    """Return the rows of each chart. Raises ConfigurationError when the marts are not there."""
    try:
        answers = [
            pd.DataFrame(map(dict, client.query_and_wait(sql.format(dataset=dataset))))
            for sql in (PUNCTUALITY, ROUTES, WEATHER)
        ]
    except (NotFound, BadRequest) as error:
        raise ConfigurationError(_describe_remedy(client, dataset, error.message)) from None
    if any(answer.empty for answer in answers):
        raise ConfigurationError(_describe_remedy(client, dataset, "il y manque des vols"))
    return answers


def _describe_remedy(client: Client, dataset: str, reason: str) -> str:
    return (
        f"Marts de {client.project}.{dataset} : {reason}\n"
        "    → construisez-les d'abord : `make demo` sur le BigQuery local, `make run` sur celui "
        "de .env"
    )


def write_page(page: str, path: Path) -> None:
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(page, encoding="utf-8")
    new.replace(path)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Build the page from the marts of the target; return the exit code."""
    make_french_parser(
        "build_report.py",
        "Construit le tableau de bord des vols, une page HTML, à partir des marts de la cible.",
    ).parse_args(argv)
    client, settings = connect_to_bigquery()
    answers = read_marts(client, settings.dataset)
    write_page(render_page(f"{client.project}.{settings.dataset}", *answers), PAGE)
    print(f"Tableau de bord : {PAGE}\nOuvrez-le dans un navigateur ; il se lit sans réseau.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
