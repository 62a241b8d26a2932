"""One run in hostile surroundings: what is around the project changes nothing of it."""

import re
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from project import copy_prefect_database, copy_project

# The model prints.sql prints the token in every way that dbt has, and reads a variable of the
# project. one.sql reads it: if dbt obeyed the shell's DBT_EMPTY, one.sql would have no row.
PRINTS = """
{% set credentials = adapter.config.credentials.to_dict() %}
{% do log(credentials, info=True) %}
{% do log(credentials.token, info=True) %}
{% do print(tojson(credentials)) %}
{% do exceptions.warn(credentials | string) %}
select '{{ env_var('DBT_MY_COUNTRY') }}' as country
"""
DBT_FILES = {
    # No send_anonymous_usage_stats: if the pipeline did not say it either, dbt would call home.
    "dbt_project.yml": "name: project\nprofile: project\n",
    "models/prints.sql": PRINTS,
    "models/one.sql": "{{ config(materialized='table') }} select * from {{ ref('prints') }}",
}

FLAGS = {"DBT_EMPTY": "1", "DBT_ENGINE_EMPTY": "1", "DBT_WRITE_JSON": "0", "DBT_TARGET_PATH": "/x"}
FLAGS_OF_ENV = "".join(f"{name}={value}\n" for name, value in FLAGS.items())

BROKEN_PROFILE = "not: [a profile"


@pytest.fixture(scope="module")
def run(tmp_path_factory, local_environment, outside):
    """The run, with its project, the profile of its user and what it asked of the outside.

    `profiles` is what was seen of its temporary profile.
    """
    root = tmp_path_factory.mktemp("surroundings")
    project = copy_project(root, local_environment, DBT_FILES)
    project.root = Path(shutil.move(project.root, root / "l'été du $projet `bi`"))
    # dbt 1.12 loads `.env` itself, from its own folder upwards: the flags in it would be obeyed.
    (project.root / "dbt" / ".env").write_text(FLAGS_OF_ENV)
    (project.root / ".env").write_text(
        f"{FLAGS_OF_ENV}DBT_PROFILE_NAME=du_fichier\nDBT_TARGET=prod\n"
    )
    del project.environment["DBT_PROFILE_NAME"]
    profile = root / "home" / ".dbt" / "profiles.yml"
    profile.parent.mkdir()
    profile.write_text(BROKEN_PROFILE)
    url, requests = outside
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), url)
    # Many a shell names a proxy without excepting this machine: the local servers would be asked
    # through it.
    local = dict.fromkeys(("NO_PROXY", "no_proxy"), "")
    # On a temporary Prefect server, which has requests of its own to make outside.
    copy_prefect_database(Path(local_environment["PREFECT_HOME"]), root / "prefect-home")
    server = {"PREFECT_API_URL": "", "PREFECT_HOME": str(root / "prefect-home")}
    around = FLAGS | proxies | local | server | {"DBT_MY_COUNTRY": "fr", "DBT_TARGET": "dev"}
    profiles, stop = set(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for path in (root / "tmp").rglob("profiles.yml"):
                # The pipeline may have removed it since rglob found it.
                with suppress(OSError):
                    profiles.add(path.read_text())

    watcher = threading.Thread(target=watch)
    watcher.start()
    process = project.run_pipeline("--commands", "run", **around)
    stop.set()
    watcher.join()
    return SimpleNamespace(
        process=process,
        root=root,
        project=project,
        profile=profile,
        profiles=profiles,
        requests=requests,
    )


@pytest.fixture
def countries(run, bigquery):
    """The rows of the last model."""
    dataset = run.project.environment["DBT_BIGQUERY_DATASET_DEV"]
    return [row.country for row in bigquery.query_and_wait(f"select country from {dataset}.one")]


def test_spaces_and_quotes_in_the_path_of_the_project_do_not_matter(run):
    assert run.process.returncode == 0, run.process.stderr


def test_flags_of_dbt_left_in_the_shell_or_in_env_change_nothing(run, countries):
    assert "Construit (cible dev)" in run.process.stdout
    assert len(countries) == 1


def test_variable_of_the_project_reaches_the_model(countries):
    assert countries == ["fr"]


def test_env_file_fills_what_the_environment_lacks(run):
    assert "Nom du profil    : du_fichier" in run.process.stdout


def test_environment_wins_over_the_env_file(run):
    assert "Target           : dev" in run.process.stdout


def test_profile_of_the_user_is_neither_read_nor_written(run):
    assert run.process.returncode == 0, run.process.stderr
    assert run.profile.read_text() == BROKEN_PROFILE
    assert list(run.profile.parent.iterdir()) == [run.profile]


def test_warnings_of_libraries_do_not_reach_the_user(run):
    assert "Deprecat" not in run.process.stdout + run.process.stderr


def test_nothing_is_left_in_the_temporary_folder(run):
    assert list((run.root / "tmp").iterdir()) == []


def test_model_can_print_no_key_and_its_token_is_masked_everywhere(run, key_lines):
    files = [path for path in run.root.rglob("*") if path.is_file()]
    written = {path: path.read_text(errors="replace") for path in files}
    written |= {"output": run.process.stdout + run.process.stderr, "profile": str(run.profiles)}
    # The last pattern is the beginning of a signed token, with its dot: `eyJ` alone may stand in
    # any random text, such as the encrypted block in Prefect's database.
    secrets = re.compile("|".join([*map(re.escape, key_lines), r"eyJ[\w-]+\.eyJ"]))

    assert "*****" in run.process.stderr
    # If the watcher had seen no profile, the search below would prove nothing of it.
    assert "DBT_ENV_SECRET_GCP_TOKEN" in "".join(run.profiles)
    assert [name for name, text in written.items() if secrets.search(text)] == []


def test_nothing_outside_the_machine_is_reached_nor_this_machine_through_the_proxy(run):
    assert run.process.returncode == 0, run.process.stderr
    assert run.requests == []
