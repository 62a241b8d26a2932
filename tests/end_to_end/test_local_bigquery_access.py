"""Access to the local BigQuery: who is let in, and that its user reaches data and nothing else."""

import io
import time
from decimal import Decimal

import fastavro
import httpx
import psutil
import pytest
from google.api_core.exceptions import BadRequest, Forbidden
from google.auth import crypt, jwt
from google.cloud.bigquery import LoadJobConfig, SchemaField, SourceFormat, Table

from support.local_content import make_throwaway_key

PROJECT = "/bigquery/v2/projects/projet-local"
REQUESTS = [
    ("GET", f"{PROJECT}/datasets"),
    ("POST", f"{PROJECT}/queries"),
    ("POST", f"{PROJECT}/jobs"),
    ("POST", f"/upload{PROJECT}/jobs?uploadType=resumable"),
    ("PUT", f"/upload{PROJECT}/jobs?uploadType=resumable&upload_id=0123456789"),
    ("GET", "/metrics"),
    ("GET", "/readyz"),
    ("GET", "/docs"),
]


def bearer(key):
    """Return the header of a token of this key."""
    now = int(time.time())
    signer = crypt.RSASigner.from_service_account_info(key)
    token = jwt.encode(signer, {"iat": now, "exp": now + 600}).decode()
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def ask(local_environment):
    """Return a function that sends a request as any program may, of any user of this machine."""

    def ask(method, path, headers):
        headers = {"Content-Type": "text/plain"} | headers
        body = '{"query": "select 1", "useLegacySql": false}'
        url = local_environment["DBT_BIGQUERY_API_ENDPOINT"] + path
        return httpx.request(method, url, headers=headers, content=body, trust_env=False)

    return ask


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize(
    "headers", [{}, bearer(make_throwaway_key())], ids=["no token", "other key"]
)
def test_who_has_not_the_key_is_refused_as_by_bigquery(headers, method, path, ask):
    answer = ask(method, path, headers)

    assert answer.status_code == 401
    assert answer.json()["error"]["errors"][0]["reason"] == "authError"
    assert "utilities/local_bigquery.py" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [f"{PROJECT}/queries", "/healthz"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "header", [{"Host": "example.com"}, {"Origin": "https://example.com"}, {"Origin": "null"}]
)
def test_web_page_is_refused_even_with_a_token(header, method, path, ask, key):
    answer = ask(method, path, bearer(key) | header)

    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_who_has_the_key_is_let_in_by_either_name(ask, key, local_environment):
    port = httpx.URL(local_environment["DBT_BIGQUERY_API_ENDPOINT"]).port

    answers = [
        ask("POST", f"{PROJECT}/queries", bearer(key) | {"Host": f"{name}:{port}"})
        for name in ("127.0.0.1", "localhost")
    ]

    assert [answer.json()["rows"] for answer in answers] == [[{"f": [{"v": "1"}]}]] * 2


def test_server_has_no_port_but_that_which_asks_for_the_token(local_environment):
    port = httpx.URL(local_environment["DBT_BIGQUERY_API_ENDPOINT"]).port
    listeners = [x for x in psutil.net_connections() if x.status == psutil.CONN_LISTEN]

    (server,) = [listener.pid for listener in listeners if listener.laddr.port == port]

    assert [x.laddr for x in listeners if x.pid == server] == [("127.0.0.1", port)]


@pytest.mark.parametrize(
    "sql",
    [
        "select content from read_text('{}/secret')",
        "create table {dataset}.stolen as select content from read_text('{}/secret')",
        "begin select content from read_text('{}/secret'); end",
        "copy (select 1) to '{}/written'",
        "select * from read_csv('http://127.0.0.1:1/x.csv')",
    ],
)
def test_sql_reaches_neither_files_nor_network(sql, bigquery, local_environment, tmp_path):
    (tmp_path / "secret").write_text("secret")
    dataset = local_environment["DBT_BIGQUERY_DATASET_DEV"]

    with pytest.raises(BadRequest, match="disabled by configuration"):
        bigquery.query(sql.format(tmp_path, dataset=dataset), job_retry=None).result()

    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.fixture
def table(bigquery, local_environment):
    """A table with a decimal, in a dataset of the session."""
    name = f"{bigquery.project}.{local_environment['DBT_BIGQUERY_DATASET_DEV']}.prices"
    yield bigquery.create_table(Table(name, [SchemaField("price", "NUMERIC")]))
    bigquery.delete_table(name)


def test_load_opens_no_file_of_the_user(bigquery, table, tmp_path):
    """Avro with a decimal, which bqemulator reads by itself, without DuckDB."""
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}
    schema = {"type": "record", "name": "x", "fields": [{"name": "price", "type": decimal}]}
    with (tmp_path / "secret.avro").open("wb") as file:
        fastavro.writer(file, schema, [{"price": Decimal(1)}])
    config = LoadJobConfig(source_format=SourceFormat.AVRO)

    with pytest.raises(BadRequest, match="n'ouvre aucun fichier"):
        bigquery.load_table_from_uri(f"{tmp_path}/secret.avro", table, job_config=config).result()

    assert bigquery.get_table(table).num_rows == 0


def test_extract_writes_no_file_of_the_user(bigquery, table, tmp_path):
    with pytest.raises(Forbidden, match="n'ouvre aucun fichier"):
        bigquery.extract_table(table, f"file://{tmp_path}/written.csv").result()

    assert list(tmp_path.iterdir()) == []


def test_what_is_sent_is_loaded(bigquery, table):
    config = LoadJobConfig(source_format=SourceFormat.CSV, skip_leading_rows=1)

    bigquery.load_table_from_file(io.BytesIO(b"price\n1\n2\n"), table, job_config=config).result()

    assert bigquery.get_table(table).num_rows == 2
