"""The bill of a command, from the list of jobs as BigQuery's API gives it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from google.auth.credentials import AnonymousCredentials

from bi_pipeline.bigquery.billing import read_bytes_billed
from bi_pipeline.bigquery.connection import DbtConnection


def job(name, invocation_id, billed):
    """Return an entry of `jobs.list`, of which a load or a copy has no query."""
    query = {"query": {"totalBytesBilled": str(billed)}} if billed is not None else {}
    labels = {"labels": {"dbt_invocation_id": invocation_id}} if invocation_id else {}
    return {"jobReference": {"jobId": name}, "configuration": labels, "statistics": query}


@contextmanager
def bigquery(pages, status=200):
    """Yield the address of a server that answers `jobs.list` in these pages, and what it got."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            asked.append((url.path, query))
            number = int(query.get("pageToken", 0))
            more = {"nextPageToken": str(number + 1)} if number + 1 < len(pages) else {}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"jobs": pages[number]} | more).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def billed(url, known_jobs=("a", "d")):
    connection = DbtConnection("projet", None, AnonymousCredentials())
    return read_bytes_billed(connection, url, "mine", set(known_jobs), since=1000.0)


def test_all_the_jobs_of_the_command_count_on_every_page_and_no_other():
    pages = [
        [
            *(job("a", "mine", 10), job("b", "mine", 20)),
            *(job("x", "another", 1000), job("y", None, 1000)),
        ],
        [job("c", "mine", 3), job("d", "mine", None)],
    ]
    with bigquery(pages) as (url, asked):
        assert billed(url) == 33

    assert [path for path, _ in asked] == ["/bigquery/v2/projects/projet/jobs"] * 2
    assert asked[0][1]["minCreationTime"] == "940000"
    assert asked[0][1]["projection"] == "full"


def test_macro_of_which_dbt_reports_no_job_is_billed_too():
    with bigquery([[job("a", "mine", 10), job("x", "another", 1000)]]) as (url, _):
        assert billed(url, known_jobs=()) == 10


def test_account_that_may_not_list_jobs_knows_nothing():
    with bigquery([[]], status=403) as (url, _):
        assert billed(url) is None


def test_api_that_does_not_answer_knows_nothing():
    with bigquery([[]]) as (url, _):
        pass

    assert billed(url) is None


def test_list_without_a_job_that_dbt_reports_tells_nothing():
    with bigquery([[job("a", "mine", 1000), job("d", None, 1000)]]) as (url, _):
        assert billed(url) is None
