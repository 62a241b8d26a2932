"""Reads what BigQuery billed for a dbt command and each of its nodes, all queries included.

dbt reports the main query of a node only: an incremental model reads most in another
(dbt-adapters#595).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from requests import RequestException

from bi_pipeline.result import Bill, NodeResult

if TYPE_CHECKING:
    from bi_pipeline.bigquery.connection import DbtConnection

# dbt puts this label on all the queries of a command. Found by the job ids in run_results.json,
# which has the main job of each node only, the other jobs would not be counted.
LABEL = "dbt_invocation_id"
# With `job-label: true`, dbt also puts its comment on a query as labels: `node_id` while it works
# on a node, else the name of the connection (DEFAULT_QUERY_COMMENT of dbt-adapters 1.24).
NODE_LABELS = ("node_id", "connection_name")
FIELDS = (
    "nextPageToken,jobs(jobReference(jobId,location),"
    "configuration(labels,query/destinationTable),statistics/query/totalBytesBilled)"
)
PAGE = 1000
TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Job:
    """A job of BigQuery.

    Attributes:
        bill: of the job, those of its children included when it is a script.
        node_label: dbt's name of the node, as a label has it; empty without that label.
        destination: `dataset.table` that it writes; empty for none.
    """

    bill: Bill
    node_label: str = ""
    destination: str = ""


def read_bills(
    connection: DbtConnection,
    endpoint: str,
    invocation_id: str,
    nodes: list[NodeResult],
    since: float,
) -> tuple[list[NodeResult], Bill]:
    """Return the nodes of a dbt command with the bill of each, and the bill of the command.

    Args:
        endpoint: the address of the BigQuery API, with no slash at its end.
        since: when the command started, in seconds since 1970.

    The bills are not whole when the account may not list jobs (`bigquery.jobs.list`), without an
    answer, and when a job that dbt reports is not listed.
    """
    # The bill of what dbt reports is known from dbt, whether BigQuery lists the job or not.
    jobs = _read_reported_jobs(nodes)
    missing, is_whole = set(jobs), False
    with suppress(RequestException, GoogleAuthError, ValueError, KeyError):
        for job in _list_jobs(connection, endpoint, since):
            if job.get("configuration", {}).get("labels", {}).get(LABEL) == invocation_id:
                name = job["jobReference"]["jobId"]
                jobs[name] = _read_job(job)
                missing.discard(name)
        is_whole = not missing
    return _settle(jobs, nodes, is_whole=is_whole)


def read_reported_bills(nodes: list[NodeResult]) -> tuple[list[NodeResult], Bill]:
    """Return the same from what dbt reports, without asking BigQuery: no bill is whole."""
    return _settle(_read_reported_jobs(nodes), nodes, is_whole=False)


def _settle(
    jobs: dict[str, Job], nodes: list[NodeResult], *, is_whole: bool
) -> tuple[list[NodeResult], Bill]:
    """Return the nodes with their bills, and the bill of all jobs."""
    bill = sum((job.bill for job in jobs.values()), Bill())
    return share_out(jobs, nodes, is_whole=is_whole), replace(bill, is_whole=is_whole)


def _read_reported_jobs(nodes: list[NodeResult]) -> dict[str, Job]:
    """Return the main job of each node, by its id."""
    return {
        str(node.response["job_id"]): Job(_read_reported_bill(node))
        for node in nodes
        if node.response.get("job_id")
    }


def share_out(jobs: dict[str, Job], nodes: list[NodeResult], *, is_whole: bool) -> list[NodeResult]:
    """Return the nodes with the bills of their jobs, which `jobs` has by id.

    A job is that of the node for which dbt reports it, else of the one that its label names, else
    of the one whose table it writes. When it may be that of several nodes, none gets its bytes,
    and their bills are not whole; when `is_whole` is false, no bill is.
    """
    by_job = {str(node.response.get("job_id")): node.unique_id for node in nodes}
    by_relation = {node.relation: node.unique_id for node in nodes if node.relation}
    by_label = defaultdict(list)
    for node in nodes:
        by_label[_make_label(node.unique_id)].append(node.unique_id)
    bills: dict[str, list[Bill]] = defaultdict(list)
    uncertain: set[str] = set()
    for name, job in jobs.items():
        # Cut to 63 characters, the label may be that of several nodes: long names of tests are.
        named = by_label.get(job.node_label, [])
        found = by_job.get(name) or (
            named[0] if len(named) == 1 else by_relation.get(job.destination)
        )
        if found:
            bills[found].append(job.bill)
        elif job.bill.billed:
            # A query without a label of its node may be that of any.
            uncertain.update(named if job.node_label else (node.unique_id for node in nodes))
    return [
        replace(
            node,
            bill=replace(
                sum(bills[node.unique_id], Bill()),
                is_whole=not node.was_taken_up or (is_whole and node.unique_id not in uncertain),
            ),
        )
        for node in nodes
    ]


def _make_label(unique_id: str) -> str:
    """Return the value of a label that dbt makes of a name (`_sanitize_label`, dbt-bigquery)."""
    return re.sub("[^a-z0-9_-]", "_", unique_id.strip().lower())[:63]


def _read_reported_bill(node: NodeResult) -> Bill:
    """Return what dbt reports of the main job of a node."""
    billed = int(node.response.get("bytes_billed") or 0)
    return Bill(billed, location=node.response.get("location") or "")


def _read_job(job: dict[str, Any]) -> Job:
    """Return a job of BigQuery's list; a load or a copy, which have no query, bill nothing."""
    labels = job["configuration"]["labels"]
    table = job["configuration"].get("query", {}).get("destinationTable", {})
    billed = job.get("statistics", {}).get("query", {}).get("totalBytesBilled", 0)
    return Job(
        Bill(int(billed), location=job["jobReference"].get("location", "")),
        next((labels[name] for name in NODE_LABELS if name in labels), ""),
        f"{table['datasetId']}.{table['tableId']}" if table else "",
    )


def _list_jobs(connection: DbtConnection, endpoint: str, since: float) -> Iterator[dict[str, Any]]:
    """Yield the jobs of the account since a moment, page by page.

    Without `parentJobId` BigQuery leaves out the children of a script, whose bytes are in the
    script's own: none counts twice.
    """
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
