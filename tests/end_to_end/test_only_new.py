"""`--only-new`: a run does what has something new, and asks BigQuery for nothing else.

One project, run after run; what may not be judged is tested without dbt in
tests/unit/dbt_runs/test_news.py and test_undetermined_sql.py.
"""

import shutil

import pytest

from fault_proxy import fault_proxy
from project import DBT_PROJECT, copy_project

pytestmark = pytest.mark.slow

RAW = "only_new_raw"
PROJECT = {
    # With this setting of a team's, dbt leaves out the tests that hang on another model as well.
    "dbt_project.yml": DBT_PROJECT.replace("flags: {", "flags: {indirect_selection: cautious, ")
    + "seeds: {project: {+schema: x}}\nmodels: {project: {+materialized: table}}\n",
    "macros/shade.sql": "{% macro shade(x) %}concat({{ x }}, '-1'){% endmacro %}",
    "seeds/colours.csv": "id,name\n1,red\n",
    "models/sources.yml": f"""
sources:
  - {{name: raw, schema: {RAW}, tables: [{{name: orders}}, {{name: clients}}]}}
models:
  - name: orders
    columns: [{{name: id, data_tests: [unique]}}]
  - name: joined
    columns:
      - name: id
        data_tests: [{{relationships: {{arguments: {{to: ref('clients'), field: id}}}}}}]
""",
    "models/stg_orders.sql": "{{ config(materialized='view') }}"
    "select id, client from {{ source('raw', 'orders') }}",
    "models/stg_again.sql": "{{ config(materialized='view') }}"
    "select * from {{ ref('stg_orders') }}",
    "models/orders.sql": "select * from {{ ref('stg_again') }}",
    "models/clients.sql": "select id from {{ source('raw', 'clients') }}",
    "models/joined.sql": "select o.id from {{ ref('orders') }} as o "
    "join {{ ref('clients') }} as c on o.client = c.id",
    "models/shades.sql": "select {{ shade('name') }} as name from {{ ref('colours') }}",
}
ORDERS = {"stg_orders", "stg_again", "orders", "joined", "unique_orders_id"}
RELATION = "relationships_joined_id__id__ref_clients_"
CLIENTS = {"clients", "joined", RELATION}
ORDERS |= {RELATION}
SHADES = {"shades"}
EVERYTHING = ORDERS | CLIENTS | SHADES | {"colours"}


@pytest.fixture(scope="module")
def ground(tmp_path_factory, local_environment, bigquery):
    """The project, a function that runs it and says what it asked of BigQuery, and one for SQL."""
    project = copy_project(tmp_path_factory.mktemp("news"), local_environment, PROJECT)
    project.environment["DBT_ARTIFACTS_DIR"] = str(project.root.parent / "kept")

    def ask(sql):
        bigquery.query(sql).result()

    ask(f"create schema if not exists {RAW}")
    ask(f"create or replace table {RAW}.orders as select 1 as id, 1 as client")
    ask(f"create or replace table {RAW}.clients as select 1 as id")
    with fault_proxy(local_environment["DBT_BIGQUERY_API_ENDPOINT"]) as proxy:

        def run(*arguments, on_query=lambda _: None):
            proxy.queries.clear()
            proxy.on_query = on_query
            run = project.run_pipeline(
                *("--only-new", "--commands", "seed", "run", "test", *arguments),
                DBT_BIGQUERY_API_ENDPOINT=proxy.url,
            )
            return run, set(proxy.queries) - {""}

        yield project, run, ask


def write(ground, path, text):
    (ground[0].root / "dbt" / path).write_text(text)


@pytest.fixture(scope="module")
def first(ground):
    return ground[1]()


def test_first_run_does_everything_and_says_why(first):
    run, asked = first

    assert run.returncode == 0, run.stderr
    assert asked == EVERYTHING
    assert "Tout est à faire (6 modèles sur 6, 1 seed sur 1, 2 tests sur 2)" in run.stdout


@pytest.fixture(scope="module")
def second(ground, first):
    """A run after which nothing has changed, where `target/` is empty, as in a new container."""
    shutil.rmtree(ground[0].root / "dbt" / "target" / "dev")
    return ground[1]()


def test_run_in_which_nothing_is_new_asks_for_nothing_and_succeeds(second):
    run, asked = second

    assert run.returncode == 0, run.stderr
    assert not asked
    assert "Rien de neuf depuis le " in run.stderr
    assert "0 modèle sur 6, 0 seed sur 1, 0 test sur 2, aucune requête." in run.stderr


