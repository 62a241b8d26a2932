"""Says in French what a run would be billed: a table, a sentence, a page of Prefect."""

from __future__ import annotations

from bi_pipeline.command_line import count
from bi_pipeline.reports.bills import compute_cost, format_decimal, format_size
from bi_pipeline.reports.page import PRICING, render_code
from bi_pipeline.result import Bill, Estimate, NodeEstimate, find_name
from bi_pipeline.settings import PipelineSettings

# The largest are shown, the rest is counted, as in the other summaries.
SHOWN_NODES = 50
LONGEST_REASON = 120


def render_estimate(estimate: Estimate, target: str) -> str:
    """Return one line a node, the largest first: its name, bytes and price, or why it is unknown.

    After them, in one line, those that BigQuery would refuse for their size.
    """
    known, unknown = _split(estimate)
    ranked = [*sorted(known, key=lambda node: -(node.billed or 0)), *unknown]
    shown, hidden = ranked[:SHOWN_NODES], ranked[SHOWN_NODES:]
    width = max((len(find_name(node.unique_id)) for node in shown), default=0)
    lines = [f"Estimation (cible {target}) :"]
    for node in shown:
        lines.append(f"  {find_name(node.unique_id):<{width}}  {_describe_node(node, estimate)}")
    if hidden:
        billed = sum(node.billed or 0 for node in hidden)
        lines.append(f"  … et {len(hidden)} de plus, {format_size(billed)} en tout")
    limit = estimate.limit
    refused = [node for node in shown if limit and node.billed and node.billed > limit]
    if limit and refused:
        lines.append(
            f"Au-delà de DBT_BIGQUERY_MAXIMUM_BYTES_BILLED ({format_size(limit)}), BigQuery les "
            f"refuserait : {', '.join(find_name(node.unique_id) for node in refused)}"
        )
    return "\n".join(lines)


def describe_estimate(estimate: Estimate) -> str:
    """Return the sum in one sentence, and what the estimate itself was billed."""
    known, unknown = _split(estimate)
    # A minimum is billed for each table that a query reads, and no dry run counts it.
    bound = "environ" if {"au plus", "environ"} & {node.bound for node in known} else "au moins"
    billed = sum(node.billed or 0 for node in known)
    text = f"Estimation : {bound} {format_size(billed)}{_describe_price(billed, estimate.location)}"
    text += f", pour {count(len(known), 'nœud', 'nœuds')}"
    if unknown:
        text += f" ; {count(len(unknown), 'nœud inconnu', 'nœuds inconnus')}"
    return f"{text} ; {_describe_spending(estimate.spent)}."


def render_estimate_page(estimate: Estimate, settings: PipelineSettings) -> str:
    """Return the Markdown of the artifact: the sentence, then the table."""
    return "\n\n".join(
        [
            "# Ce qu'une exécution facturerait",
            f"Dataset `{settings.dataset}`, cible `{settings.target}`.",
            describe_estimate(estimate),
            render_code(render_estimate(estimate, settings.target)),
        ]
    )


def _split(estimate: Estimate) -> tuple[list[NodeEstimate], list[NodeEstimate]]:
    """Return the nodes whose bill is estimated, and those of which nobody can tell."""
    known = [node for node in estimate.nodes if node.billed is not None]
    return known, [node for node in estimate.nodes if node.billed is None]


def _describe_node(node: NodeEstimate, estimate: Estimate) -> str:
    if node.billed is None:
        return f"inconnu : {node.reason[:LONGEST_REASON]}"
    if not (node.billed or node.bound):
        return "rien"
    size = f"{node.bound:>8} {format_size(node.billed):>10}"
    return f"{size}  {_format_cost(node.billed, estimate.location)}".rstrip()


def _describe_price(billed: int, location: str) -> str:
    """Return what these bytes cost on demand, after a comma; where prices are, if it is unknown."""
    if cost := _format_cost(billed, location):
        return f", {cost} à la demande"
    return f" (le prix à la demande en {location} est sur {PRICING})" if location else ""


def _format_cost(billed: int, location: str) -> str:
    """Return what these bytes cost on demand; empty for a location without a known price."""
    cost = compute_cost(Bill(billed, location=location))
    return "" if cost is None else f"{format_decimal(cost, 4)} USD"


def _describe_spending(spent: Bill) -> str:
    """Return what the queries that macros run while dbt compiles were billed."""
    if spent.billed:
        size = format_size(spent.billed)
        return f"les macros ont interrogé BigQuery à la compilation, {size} facturés"
    if spent.is_whole:
        return "rien n'a été facturé"
    return "seules les requêtes que des macros font à la compilation ont pu être facturées"
