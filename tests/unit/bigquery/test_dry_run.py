"""Dry runs, from BigQuery's answers as its API gives them."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.auth.credentials import AnonymousCredentials
from requests import ConnectionError as NoConnection

from bi_pipeline.bigquery.connection import DbtConnection
from bi_pipeline.bigquery.dry_run import DryRun, dry_run_queries


def estimated(number, accuracy="PRECISE"):
    """Return the status and the body of an answer that has an estimate."""
    query = {"totalBytesProcessed": str(number), "totalBytesProcessedAccuracy": accuracy}
    return 200, {"jobReference": {"location": "EU"}, "statistics": {"query": query}}


def refused(status, message):
    """Return the status and the body of a refusal."""
    return status, {"error": {"code": status, "message": message}}


class Server(ThreadingHTTPServer):
    # By default 5: of sixteen connections at once, the system would refuse some.
    request_queue_size = 64


@contextmanager
def bigquery(answers):
    """Yield the address of a server that gives each query its answers in turn, and what it got."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            left = answers[body["configuration"]["query"]["query"]]
            status, answer = left.pop(0) if len(left) > 1 else left[0]
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def dry_run(url, *queries, location=None):
    connection = DbtConnection("projet", None, AnonymousCredentials())
    return dry_run_queries(connection, url, location, queries)


def test_each_query_has_its_answer_and_none_is_run_or_read_from_the_cache():
    names = [f"select {number}" for number in range(40)]
    answers = {name: [estimated(number, "UPPER_BOUND")] for number, name in enumerate(names)}
    with bigquery(answers) as (url, asked):
        found = dry_run(url, *names, location="EU")

    assert found == [DryRun(number, "UPPER_BOUND", "EU") for number in range(40)]
    for path, body in asked:
        configuration = body["configuration"]
        assert path == "/bigquery/v2/projects/projet/jobs"
        assert body["jobReference"]["location"] == "EU"
        assert configuration["dryRun"] is True
        assert configuration["query"]["useQueryCache"] is False
        assert configuration["query"]["useLegacySql"] is False


def test_location_that_nobody_knows_is_left_to_bigquery():
    with bigquery({"a": [estimated(1)]}) as (url, asked):
        dry_run(url, "a")

    assert "location" not in asked[0][1]["jobReference"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(404, "Not found: Table p:d.t was not found"), "Not found: Table p:d.t"),
        (refused(403, "Access Denied"), "Access Denied"),
        ((200, {"statistics": {}}), "réponse 200 sans estimation"),
        ((418, []), "réponse 418 sans estimation"),
    ],
)
def test_refusal_is_the_answer_of_its_query_alone(answer, error):
    with bigquery({"a": [answer], "b": [estimated(7)]}) as (url, _):
        first, second = dry_run(url, "a", "b")

    assert first.bytes is None
    assert first.error.startswith(error)
    assert second.bytes == 7


def test_passing_fault_is_asked_again():
    with bigquery({"a": [refused(503, "backendError"), estimated(7)]}) as (url, asked):
        (found,) = dry_run(url, "a")

    assert found.bytes == 7
    assert len(asked) == 2


def test_bigquery_that_cannot_be_reached_is_an_error_and_no_estimate(monkeypatch):
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda *_: None)
    with bigquery({}) as (url, _):
        pass

    with pytest.raises(NoConnection):
        dry_run(url, "a")
