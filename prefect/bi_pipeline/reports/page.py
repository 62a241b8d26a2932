"""Renders what a dbt command did as the Markdown of a Prefect artifact, in French."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from textwrap import shorten
from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeInt, TypeAdapter
from pydantic.dataclasses import dataclass

from bi_pipeline.command_line import count
from bi_pipeline.reports.bills import (
    compute_cost,
    format_bill,
    format_count,
    format_decimal,
    format_size,
    say_at_least,
)
from bi_pipeline.reports.message import (
    SHOWN_FAILURES,
    describe_failure,
    describe_node,
    explain_node,
    find_reason,
    say_owner,
)
from bi_pipeline.reports.prices import ON_DEMAND_USD_PER_TIB
from bi_pipeline.result import (
    FAILED_STATUSES,
    INTERRUPTED,
    Bill,
    DbtResult,
    NodeResult,
    find_name,
    translate_kind,
)
from bi_pipeline.settings import PipelineSettings

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
    INTERRUPTED: "interrompu",
}

PRICING = "https://cloud.google.com/bigquery/pricing"

SHOWN_RUNS = 20
# The end of year 9999: if the history had a later moment, datetime would raise, and no page could
# be written any more.
LAST_MOMENT = 253_402_300_799
# The longest nodes are shown, the rest counted: with thousands of rows, a page is unreadable.
SHOWN_NODES = 50
SHOWN_SKIPPED = 20
SHOWN_NEWS = 500
LONGEST_REASON = 300
LONGEST_SQL = 4000
LONGEST_CELL = 60
LONGEST_NAME = 36
SHOWN_BARS = 20
BAR_WIDTH = 16


@dataclass(frozen=True)
class PastRun:
    """One run of a command, as the history keeps it.

    Attributes:
        ended_at: seconds since 1970.
        commit: that of the project; empty if it is in no repository.
        failed: how many nodes failed; 1 for a command that failed before the first.
        billed: bytes, at least.
        seconds: how long dbt worked on the nodes.
        nodes: how many it took up.
        warned: how many warned.
    """

    ended_at: Annotated[float, Field(ge=0, le=LAST_MOMENT)]
    commit: str
    failed: NonNegativeInt
    billed: NonNegativeInt
    seconds: FiniteFloat
    nodes: NonNegativeInt = 0
    # Histories of before this field have no value for it.
    warned: NonNegativeInt = 0


def add_to_history(
    history: list[PastRun], result: DbtResult, *, commit: str, ended_at: float
) -> list[PastRun]:
    """Return the last runs, this one first."""
    failed = len(result.failed_nodes) or int(not result.succeeded)
    billed, nodes = result.bill.billed, len(result.nodes)
    warned = sum(node.status == "warn" for node in result.nodes)
    run = PastRun(ended_at, commit, failed, billed, result.seconds, nodes, warned)
    return [run, *history][:SHOWN_RUNS]


def dump_history(history: list[PastRun]) -> dict[str, str]:
    """Return the history as the metadata of a Prefect artifact, which takes short texts alone."""
    return {str(number): json.dumps(asdict(run)) for number, run in enumerate(history)}


def load_history(metadata: Mapping[str, str] | None) -> list[PastRun]:
    """Return the history in the metadata of a Prefect artifact, without unreadable entries."""
    history, run = [], TypeAdapter(PastRun)
    for text in (metadata or {}).values():
        # Another version of this project may have written other fields: if they raised, no page
        # could be written any more.
        with suppress(ValueError):
            history.append(run.validate_json(text))
    return sorted(history, key=lambda run: -run.ended_at)


def render_markdown(
    result: DbtResult,
    settings: PipelineSettings,
    warnings: list[str],
    history: list[PastRun],
    docs: str = "",
) -> str:
    """Return the page: outcome, what failed, warned or was skipped and why, cost, last runs, nodes.

    Warnings come before all else. `history` has the last runs of the command, this one first;
    `docs` is where the documentation is, an address or a path, if it is known.
    """
    outcome = "interrompu" if result.was_interrupted else "réussi" if result.succeeded else "échoué"
    # Skipped nodes took no time: their rows would only repeat those above.
    done = [node for node in result.nodes if node.status != "skipped"]
    slowest = sorted(done, key=lambda node: -node.seconds)
    ranked = sorted(slowest, key=_rank_status)
    hidden = ranked[SHOWN_NODES:]
    parts = [
        *(f"> ⚠️ {warning}" for warning in (*warnings, result.drift) if warning),
        f"# dbt {result.command} : {outcome}",
        _render_overview(result, settings),
        _render_attention(result),
        _render_details(result),
        _render_cost(result.bill) if result.nodes else "",
        _render_docs(docs),
        _render_last_runs(history),
        _render_timeline(slowest[:SHOWN_BARS]),
        _render_table(ranked[:SHOWN_NODES]),
    ]
    if hidden:
        seconds = sum(node.seconds for node in hidden)
        parts.append(f"… et {len(hidden)} nœuds plus courts, {format_decimal(seconds)} s en tout.")
    return "\n\n".join(part for part in parts if part)


def render_news(found: str, reasons: Mapping[str, str]) -> str:
    """Return the page of a run with --only-new: each node that it has to do, and why.

    Args:
        found: how many nodes of each kind are new, since when.
        reasons: `unique_id` of each node that is new -> why, in French.
    """
    rows = [
        _render_row([escape(find_name(unique_id)), translate_kind(unique_id), escape(why)])
        for unique_id, why in list(reasons.items())[:SHOWN_NEWS]
    ]
    if len(reasons) > SHOWN_NEWS:
        rows.append(_render_row([f"… et {len(reasons) - SHOWN_NEWS} de plus", "", ""]))
    table = ["| nœud | | pourquoi |", "| --- | --- | --- |", *rows] if rows else []
    return "\n".join(["# Ce qui a du neuf\n", f"{found}\n", *table])


def _render_overview(result: DbtResult, settings: PipelineSettings) -> str:
    """Return where dbt wrote, how long it took, how many nodes ended how."""
    lines = [
        f"Dataset `{settings.dataset}`, cible `{settings.target}`, "
        f"{format_decimal(result.seconds)} s dans dbt."
    ]
    if result.was_interrupted:
        lines.append("Arrêtée avant sa fin : ce qui n'est pas ci-dessous n'avait pas commencé.")
    if result.nodes:
        counts = Counter(_translate_status(node) for node in result.nodes)
        statuses = ", ".join(f"{status} {count}" for status, count in counts.most_common())
        lines.append(f"{count(len(result.nodes), 'nœud', 'nœuds')} : {statuses}.")
    return "\n\n".join(lines)


def _render_cost(bill: Bill) -> str:
    """Return what BigQuery billed, and what that costs on demand where the data is."""
    if bill.is_whole and not bill.billed:
        return "Facturé : rien."
    how = "toutes requêtes comprises"
    if not bill.is_whole:
        how = (
            "d'après la requête principale des nœuds, faute de pouvoir lister les autres "
            "(bigquery.jobs.list)"
        )
    cost = compute_cost(bill)
    if cost is None:
        where = bill.location or "cette région"
        words = f"le prix à la demande en {where} est sur [{PRICING}]({PRICING})"
    else:
        price = f"{ON_DEMAND_USD_PER_TIB[bill.location]:g}".replace(".", ",")
        words = (
            f"soit {say_at_least(bill)}{format_decimal(cost, 4)} USD à la demande "
            f"({price} USD par Tio, {bill.location})"
        )
    return f"Facturé : {format_bill(bill)}, {words}, {how}."


def _render_attention(result: DbtResult) -> str:
    """Return a line for each node that was stopped, failed or warned, then those skipped.

    Lines, not a table: Prefect does not break the lines of a cell, and a reason is long.
    """
    lines = []
    stopped = [node for node in result.nodes if node.status == INTERRUPTED]
    warned = [node for node in result.nodes if node.status == "warn"]
    for nodes in (stopped, result.failed_nodes, warned):
        for node in nodes[:SHOWN_FAILURES]:
            reason = shorten(find_reason(node), LONGEST_REASON, placeholder=" …")
            lines.append(
                f"- {_translate_status(node)} : **{_write_name(node.name)}**, "
                f"{escape(reason + say_owner(node))}"
            )
        if len(nodes) > SHOWN_FAILURES:
            hidden = format_count(len(nodes) - SHOWN_FAILURES)
            lines.append(f"- {_translate_status(nodes[0])} : … et {hidden} de plus")
    lines += _list_skipped([node for node in result.nodes if node.status == "skipped"])
    return "\n".join(["## À voir\n", *lines]) if lines else ""


def _list_skipped(nodes: list[NodeResult]) -> list[str]:
    """Return a line for each reason why nodes were skipped, with their number and the first."""
    by_reason: dict[str, list[str]] = {}
    for node in nodes:
        by_reason.setdefault(find_reason(node), []).append(_write_name(node.name))
    lines = []
    for reason, names in list(by_reason.items())[:SHOWN_FAILURES]:
        more = f" et {format_count(len(names) - SHOWN_SKIPPED)} de plus"
        shown = ", ".join(names[:SHOWN_SKIPPED]) + (more if len(names) > SHOWN_SKIPPED else "")
        why = shorten(reason, LONGEST_REASON, placeholder=" …")
        word = "sautés" if len(names) > 1 else "sauté"
        lines.append(f"- {format_count(len(names))} {word} {_write_name(why)} : {shown}")
    if len(by_reason) > SHOWN_FAILURES:
        hidden = sum(map(len, list(by_reason.values())[SHOWN_FAILURES:]))
        lines.append(f"- … et {format_count(hidden)} sautés de plus")
    return lines


def _render_details(result: DbtResult) -> str:
    """Return what is known of each failed node, then the rows of the tests that warned."""
    if not (result.succeeded or result.failed_nodes or result.was_interrupted):
        return f"## En échec\n\n{render_code(describe_failure(result))}"
    parts = [_render_failed_node(node) for node in result.failed_nodes[:SHOWN_FAILURES]]
    if len(result.failed_nodes) > SHOWN_FAILURES:
        parts.append(f"… et {format_count(len(result.failed_nodes) - SHOWN_FAILURES)} de plus.")
    for node in result.nodes:
        if node.status == "warn" and node.failing_rows:
            parts += [_describe_place(node), _render_rows(node)]
    return "\n\n".join(["## En détail", *parts]) if parts else ""


def _render_failed_node(node: NodeResult) -> str:
    """Return what a node is, what its message means, the message, its compiled SQL, its rows."""
    parts = [_describe_place(node)]
    if explanation := explain_node(node):
        parts.append(f"À savoir : {explanation}.")
    parts.append(render_code(node.message or describe_node(node)))
    if sql := re.sub(r"\n\s*\n", "\n\n", node.compiled_code).strip():
        start = f" (le début, {format_count(LONGEST_SQL)} caractères sur {format_count(len(sql))})"
        cut = start if len(sql) > LONGEST_SQL else ""
        parts.append(f"Son SQL compilé{cut} :\n\n{render_code(sql[:LONGEST_SQL], 'sql')}")
    if node.failing_rows:
        parts.append(_render_rows(node))
    return "\n\n".join(parts)


def _describe_place(node: NodeResult) -> str:
    """Return the name of a node, its kind, its file, its job in BigQuery."""
    job = _link_to_job(node, "job BigQuery")
    where = f"{node.kind}, {_write_name(node.file)}"
    return f"**{_write_name(node.name)}** ({where}{f', {job}' if job[0] == '[' else ''})"


def _render_rows(node: NodeResult) -> str:
    """Return a table of the first rows that fail a test, or why BigQuery gave none."""
    rows = node.failing_rows
    assert rows is not None
    if rows.refusal:
        return f"Ses lignes fautives n'ont pas pu être lues : {escape(rows.refusal)}"
    total = "" if node.failures is None else f" sur {format_count(node.failures)}"
    billed = f", lues pour {format_bill(rows.bill)}" if rows.bill.billed else ""
    lines = [_render_row([escape(_cut(cell, LONGEST_CELL)) for cell in row]) for row in rows.rows]
    return "\n".join(
        [
            f"{count(len(rows.rows), 'ligne fautive', 'lignes fautives')}{total}{billed} :\n",
            _render_row([escape(column) for column in rows.columns]),
            _render_row(["---"] * len(rows.columns)),
            *lines,
        ]
    )


def _render_docs(docs: str) -> str:
    """Return where the documentation is: a link, or the path of a file."""
    if not docs:
        return ""
    where = f"[docs.html]({docs})" if docs.startswith("https://") else f"`{docs}`"
    return f"Documentation du projet : {where}"


def _render_last_runs(history: list[PastRun]) -> str:
    """Return one row a run, the last first, with a bar as long as it took."""
    longest = max((run.seconds for run in history), default=0.0) or 1.0
    rows = [
        "## Dernières exécutions\n",
        "| fin (UTC) | échecs | avert. | facturé | durée (s) | | commit |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for run in history:
        cells = [
            datetime.fromtimestamp(run.ended_at, UTC).strftime("%Y-%m-%d %H:%M"),
            format_count(run.failed) if run.failed else "",
            format_count(run.warned) if run.warned else "",
            format_size(run.billed),
            format_decimal(run.seconds),
            "█" * round(run.seconds / longest * BAR_WIDTH / 2),
            run.commit,
        ]
        rows.append(_render_row(cells))
    return "\n".join(rows)


def _render_timeline(nodes: list[NodeResult]) -> str:
    """Return one bar a node, placed by when it started and as long as it took."""
    spans = [(_shorten_name(node), *node.span) for node in nodes if node.span]
    if not spans:
        return ""
    first = min(start for _, start, _ in spans)
    total = max(end for _, _, end in spans) - first or 1.0
    rows = []
    for label, start, end in spans:
        offset = min(round((start - first) / total * BAR_WIDTH), BAR_WIDTH - 1)
        length = max(1, min(round((end - start) / total * BAR_WIDTH), BAR_WIDTH - offset))
        # Fill with ░: in the fonts of browsers a space has another width than █, and the bars would
        # not begin at their moment.
        bar = ("░" * offset + "█" * length).ljust(BAR_WIDTH, "░")
        # The name last: before the bars, the longest one would push them out of a narrow page.
        rows.append(f"{bar} {format_decimal(end - start):>6} s  {label}")
    return "## Durées, les plus longues d'abord\n\n" + render_code("\n".join(rows))


def _render_table(nodes: list[NodeResult]) -> str:
    """Return one row a node: status, name, seconds, rows, bytes billed, slot time.

    The name is a link to its job: with a column more, the last would be out of sight at 1280 px.
    """
    if not nodes:
        return ""
    rows = [
        "## Nœuds\n",
        "| état | nœud (et son job) | durée | lignes | facturé | slots |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for node in nodes:
        cells = [
            _translate_status(node),
            _link_to_job(node, _shorten_name(node)),
            f"{format_decimal(node.seconds)} s",
            _format_rows(node),
            format_bill(node.bill),
            f"{format_decimal(_read_number(node, 'slot_ms') / 1000)} s",
        ]
        rows.append(_render_row(cells))
    return "\n".join(rows)


def _render_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """Return one line of Markdown that shows a text as it is, in the cell of a table too."""
    line = re.sub(r"[\\`*\[\]<>&~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
    # An escaped `|` would do as well, but for readers that split cells at each.
    return line.replace("|", "&#124;")


def _link_to_job(node: NodeResult, text: str) -> str:
    """Return the text as a link to the node's job in the console of BigQuery, if it had one."""
    if not node.response.get("job_id"):
        return escape(text)
    job = f"bq:{node.response.get('location')}:{node.response['job_id']}"
    url = "https://console.cloud.google.com/bigquery"
    # Prefect shows the text of a link as it stands, an escape included.
    text = re.sub(r"[\[\]<>|]", " ", text)
    return f"[{text}]({url}?project={node.response.get('project_id')}&j={job}&page=queryresults)"


