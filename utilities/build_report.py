"""Builds one page of charts from the marts: HTML and SVG, without script, server or network."""

from __future__ import annotations

import datetime
import io
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from google.api_core.exceptions import BadRequest, NotFound
from google.cloud.bigquery import Client
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bigquery_access import bigquery_of_the_settings
from command_line import french_parser, say_errors
from pipeline_errors import ConfigurationError
from pipeline_settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / ".local" / "report.html"
Row = dict[str, Any]

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
PAGE_COLORS = {"#010101": "currentColor", "#020202": "var(--accent)", "#030303": "var(--bad)"}
TEXT, ACCENT, BAD = PAGE_COLORS
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

    title: str
    explanation: str
    svg: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def french(value: float, digits: int = 0) -> str:
    """Return a number as French writes it."""
    return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace(".", ",")


def percent(part: float, whole: float, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return f"{french(100 * part / whole, digits)}\N{NO-BREAK SPACE}%"


def minutes(total: float, count: float) -> str:
    """Return a mean duration."""
    return f"{french(total / count, 1)}\N{NO-BREAK SPACE}min" if count else "–"


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


def month_of(row: Row) -> datetime.date:
    """Return the month of a row, which the local BigQuery gives a time."""
    return datetime.date(row["month_start"].year, row["month_start"].month, 1)


def punctuality_chart(rows: Sequence[Row]) -> Chart:
    """Return the share of flights on time of each airline in each of the last twelve months."""
    months = sorted({month_of(row) for row in rows})[-12:]
    flights: dict[str, int] = defaultdict(int)
    cells = {}
    for row in rows:
        if (month := month_of(row)) in months:
            flights[row["airline_name"]] += row["flight_count"]
            cells[row["airline_name"], month] = (row["on_time_count"], row["flight_count"])
    airlines = sorted(flights, key=lambda name: -flights[name])

    height = 0.24 * len(airlines) + 0.35
    figure = Figure(figsize=(WIDTH_INCHES, height))
    axes = plain_axes(figure, (0.3, 0.01, 0.69, 0.97 - 0.22 / height))
    norm = Normalize(0.5, 1)
    for y, airline in enumerate(airlines):
        for x, month in enumerate(months):
            if (airline, month) in cells:
                part, whole = cells[airline, month]
                color = SCALE(norm(part / whole))
                axes.barh(y, 0.94, 0.9, x - 0.47, color=color)
                ink = readable_ink(color)
                number = french(100 * part / whole)
                axes.text(x, y, number, ha="center", va="center", color=ink)
    axes.set(xlim=(-0.5, len(months) - 0.5), ylim=(len(airlines) - 0.5, -0.5))
    axes.set_yticks(range(len(airlines)), [short_name(airline) for airline in airlines])
    axes.set_xticks(range(len(months)), [SHORT_MONTHS[month.month - 1] for month in months])
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", labelsize=6.5, pad=1)
    return Chart(
        "Ponctualité par compagnie et par mois",
        "Part des vols à l'heure, en pour cent, les compagnies qui volent le plus d'abord. Une "
        "case vide : pas de vol ce mois-là.",
        draw_svg(figure, "punctuality"),
        ["Compagnie", *(f"{SHORT_MONTHS[month.month - 1]} {month.year}" for month in months)],
        [
            [
                airline,
                *(
                    percent(*cells[airline, month]) if (airline, month) in cells else "–"
                    for month in months
                ),
            ]
            for airline in airlines
        ],
    )


def short_name(airline: str) -> str:
    """Return the name of an airline without its legal form."""
    return re.sub(r",? (Inc\.|Co\.|Corporation)$", "", airline)


def readable_ink(background: Sequence[float]) -> str:
    """Return black or white, whichever stands out better (WCAG's contrast)."""
    luminance = sum(
        weight * channel**2.2
        for weight, channel in zip((0.2126, 0.7152, 0.0722), background, strict=False)
    )
    return "black" if luminance > 0.18 else "white"


def routes_chart(rows: Sequence[Row]) -> Chart:
    """Return the routes where the fewest flights are on time."""
    figure = Figure(figsize=(WIDTH_INCHES, 0.42 * len(rows) + 0.05))
    axes = plain_axes(figure, (0.01, 0.0, 0.98, 1.0))
    for y, row in enumerate(rows):
        share = row["on_time_count"] / row["flight_count"]
        axes.barh(y, 1, 0.36, color=TEXT, alpha=0.1)
        axes.barh(y, share, 0.36, color=ACCENT)
        axes.text(0, y - 0.28, f"{row['origin_name']} → {row['destination']}", va="bottom")
        axes.text(share + 0.012, y, percent(row["on_time_count"], row["flight_count"]), va="center")
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.7, -0.75), xticks=[], yticks=[])
    return Chart(
        "Les liaisons les moins ponctuelles",
        "Part des vols à l'heure, parmi les liaisons d'au moins cent vols.",
        draw_svg(figure, "routes"),
        ["Liaison", "Vols", "À l'heure", "Retard moyen à l'arrivée"],
        [
            [
                f"{row['origin_name']} → {row['destination']}",
                french(row["flight_count"]),
                percent(row["on_time_count"], row["flight_count"], 1),
                minutes(row["total_arrival_delay_minutes"], row["arrived_count"]),
            ]
            for row in rows
        ],
    )


