"""Access to the local servers of Prefect: who is let in, and what nobody finds."""

import io
import json
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_socket
from websockets.typing import Subprotocol

from bi_pipeline.lifetime.local_servers import make_prefect_server
from project import processes_using, read_blocks


def test_servers_listen_on_this_machine_only(local_environment):
    for variable in ("PREFECT_API_URL", "DBT_BIGQUERY_API_ENDPOINT"):
        port = int(local_environment[variable].split(":")[2].split("/")[0])
        listeners = {
            line.split()[1].split(":")[0]
            for table in ("/proc/net/tcp", "/proc/net/tcp6")
            for line in Path(table).read_text().splitlines()[1:]
            if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        }
        assert listeners == {"0100007F"}


def test_prefect_server_refuses_who_has_not_its_secret(local_environment):
    answer = read_blocks(local_environment["PREFECT_API_URL"])

    assert answer.status_code == 401
    assert "private_key" not in answer.text


def test_prefect_server_lets_no_other_page_in(local_environment):
    preflight = httpx.options(
        f"{local_environment['PREFECT_API_URL']}/block_documents/filter",
        headers={"Origin": "https://example.com", "Access-Control-Request-Method": "POST"},
    )
    answer = read_blocks(local_environment["PREFECT_API_URL"], Origin="https://example.com")

    assert preflight.status_code == 400
    for response in (preflight, answer):
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
def test_prefect_server_streams_nothing_to_who_has_not_its_secret(path, local_environment):
    url = f"{local_environment['PREFECT_API_URL'].replace('http', 'ws')}/{path}"

    with (
        connect_socket(url, subprotocols=[Subprotocol("prefect")], proxy=None) as socket,
        pytest.raises(ConnectionClosed) as refusal,
    ):
        socket.send(json.dumps({"type": "auth", "token": "wrong"}))
        socket.recv(timeout=10)

    assert refusal.value.rcvd.reason == "Invalid token"


def test_secret_of_the_prefect_server_is_in_no_file_and_no_message(local_environment):
    secret = local_environment["PREFECT_API_AUTH_STRING"]
    server = make_prefect_server("", {}, io.BytesIO(), "")
    folder = Path(local_environment["PREFECT_HOME"]).parent

    assert not [command for command in processes_using(folder) if secret in command]
    assert not [x for x in folder.rglob("*") if x.is_file() and secret.encode() in x.read_bytes()]
    assert server.client_environment["PREFECT_API_AUTH_STRING"] not in repr(server)


def test_environment_hides_the_settings_and_keys_of_the_user(local_environment):
    assert "PREFECT_API_KEY" not in local_environment
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in local_environment
    # If it were unset instead of empty, load_dotenv would take the value of the user's .env.
    assert local_environment["GCP_REGION"] == ""
