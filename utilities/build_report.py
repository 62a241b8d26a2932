"""Builds one page of charts from the marts: HTML and SVG, without script, server or network."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from google.api_core.exceptions import BadRequest, NotFound
from google.cloud.bigquery import Client
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bigquery_access import bigquery_of_the_settings
from command_line import french_parser, say_errors
from pipeline_errors import ConfigurationError
from pipeline_settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / ".local" / "report.html"

# Sums of the marts, which add up: each chart groups them as it needs.
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
    sum(on_time_count) as on_time_count,
    sum(total_arrival_delay_minutes) as total_arrival_delay_minutes,
    sum(arrived_count) as arrived_count
from `{dataset}`.performance_by_route
group by origin_name, destination
having sum(flight_count) >= 100
order by sum(on_time_count) / sum(flight_count)
limit 10
"""
WEATHER = """
select
    weather_condition,
    sum(flight_count) as flight_count,
    sum(on_time_count) as on_time_count,
    sum(cancelled_count) as cancelled_count,
    sum(departed_count) as departed_count,
    sum(total_departure_delay_minutes) as total_departure_delay_minutes
from `{dataset}`.delay_by_weather
group by weather_condition
order by sum(total_departure_delay_minutes) / sum(departed_count) desc
"""

CONDITIONS = {
    "clear": "Temps clair",
    "strong_wind": "Vent fort",
    "precipitation": "Précipitations",
    "low_visibility": "Visibilité réduite",
    "unknown": "Sans relevé",
}
MONTHS = ["janvier", "février", "mars", "avril", "mai", "juin"]
MONTHS += ["juillet", "août", "septembre", "octobre", "novembre", "décembre"]
# Twelve of them stand in the width of a phone.
SHORT_MONTHS = ["jan", "fév", "mar", "avr", "mai", "jun"]
SHORT_MONTHS += ["jul", "aoû", "sep", "oct", "nov", "déc"]

# In a drawing, a color of the page, which light and dark each have their own of.
PAGE_COLORS = {
    "#010101": "currentColor",
    "#020202": "var(--accent)",
    "#030303": "var(--bad)",
    "#040404": "var(--card)",
}
TEXT, ACCENT, BAD, CARD = PAGE_COLORS
# Orange to blue, which those who do not tell red from green tell apart, light and dark alike.
SCALE = LinearSegmentedColormap.from_list("punctuality", ["#b3470e", "#f2dcc0", "#14609f"])
# The width of a phone: a drawing is never shown narrower, and its letters stay readable.
WIDTH_INCHES = 3.6
STYLE: Any = {
    **{"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 7.5},
    **{"text.color": TEXT, "ytick.color": TEXT, "xtick.color": TEXT, "axes.edgecolor": TEXT},
}


@dataclass(frozen=True)
class Chart:
    """A drawing, what it says, and its numbers for who does not see it."""

    name: str
    title: str
    explanation: str
    svg: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def french(value: float, digits: int = 0) -> str:
    """Return a number as French writes it."""
    return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace(".", ",")


def percent(share: float, digits: int = 0) -> str:
    """Return a share as a percentage; a dash for one of nothing."""
    return "–" if pd.isna(share) else f"{french(100 * share, digits)}\N{NO-BREAK SPACE}%"


def minutes(mean: float) -> str:
    """Return a mean duration; a dash for one of nothing."""
    return "–" if pd.isna(mean) else f"{french(mean, 1)}\N{NO-BREAK SPACE}min"


def draw_svg(figure: Figure, name: str) -> str:
    """Return a drawing as an element of the page, with its fonts and colors."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--font)", svg)
    for color, replacement in PAGE_COLORS.items():
        svg = svg.replace(color, replacement)
    # The page has several drawings, which all number what they define.
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}"'
    return re.sub(r"<svg\b[^>]*", head, svg, count=1)


def plain_axes(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Return axes in a place (left, bottom, width, height) with neither frame nor ticks."""
    axes = figure.add_axes(place)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return axes


def punctuality_chart(punctuality: pd.DataFrame) -> Chart:
    """Return the share of flights on time of each airline in each of the last twelve months."""
    months = sorted(punctuality["month"].unique())[-12:]
    sums = punctuality[punctuality["month"].isin(months)].groupby(["airline_name", "month"]).sum()
    flights = sums["flight_count"].groupby("airline_name").sum()
    shares = (sums["on_time_count"] / sums["flight_count"]).unstack()
    shares = shares.loc[flights.sort_values(ascending=False).index]

    height = 0.24 * len(shares) + 0.35
    figure = Figure(figsize=(WIDTH_INCHES, height))
    axes = plain_axes(figure, (0.3, 0.01, 0.69, 0.97 - 0.22 / height))
    mesh = axes.pcolormesh(shares, cmap=SCALE, vmin=0.5, vmax=1, edgecolors=CARD, linewidth=1.5)
    for (y, x), share in np.ndenumerate(shares):
        if not np.isnan(share):
            ink = readable_ink(mesh.to_rgba(share))
            axes.text(x + 0.5, y + 0.5, french(100 * share), ha="center", va="center", color=ink)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(shares)) + 0.5, [short_name(airline) for airline in shares.index])
    axes.set_xticks(np.arange(len(months)) + 0.5, [SHORT_MONTHS[x.month - 1] for x in months])
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", labelsize=6.5, pad=1)
    return Chart(
        "punctuality",
        "Ponctualité par compagnie et par mois",
        "Part des vols à l'heure, en pour cent, les compagnies qui volent le plus d'abord. Une "
        "case vide : pas de vol ce mois-là.",
        draw_svg(figure, "punctuality"),
        ["Compagnie", *(f"{SHORT_MONTHS[month.month - 1]} {month.year}" for month in months)],
        [[airline, *map(percent, row)] for airline, row in shares.iterrows()],
    )


