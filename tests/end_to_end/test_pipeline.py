"""The main job, end to end: real data, a real Prefect server, the local BigQuery."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.client.schemas.actions import BlockDocumentCreate
from project import ONE_MODEL, copy_project, prefect_client

from dbt_connection import load_credentials
from local_bigquery import on_prefect_server
from pipeline_settings import PROJECT_ROOT

BANNER = """\
======================================================================
CONFIGURATION DBT PROFILE
======================================================================
Block GCP        : sa-key
Target           : dev
Dataset utilisé  : {dataset}
Nom du profil    : projet_m2_bi
======================================================================
Démarrage de la pipeline...
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, local_environment):
    """Two runs of the whole project: the first builds, the second is incremental.

    `profiles` is what was seen of the temporary profile while the first one ran.
    """
    root = tmp_path_factory.mktemp("runs")
    project = copy_project(root, local_environment, {})
    profiles, stop = set(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for path in (root / "tmp").rglob("*"):
                try:
                    profiles.add((path.name, path.read_text()))
                except (OSError, UnicodeDecodeError):
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    first = project.run_pipeline()
    stop.set()
    watcher.join()
    second = project.run_pipeline()
    return SimpleNamespace(root=root, project=project, profiles=profiles, all=[first, second])


def query(bigquery, runs, sql):
    dataset = runs.project.environment["DBT_BIGQUERY_DATASET_DEV"]
    return next(iter(bigquery.query_and_wait(sql.format(dataset=dataset)).to_arrow().to_pylist()))


def test_pipeline_succeeds_twice(runs):
    for run in runs.all:
        assert run.returncode == 0, run.stdout + run.stderr


def test_banner_comes_first_and_is_exact(runs):
    dataset = runs.project.environment["DBT_BIGQUERY_DATASET_DEV"]

    assert runs.all[0].stdout.startswith(BANNER.format(dataset=dataset))


def test_project_is_said_after_the_start(runs):
    assert runs.all[0].stdout.splitlines()[9] == "Projet GCP       : projet-local"


def test_facts_are_those_of_2013(runs, bigquery):
    facts = query(
        bigquery,
        runs,
        """
        select
            count(*) as flights,
            countif(is_cancelled) as cancelled,
            countif(airline_code = 'UA') as united,
            round(avg(departure_delay_minutes), 2) as mean_departure_delay
        from {dataset}.fct_flights
        """,
    )

    # After the second run: the incremental path has neither lost nor doubled a row.
    assert facts == {
        "flights": 336_776,
        "cancelled": 8_255,
        "united": 58_665,
        "mean_departure_delay": 12.64,
    }


def test_second_run_is_incremental(runs):
    assert "CREATE TABLE (336.8k rows" in runs.all[0].stderr
    assert "fct_flights ......" in runs.all[1].stderr
    assert "MERGE (3.4k rows" in runs.all[1].stderr


def test_second_run_does_not_parse_again(runs):
    assert "Starting full parse" in runs.all[0].stderr
    assert "Starting full parse" not in runs.all[1].stderr


def test_flights_without_a_known_aircraft_or_airport_are_kept(runs, bigquery):
    unknown = query(
        bigquery,
        runs,
        """
        select
            countif(aircraft_key = 'unknown') as aircraft,
            countif(destination_airport_key = 'unknown') as airports
        from {dataset}.fct_flights
        """,
    )

    assert unknown == {"aircraft": 52_606, "airports": 7_602}


def test_defects_of_the_data_are_warnings(runs):
    for test, count in (("tail_number", 2512), ("destination_code", 7602)):
        lines = [line for line in runs.all[0].stderr.splitlines() if f"WARN {count}" in line]
        assert any("| WARNING |" in line and test in line for line in lines)


def test_summary_says_what_was_built_and_where(runs):
    dataset = runs.project.environment["DBT_BIGQUERY_DATASET_DEV"]
    summary = runs.all[0].stdout.split("Projet GCP       : projet-local\n")[1]

    assert summary.startswith("Construit (cible dev) :\n")
    kinds = {line.split()[0]: line.split(maxsplit=1)[1] for line in summary.splitlines()[1:14]}
    assert "336 776 lignes" in kinds[f"{dataset}.fct_flights"]
    assert kinds[f"{dataset}.stg_flights"] == "vue"


def test_tasks_are_named_after_the_dbt_commands(runs):
    assert "Task run 'dbt run-" in runs.all[0].stderr
    assert "Task run 'dbt test-" in runs.all[0].stderr


def test_warnings_of_libraries_do_not_reach_the_user(runs):
    for run in runs.all:
        assert "Deprecat" not in run.stdout + run.stderr


def test_private_key_is_nowhere(runs, local_environment):
    with on_prefect_server(local_environment):
        info = load_credentials("sa-key").service_account_info.get_secret_value()
    pieces = [line for line in info["private_key"].splitlines() if "PRIVATE KEY" not in line]
    prefect_home = Path(local_environment["PREFECT_HOME"])
    written = [path for folder in (runs.root, prefect_home) for path in folder.rglob("*")]
    texts = [path.read_bytes().decode(errors="replace") for path in written if path.is_file()]
    texts += [run.stdout + run.stderr for run in runs.all] + [text for _, text in runs.profiles]

    leaks = [text[:200] for text in texts for piece in pieces if piece in text]

    assert leaks == []
    # The watcher did see the profile, with the reference in the place of the key.
    assert any(
        name == "profiles.yml" and "DBT_ENV_SECRET_GCP_PRIVATE_KEY" in t
        for name, t in runs.profiles
    )


def test_nothing_is_left_outside_the_project(runs):
    assert not (runs.root / "home" / ".dbt").exists()
    assert list((runs.root / "tmp").iterdir()) == []


def test_build_of_many_models_leaves_no_hint_in_the_home(make_project):
    # From the hundredth model on, dbt has a hint to give.
    model = "{{ config(materialized='view') }} select 1 as id"
    project = make_project({f"models/m{number}.sql": model for number in range(101)})

    run = project.run_pipeline("--commands", "build", DBT_ENGINE_HINTS_ENABLED="true")

    assert run.returncode == 0, run.stderr
    assert not (Path(project.environment["HOME"]) / ".dbt").exists()


def test_wrong_block_name_is_named_with_the_remedy(make_project):
    project = make_project(ONE_MODEL)

    run = project.run_pipeline(PREFECT_GCP_CREDENTIALS_BLOCK="pas-la")

    assert run.returncode == 2
    assert "pas-la" in run.stderr.splitlines()[-1]
    assert "create_gcp_block.py" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_missing_and_wrong_settings_are_said_at_once(make_project):
    project = make_project(ONE_MODEL)

    run = project.run_pipeline(DBT_BIGQUERY_DATASET_DEV="", DBT_THREADS="x")

    assert run.returncode == 2
    assert "DBT_BIGQUERY_DATASET_DEV" in run.stderr.splitlines()[-2]
    assert "generate_env.py" in run.stderr.splitlines()[-2]
    assert "DBT_THREADS" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_unreachable_prefect_api_is_named_with_the_remedy(make_project):
    project = make_project(ONE_MODEL)

    run = project.run_pipeline(PREFECT_API_URL="http://127.0.0.1:1/api")

    assert run.returncode == 3
    assert "http://127.0.0.1:1/api" in run.stderr
    assert "PREFECT_API_URL" in run.stderr
    assert "Traceback" not in run.stderr


def test_wrong_secret_of_the_prefect_api_is_named_with_the_remedy(make_project):
    project = make_project(ONE_MODEL)

    run = project.run_pipeline(PREFECT_API_AUTH_STRING="wrong")

    assert run.returncode == 3
    assert "accès refusé" in run.stderr.splitlines()[-1]
    assert "PREFECT_API_AUTH_STRING" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_broken_model_is_named_and_its_tests_do_not_run(make_project):
    project = make_project(ONE_MODEL | {"models/broken.sql": "select nowhere from (select 1 as a)"})

    run = project.run_pipeline()

    end = "\n".join(run.stderr.splitlines()[-3:])
    assert run.returncode == 1
    assert "broken (models/broken.sql)" in end
    assert "nowhere" in end
    assert "dbt test" not in run.stderr
    assert "Traceback" not in run.stderr


def test_failing_data_test_is_named(make_project):
    project = make_project(ONE_MODEL | {"data-tests/never.sql": "select * from {{ ref('one') }}"})

    run = project.run_pipeline()

    end = "\n".join(run.stderr.splitlines()[-3:])
    assert run.returncode == 1
    assert "dbt test a échoué" in end
    assert "never (data-tests/never.sql) : Got 1 result" in end
    assert "Traceback" not in run.stderr


def test_model_that_does_not_compile_is_named(make_project):
    project = make_project(ONE_MODEL | {"models/lost.sql": "select * from {{ ref('nothing') }}"})

    run = project.run_pipeline("--commands", "run")

    end = "\n".join(run.stderr.splitlines()[-3:])
    assert run.returncode == 1
    assert "models/lost.sql" in end
    assert "'nothing'" in end


def test_settings_come_from_the_env_file_unless_the_environment_says_otherwise(make_project):
    project = make_project(ONE_MODEL)
    (project.root / ".env").write_text("DBT_PROFILE_NAME=du_fichier\nDBT_TARGET=prod\n")
    del project.environment["DBT_PROFILE_NAME"]
    project.environment["DBT_TARGET"] = "dev"

    run = project.run_pipeline("--commands", "run")

    assert run.returncode == 0, run.stderr
    assert "Target           : dev" in run.stdout
    assert "Nom du profil    : du_fichier" in run.stdout


@pytest.mark.parametrize("folder", ["project", "."], ids=["its root", "elsewhere"])
def test_unreadable_env_file_is_named_wherever_the_pipeline_starts(folder, make_project, tmp_path):
    """From the root, Prefect reads it too, while it is imported."""
    project = make_project(ONE_MODEL)
    (project.root / ".env").write_bytes("DBT_TARGET=dév\n".encode("latin-1"))

    run = subprocess.run(
        [sys.executable, str(project.root / "prefect" / "pipeline.py")],
        cwd=tmp_path / folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )

    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert "UTF-8" in run.stderr


def test_profile_of_the_user_is_neither_read_nor_written(make_project):
    project = make_project(ONE_MODEL)
    profile = Path(project.environment["HOME"]) / ".dbt" / "profiles.yml"
    profile.parent.mkdir()
    profile.write_text("not: [a profile")

    run = project.run_pipeline("--commands", "run")

    assert run.returncode == 0, run.stderr
    assert profile.read_text() == "not: [a profile"
    assert [path.name for path in profile.parent.iterdir()] == ["profiles.yml"]


FLAGS = {"DBT_EMPTY": "1", "DBT_ENGINE_EMPTY": "1", "DBT_WRITE_JSON": "0", "DBT_TARGET_PATH": "/x"}


def test_flags_of_dbt_left_in_the_shell_or_in_env_change_nothing(make_project, bigquery):
    """dbt 1.12 loads `.env` itself, from its own folder upwards."""
    model = "{{ config(materialized='table') }} select '{{ env_var('DBT_MY_COUNTRY') }}' as country"
    project = make_project({"models/one.sql": model})
    for folder in (project.root, project.root / "dbt"):
        (folder / ".env").write_text("DBT_EMPTY=1\nDBT_ENGINE_EMPTY=1\n")

    run = project.run_pipeline("--commands", "run", DBT_MY_COUNTRY="fr", **FLAGS)

    assert run.returncode == 0, run.stderr
    assert "Construit (cible dev)" in run.stdout
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"]
    rows = bigquery.query_and_wait(f"select country from {dataset}.one")
    assert [row.country for row in rows] == ["fr"]


PRINTED = """
{% set info = adapter.config.credentials.keyfile_json %}
{% do log(info, info=True) %}
{% do log(info.private_key, info=True) %}
{% do print(tojson(info)) %}
{% do exceptions.warn(info | string) %}
select 1 as id
"""


def test_key_that_a_model_prints_is_masked_everywhere(make_project, local_environment):
    project = make_project({"models/one.sql": PRINTED})

    run = project.run_pipeline("--commands", "run")

    assert run.returncode == 0, run.stderr
    assert "*****" in run.stderr
    with on_prefect_server(local_environment):
        info = load_credentials("sa-key").service_account_info.get_secret_value()
    pieces = [line for line in info["private_key"].splitlines() if "PRIVATE KEY" not in line]
    logs = (project.root / "dbt" / "logs" / "dbt.log").read_text()
    prefect_home = Path(local_environment["PREFECT_HOME"])
    database = b"".join(path.read_bytes() for path in prefect_home.glob("prefect.db*"))
    written = run.stdout + run.stderr + logs + database.decode(errors="replace")
    assert [piece for piece in pieces if piece in written] == []


def save_block(client, name, data):
    """Save a GcpCredentials block as it is, which Prefect's own class would refuse."""
    block_type = client.read_block_type_by_slug("gcp-credentials")
    schema = client.get_most_recent_block_schema_for_block_type(block_type.id)
    client.create_block_document(
        BlockDocumentCreate(
            name=name, data=data, block_type_id=block_type.id, block_schema_id=schema.id
        )
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"service_account_info": {"type": "service_account", "private_key": "cut"}},
            ["ne contient pas une clé valable", "create_gcp_block.py"],
        ),
        ({}, ["ne contient pas de clé", "gcloud auth application-default login"]),
    ],
    ids=["broken key", "no key"],
)
def test_block_without_a_usable_key_is_named(data, words, make_project, local_environment):
    project = make_project(ONE_MODEL)
    name = f"unusable-{len(data)}"
    with prefect_client(local_environment) as client:
        save_block(client, name, data)

    pipeline = project.run_pipeline(PREFECT_GCP_CREDENTIALS_BLOCK=name)
    doctor = project.run("utilities/doctor.py", PREFECT_GCP_CREDENTIALS_BLOCK=name)
    check = project.run("utilities/create_gcp_block.py", "--check", "--block-name", name)

    assert (pipeline.returncode, doctor.returncode, check.returncode) == (2, 1, 2)
    for said in (pipeline.stderr, doctor.stdout, check.stderr):
        assert all(word in said for word in words), said
        assert "Traceback" not in said


def test_windows_is_refused_with_what_to_do():
    """Windows has no fcntl."""
    pipeline = PROJECT_ROOT / "prefect" / "pipeline.py"
    code = f"import runpy, sys; sys.modules['fcntl'] = None; runpy.run_path({str(pipeline)!r})"

    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(pipeline.parent)!r}); {code}"],
        capture_output=True,
        text=True,
    )

    assert run.returncode == 1
    assert "WSL 2" in run.stderr
    assert "Traceback" not in run.stderr


def test_spaces_in_the_path_of_the_project_do_not_matter(make_project, tmp_path):
    project = make_project(ONE_MODEL)
    moved = tmp_path / "mon $projet `bi`"
    shutil.move(project.root, moved)
    project.root = moved

    run = project.run_pipeline("--commands", "run")

    assert run.returncode == 0, run.stderr
