"""When a table last changed, from its metadata as BigQuery's API gives them."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.auth.credentials import AnonymousCredentials

from bi_pipeline.bigquery import request_pool, tables
from bi_pipeline.bigquery.connection import DbtConnection
from bi_pipeline.bigquery.tables import read_change_times

ORDERS = {"type": "TABLE", "lastModifiedTime": "1795873354937"}
HOUR_MS = 3_600_000


@contextmanager
def bigquery(answers):
    """Yield the address of a server that has these tables: path -> metadata, or a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0].removeprefix("/bigquery/v2/projects/")
            answer = answers.get(path, 404)
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            self.wfile.write(b"" if isinstance(answer, int) else json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read(metadata, name="p.raw.orders"):
    connection = DbtConnection("p", None, AnonymousCredentials())
    with bigquery({"p/datasets/raw/tables/orders": metadata}) as url:
        return read_change_times(connection, url, {"key": name})["key"]


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (ORDERS, "TABLE p.raw.orders 1795873354937"),
        (ORDERS | {"type": "VIEW"}, "VIEW p.raw.orders 1795873354937"),
        (ORDERS | {"timePartitioning": {"type": "DAY"}}, "TABLE p.raw.orders 1795873354937"),
    ],
)
def test_moment_is_bigquery_s_with_the_kind_and_the_name_of_the_table(metadata, found):
    assert read(metadata) == found


@pytest.mark.parametrize(
    "metadata",
    [403, 404, {}, {"type": "TABLE"}, ORDERS | {"streamingBuffer": {"estimatedRows": "3"}}],
)
def test_moment_that_is_not_sure_is_none(metadata):
    assert read(metadata) is None


@pytest.mark.parametrize("name", ["p.region-eu.INFORMATION_SCHEMA.JOBS", "orders"])
def test_name_that_is_no_table_s_is_none(name):
    assert read(ORDERS, name) is None


@pytest.mark.parametrize(("kind", "hours"), [("HOUR", 1), ("DAY", 24), ("MONTH", 24)])
def test_partition_that_expires_is_a_change(monkeypatch, kind, hours):
    expiring = ORDERS | {"timePartitioning": {"type": kind, "expirationMs": str(60 * HOUR_MS)}}

    def read_at(hour):
        monkeypatch.setattr(tables.time, "time", lambda: hour * HOUR_MS / 1000)
        return read(expiring)

    # The partition of the first hour or day expires 60 hours later.
    before, after = read_at(1000 * 24 + 60 - 0.01), read_at(1000 * 24 + 60)

    assert before != after
    assert read_at(1000 * 24 + 60 + hours - 0.01) == after


def test_network_fault_is_none(monkeypatch):
    monkeypatch.setattr(request_pool, "RETRY", 0)
    connection = DbtConnection("p", None, AnonymousCredentials())

    found = read_change_times(connection, "http://127.0.0.1:9", {"key": "p.raw.orders"})

    assert found == {"key": None}
