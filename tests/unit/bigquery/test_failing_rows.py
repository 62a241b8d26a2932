"""The rows that fail a test, from a server that answers as BigQuery's API does."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.auth.credentials import AnonymousCredentials

from bi_pipeline.bigquery import failing_rows
from bi_pipeline.bigquery.connection import DbtConnection
from bi_pipeline.bigquery.failing_rows import add_failing_rows
from bi_pipeline.result import Bill, FailingRows, NodeResult
from bi_pipeline.settings import PipelineSettings

FIELDS = [
    {"name": "id", "type": "INTEGER"},
    {"name": "at", "type": "TIMESTAMP"},
    {"name": "tags", "type": "STRING", "mode": "REPEATED"},
]
ROWS = [
    {"f": [{"v": "7"}, {"v": "1.3569984E9"}, {"v": [{"v": "é"}]}]},
    {"f": [{"v": None}, {"v": None}, {"v": []}]},
]
READ = FailingRows(
    ["id", "at", "tags"],
    [["7", "2013-01-01 00:00:00 UTC", '[{"v": "é"}]'], ["NULL", "NULL", "[]"]],
)
ANSWER = {"jobComplete": True, "schema": {"fields": FIELDS}, "rows": ROWS}


@contextmanager
def bigquery(answers):
    """Yield the address of a server and the requests that came: (path, body).

    `answers` has, by the path in the API, the status and the document.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.removeprefix("/bigquery/v2/projects/")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append((path, json.loads(body or "{}")))
            status, document = answers.get(path.partition("?")[0], (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def read(answers, *nodes, count="2", **settings):
    """Return the nodes with their rows, and what BigQuery was asked."""
    with bigquery(answers) as (url, requests):
        variables = {
            "DBT_BIGQUERY_DATASET_DEV": "dev",
            "DBT_BIGQUERY_DATASET_PROD": "prod",
            "DBT_BIGQUERY_API_ENDPOINT": url,
            "DBT_SHOW_FAILING_ROWS": count,
        }
        found = add_failing_rows(
            DbtConnection("p", None, AnonymousCredentials()),
            PipelineSettings.from_mapping(variables | settings),
            list(nodes),
        )
    return found, requests


def failed(name="t", status="fail", **known):
    return NodeResult(f"test.p.{name}", status, **{"compiled_code": "select 1 -- x"} | known)


def test_rows_that_a_test_has_stored_are_listed_without_a_query():
    table = "p/datasets/audit/tables/t"
    answers = {table: (200, {"schema": {"fields": FIELDS}}), f"{table}/data": (200, {"rows": ROWS})}

    (node,), requests = read(answers, failed(stored_failures="p.audit.t"))

    assert node.failing_rows == READ
    assert [path for path, _ in requests] == [
        f"{table}?fields=schema",
        f"{table}/data?maxResults=2",
    ]


def test_rows_that_are_not_stored_are_those_of_a_bounded_query():
    answers = {"p/queries": (200, ANSWER | {"totalBytesBilled": "10485760"})}
    test = failed(response={"location": "EU"}, bill=Bill(1, location="EU"))

    (node,), ((_, body),) = read(answers, test, DBT_BIGQUERY_MAXIMUM_BYTES_BILLED="20000000")

    assert node.failing_rows.rows == READ.rows
    assert node.bill == Bill(10485761, location="EU")
    assert body["query"] == "select * from (\nselect 1 -- x\n) limit 2"
    assert (body["maximumBytesBilled"], body["location"]) == ("20000000", "EU")


def test_refusal_is_said_in_bigquery_s_words():
    answers = {"p/queries": (400, {"error": {"message": "Query exceeded limit\nmore"}})}

    (node,), _ = read(answers, failed())

    assert node.failing_rows == FailingRows(refusal="Query exceeded limit")


def test_query_that_takes_long_is_cancelled():
    job = {"projectId": "p", "jobId": "j", "location": "EU"}
    answers = {"p/queries": (200, {"jobComplete": False, "jobReference": job})}

    (node,), requests = read(answers, failed())

    assert "n'a pas abouti en 8 s" in node.failing_rows.refusal
    assert requests[-1][0] == "p/jobs/j/cancel?location=EU"


def test_tests_whose_turn_comes_late_are_not_read(monkeypatch):
    monkeypatch.setattr(failing_rows, "ALL_SECONDS", -1)

    (node,), requests = read({}, failed())

    assert node.failing_rows.refusal.startswith("les tests d'avant ont pris")
    assert requests == []


def test_five_tests_are_read_those_that_failed_first():
    warned = [failed(f"w{i}", "warn") for i in range(6)]

    nodes, requests = read({"p/queries": (200, ANSWER)}, *warned, failed("t"))

    assert [bool(node.failing_rows) for node in nodes] == [True] * 4 + [False] * 2 + [True]
    assert len(requests) == 5


def test_nothing_is_read_that_nobody_asked_for():
    others = [
        failed(status="pass"),
        failed(status="error"),
        NodeResult("unit_test.p.a.t", "fail", compiled_code="select 1"),
        NodeResult("model.p.a", "warn", compiled_code="select 1"),
    ]

    assert read({}, *others) == (others, [])
    assert read({}, failed(), count="") == ([failed()], [])
