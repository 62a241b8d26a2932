"""Estimates what a run would be billed: the SQL that dbt has compiled, in a dry run of BigQuery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from google.auth.exceptions import GoogleAuthError
from requests import RequestException

from bi_pipeline.bigquery.connection import DbtConnection
from bi_pipeline.bigquery.dry_run import DryRun, dry_run_queries
from bi_pipeline.dbt_runs.options import ESTIMATE
from bi_pipeline.dbt_runs.run_results import MISSING_TABLE
from bi_pipeline.errors import ConfigurationError, DbtError
from bi_pipeline.explanations import explain
from bi_pipeline.result import DbtResult, Estimate, NodeEstimate, find_name
from bi_pipeline.settings import GOOGLE_ENDPOINT, PipelineSettings

MIB = 2**20
# cloud.google.com/bigquery/pricing: what a query reads on demand is rounded up to the next MiB,
# and a query that reads anything is billed 10 MiB at least.
SMALLEST_BILL = 10 * MIB

# The compiled SQL is all that these nodes read: BigQuery bills what the dry run says.
WHOLE = ("table", "test")

UNKNOWN_TO_BIGQUERY = "modèle Python, que BigQuery n'estime pas"
IN_BATCHES = "le SQL compilé d'un microbatch lit toute l'entrée, un lot n'en lit qu'une partie"


def refuse_local_estimate(commands: Sequence[str], settings: PipelineSettings) -> None:
    """Raise ConfigurationError for an estimate on the BigQuery of this machine."""
    if ESTIMATE in commands and settings.is_local:
        raise ConfigurationError(
            "estimate : le BigQuery local ne peut pas savoir ce que BigQuery facturerait. Lancez "
            "cette commande sur votre projet GCP (retirez DBT_BIGQUERY_API_ENDPOINT)."
        )


def estimate_bill(
    connection: DbtConnection,
    settings: PipelineSettings,
    manifest: Mapping[str, Any],
    compiled: DbtResult,
) -> Estimate:
    """Return what a run of the nodes that dbt has compiled would be billed.

    Raises DbtError if BigQuery estimates none of their queries, InfrastructureError if it cannot be
    reached.

    Args:
        manifest: that of dbt after the command `compiled`, with the compiled SQL.
    """
    nodes = {
        node.unique_id: manifest["nodes"][node.unique_id]
        for node in compiled.nodes
        # A dbt function and a unit test read no table, and an analysis is never run.
        if node.unique_id.startswith(("model.", "test.", "snapshot.", "seed."))
    }
    queries = {name: query for name, node in nodes.items() if (query := find_query(node))}
    endpoint = settings.endpoint or GOOGLE_ENDPOINT
    try:
        answers = dry_run_queries(connection, endpoint, settings.region, list(queries.values()))
    except (RequestException, GoogleAuthError) as error:
        # Left as it is, the error would end Prefect's task with a traceback in the log.
        raise explain(error) or error from None
    answer_of = dict(zip(queries, answers, strict=True))
    estimates = [estimate_node(name, node, answer_of.get(name)) for name, node in nodes.items()]
    if answers and all(answer.bytes is None for answer in answers):
        first = next(estimate for estimate in estimates if estimate.unique_id in queries)
        raise DbtError(
            f"estimate a échoué : BigQuery n'a pu estimer aucune requête, {len(queries)} en tout. "
            f"{find_name(first.unique_id)} : {first.reason}. Si cette cible n'est pas encore "
            "construite, lancez d'abord run, ou estimez-en une autre (--target)."
        )
    location = next((answer.location for answer in answers if answer.location), "")
    return Estimate(estimates, location, compiled.bill, settings.maximum_bytes_billed)


def find_query(node: Mapping[str, Any]) -> str:
    """Return the query of a node of the manifest that BigQuery would bill; empty if there is none.

    To create a view or to load a seed is free; of Python and microbatches, none can be made.
    """
    config = node["config"]
    if _find_obstacle(node) or config["materialized"] in ("view", "seed"):
        return ""
    query = f"{config.get('sql_header') or ''}\n{node['compiled_code']}"
    if node["resource_type"] == "test" and not config.get("store_failures"):
        # dbt counts the rows of a test, and reads fewer columns than the test itself would.
        return f"select {config['fail_calc']} from (\n{query}\n) dbt_internal_test"  # noqa: S608
    return query


def estimate_node(unique_id: str, node: Mapping[str, Any], answer: DryRun | None) -> NodeEstimate:
    """Return the estimate of a node of the manifest; `answer` is that of its query, if any."""
    if answer is None:
        reason = _find_obstacle(node)
        return NodeEstimate(unique_id, None if reason else 0, reason=reason)
    if answer.bytes is None:
        missing = MISSING_TABLE.search(answer.error)
        reason = answer.error.partition("\n")[0].removesuffix(".")
        if missing:
            table = ".".join(missing[1].replace(":", ".").split(".")[-2:])
            reason = f"lit {table}, qui n'existe pas encore"
        return NodeEstimate(unique_id, reason=reason)
    return NodeEstimate(unique_id, _round_up(answer.bytes), _find_bound(node, answer))


def _find_obstacle(node: Mapping[str, Any]) -> str:
    """Return why no query tells what the node would be billed, in French; empty if one may."""
    if node.get("language") == "python":
        return UNKNOWN_TO_BIGQUERY
    return IN_BATCHES if node["config"].get("incremental_strategy") == "microbatch" else ""


def _find_bound(
    node: Mapping[str, Any], answer: DryRun
) -> Literal["", "au moins", "au plus", "environ"]:
    # A merge reads the table that it writes, too, and dbt has no SQL of it before it runs.
    more = node["config"]["materialized"] not in WHOLE or answer.accuracy in (
        "LOWER_BOUND",
        "UNKNOWN",
    )
    # BigQuery does not know before it runs which blocks of a clustered table it will skip.
    less = answer.accuracy in ("UPPER_BOUND", "UNKNOWN")
    if more and less:
        return "environ"
    return "au moins" if more else "au plus" if less else ""


def _round_up(number: int) -> int:
    """Return the bytes billed for a query that reads this many."""
    return max(-(-number // MIB) * MIB, SMALLEST_BILL) if number else 0
