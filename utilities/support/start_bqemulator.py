"""Runs bqemulator's own command line, closed to strangers and with two of its traps taken out.

bqemulator answers anyone on this machine, web pages included, and its DuckDB reads and writes
every file of the user. Here, it answers the tokens of one key, and opens no file but its database
and the uploads.

A failure that bqemulator does not foresee gets an error 500, which Google's clients take for a
fault that passes: they ask again for ten minutes. Here, the second answer is an error that ends
that. Nor can bqemulator delete a view, which BigQuery does by the request that deletes a table, nor
add a column, which BigQuery does by the one that updates it.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from bqemulator import server
from bqemulator.api import app as emulator
from bqemulator.api.dependencies import AppContext
from bqemulator.api.routes.tables import delete_table, patch_table
from bqemulator.cli import main
from bqemulator.domain.errors import (
    DomainError,
    InternalError,
    PermissionDeniedError,
    ValidationError,
)
from bqemulator.jobs import executor
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.storage.sql_identifiers import quoted_table_ref
from bqemulator.storage.type_map import bq_schema_to_duckdb_columns
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from google.auth import jwt
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

sys.path.append(str(Path(__file__).resolve().parents[1]))

from support import bqemulator_sql

# If the clock of this machine is set back after a token is signed, the token is of the future: with
# no tolerance, it would be refused (« Token used too early »).
CLOCK_SKEW_SECONDS = 10

REMEDY = (
    "Corrigez la requête ; si le vrai BigQuery l'accepte, laissez ce nœud de côté ici "
    "(--exclude) ; si les données locales sont abîmées, relancez local_bigquery.py avec --fresh."
)

install_exception_handlers = emulator.install_exception_handlers
start_engine = DuckDBEngine.start
serve = uvicorn.Server.serve
resolve_uri = executor._resolve_uri

failures: set[tuple[str, str, str]] = set()


async def refuse(request: Request, error: Exception) -> Response:
    """Answer a failure that the emulator did not foresee: 500, which clients retry, then 400.

    The first may be an accident, as its threads share one connection to DuckDB. When the same
    request fails the same way again, a retry would not help.
    """
    # DuckDB's reason is its first line. The whole statement follows, which would bury the reason in
    # dbt's message; the emulator's log has it.
    reason = str(error).partition("\n")[0] or type(error).__name__
    failure = (request.method, request.url.path, reason)
    kind = ValidationError if failure in failures else InternalError
    failures.add(failure)
    answer = kind(f"Le BigQuery local (bqemulator) échoue : {reason} {REMEDY}")
    return JSONResponse(answer.to_bigquery_error(), answer.http_status)


async def delete(project_id: str, dataset_id: str, table_id: str, request: Request) -> Response:
    """Delete a table, or a view."""
    context = request.app.state.context
    table = context.catalog.get_table(project_id, dataset_id, table_id)
    if table and table.table_type == "VIEW":
        async with context.engine.write_lock():
            name = quoted_table_ref(project_id, dataset_id, table_id)
            context.engine.execute(f"DROP VIEW IF EXISTS {name}")
    return await delete_table(project_id, dataset_id, table_id, context)


async def patch(
    project_id: str, dataset_id: str, table_id: str, request: Request
) -> dict[str, Any]:
    """Update a table, and add the columns that it lacks (on_schema_change of dbt)."""
    context = request.app.state.context
    fields = (await request.json()).get("schema", {}).get("fields", [])
    table = context.catalog.get_table(project_id, dataset_id, table_id)
    if table and table.table_type == "TABLE":
        async with context.engine.write_lock():
            name = quoted_table_ref(project_id, dataset_id, table_id)
            for column, data_type in bq_schema_to_duckdb_columns(fields):
                quoted = '"' + column.replace('"', '""') + '"'
                context.engine.execute(
                    f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {quoted} {data_type}"
                )
    answer: dict[str, Any] = await patch_table(project_id, dataset_id, table_id, request, context)
    return answer


class UnauthenticatedError(DomainError):  # type: ignore[misc]
    """A request without a token of the key."""

    http_status = 401
    bq_reason = "authError"
    grpc_status_name = "UNAUTHENTICATED"


def find_refusal(scope: Scope, public_key: str) -> DomainError | None:
    """Return the error that refuses this request, of any ASGI type; None when it is let in.

    A web page is known by its Origin or, if its name resolves to 127.0.0.1 (DNS rebinding), by that
    name in Host. `/healthz`, which tells nothing of the data, asks for no token.
    """
    headers = Headers(scope=scope)
    _, port = scope["server"]
    if headers.getlist("host") not in ([f"127.0.0.1:{port}"], [f"localhost:{port}"]):
        return PermissionDeniedError(
            f"Le BigQuery local n'est joignable qu'à l'adresse http://127.0.0.1:{port} : "
            "corrigez DBT_BIGQUERY_API_ENDPOINT."
        )
    if "origin" in headers:
        return PermissionDeniedError(
            "Le BigQuery local ne répond pas aux pages web : interrogez-le avec "
            "`.venv/bin/python utilities/local_bigquery.py COMMANDE`."
        )
    if scope["path"] == "/healthz" or is_signed(headers.get("authorization", ""), public_key):
        return None
    return UnauthenticatedError(
        "Le BigQuery local n'accepte que la clé de son propre block Prefect, nouvelle à chaque "
        "démarrage : lancez votre commande avec "
        "`.venv/bin/python utilities/local_bigquery.py COMMANDE`."
    )


def is_signed(authorization: str, public_key: str) -> bool:
    """Return whether this Authorization header has a token of the key that has not expired."""
    scheme, _, token = authorization.partition(" ")
    try:
        jwt.decode(token, public_key, clock_skew_in_seconds=CLOCK_SKEW_SECONDS)
    except (ValueError, RecursionError):
        return False
    return scheme.lower() == "bearer"


class AccessMiddleware:
    """The ASGI middleware that refuses a request before anything else sees it."""

    def __init__(self, app: ASGIApp, public_key: str) -> None:
        self._app, self._public_key = app, public_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or refuse it as BigQuery does."""
        error = find_refusal(scope, self._public_key)
        answer = JSONResponse(error.to_bigquery_error(), error.http_status) if error else self._app
        await answer(scope, receive, send)


