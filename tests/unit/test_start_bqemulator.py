"""What the DuckDB of the local BigQuery opens, and which failures its clients may try again."""

import asyncio

import duckdb
import pytest
from bqemulator.config import PersistenceMode, Settings
from bqemulator.storage.engine import DuckDBEngine
from fastapi import Request

from local_bigquery import _install_spatial_extension
from start_bqemulator import refuse, start_and_lock


def answer(path, error):
    request = Request({"type": "http", "method": "POST", "path": path, "headers": []})
    return asyncio.run(refuse(request, error))


def test_failure_lasts_when_it_comes_back():
    error = ValueError("no such thing\nin a long statement")

    answers = [answer("/jobs", error), answer("/jobs", error), answer("/tables", error)]

    assert [answer.status_code for answer in answers] == [500, 400, 500]
    assert b"bqemulator) \xc3\xa9choue : no such thing Corrigez" in answers[1].body


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A DuckDB as the local BigQuery starts it, in a folder of a name that SQL must quote."""
    folder = tmp_path_factory.mktemp("engine") / "projet d'Alice [1]"
    for name in ("data", "uploads"):
        (folder / name).mkdir(parents=True)
    (folder / "secret").write_text("secret")
    (folder / "uploads" / "link").symlink_to(folder / "secret")
    (folder / "uploads" / "upload").write_text("uploaded")
    _install_spatial_extension(folder)
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

    with pytest.raises(duckdb.Error, match=r"disabled|locked|does not exist"):
        connection.execute(sql.format(str(folder).replace("'", "''")))

    assert sorted(folder.rglob("*")) == before


def test_duckdb_still_reads_uploads_and_knows_the_earth(engine):
    upload = str(engine._settings.upload_staging_dir / "upload")

    assert engine.execute("select content from read_text(?)", [upload]).fetchone() == ("uploaded",)
    assert engine.execute("select st_astext(st_point(1, 2))").fetchone() == ("POINT (1 2)",)
