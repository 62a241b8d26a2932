"""The local BigQuery: who is let in, what its DuckDB opens, which failures may be tried again."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from types import SimpleNamespace

import duckdb
import pytest
from bqemulator.api.routes.tables import delete_table
from bqemulator.config import PersistenceMode, Settings
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.storage.sql_identifiers import quoted_table_ref
from fastapi import Request
from google.auth import crypt, jwt

from support.local_content import derive_public_key, make_throwaway_key
from support.start_bqemulator import find_refusal, is_signed, refuse, start_and_lock

KEY, OTHER_KEY = make_throwaway_key(), make_throwaway_key()
PUBLIC_KEY = derive_public_key(KEY)
NOW = int(time.time())
CLAIMS = {"iat": NOW, "exp": NOW + 86400}


def answer(path, error):
    request = Request({"type": "http", "method": "POST", "path": path, "headers": []})
    return asyncio.run(refuse(request, error))


def test_failure_lasts_when_it_comes_back():
    error = ValueError("no such thing\nin a long statement")

    answers = [answer("/jobs", error), answer("/jobs", error), answer("/tables", error)]

    assert [answer.status_code for answer in answers] == [500, 400, 500]
    assert b"bqemulator) \xc3\xa9choue : no such thing Corrigez" in answers[1].body


def signed(claims, key=KEY, **header):
    return jwt.encode(crypt.RSASigner.from_service_account_info(key), claims, header).decode()


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed_with_a_secret(algorithm, secret):
    """Return a token as the standard has it for algorithms without a key pair, or for none."""
    parts = ({"alg": algorithm, "typ": "JWT"}, CLAIMS)
    text = b".".join(encode(json.dumps(part).encode()) for part in parts)
    signature = hmac.digest(secret.encode(), text, hashlib.sha256) if secret else b""
    return (text + b"." + encode(signature)).decode()


def test_token_of_the_key_is_let_in():
    assert is_signed(f"Bearer {signed(CLAIMS)}", PUBLIC_KEY)


REFUSED = {
    "none": "",
    "no token": "Bearer",
    "no JWT": "Bearer token",
    "no base64": "Bearer a.b.c",
    "no ASCII": "Bearer é.è.à",
    "too deep": f"Bearer {encode(b'[' * 40_000).decode()}.e30.",
    "not a bearer's": f"Basic {signed(CLAIMS)}",
    "other key": f"Bearer {signed(CLAIMS, OTHER_KEY)}",
    "other key, same id": (
        f"Bearer {signed(CLAIMS, OTHER_KEY | {'private_key_id': KEY['private_key_id']})}"
    ),
    "changed": f"Bearer {signed(CLAIMS)[:-4]}AAAA",
    "other algorithm": f"Bearer {signed(CLAIMS, alg='ES256')}",
    "not signed": f"Bearer {signed_with_a_secret('none', '')}",
    "public key as a secret": f"Bearer {signed_with_a_secret('HS256', PUBLIC_KEY)}",
    "for ever": f"Bearer {signed({'iat': NOW})}",
    "expired": f"Bearer {signed({'iat': NOW - 3600, 'exp': NOW - 60})}",
    "not yet": f"Bearer {signed({'iat': NOW + 3600, 'exp': NOW + 7200})}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_token_is_refused(name):
    assert not is_signed(REFUSED[name], PUBLIC_KEY)


def refused(path, *headers, kind="http"):
    """Return the status that refuses a request to port 9050; None when it is let in."""
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": kind, "path": path, "server": ("127.0.0.1", 9050), "headers": encoded}
    error = find_refusal(scope, PUBLIC_KEY)
    return error and error.http_status


HOST = ("host", "127.0.0.1:9050")
TOKEN = ("authorization", f"Bearer {signed(CLAIMS)}")


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["127.0.0.1"],
        ["127.0.0.1:9051"],
        ["127.0.0.1:9050.example.com"],
        ["[::1]:9050"],
        ["example.com"],
        ["127.0.0.1:9050", "example.com"],
        ["example.com", "127.0.0.1:9050"],
    ],
)
@pytest.mark.parametrize("path", ["/datasets", "/healthz"])
def test_any_other_host_is_refused(path, hosts):
    assert refused(path, *[("host", host) for host in hosts], TOKEN) == 403


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/datasets", [HOST, TOKEN], None),
        ("/datasets", [("host", "localhost:9050"), TOKEN], None),
        ("/datasets", [HOST], 401),
        ("/healthz", [HOST], None),
        ("/healthz/", [HOST], 401),
        ("/datasets", [HOST, TOKEN, ("origin", "")], 403),
        ("/healthz", [HOST, ("origin", "http://127.0.0.1:9050")], 403),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_request_needs_the_token_and_comes_from_no_web_page(kind, path, headers, status):
    assert refused(path, *headers, kind=kind) == status


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A DuckDB as the local BigQuery starts it, in a folder of a name that SQL must quote."""
    folder = tmp_path_factory.mktemp("engine") / "projet d'Alice [1]"
    for name in ("data", "uploads"):
        (folder / name).mkdir(parents=True)
    (folder / "secret").write_text("secret")
    (folder / "uploads" / "link").symlink_to(folder / "secret")
    (folder / "uploads" / "upload").write_text("uploaded")
    engine = DuckDBEngine(
        Settings(
            persistence_mode=PersistenceMode.PERSISTENT,
            data_dir=folder / "data",
            upload_staging_dir=folder / "uploads",
            enable_format_extensions=False,
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setattr(DuckDBEngine, "_load_spatial", lambda _: None)
        asyncio.run(start_and_lock(engine))
        yield engine
        engine.connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "from read_text('{}/secret')",
        "from read_blob('{}/uploads/../secret')",
        "from read_text('{}/uploads/link')",
        "from read_csv('{}/secret')",
        "from st_read('{}/uploads/upload')",
        "from glob('{}/*')",
        "from sniff_csv('{}/secret')",
        "from read_text('/proc/self/environ')",
        "from read_text('https://example.com')",
        "from read_parquet('s3://bucket/file')",
        "copy (select 1) to '{}/written'",
        "copy (select 1) to '{}/data/written'",
        "copy (select 1) to '{}/uploads-written'",
        "copy (select 1 as a) to '{}/uploads' (filename_pattern '../written', per_thread_output)",
        "attach '{}/written' as other",
        "export database '{}/written'",
        "import database '{}'",
        "install httpfs",
        "load httpfs",
        "load '{}/uploads/upload'",
        "select getenv('HOME')",
        "set enable_external_access = true",
        "reset enable_external_access",
        "set allowed_directories = ['/']",
        "set allowed_paths = ['{}/secret']",
        "set lock_configuration = false",
        "set temp_directory = '{}/written'",
        "set profiling_output = '{}/written'",
    ],
)
@pytest.mark.parametrize("of", ["connection", "cursor"])
def test_duckdb_opens_nothing_but_its_own(of, sql, engine):
    folder = engine._settings.data_dir.parent
    connection = engine.connection if of == "connection" else engine.connection.cursor()
    before = sorted(folder.rglob("*"))

    with pytest.raises(duckdb.Error, match=r"disabled|locked|does not exist|not in the catalog"):
        connection.execute(sql.format(str(folder).replace("'", "''")))

    assert sorted(folder.rglob("*")) == before


def test_duckdb_still_reads_uploads(engine):
    upload = str(engine._settings.upload_staging_dir / "upload")

    assert engine.execute("select content from read_text(?)", [upload]).fetchone() == ("uploaded",)


def test_bqemulator_cannot_delete_a_view(engine):
    """If this fails, bqemulator has learnt it: `delete`, of start_bqemulator.py, can go."""
    view = quoted_table_ref("p", "d", "v")
    engine.execute(f"create schema {view.rpartition('.')[0]}")
    engine.execute(f"create view {view} as select 1 as id")

    with pytest.raises(duckdb.CatalogException, match="View"):
        asyncio.run(delete_table("p", "d", "v", SimpleNamespace(engine=engine)))