async def serve_inherited(server: uvicorn.Server, _sockets: object = None) -> None:
    """Serve on the socket that this process was given, whose port nobody else can take."""
    await serve(server, [socket.socket(fileno=int(os.environ["LOCAL_BIGQUERY_SOCKET"]))])


async def start_and_lock(engine: DuckDBEngine) -> None:
    """Start DuckDB, then close the disk and the network to all SQL, but for the uploads.

    DuckDB itself still opens its database and the files that it spills beside it. No extension can
    be loaded any more. The spatial one is not loaded before either: its GDAL opens the files that
    an upload names, without DuckDB's check.
    """
    await start_engine(engine)
    uploads = str(engine._settings.upload_staging_dir).replace("'", "''")
    engine.execute(f"SET allowed_directories = ['{uploads}']")
    engine.execute("SET enable_external_access = false")
    engine.execute("SET lock_configuration = true")


def resolve_upload(uri: str, context: AppContext) -> str:
    """Return the path of an upload; PermissionDeniedError for any other file.

    bqemulator opens Avro files in Python, where DuckDB's settings refuse nothing.
    """
    path: str = resolve_uri(uri, context)
    if not Path(path).resolve().is_relative_to(context.settings.upload_staging_dir):
        raise PermissionDeniedError(
            f"Le BigQuery local n'ouvre aucun fichier ({uri}) : envoyez-en le contenu "
            "(load_table_from_file)."
        )
    return path


def install(app: FastAPI) -> None:
    """Give the application our middleware, handler and route.

    bqemulator calls this before it adds its own routes. The first route that matches answers: the
    one here, which deletes views too.
    """
    # The middleware that is added last sees a request first. bqemulator has added its own by now:
    # none of them sees a request without a token.
    app.add_middleware(AccessMiddleware, public_key=os.environ["LOCAL_BIGQUERY_PUBLIC_KEY"])
    install_exception_handlers(app)
    app.add_exception_handler(Exception, refuse)
    path = "/bigquery/v2/projects/{project_id}/datasets/{dataset_id}/tables/{table_id}"
    app.delete(path)(delete)
    app.patch(path)(patch)


if __name__ == "__main__":
    emulator.install_exception_handlers = install
    DuckDBEngine.start = start_and_lock
    executor._resolve_uri = resolve_upload
    bqemulator_sql.install()
    DuckDBEngine._load_spatial = lambda _engine: None
    uvicorn.Server.serve = serve_inherited  # type: ignore[method-assign, assignment]
    # bqemulator's Storage API (gRPC) checks no token: any user of this machine could read the
    # tables through it. Nothing here needs it, so its server gets no port.
    server.build_grpc_server = lambda _context: (grpc.aio.server(), 0)
    main()
