"""The bill of a command, from the list of jobs as BigQuery's API gives it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from google.auth.credentials import AnonymousCredentials

from bi_pipeline.bigquery.billing import read_bills
from bi_pipeline.bigquery.connection import DbtConnection
from bi_pipeline.result import Bill, NodeResult


def job(name, invocation_id, billed, destination="", **labels):
    """Return an entry of `jobs.list`, of which a load or a copy has no query."""
    if invocation_id:
        labels["dbt_invocation_id"] = invocation_id
    configuration = {"labels": labels} if labels else {}
    if destination:
        dataset, table = destination.split(".")
        written = {"projectId": "projet", "datasetId": dataset, "tableId": table}
        configuration["query"] = {"destinationTable": written}
    return {
        "jobReference": {"jobId": name, "location": "EU"},
        "configuration": configuration,
        "statistics": {"query": {"totalBytesBilled": str(billed)}} if billed is not None else {},
    }


def node(name, job_id="", status="success", relation="", **response):
    """Return a node, with the job that dbt reports for it, if any."""
    reported = {"job_id": job_id, **response} if job_id else {}
    return NodeResult(name, status, relation=relation, response=reported)


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


def read(url, *nodes):
    """Return the bill of the command and of each of its nodes, in their order."""
    connection = DbtConnection("projet", None, AnonymousCredentials())
    read, bill = read_bills(connection, url, "mine", list(nodes), since=1000.0)
    return bill, [node.bill for node in read]


A, D = node("model.p.a", "a", bytes_billed=7, location="EU"), node("model.p.d", "d")


def test_all_the_jobs_of_the_command_count_on_every_page_and_no_other():
    pages = [
        [
            *(job("a", "mine", 10), job("b", "mine", 20, connection_name="master")),
            *(job("x", "another", 1000), job("y", None, 1000)),
        ],
        [job("c", "mine", 3, connection_name="list_dev"), job("d", "mine", None)],
    ]
    with bigquery(pages) as (url, asked):
        bill, of_nodes = read(url, A, D)

    assert bill == Bill(33, location="EU")
    assert of_nodes == [Bill(10, location="EU"), Bill(0, location="EU")]
    assert [path for path, _ in asked] == ["/bigquery/v2/projects/projet/jobs"] * 2
    assert asked[0][1]["minCreationTime"] == "940000"
    assert asked[0][1]["projection"] == "full"
    # BigQuery then lists no child of a script: its bytes would count twice.
    assert "parentJobId" not in asked[0][1]


def test_macro_of_which_dbt_reports_no_job_is_billed_too():
    with bigquery([[job("a", "mine", 10), job("x", "another", 1000)]]) as (url, _):
        bill, _ = read(url)

    assert bill == Bill(10, location="EU")


def test_account_that_may_not_list_jobs_knows_what_dbt_reports_at_least():
    with bigquery([[]], status=403) as (url, _):
        bill, of_nodes = read(url, A, D, node("model.p.e", status="skipped"))

    assert bill == Bill(7, is_whole=False, location="EU")
    assert of_nodes == [bill, Bill(0, is_whole=False), Bill()]


def test_api_that_does_not_answer_knows_what_dbt_reports_at_least():
    with bigquery([[]]) as (url, _):
        pass

    assert read(url, A)[0] == Bill(7, is_whole=False, location="EU")


def test_list_without_a_job_that_dbt_reports_is_not_whole():
    with bigquery([[job("a", "mine", 1000), job("d", None, 1000)]]) as (url, _):
        bill, of_nodes = read(url, A, D)

    assert bill == Bill(1000, is_whole=False, location="EU")
    assert [bill.is_whole for bill in of_nodes] == [False, False]


# Labels as `_sanitize_label` of dbt-bigquery 1.12.1 makes them: lower case, other characters
# replaced, cut at 63.
LONG = "model.project.a_name_with_more_letters_than_a_label_of_bigquery_can_hold"
CUT = "model_project_a_name_with_more_letters_than_a_label_of_bigquery"


@pytest.mark.parametrize(
    ("of_node", "entry"),
    [
        (node("model.p.Été", "a"), job("b", "mine", 9, node_id="model_p__t_")),
        (node(LONG, "a"), job("b", "mine", 9, node_id=CUT)),
        (node("model.p.x", "a", relation="dev.x"), job("b", "mine", 9, "dev.x")),
        # A microbatch: dbt reports no job for it.
        (node("model.p.x", relation="dev.x"), job("b", "mine", 9, "dev.x")),
        (node("model.p.x", "b"), job("b", "mine", 9, node_id="model_p_other")),
    ],
    ids=["label", "cut label", "destination", "no reported job", "reported job"],
)
def test_query_that_dbt_does_not_report_is_billed_to_its_node(of_node, entry):
    # An incremental model: dbt reports the merge, not the query that filled the temporary table.
    main = [job("a", "mine", 1)] if of_node.response.get("job_id") == "a" else []
    with bigquery([[*main, entry]]) as (url, _):
        bill, of_nodes = read(url, of_node, node("model.p.other"))

    assert of_nodes == [Bill(9 + len(main), location="EU"), Bill()]
    assert bill == of_nodes[0]


def test_label_that_several_nodes_share_gives_way_to_the_table_and_else_to_at_least():
    first, second = node(f"{LONG}_1", relation="dev.one"), node(f"{LONG}_2", relation="dev.two")
    jobs = [
        job("a", "mine", 5, "dev.two", node_id=CUT),
        job("b", "mine", 3, "dev.two__dbt_tmp", node_id=CUT),
    ]
    with bigquery([jobs]) as (url, _):
        bill, of_nodes = read(url, first, second, node("model.p.other"))

    assert bill == Bill(8, location="EU")
    assert of_nodes == [Bill(0, is_whole=False), Bill(5, is_whole=False, location="EU"), Bill()]


def test_query_without_a_label_of_its_node_may_be_that_of_any():
    """A project without `job-label`, as dbt makes one."""
    with bigquery([[job("a", "mine", 5), job("b", "mine", 3, "dev.a__dbt_tmp")]]) as (url, _):
        bill, of_nodes = read(url, A)

    assert bill == Bill(8, location="EU")
    assert of_nodes == [Bill(5, is_whole=False, location="EU")]