def _translate_status(node: NodeResult) -> str:
    return STATUSES.get(node.status, node.status)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _write_name(name: str) -> str:
    """Return a whole name, which a narrow page may break after each `_`."""
    # Next to a tag, a `_` would begin italics.
    return re.sub(r"\\?_", r"\\_<wbr>", escape(name))


def _rank_status(node: NodeResult) -> int:
    """Return 0 for what failed or was stopped, 1 for what warned, 2 for the rest."""
    return (
        0 if node.status in {*FAILED_STATUSES, INTERRUPTED} else 1 if node.status == "warn" else 2
    )


def _shorten_name(node: NodeResult) -> str:
    """Return the name, its middle cut when it is long: those of tests begin and end alike."""
    if len(node.name) <= LONGEST_NAME:
        return node.name
    end = LONGEST_NAME // 2 - 1
    return f"{node.name[: LONGEST_NAME - end - 1]}…{node.name[-end:]}"


def _format_rows(node: NodeResult) -> str:
    """Return how many rows a node wrote or, of a test, how many fail it; empty if unknown."""
    rows = node.failures if node.is_test else node.response.get("rows_affected")
    return "" if rows is None else format_count(int(rows))


def _read_number(node: NodeResult, key: str) -> int:
    return int(node.response.get(key) or 0)


def render_code(text: str, language: str = "text") -> str:
    """Return text as it is, in a block that none of its lines can close."""
    fence = "~" * max(4, *(len(run) + 1 for run in re.findall("~+", text)), 0)
    return f"{fence}{language}\n{text}\n{fence}"
