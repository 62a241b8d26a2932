"""Reads the first rows that fail a test: those that it has stored, else by its own query."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from requests import RequestException, Response

from bi_pipeline.result import Bill, FailingRows, NodeResult
from bi_pipeline.settings import GOOGLE_ENDPOINT, PipelineSettings

if TYPE_CHECKING:
    from bi_pipeline.bigquery.connection import DbtConnection

# The rows of more tests would make the run longer, and a page that nobody reads to its end.
MOST_TESTS = 5
QUERY_SECONDS = 8
TIMEOUT_SECONDS = 10
ALL_SECONDS = 20


def add_failing_rows(
    connection: DbtConnection, settings: PipelineSettings, nodes: list[NodeResult]
) -> list[NodeResult]:
    """Return the nodes, the first tests that failed or warned with as many rows as settings say.

    A refusal of BigQuery's is in the rows. The bill of a node grows by that of the query that read
    its rows; to read those that a test has stored is free.
    """
    failed_first = sorted(nodes, key=lambda node: node.status != "fail")
    chosen = [node for node in failed_first if _has_rows(node)][:MOST_TESTS]
    if not (settings.show_failing_rows and chosen):
        return nodes
    with AuthorizedSession(connection.credentials) as session:
        reader = _Reader(session, connection.project, settings)
        # One after another: read at the same time, bqemulator 1.4.0 mixes up the rows of tables.
        deadline, rows = time.monotonic() + ALL_SECONDS, {}
        for node in chosen:
            late = FailingRows(refusal=f"les tests d'avant ont pris {ALL_SECONDS} s")
            rows[node.unique_id] = reader.read(node) if time.monotonic() < deadline else late
    return [
        replace(node, failing_rows=rows[node.unique_id], bill=node.bill + rows[node.unique_id].bill)
        if node.unique_id in rows
        else node
        for node in nodes
    ]


def _has_rows(node: NodeResult) -> bool:
    is_data_test = node.unique_id.startswith("test.") and node.status in ("fail", "warn")
    return is_data_test and bool(node.stored_failures or node.compiled_code)


class _Reader:
    def __init__(
        self, session: AuthorizedSession, project: str, settings: PipelineSettings
    ) -> None:
        self.session, self.settings = session, settings
        endpoint = settings.endpoint or GOOGLE_ENDPOINT
        self.projects = f"{endpoint}/bigquery/v2/projects"
        self.project = project

    def read(self, node: NodeResult) -> FailingRows:
        """Return the first rows that fail a test, or why there are none."""
        try:
            if node.stored_failures:
                return self._read_table(node.stored_failures)
            return self._query(node)
        except (RequestException, GoogleAuthError, ValueError, KeyError) as error:
            return FailingRows(refusal=_explain(error))

    def _read_table(self, name: str) -> FailingRows:
        project, dataset, table = (quote(part, safe="") for part in name.split("."))
        url = f"{self.projects}/{project}/datasets/{dataset}/tables/{table}"
        schema = self._send("GET", url, params={"fields": "schema"})["schema"]
        limit = {"maxResults": str(self.settings.show_failing_rows)}
        return _read_rows(schema, self._send("GET", f"{url}/data", params=limit))

    def _query(self, node: NodeResult) -> FailingRows:
        limit, most = self.settings.show_failing_rows, self.settings.maximum_bytes_billed
        location = node.response.get("location") or self.settings.region
        body = {
            # The last line of a test may be a comment.
            "query": f"select * from (\n{node.compiled_code}\n) limit {limit}",  # noqa: S608
            "useLegacySql": False,
            "timeoutMs": QUERY_SECONDS * 1000,
            "maxResults": limit,
        }
        body |= {"location": location} if location else {}
        body |= {"maximumBytesBilled": str(most)} if most else {}
        answer = self._send("POST", f"{self.projects}/{self.project}/queries", json=body)
        if not answer["jobComplete"]:
            self._cancel(answer["jobReference"])
            return FailingRows(
                refusal=f"la requête n'a pas abouti en {QUERY_SECONDS} s",
                bill=Bill(is_whole=False),
            )
        # bqemulator 1.4.0 has no `totalBytesBilled`.
        billed = int(answer.get("totalBytesBilled") or answer.get("totalBytesProcessed") or 0)
        bill = Bill(billed, location=location or "")
        return replace(_read_rows(answer["schema"], answer), bill=bill)

    def _cancel(self, job: dict[str, str]) -> None:
        url = f"{self.projects}/{job['projectId']}/jobs/{job['jobId']}/cancel"
        with suppress(RequestException, GoogleAuthError, ValueError):
            self._send("POST", url, params={"location": job.get("location", "")})

    def _send(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        answer: Response = self.session.request(method, url, timeout=TIMEOUT_SECONDS, **options)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document


def _explain(error: Exception) -> str:
    """Return why BigQuery gave no rows: its own words, if it answered."""
    answer = getattr(error, "response", None)
    if answer is not None:
        with suppress(ValueError, KeyError, TypeError):
            return str(answer.json()["error"]["message"]).partition("\n")[0]
    return f"{type(error).__name__} : {error}".partition("\n")[0]


def _read_rows(schema: dict[str, Any], answer: dict[str, Any]) -> FailingRows:
    fields = schema.get("fields", [])
    return FailingRows(
        [field["name"] for field in fields],
        [
            [_read_cell(field, cell["v"]) for field, cell in zip(fields, row["f"], strict=True)]
            for row in answer.get("rows", [])
        ],
    )


def _read_cell(field: dict[str, Any], value: Any) -> str:
    """Return a value of BigQuery's JSON as a text."""
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if field["type"] == "TIMESTAMP":
        # BigQuery gives the seconds since 1970; a moment that Python has not stays a number.
        with suppress(ValueError, OverflowError):
            return datetime.fromtimestamp(float(value), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return value
