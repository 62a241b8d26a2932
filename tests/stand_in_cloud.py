"""A stand-in for Prefect Cloud: one workspace, one key, and a Prefect server behind it."""

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from uuid import UUID

import httpx

KEY = "pnu_secret"
WORKSPACE = "equipe/production"
ACCOUNT_ID, WORKSPACE_ID = UUID(int=1), UUID(int=2)


class StandInCloud(ThreadingHTTPServer):
    """Answers the bearer of the key, and 401 to others.

    - `GET /api/me/workspaces`: the one workspace;
    - `/api/accounts/A/workspaces/W/…`: what the Prefect server of `environment` answers to the same
      request without this beginning: deployments, flows, pools, runs, schedules, blocks;
    - `GET …/collections/work_pool_types`: a template of the managed pool, with `env` and `image`;
    - anything else, `POST /api/accounts/A/integrations/github/token` among it: 404, as Prefect
      Cloud does for an account that has not its GitHub application.

    Paths that start with `broken` get a 500.

    It lacks what Prefect Cloud alone has: managed runs, automations' limits, roles.
    """

    daemon_threads = True

    def __init__(self, environment: dict[str, str] | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/api"
        self.workspace_url = f"{self.url}/accounts/{ACCOUNT_ID}/workspaces/{WORKSPACE_ID}"
        self.status = 200
        self.broken = ""
        self.environment = environment


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: StandInCloud

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        workspace = f"/api/accounts/{ACCOUNT_ID}/workspaces/{WORKSPACE_ID}"
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.reply(401)
        elif self.path == "/api/me/workspaces":
            self.reply(self.server.status, json.dumps([described_workspace()]).encode())
        elif self.path == f"{workspace}/collections/work_pool_types":
            self.reply(200, json.dumps(MANAGED_POOL).encode())
        elif self.server.broken and self.path.startswith(workspace + self.server.broken):
            self.reply(500)
        elif self.path.startswith(f"{workspace}/") and self.server.environment:
            self.forward(self.path.removeprefix(workspace), body, self.server.environment)
        else:
            self.reply(404, b"{}")

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer

    def forward(self, path: str, body: bytes, environment: dict[str, str]) -> None:
        secret = b64encode(environment["PREFECT_API_AUTH_STRING"].encode()).decode()
        answer = httpx.request(
            self.command,
            f"{environment['PREFECT_API_URL']}{path}",
            content=body,
            headers={"Authorization": f"Basic {secret}", "Content-Type": "application/json"},
            trust_env=False,
            timeout=30,
        )
        self.reply(answer.status_code, answer.content)

    def reply(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep the output of the tests clean."""


def described_workspace() -> dict[str, str]:
    """Return the workspace, as Prefect Cloud describes it."""
    account, workspace = WORKSPACE.split("/")
    return {
        **{"account_id": str(ACCOUNT_ID), "workspace_id": str(WORKSPACE_ID)},
        **{"account_name": account, "account_handle": account},
        **{"workspace_name": workspace, "workspace_handle": workspace},
        "workspace_description": "",
    }


MANAGED_TEMPLATE = {
    "job_configuration": {"env": "{{ env }}", "image": "{{ image }}"},
    "variables": {
        "type": "object",
        "properties": {"env": {"type": "object"}, "image": {"type": "string"}},
    },
}
MANAGED_POOL = {
    "prefect": {
        "prefect:managed": {
            "type": "prefect:managed",
            "default_base_job_configuration": MANAGED_TEMPLATE,
        }
    }
}


@contextmanager
def stand_in_cloud(environment: dict[str, str] | None = None) -> Iterator[StandInCloud]:
    """Yield a stand-in that answers until the end of the block."""
    with StandInCloud(environment) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
