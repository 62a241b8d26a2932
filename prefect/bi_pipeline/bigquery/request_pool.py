"""Sends BigQuery requests that change nothing, several at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from google.auth.transport.requests import AuthorizedSession
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

if TYPE_CHECKING:
    from bi_pipeline.bigquery.connection import DbtConnection

CONCURRENT_REQUESTS = 16
# By default urllib3 does not send a POST again. One that changes nothing, as a dry run, may be.
RETRY = Retry(
    3,
    backoff_factor=0.5,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)


@contextmanager
def open_request_pool(
    connection: DbtConnection,
) -> Iterator[tuple[AuthorizedSession, ThreadPoolExecutor]]:
    """Yield a session that tries again after a passing fault, and the threads that may share it."""
    with (
        AuthorizedSession(connection.credentials) as session,
        ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads,
    ):
        adapter = HTTPAdapter(pool_maxsize=CONCURRENT_REQUESTS, max_retries=RETRY)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        yield session, threads
