"""Asks BigQuery what queries would read, without running them: a dry run is free."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bi_pipeline.bigquery.request_pool import open_request_pool

if TYPE_CHECKING:
    from requests import Response

    from bi_pipeline.bigquery.connection import DbtConnection

TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class DryRun:
    """The answer of BigQuery about a query that it has not run.

    Attributes:
        bytes: those that it would read; None if BigQuery refuses it.
        accuracy: BigQuery's word for that number: PRECISE, LOWER_BOUND, UPPER_BOUND or UNKNOWN.
        location: where the data is; empty if BigQuery refuses it.
        error: why BigQuery refuses it.
    """

    bytes: int | None
    accuracy: str = ""
    location: str = ""
    error: str = ""


def dry_run_queries(
    connection: DbtConnection, endpoint: str, location: str | None, queries: Sequence[str]
) -> list[DryRun]:
    """Return BigQuery's answer about each query, in their order.

    Raises an error of requests or of google-auth if BigQuery cannot be reached.

    Args:
        endpoint: the address of the BigQuery API, with no slash at its end.
        location: where the data is; BigQuery finds out without it.
    """
    url = f"{endpoint}/bigquery/v2/projects/{connection.project}/jobs"
    with open_request_pool(connection) as (session, threads):

        def ask(query: str) -> DryRun:
            job = {"projectId": connection.project, "jobId": str(uuid.uuid4())}
            body = {
                "jobReference": job | ({"location": location} if location else {}),
                "configuration": {
                    "dryRun": True,
                    # A run writes tables, and is never answered from the cache: with the cache,
                    # a query that somebody has just run would count for 0 bytes.
                    "query": {"query": query, "useLegacySql": False, "useQueryCache": False},
                },
            }
            return _read_answer(session.post(url, json=body, timeout=TIMEOUT_SECONDS))

        return list(threads.map(ask, queries))


def _read_answer(answer: Response) -> DryRun:
    try:
        document: dict[str, Any] = answer.json()
        if not answer.ok:
            return DryRun(None, error=str(document["error"]["message"]))
        query = document["statistics"]["query"]
        return DryRun(
            int(query["totalBytesProcessed"]),
            query.get("totalBytesProcessedAccuracy", ""),
            document.get("jobReference", {}).get("location", ""),
        )
    except (ValueError, KeyError, TypeError):
        return DryRun(None, error=f"réponse {answer.status_code} sans estimation")