def short_name(airline: str) -> str:
    """Return the name of an airline without its legal form."""
    return re.sub(r",? (Inc\.|Co\.|Corporation)$", "", airline)


def readable_ink(background: Any) -> str:
    """Return black or white, whichever stands out better (WCAG's contrast)."""
    luminance = sum(
        weight * channel**2.2
        for weight, channel in zip((0.2126, 0.7152, 0.0722), background, strict=False)
    )
    return "black" if luminance > 0.18 else "white"


def routes_chart(routes: pd.DataFrame) -> Chart:
    """Return the routes where the fewest flights are on time."""
    names = routes["origin_name"] + " → " + routes["destination"]
    shares = routes["on_time_count"] / routes["flight_count"]
    delays = routes["total_arrival_delay_minutes"] / routes["arrived_count"]
    figure = Figure(figsize=(WIDTH_INCHES, 0.42 * len(routes) + 0.05))
    axes = plain_axes(figure, (0.01, 0.0, 0.98, 1.0))
    axes.barh(routes.index, 1, 0.36, color=TEXT, alpha=0.1)
    axes.barh(routes.index, shares, 0.36, color=ACCENT)
    for y, (name, share) in enumerate(zip(names, shares, strict=True)):
        axes.text(0, y - 0.28, name, va="bottom")
        axes.text(share + 0.012, y, percent(share), va="center")
    axes.set(xlim=(0, 1), ylim=(len(routes) - 0.7, -0.75), xticks=[], yticks=[])
    return Chart(
        "routes",
        "Les liaisons les moins ponctuelles",
        "Part des vols à l'heure, parmi les liaisons d'au moins cent vols.",
        draw_svg(figure, "routes"),
        ["Liaison", "Vols", "À l'heure", "Retard moyen à l'arrivée"],
        [
            [name, french(flights), percent(share, 1), minutes(delay)]
            for name, flights, share, delay in zip(
                names, routes["flight_count"], shares, delays, strict=True
            )
        ],
    )