def weather_chart(rows: Sequence[Row]) -> Chart:
    """Return the delay and the cancellations that each kind of weather brings."""
    delays = [row["total_departure_delay_minutes"] / row["departed_count"] for row in rows]
    cancelled = [100 * row["cancelled_count"] / row["flight_count"] for row in rows]
    names = [CONDITIONS[row["weather_condition"]] for row in rows]
    figure = Figure(figsize=(WIDTH_INCHES, 0.3 * len(rows) + 0.35))
    top = 1 - 0.3 / (0.3 * len(rows) + 0.35)
    for left, values, color, unit, title in (
        (0.27, delays, ACCENT, "min", "Retard moyen au départ"),
        (0.69, cancelled, BAD, "%", "Vols annulés"),
    ):
        axes = plain_axes(figure, (left, 0.0, 0.3, top))
        axes.barh(range(len(rows)), values, 0.6, color=color)
        for y, value in enumerate(values):
            label = f"{french(value, 1)}\N{NO-BREAK SPACE}{unit}"
            axes.text(value + max(values) * 0.04, y, label, va="center")
        axes.set(xlim=(0, max(values) * 1.55), ylim=(len(rows) - 0.5, -0.5), xticks=[])
        axes.set_yticks(range(len(rows)), names if left < 0.5 else [""] * len(rows))
        axes.set_title(title, fontsize=7.5, loc="left", fontweight="bold", pad=4)
    return Chart(
        "Le retard selon la météo",
        "Temps à l'aéroport de départ, à l'heure du départ prévu : visibilité sous 3 miles, "
        "pluie ou neige, vent d'au moins 20 miles par heure.",
        draw_svg(figure, "weather"),
        ["Météo", "Vols", "Retard moyen au départ", "Annulés", "À l'heure"],
        [
            [
                name,
                french(row["flight_count"]),
                minutes(row["total_departure_delay_minutes"], row["departed_count"]),
                percent(row["cancelled_count"], row["flight_count"], 1),
                percent(row["on_time_count"], row["flight_count"], 1),
            ]
            for name, row in zip(names, rows, strict=True)
        ],
    )


def key_figures(rows: Iterable[Row]) -> dict[str, str]:
    """Return what to read first, for all the flights."""
    total: dict[str, int] = defaultdict(int)
    for row in rows:
        for name, value in row.items():
            if isinstance(value, int):
                total[name] += value
    return {
        "vols programmés": french(total["flight_count"]),
        "à l'heure": percent(total["on_time_count"], total["flight_count"], 1),
        "annulés": percent(total["cancelled_count"], total["flight_count"], 1),
        "de retard moyen à l'arrivée": minutes(
            total["total_arrival_delay_minutes"], total["arrived_count"]
        ),
    }


