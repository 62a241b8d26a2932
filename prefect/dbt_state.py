"""What prod is made of: what a run compares its project with, and where it reads the rest."""

from __future__ import annotations

import json
from dataclasses import replace

from prefect.logging import get_run_logger

from dbt_command import DBT_PROJECT_DIR, DEFERRED, MANIFEST, DbtRunner, read_json
from dbt_connection import build_profile
from dbt_options import DbtOptions
from dbt_packages import packages_are_missing
from dbt_report import failure_message
from git_repository import files_of_commit
from pipeline_errors import ConfigurationError, DbtError
from pipeline_settings import PROJECT_ROOT

# In the place of a commit: the last run of prod that DBT_ARTIFACTS_DIR keeps.
LAST_RUN = "DBT_ARTIFACTS_DIR"

# The commands that build a kind of node. A run takes up models and tests in any case.
BUILDERS = {
    "seed": ["seed", "build"],
    "snapshot": ["snapshot", "build"],
    "function": ["run", "build"],
}


def with_state_of_prod(dbt: DbtRunner, reference: str | None, options: DbtOptions) -> DbtRunner:
    """Return the runner, with the manifest of prod as its state.

    Args:
        dbt: the runner of the target.
        reference: the commit that is parsed with prod's names, or LAST_RUN; None for
            the last run if it is kept, for the project as it stands otherwise.
        options: those of the run; the variables may be needed to parse.

    Raises ConfigurationError when there is no such commit, or no manifest kept, and DbtError
    when it cannot be parsed.
    """
    state_dir = dbt.target_dir / "state"
    settings = dbt.settings.model_copy(update={"target": "prod"})
    # dbt only reads the project with it: prod is not asked anything.
    profile = build_profile(dbt.connection.project, settings)
    connection = replace(dbt.connection, profile=profile)
    parser = replace(dbt, connection=connection, settings=settings, target_dir=state_dir)
    if reference == LAST_RUN or (reference is None and dbt.settings.artifacts_dir):
        kept = dbt.artifacts.fetch(f"prod/{MANIFEST}", state_dir / MANIFEST)
        if not kept or "nodes" not in read_json(state_dir / MANIFEST):
            raise ConfigurationError(
                f"DBT_ARTIFACTS_DIR ({dbt.artifacts.address}) ne garde aucune exécution lisible de "
                "prod : lancez-en une avec ce réglage, ou donnez un commit à --changed-since."
            )
    elif reference is None:
        _parse(parser, options)
    else:
        with files_of_commit(PROJECT_ROOT, reference) as files:
            project_dir = files / DBT_PROJECT_DIR.relative_to(PROJECT_ROOT)
            if not (project_dir / "dbt_project.yml").exists():
                raise ConfigurationError(f"Le commit {reference} n'a pas de projet dbt dans dbt/.")
            get_run_logger().info("Projet dbt du commit %s :", reference)
            _parse(replace(parser, project_dir=project_dir), options)
    return replace(dbt, state_dir=state_dir)


def with_deferral_to_prod(dbt: DbtRunner, options: DbtOptions) -> tuple[DbtRunner, list[str]]:
    """Return the runner that reads in prod what it does not build, and what it leaves unbuilt.

    dbt itself prefers prod for all that a command does not select: the tests of a model would
    judge that of prod, a snapshot or a retry would read it. So what this run builds is taken
    from the manifest that dbt defers to.

    Args:
        dbt: a runner with the state of prod.
        options: those of the run, of what changed.
    """
    found = dbt.list_nodes(options)
    if found.return_code:
        raise DbtError(f"Ce qui a changé : {failure_message(found)}")
    left = [
        unique_id
        for unique_id in found.listed
        if set(dbt.commands).isdisjoint(BUILDERS.get(unique_id.partition(".")[0], dbt.commands))
    ]
    built = set(found.listed).difference(left)
    assert dbt.state_dir is not None
    manifest = read_json(dbt.state_dir / MANIFEST)
    for section in ("nodes", "functions"):
        for unique_id in built & manifest.get(section, {}).keys():
            del manifest[section][unique_id]
    deferred = dbt.target_dir / DEFERRED
    deferred.parent.mkdir(exist_ok=True)
    deferred.write_text(json.dumps(manifest), encoding="utf-8")
    return replace(dbt, deferred_dir=deferred.parent), sorted(left)


def _parse(dbt: DbtRunner, options: DbtOptions) -> None:
    """Have dbt write the manifest of a project; DbtError when it cannot."""
    for command in ["deps", "parse"] if packages_are_missing(dbt.project_dir) else ["parse"]:
        result = dbt.run(command, DbtOptions(vars=options.vars))
        if not result.succeeded:
            raise DbtError(f"État de prod : {failure_message(result)}")
