"""Reads what BigQuery billed for a dbt command: all its queries, where dbt reports the main ones.

An incremental model reads most in a query that dbt does not report (dbt-adapters#595).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from requests import RequestException

if TYPE_CHECKING:
    from bi_pipeline.bigquery.connection import DbtConnection

# dbt puts this label on all the jobs of a command. Found by the job ids in run_results.json, which
# has the main job of each node only, the other jobs would not be counted.
LABEL = "dbt_invocation_id"
FIELDS = (
    "nextPageToken,jobs(jobReference/jobId,configuration/labels,statistics/query/totalBytesBilled)"
)
PAGE = 1000
TIMEOUT_SECONDS = 10


def read_bytes_billed(
    connection: DbtConnection,
    endpoint: str,
    invocation_id: str,
    known_jobs: set[str],
    since: float,
) -> int | None:
    """Return the bytes that all the jobs of a dbt command were billed for.

    Args:
        endpoint: the address of the BigQuery API, with no slash at its end.
        known_jobs: those that dbt reports. If one is missing from BigQuery's list, the list
            is not whole.
        since: when the command started, in seconds since 1970.

    None when the account may not list jobs (`bigquery.jobs.list`), without an answer, and
    when the list is not whole (bqemulator 1.4.0 keeps the labels of few jobs).
    """
    billed: dict[str, int] = {}
    try:
        for job in _list_jobs(connection, endpoint, since):
            if job.get("configuration", {}).get("labels", {}).get(LABEL) == invocation_id:
                query = job.get("statistics", {}).get("query", {})
                billed[job["jobReference"]["jobId"]] = int(query.get("totalBytesBilled", 0))
    except (RequestException, GoogleAuthError, ValueError, KeyError):
        return None
    return sum(billed.values()) if known_jobs <= billed.keys() else None


def _list_jobs(connection: DbtConnection, endpoint: str, since: float) -> Iterator[dict[str, Any]]:
    """Yield the jobs of the account since a moment, page by page."""
    parameters = {
        # By default BigQuery leaves out the configuration, labels included: no job would match.
        "projection": "full",
        # If this machine's clock is ahead of BigQuery's, the first jobs seem older than the
        # command, and would be left out; so take in one minute more.
        "minCreationTime": str(int((since - 60) * 1000)),
        "maxResults": str(PAGE),
        "fields": FIELDS,
    }
    url = f"{endpoint}/bigquery/v2/projects/{connection.project}/jobs"
    with AuthorizedSession(connection.credentials) as session:
        while True:
            answer = session.get(url, params=parameters, timeout=TIMEOUT_SECONDS)
            answer.raise_for_status()
            page = answer.json()
            yield from page.get("jobs", [])
            if "nextPageToken" not in page:
                return
            parameters["pageToken"] = page["nextPageToken"]