def render_page(source: str, punctuality: list[Row], routes: list[Row], weather: list[Row]) -> str:
    """Return the page."""
    months = sorted({month_of(row) for row in punctuality})
    first, last = (f"{MONTHS[month.month - 1]} {month.year}" for month in (months[0], months[-1]))
    with matplotlib.rc_context(STYLE):
        charts = {
            "punctuality": punctuality_chart(punctuality),
            "routes": routes_chart(routes),
            "weather": weather_chart(weather),
        }
    figures = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{value}</dd></div>"
        for label, value in key_figures(punctuality).items()
    )
    return TEMPLATE.format(
        period=f"De {first} à {last}",
        source=escape(source),
        figures=figures,
        charts="".join(render_chart(name, chart) for name, chart in charts.items()),
    )


def render_chart(name: str, chart: Chart) -> str:
    """Return a chart with its title, and its numbers in a table."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in chart.header)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(value)}</td>" for value in values)
        + "</tr>"
        for first, *values in chart.rows
    )
    return (
        f'<section class="{name}"><h2 id="{name}">{escape(chart.title)}</h2>'
        f"<p>{escape(chart.explanation)}</p>{chart.svg}"
        f'<details><summary>Les chiffres</summary><div class="scroll"><table><thead><tr>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div></details></section>\n"
    )


TEMPLATE = """\
<!doctype html>
<html lang="fr">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Ponctualité des vols</title>
<style>
:root {{
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  --page: #f6f7f9; --card: #fff; --text: #1b2430; --soft: #55606e;
  --accent: #1f6fb2; --bad: #b3470e; --line: #dde2e8;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --page: #11161d; --card: #1a212b; --text: #e8ecf1; --soft: #a6b0bd;
    --accent: #5aa7e6; --bad: #ec8a4c; --line: #303a47;
  }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--page);
  color: var(--text); font: 1rem/1.45 var(--font); }}
h1 {{ margin: .2rem 0; font-size: 1.6rem; }}
h2 {{ margin: 0; font-size: 1.1rem; }}
p {{ margin: .3rem 0 .8rem; color: var(--soft); font-size: .9rem; }}
dl {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1rem 0; }}
dl div, section {{ background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .9rem; }}
dl div {{ display: flex; flex-direction: column-reverse; justify-content: flex-end; }}
dt {{ color: var(--soft); font-size: .9rem; }}
dd {{ margin: 0; font-size: 1.5rem; font-weight: 600; }}
main {{ display: grid; gap: .75rem; align-items: start; }}
section {{ min-width: 0; }}
svg {{ display: block; width: 100%; height: auto; max-width: 33rem; margin: 0 auto; }}
summary {{ margin-top: .8rem; cursor: pointer; color: var(--soft); font-size: .9rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; }}
th:first-child {{ text-align: left; }}
@media (max-width: 30rem) {{
  body {{ padding: .6rem; }}
  dl div, section {{ padding: .7rem; }}
}}
@media (min-width: 60rem) {{
  main {{ grid-template-columns: 1fr 1fr; }}
  .weather {{ grid-column: 1 / -1; display: grid; grid-template-columns: 1fr 1fr;
    grid-template-rows: auto auto 1fr; column-gap: 2rem; }}
  .weather svg {{ grid-area: 1 / 2 / span 3; }}
}}
</style>
<header>
<h1>Ponctualité des vols</h1>
<p>{period}. Un vol est à l'heure s'il arrive avec moins de 15 minutes de retard ; annulé ou
dérouté, il ne l'est pas, et il compte parmi les vols programmés.</p>
</header>
<dl>{figures}</dl>
<main>
{charts}</main>
<footer><p>Construit par <code>make report</code> à partir de {source}.</p></footer>
</html>
"""


def read_marts(client: Client, dataset: str) -> list[list[Row]]:
    """Return the rows of each chart. Raises ConfigurationError when the marts are not there."""
    try:
        answers = [
            [dict(row.items()) for row in client.query_and_wait(sql.format(dataset=dataset))]
            for sql in (PUNCTUALITY, ROUTES, WEATHER)
        ]
    except (NotFound, BadRequest) as error:
        raise ConfigurationError(_remedy(client, dataset, error.message)) from None
    if not all(answers):
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
