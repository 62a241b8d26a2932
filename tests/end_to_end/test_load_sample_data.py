"""The sample data: what lands in BigQuery."""

import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prefect_gcp import GcpCredentials

from load_sample_data import TABLES, load_sample_data, main, read_table
from local_bigquery import on_prefect_server, throwaway_key
from project import ONE_MODEL, in_environment

ROWS = {"airlines": 16, "airports": 1458, "planes": 3322, "weather": 26115, "flights": 336776}


def test_tables_have_every_row_and_a_loading_time(bigquery, local_environment):
    dataset = local_environment["DBT_BIGQUERY_DATASET_RAW"]
    sql = "select count(*) as n, count(_loaded_at) as loaded from {}.{}"

    counts = {
        name: next(iter(bigquery.query_and_wait(sql.format(dataset, name)))).values()
        for name in TABLES
    }

    assert counts == {name: (rows, rows) for name, rows in ROWS.items()}


def test_na_is_null():
    planes = read_table(TABLES["planes"], datetime.now(UTC))

    assert planes["year"].null_count == 70
    assert "NA" not in planes["engine"].to_pylist()


def test_tables_and_columns_are_described_and_flights_are_partitioned(bigquery, local_environment):
    dataset = local_environment["DBT_BIGQUERY_DATASET_RAW"]

    flights = bigquery.get_table(f"{dataset}.flights")

    assert flights.description == TABLES["flights"].description
    assert all(field.description for field in flights.schema)
    assert flights.time_partitioning.field == "time_hour"
    assert flights.time_partitioning.type_ == "DAY"


def test_loading_again_leaves_the_same_rows(make_project, bigquery):
    project = make_project(ONE_MODEL)
    dataset = "test_load_again_raw"
    bigquery.create_dataset(dataset)
    load_sample_data(bigquery, dataset)

    run = project.run("utilities/load_sample_data.py", DBT_BIGQUERY_DATASET_RAW=dataset)

    assert run.returncode == 0, run.stderr
    assert "367 687 lignes chargées" in run.stdout
    assert bigquery.get_table(f"{dataset}.flights").num_rows == ROWS["flights"]


def test_unreachable_prefect_api_is_named(local_environment, capsys):
    elsewhere = {"PREFECT_API_URL": "http://127.0.0.1:1/api"}

    with in_environment(local_environment | elsewhere):
        assert main([]) == 3

    assert elsewhere["PREFECT_API_URL"] in capsys.readouterr().err


class RefusingTokenServer(BaseHTTPRequestHandler):
    """Google's token endpoint, for a key that was revoked."""

    def do_POST(self):
        body = b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}'
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_revoked_key_is_named(make_project, local_environment):
    project = make_project(ONE_MODEL)
    del project.environment["GOOGLE_CLOUD_UNIVERSE_DOMAIN"]
    with ThreadingHTTPServer(("127.0.0.1", 0), RefusingTokenServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        key = throwaway_key() | {"token_uri": f"http://127.0.0.1:{server.server_port}/token"}
        del key["universe_domain"]
        with on_prefect_server(local_environment):
            GcpCredentials(service_account_info=key).save("revoked", overwrite=True)

        run = project.run("utilities/load_sample_data.py", PREFECT_GCP_CREDENTIALS_BLOCK="revoked")
        server.shutdown()

    assert run.returncode == 2
    assert "révoquée" in run.stderr
    assert "Traceback" not in run.stderr


def test_missing_dataset_is_named_with_the_remedy(local_environment, capsys):
    with in_environment(local_environment | {"DBT_BIGQUERY_DATASET_RAW": "pas_la"}):
        assert main([]) == 2

    said = capsys.readouterr().err
    assert "pas_la" in said
    assert "make infra" in said
