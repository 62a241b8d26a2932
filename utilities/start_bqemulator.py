"""Runs bqemulator's own command line, its disk closed, and with two of its traps taken out.

Its DuckDB reads and writes every file of the user. Here, it opens no file but its database and
the uploads.

What it had not foreseen, it answers with an error 500. Google's clients take that for a
fault that passes, and ask again for ten minutes: here the second answer tells them what is
wrong. And it cannot delete a view, which BigQuery does by the request that deletes a table.
"""

from __future__ import annotations

from pathlib import Path

from bqemulator.api import app as emulator
from bqemulator.api.dependencies import AppContext
from bqemulator.api.routes.tables import delete_table
from bqemulator.cli import main
from bqemulator.domain.errors import InternalError, PermissionDeniedError, ValidationError
from bqemulator.jobs import executor
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.storage.sql_identifiers import quoted_table_ref
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

REMEDY = (
    "Corrigez la requête ; si le vrai BigQuery l'accepte, laissez ce nœud de côté ici "
    "(--exclude) ; si les données locales sont abîmées, relancez local_bigquery.py avec --fresh."
)

install_exception_handlers = emulator.install_exception_handlers
start_engine = DuckDBEngine.start
resolve_uri = executor._resolve_uri

failures: set[tuple[str, str, str]] = set()


async def refuse(request: Request, error: Exception) -> Response:
    """Answer what the emulator cannot do: when it fails the same way again, a lasting error.

    Once may be an accident: its threads share one connection to DuckDB.
    """
    # DuckDB's reason is its first line, the statement follows. The log has it all.
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


async def start_and_lock(engine: DuckDBEngine) -> None:
    """Start DuckDB, then close the disk and the network to all SQL, but for the uploads.

    DuckDB adds its database, and the files that it spills beside it, by itself. The spatial
    extension is loaded by then; no other can be.
    """
    await start_engine(engine)
    uploads = str(engine._settings.upload_staging_dir).replace("'", "''")
    engine.execute(f"SET allowed_directories = ['{uploads}']")
    engine.execute("SET enable_external_access = false")
    engine.execute("SET lock_configuration = true")


def resolve_upload(uri: str, context: AppContext) -> str:
    """Return the path of an upload; PermissionDeniedError for any other file.

    bqemulator opens Avro files in Python first, which DuckDB cannot refuse.
    """
    path: str = resolve_uri(uri, context)
    if not Path(path).resolve().is_relative_to(context.settings.upload_staging_dir):
        raise PermissionDeniedError(
            f"Le BigQuery local n'ouvre aucun fichier ({uri}) : envoyez-en le contenu "
            "(load_table_from_file)."
        )
    return path


def install(app: FastAPI) -> None:
    """Give the application our answers; it calls this before it has any route of its own."""
    install_exception_handlers(app)
    app.add_exception_handler(Exception, refuse)
    path = "/bigquery/v2/projects/{project_id}/datasets/{dataset_id}/tables/{table_id}"
    app.delete(path)(delete)


if __name__ == "__main__":
    emulator.install_exception_handlers = install
    DuckDBEngine.start = start_and_lock
    executor._resolve_uri = resolve_upload
    main()