def weather_chart(weather: pd.DataFrame) -> Chart:
    """Return the delay and the cancellations that each kind of weather brings."""
    names = weather["weather_condition"].map(CONDITIONS)
    delays = weather["total_departure_delay_minutes"] / weather["departed_count"]
    cancelled = weather["cancelled_count"] / weather["flight_count"]
    on_time = weather["on_time_count"] / weather["flight_count"]
    height = 0.3 * len(weather) + 0.35
    figure = Figure(figsize=(WIDTH_INCHES, height))
    for left, values, color, text, title in (
        (0.27, delays, ACCENT, minutes, "Retard moyen au départ"),
        (0.69, cancelled, BAD, lambda share: percent(share, 1), "Vols annulés"),
    ):
        axes = plain_axes(figure, (left, 0.0, 0.3, 1 - 0.3 / height))
        axes.barh(weather.index, values, 0.6, color=color)
        for y, value in enumerate(values):
            axes.text(value + max(values) * 0.04, y, text(value), va="center")
        axes.set(xlim=(0, max(values) * 1.55), ylim=(len(weather) - 0.5, -0.5), xticks=[])
        axes.set_yticks(weather.index, names if left < 0.5 else [""] * len(names))
        axes.set_title(title, fontsize=7.5, loc="left", fontweight="bold", pad=4)
    return Chart(
        "weather",
        "Le retard selon la météo",
        "Temps à l'aéroport de départ, à l'heure du départ prévu : visibilité sous 3 miles, "
        "pluie ou neige, vent d'au moins 20 miles par heure.",
        draw_svg(figure, "weather"),
        ["Météo", "Vols", "Retard moyen au départ", "Annulés", "À l'heure"],
        [
            [name, french(flights), minutes(delay), percent(part, 1), percent(punctual, 1)]
            for name, flights, delay, part, punctual in zip(
                names, weather["flight_count"], delays, cancelled, on_time, strict=True
            )
        ],
    )


def key_figures(punctuality: pd.DataFrame) -> dict[str, str]:
    """Return what to read first, for all the flights."""
    total = punctuality.sum(numeric_only=True)
    flights = total["flight_count"]
    return {
        "vols programmés": french(flights),
        "à l'heure": percent(total["on_time_count"] / flights, 1),
        "annulés": percent(total["cancelled_count"] / flights, 1),
        "de retard moyen à l'arrivée": minutes(
            total["total_arrival_delay_minutes"] / total["arrived_count"]
        ),
    }


def render_page(
    source: str, punctuality: pd.DataFrame, routes: pd.DataFrame, weather: pd.DataFrame
) -> str:
    """Return the page, from the rows of each query and the name of where they are."""
    # The local BigQuery gives a time where the mart has a date.
    months = pd.to_datetime(punctuality["month_start"], utc=True)
    punctuality = punctuality.assign(month=months).drop(columns="month_start")
    with matplotlib.rc_context(STYLE):
        charts = [
            punctuality_chart(punctuality),
            routes_chart(routes),
            weather_chart(weather),
        ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    first, last = (f"{MONTHS[x.month - 1]} {x.year}" for x in (months.min(), months.max()))
    return environment.get_template("report.html.jinja").render(
        first=first, last=last, source=source, figures=key_figures(punctuality), charts=charts
    )


def read_marts(client: Client, dataset: str) -> list[pd.DataFrame]:
    """Return the rows of each chart. Raises ConfigurationError when the marts are not there."""
    try:
        answers = [
            pd.DataFrame(map(dict, client.query_and_wait(sql.format(dataset=dataset))))
            for sql in (PUNCTUALITY, ROUTES, WEATHER)
        ]
    except (NotFound, BadRequest) as error:
        raise ConfigurationError(_remedy(client, dataset, error.message)) from None
    if any(answer.empty for answer in answers):
        raise ConfigurationError(_remedy(client, dataset, "il y manque des vols"))
    return answers


def _remedy(client: Client, dataset: str, reason: str) -> str:
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
    french_parser(
        "build_report.py",
        "Construit le tableau de bord des vols, une page HTML, à partir des marts de la cible.",
    ).parse_args(argv)
    client, settings = bigquery_of_the_settings()
    answers = read_marts(client, settings.dataset)
    write_page(render_page(f"{client.project}.{settings.dataset}", *answers), PAGE)
    print(f"Tableau de bord : {PAGE}\nOuvrez-le dans un navigateur ; il se lit sans réseau.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
