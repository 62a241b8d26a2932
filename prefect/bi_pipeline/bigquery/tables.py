"""Asks BigQuery when tables last changed: their metadata say so, which takes no query."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import quote

from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from requests import RequestException
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

if TYPE_CHECKING:
    from bi_pipeline.bigquery.connection import DbtConnection

FIELDS = "lastModifiedTime,type,streamingBuffer"
TIMEOUT_SECONDS = 10
CONCURRENT_REQUESTS = 16
RETRY = Retry(3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))


def read_change_times(
    connection: DbtConnection, endpoint: str, tables: Mapping[str, str]
) -> dict[str, str | None]:
    """Return when each table last changed, under its key: `TABLE 1795873354937`, `VIEW …`.

    The number is BigQuery's `lastModifiedTime`, in milliseconds since 1970. None for a table that
    is not there or may not be read, and while rows are streamed into it.

    Args:
        endpoint: the address of the BigQuery API, with no slash at its end.
        tables: any key -> `project.dataset.name`.
    """
    with AuthorizedSession(connection.credentials) as session:
        adapter = HTTPAdapter(pool_maxsize=CONCURRENT_REQUESTS, max_retries=RETRY)
        session.mount("https://", adapter)
        session.mount("http://", adapter)

        def read(name: str) -> str | None:
            project, dataset, table = (quote(part, safe="") for part in name.split("."))
            url = f"{endpoint}/bigquery/v2/projects/{project}/datasets/{dataset}/tables/{table}"
            try:
                answer = session.get(url, params={"fields": FIELDS}, timeout=TIMEOUT_SECONDS)
                answer.raise_for_status()
                found = answer.json()
                # The metadata lag behind rows that are being streamed in.
                return (
                    None
                    if "streamingBuffer" in found
                    else f"{found['type']} {found['lastModifiedTime']}"
                )
            except (RequestException, GoogleAuthError, ValueError, KeyError):
                return None

        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
            return dict(zip(tables, threads.map(read, tables.values()), strict=True))
