"""Jinja of a model or a package that looks for a key: dbt opens the project and nothing else."""

import json
import re
from types import SimpleNamespace

import pytest
from google.cloud.exceptions import NotFound

from project import copy_project

# Each attack starts from an object that dbt gives to every model.
ATTACKS = {
    "upload": "{% do adapter.upload_file('../key.json', this.database, this.schema, 'stolen', "
    "kwargs={'autodetect': True, 'skip_leading_rows': 1, 'source_format': 'CSV'}) %}",
    "read": "{% do run_query('select 1 as a').from_csv('../key.json') %}",
    "climb": "{% do run_query('select 1 as a').from_csv('/proc/self/environ') %}",
    "link": "{% do run_query('select 1 as a').from_csv('dbt_packages/spy/key.csv') %}",
    "out_of_a_link": "{% do run_query('select 1 as a').from_csv('ours/../key.json') %}",
    "write": "{% do run_query('select 1 as a').to_csv('../prefect/stolen.py') %}",
    "write_code": "{% do run_query('select 1 as a').to_csv('dashboard/stolen.py') %}",
    "write_node": "{% do config.model.write_node('/', '../stolen', 'code') %}",
    "write_manifest": "{% do ref.manifest.write('../stolen.json') %}",
    "vendored": "{% do run_query('select 1 as a').from_csv('vendor/spy/key.csv') %}",
    "hard_link": "{% do logs.joinpath('key').hardlink_to('../key.json') %}",
    "move": "{% do logs.joinpath('dbt.log').rename('../prefect/stolen.py') %}",
    "linked_folder": "{% do run_query('select 1 as a').from_csv('vendor/spy/keys/key.json') %}",
    "moved_link": "{% do logs.parent.joinpath('vendor/spy/up/x/key').rename('target/dev/key') %}",
    "touch": "{% do logs.joinpath('../../key.json').touch() %}",
    "private_of_a_relation": "{% if not this['__class__'] %}{{ exceptions.raise_compiler_error("
    "'hidden') }}{% endif %}",
    "private_of_a_config": "{% if not config.model.config.get('__class__') %}"
    "{{ exceptions.raise_compiler_error('hidden') }}{% endif %}",
    "delete": "{% do logs.joinpath('../../key.json').unlink() %}",
    "python": """
        {% set environment = run_query.get_template().environment %}
        {% set code = environment.parse("{% from 'x' import x %}") %}
        {% do code.body[0].names.append("x[print('the', 'key')]") %}
        {% for _ in environment.from_string(code).generate({}) %}{% endfor %}
    """,
}
REASONS = {
    "private_of_a_relation": "hidden",
    "private_of_a_config": "hidden",
    "hard_link": "os.link : la pipeline ne le laisse pas faire",
    "python": "access to attribute 'environment' of 'MacroFuzzTemplate' object is unsafe",
}
# A team may have a link in dbt/ to a folder beside it: if the confinement refused that too, its
# project would no longer run.
READS_OURS = """
select '{{ run_query('select 1 as a').from_csv('ours/names.csv').columns[0].values()[0] }}' as name
"""
DBT_FILES = {
    f"models/{name}.sql": "{% if execute %}{% set logs = ref.config.args.LOG_PATH %}"
    + text
    + "{% endif %} select 1 as id"
    for name, text in ATTACKS.items()
} | {
    "models/ours.sql": "{% if execute %}" + READS_OURS + "{% else %} select 1 {% endif %}",
    "seeds/colours.csv": "name\nred\n",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, local_environment):
    """The run of a project with all of it, its key beside it."""
    project = copy_project(tmp_path_factory.mktemp("confinement"), local_environment, DBT_FILES)
    dbt = project.root / "dbt"
    (project.root / "key.json").write_text("the_key\n1\n")
    (project.root / "shared").mkdir()
    (project.root / "shared" / "names.csv").write_text("name\nalice\n")
    (dbt / "ours").symlink_to("../shared")
    (dbt / "dashboard").mkdir()
    for folder, name in ((project.root / "spy", "spy"), (dbt / "vendor" / "spy", "vendored_spy")):
        folder.mkdir(parents=True)
        (folder / "dbt_project.yml").write_text(f"name: {name}")
        (folder / "key.csv").symlink_to(project.root / "key.json")
        (folder / "keys").symlink_to(project.root)
    # The link of the attack « moved_link »: below vendor/spy it leads into target/, which dbt may
    # read; moved to target/dev, it leads to the key.
    (dbt / "vendor" / "spy" / "up" / "x").mkdir(parents=True)
    (dbt / "vendor" / "spy" / "up" / "x" / "key").symlink_to("../../../key.json")
    (dbt / "vendor" / "key.json").symlink_to("../target/dev/nothing")
    (dbt / "packages.yml").write_text("packages: [{local: ../spy}, {local: vendor/spy}]")
    project.run_pipeline("--commands", "deps")
    before = set(project.root.rglob("*"))
    process = project.run_pipeline("--commands", "build", DBT_RETRIES="0")
    results = json.loads((dbt / "target" / "dev" / "run_results.json").read_text())["results"]
    return SimpleNamespace(
        process=process,
        project=project,
        messages={x["unique_id"].rpartition(".")[2]: x["message"] for x in results},
        written={
            path
            for path in set(project.root.rglob("*")) - before
            if "target" not in path.parts and "__pycache__" not in path.parts
        },
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_model_opens_no_file_from_outside(attack, run):
    reason = REASONS.get(attack, "la pipeline ne laisse dbt lire que le projet")
    assert reason in run.messages[attack]
    assert not re.search("the.key", run.process.stdout + run.process.stderr)


def test_nothing_is_written_but_in_target_and_logs(run):
    logs = run.project.root / "dbt" / "logs"

    assert not (logs.parent / "target" / "dev" / "key").is_symlink()
    assert {path for path in run.written if not path.is_relative_to(logs)} == set()


def test_no_table_has_the_key(run, bigquery):
    with pytest.raises(NotFound):
        bigquery.get_table(f"{run.project.environment['DBT_BIGQUERY_DATASET_DEV']}.stolen")


def test_seeds_and_links_of_the_team_are_read_as_before(run, bigquery):
    dataset = run.project.environment["DBT_BIGQUERY_DATASET_DEV"]

    rows = bigquery.query_and_wait(
        f"select name from {dataset}.ours union all "
        f"select name from {dataset}.colours order by name"
    )

    assert [row.name for row in rows] == ["alice", "red"]
