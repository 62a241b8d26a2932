"""Asks BigQuery when tables last changed: their metadata say so, which takes no query."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from google.auth.exceptions import GoogleAuthError
from requests import RequestException

from bi_pipeline.bigquery.request_pool import open_request_pool

if TYPE_CHECKING:
    from bi_pipeline.bigquery.connection import DbtConnection

FIELDS = "lastModifiedTime,type,streamingBuffer,timePartitioning"
TIMEOUT_SECONDS = 10
HOUR_MS = 3_600_000


def read_change_times(
    connection: DbtConnection, endpoint: str, tables: Mapping[str, str]
) -> dict[str, str | None]:
    """Return when each table last changed, under its key: `TABLE p.d.orders 1795873354937`.

    The number is BigQuery's `lastModifiedTime`, in milliseconds since 1970. Another one comes after
    it for a table whose partitions expire, and grows with each of them: rows go then, and
    `lastModifiedTime` may stay. None for a table that is not there or may not be read, and while
    rows are streamed into it.

    Args:
        endpoint: the address of the BigQuery API, with no slash at its end.
        tables: any key -> `project.dataset.name`, or `project.dataset.name()` for a routine.
    """
    with open_request_pool(connection) as (session, threads):

        def read(name: str) -> str | None:
            try:
                # A project may have a domain before it: `example.com:project`.
                parts = name.removesuffix("()").rsplit(".", 2)
                project, dataset, table = (quote(part, safe="") for part in parts)
                kind = "routines" if name.endswith("()") else "tables"
                url = f"{endpoint}/bigquery/v2/projects/{project}/datasets/{dataset}/{kind}/{table}"
                fields = {"fields": FIELDS} if kind == "tables" else {}
                answer = session.get(url, params=fields, timeout=TIMEOUT_SECONDS)
                answer.raise_for_status()
                return _describe(name, answer.json())
            except (RequestException, GoogleAuthError, ValueError, KeyError):
                return None

        return dict(zip(tables, threads.map(read, tables.values()), strict=True))


def _describe(name: str, table: dict[str, Any]) -> str | None:
    """Return the moment in a table's metadata; None while they lag behind what is streamed in."""
    if "streamingBuffer" in table:
        return None
    moment = f"{table.get('type', 'ROUTINE')} {name} {table['lastModifiedTime']}"
    partitions = table.get("timePartitioning", {})
    if "expirationMs" not in partitions:
        return moment
    period = HOUR_MS if partitions["type"] == "HOUR" else 24 * HOUR_MS
    return f"{moment} {(int(time.time() * 1000) - int(partitions['expirationMs'])) // period}"