@pytest.fixture(scope="module")
def touched(ground, second):
    """A run after a source has got a row, during which another source gets one."""
    _, run, ask = ground
    ask(f"insert into {RAW}.orders values (2, 2)")

    def load_clients(node):
        if node == "joined":
            ask(f"insert into {RAW}.clients values (2)")

    return run(on_query=load_clients)


def test_source_that_changed_has_done_what_reads_it_through_views_too_and_nothing_else(touched):
    run, asked = touched

    assert run.returncode == 0, run.stderr
    assert asked == ORDERS
    assert "  - stg_orders : source raw.orders modifiée" in run.stdout
    assert "  - joined : après orders" in run.stdout


@pytest.fixture(scope="module")
def loaded_meanwhile(ground, touched):
    """A run after one during which a source was loaded, and after a change of a macro."""
    write(ground, "macros/shade.sql", "{% macro shade(x) %}concat({{ x }}, '-2'){% endmacro %}")
    return ground[1]()


def test_source_loaded_during_a_run_is_new_for_the_next_one(loaded_meanwhile):
    run, asked = loaded_meanwhile

    assert run.returncode == 0, run.stderr
    assert asked - SHADES == CLIENTS
    assert "  - clients : source raw.clients modifiée" in run.stdout


def test_macro_that_changed_has_done_the_models_that_call_it(loaded_meanwhile):
    run, asked = loaded_meanwhile

    assert asked & SHADES == SHADES
    assert "  - shades : macro modifiée" in run.stdout


@pytest.fixture(scope="module")
def red(ground, loaded_meanwhile):
    """Two runs with a test that fails, the second without a change since the first."""
    _, run, ask = ground
    ask(f"insert into {RAW}.orders values (2, 2)")
    return run(), run()


def test_test_that_failed_never_turns_green_by_not_being_run(red):
    assert [run.returncode for run, _ in red] == [1, 1]
    assert [asked for _, asked in red] == [ORDERS, ORDERS]
    assert all("unique_orders_id" in run.stderr.splitlines()[-1] for run, _ in red)


@pytest.fixture(scope="module")
def failed(ground, red):
    """A run whose last model fails, the data of the red test mended."""
    _, run, ask = ground
    ask(f"create or replace table {RAW}.orders as select 1 as id, 1 as client")
    write(ground, "models/joined.sql", "select id, nowhere from {{ ref('orders') }}")
    return run()


@pytest.fixture(scope="module")
def mended(ground, failed):
    """The run after it: the model is as before, a seed has another row."""
    write(ground, "models/joined.sql", PROJECT["models/joined.sql"])
    write(ground, "seeds/colours.csv", "id,name\n1,red\n2,blue\n")
    return ground[1]()


def test_failed_run_loses_nothing(failed, mended):
    run, asked = mended

    assert failed[0].returncode == 1
    assert run.returncode == 0, run.stderr
    assert asked - SHADES == ORDERS | {"colours"}


def test_seed_that_changed_has_done_what_reads_it(mended):
    run, asked = mended

    assert asked & SHADES == SHADES
    assert "  - shades : après colours" in run.stdout


@pytest.fixture(scope="module")
def elsewhere(ground, mended):
    """A run of prod, and one of dev with other variables for one model."""
    _, run, _ = ground
    return run("--target", "prod"), run("--select", "shades", "--vars", "{shade: dark}")


def test_targets_do_not_mix(elsewhere):
    run, asked = elsewhere[0]

    assert run.returncode == 0, run.stderr
    assert asked == EVERYTHING
    assert "Tout est à faire" in run.stdout


def test_other_variables_are_something_new_for_all_that_is_selected(elsewhere):
    run, asked = elsewhere[1]

    assert run.returncode == 0, run.stderr
    assert asked == SHADES
    assert "Tout est à faire (1 modèle sur 1) : autres variables (--vars)." in run.stdout


@pytest.fixture(scope="module")
def afterwards(ground, elsewhere):
    """A run after them, and one after DBT_ARTIFACTS_DIR was emptied, with a table deleted too."""
    project, run, ask = ground
    ask(f"drop table {project.environment['DBT_BIGQUERY_DATASET_DEV']}.orders")
    one = run()
    shutil.rmtree(project.environment["DBT_ARTIFACTS_DIR"])
    return one, run()


def test_table_that_somebody_deleted_or_wrote_is_built_again(afterwards):
    run, asked = afterwards[0]

    assert run.returncode == 0, run.stderr
    assert asked - SHADES == {"orders", "joined", "unique_orders_id", RELATION}
    assert "  - orders : table écrite ou effacée" in run.stdout
    assert "  - shades : table écrite ou effacée" in run.stdout


def test_everything_is_done_where_nothing_is_kept(afterwards):
    run, asked = afterwards[1]

    assert run.returncode == 0, run.stderr
    assert asked == EVERYTHING
