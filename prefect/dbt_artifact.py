"""Renders the report of a dbt command as the Markdown of a Prefect artifact, in French."""

from __future__ import annotations

import os
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from dbt_command import DBT_PROJECT_DIR
from dbt_report import NAMED_FAILURES, DbtReport, node_kind, node_name
from pipeline_settings import PROJECT_ROOT, PipelineSettings

if TYPE_CHECKING:
    from dbt.artifacts.schemas.run import RunResultOutput

# Price of a query on demand, in the US multi-region; other regions cost more.
# Source: cloud.google.com/bigquery/pricing, the price since 5 July 2023.
ON_DEMAND_USD_PER_TIB = 6.25
BYTES_PER_TIB = 2**40

STATUSES = {
    "success": "réussi",
    "pass": "réussi",
    "warn": "avertissement",
    "error": "erreur",
    "runtime error": "erreur",
    "fail": "échec",
    "partial success": "partiel",
    "skipped": "sauté",
    "no-op": "sans objet",
}

# The longest nodes are shown, the rest is counted.
SHOWN_NODES = 50
BAR_WIDTH = 40


def render_markdown(report: DbtReport, settings: PipelineSettings, warnings: list[str]) -> str:
    """Return the report: warnings, outcome, cost, failures, timeline and table of the nodes."""
    slowest = sorted(report.results, key=lambda result: -result.execution_time)
    shown, hidden = slowest[:SHOWN_NODES], slowest[SHOWN_NODES:]
    parts = [
        *(f"> ⚠️ {warning}" for warning in warnings),
        f"# dbt {report.command} : {'réussi' if report.succeeded else 'échoué'}",
        _overview(report, settings),
        _failures(report),
        _timeline(shown),
        _table(shown),
    ]
    if hidden:
        seconds = sum(result.execution_time for result in hidden)
        parts.append(f"… et {len(hidden)} nœuds plus courts, {_decimal(seconds)} s en tout.")
    return "\n\n".join(part for part in parts if part)


def _overview(report: DbtReport, settings: PipelineSettings) -> str:
    """Return where dbt wrote, how long it took, how many nodes ended how, and the cost."""
    lines = [
        f"Dataset `{settings.dataset}`, cible `{settings.target}`, "
        f"{_decimal(report.elapsed_seconds)} s dans dbt."
    ]
    if report.results:
        counts = Counter(_status(result) for result in report.results)
        states = ", ".join(f"{status} {count}" for status, count in counts.most_common())
        billed = sum(_number(result, "bytes_billed") for result in report.results)
        cost = billed / BYTES_PER_TIB * ON_DEMAND_USD_PER_TIB
        lines += [
            f"{len(report.results)} nœuds : {states}.",
            f"Facturé : {_size(billed)}, soit {_decimal(cost, 4)} USD à la demande "
            f"({_decimal(ON_DEMAND_USD_PER_TIB, 2)} USD par Tio), d'après la requête "
            "principale des nœuds.",
        ]
    return "\n\n".join(lines)


def _failures(report: DbtReport) -> str:
    """Return, for each failed node, its file, its message and its compiled SQL."""
    if report.succeeded:
        return ""
    if not report.failed:
        return f"## En échec\n\n{_code(report.failure_message)}"
    blocks = ["## En échec"]
    for result in report.failed[:NAMED_FAILURES]:
        node = report.node(result)
        blocks.append(f"**{node_name(result)}** ({node_kind(result)}, `{node.file}`)")
        blocks.append(_code(result.message or report.describe(result)))
        if node.compiled_path:
            path = os.path.relpath(DBT_PROJECT_DIR / node.compiled_path, PROJECT_ROOT)
            blocks.append(f"SQL compilé : `{path}`")
    if len(report.failed) > NAMED_FAILURES:
        blocks.append(f"… et {len(report.failed) - NAMED_FAILURES} de plus.")
    return "\n\n".join(blocks)


def _timeline(results: list[RunResultOutput]) -> str:
    """Return one bar a node, placed by when it started and as long as it took."""
    spans = [(node_name(result), *span) for result in results if (span := _span(result))]
    if not spans:
        return ""
    first = min(start for _, start, _ in spans)
    total = max(end for _, _, end in spans) - first or 1.0
    width = max(len(label) for label, _, _ in spans)
    rows = []
    for label, start, end in spans:
        offset = min(round((start - first) / total * BAR_WIDTH), BAR_WIDTH - 1)
        length = max(1, min(round((end - start) / total * BAR_WIDTH), BAR_WIDTH - offset))
        # Two shades of one family: browsers give them the same width.
        bar = ("░" * offset + "█" * length).ljust(BAR_WIDTH, "░")
        rows.append(f"{label:<{width}} {bar} {_decimal(end - start):>6} s")
    return "## Durées, les plus longues d'abord\n\n" + _code("\n".join(rows))


def _table(results: list[RunResultOutput]) -> str:
    """Return one row a node: status, rows, bytes billed, slot time, seconds, BigQuery job."""
    if not results:
        return ""
    rows = [
        "## Nœuds\n",
        "| nœud | état | lignes | facturé | slots (s) | durée (s) | BigQuery |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for result in results:
        slot_seconds = _number(result, "slot_ms") / 1000
        cells = [
            node_name(result),
            _status(result),
            str(result.adapter_response.get("rows_affected", "")),
            _size(_number(result, "bytes_billed")),
            _decimal(slot_seconds),
            _decimal(result.execution_time),
            _job_link(result),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _job_link(result: RunResultOutput) -> str:
    """Return a link to the node's job in the console of BigQuery, if it had one."""
    response = result.adapter_response
    if not response.get("job_id"):
        return ""
    job = f"bq:{response.get('location')}:{response['job_id']}"
    url = "https://console.cloud.google.com/bigquery"
    return f"[job]({url}?project={response.get('project_id')}&j={job}&page=queryresults)"


def _status(result: RunResultOutput) -> str:
    return STATUSES.get(str(result.status), str(result.status))


def _number(result: RunResultOutput, key: str) -> int:
    return int(result.adapter_response.get(key) or 0)


def _span(result: RunResultOutput) -> tuple[float, float] | None:
    """Return when the node started and ended, in seconds; None when it did not run."""
    moments: list[datetime] = [
        moment
        for timing in result.timing
        for moment in (timing.started_at, timing.completed_at)
        if moment
    ]
    return (min(moments).timestamp(), max(moments).timestamp()) if moments else None


def _size(number: int) -> str:
    """Return a number of bytes in French binary units."""
    value = float(number)
    for unit in ("o", "Kio", "Mio", "Gio"):
        if value < 1024:
            return f"{_decimal(value)} {unit}" if unit != "o" else f"{number} o"
        value /= 1024
    return f"{_decimal(value)} Tio"


def _decimal(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}".replace(".", ",")


def _code(text: str) -> str:
    """Return text as it is, in a block that no text of BigQuery can close."""
    return f"~~~~text\n{text}\n~~~~"
