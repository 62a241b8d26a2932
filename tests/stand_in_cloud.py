"""A stand-in for the API of Prefect Cloud: one workspace, one key."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from uuid import UUID

KEY = "pnu_secret"
WORKSPACE = "equipe/production"
ACCOUNT_ID, WORKSPACE_ID = UUID(int=1), UUID(int=2)


class StandInCloud(ThreadingHTTPServer):
    """Answers `GET /api/me/workspaces` to the bearer of the key, 401 to others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/api"
        self.workspace_url = f"{self.url}/accounts/{ACCOUNT_ID}/workspaces/{WORKSPACE_ID}"
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: StandInCloud

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Bearer {KEY}"
        account, workspace = WORKSPACE.split("/")
        body = [
            {
                **{"account_id": str(ACCOUNT_ID), "workspace_id": str(WORKSPACE_ID)},
                **{"account_name": account, "account_handle": account},
                **{"workspace_name": workspace, "workspace_handle": workspace},
                "workspace_description": "",
            }
        ]
        self.send_response(self.server.status if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        """Keep the output of the tests clean."""


@contextmanager
def stand_in_cloud() -> Iterator[StandInCloud]:
    """Yield a stand-in that answers until the end of the block."""
    with StandInCloud() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
