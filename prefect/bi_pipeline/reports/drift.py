"""Tells a command that bills far more than it did in the last runs."""

from __future__ import annotations

from statistics import median

from bi_pipeline.reports.bills import format_bill, format_size
from bi_pipeline.reports.page import PastRun
from bi_pipeline.result import DbtResult

DRIFT_FACTOR = 3
# Below a GiB, less than a cent: a warning would cost more to read.
DRIFT_BYTES = 2**30
# With more runs, growth that is meant would go on warning for longer than four runs; with less than
# three, one unusual run would be the median.
USUAL_RUNS = 7
FEWEST_RUNS = 3


def describe_drift(result: DbtResult, before: list[PastRun]) -> str:
    """Return that a command billed far more than its last successes; empty if it did not.

    `before` has the runs before this one, the last first. One that failed skipped models, and one
    of less than half the nodes (--select, --only-new) left most out: neither says what is usual.
    """
    fewest = len(result.nodes) / 2
    usual = [run.billed for run in before if not run.failed and run.nodes >= fewest][:USUAL_RUNS]
    if len(usual) < FEWEST_RUNS:
        return ""
    middle = round(median(usual))
    if result.bill.billed <= max(DRIFT_FACTOR * middle, DRIFT_BYTES):
        return ""
    line = (
        f"dbt {result.command} : BigQuery a facturé {format_bill(result.bill)}, et d'habitude "
        f"{format_size(middle)} (médiane de ses {len(usual)} dernières réussites)"
    )
    for node in result.nodes:
        if node.bill.billed * 2 > result.bill.billed:
            line += f" ; {node.name} à lui seul : {format_bill(node.bill)}"
    expected = " C'est attendu avec --full-refresh." if result.arguments.get("full_refresh") else ""
    return f"{line}.{expected}"
