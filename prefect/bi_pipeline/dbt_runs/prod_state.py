"""Gives a run prod's manifest, to compare its project with, and to read in prod the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from prefect.logging import get_run_logger

from bi_pipeline.bigquery.connection import make_profile
from bi_pipeline.dbt_runs.dbt_artifacts import DEFERRED
from bi_pipeline.dbt_runs.git_repository import check_out_commit
from bi_pipeline.dbt_runs.options import CHANGED, LAST_RUN, DbtOptions
from bi_pipeline.dbt_runs.packages import packages_are_missing
from bi_pipeline.dbt_runs.run_results import MANIFEST, read_json
from bi_pipeline.dbt_runs.runner import DbtRunner
from bi_pipeline.errors import ConfigurationError, DbtError
from bi_pipeline.reports.message import describe_failure
from bi_pipeline.settings import DBT_PROJECT_DIR, PROJECT_ROOT

# The commands that build these kinds of node. If no command of a run does, a seed that has changed
# is read in prod, as this run's dataset may not have it. Other kinds are taken for built.
BUILDERS = {
    "seed": ["seed", "build"],
    "snapshot": ["snapshot", "build"],
    "function": ["run", "build"],
}


UNBUILT_WARNING = (
    "%s a changé, et aucune commande de cette exécution ne le construit : c'est celui de prod qui "
    "est lu. Ajoutez seed ou snapshot à --commands, ou lancez build."
)


def compare_with_prod(dbt: DbtRunner, options: DbtOptions, changed_since: str | None) -> DbtRunner:
    """Return the runner with what it needs of prod, if one of its commands does.

    The nodes that have changed since a commit are built, the rest read in prod; `clone` copies
    prod.
    """
    if changed_since or "clone" in dbt.commands:
        dbt = add_prod_state(dbt, changed_since, options)
    if changed_since:
        dbt, left = defer_to_prod(dbt, options)
        for name in left:
            get_run_logger().warning(UNBUILT_WARNING, name)
    return dbt


def add_prod_state(dbt: DbtRunner, reference: str | None, options: DbtOptions) -> DbtRunner:
    """Return the runner, with the manifest of prod as its state.

    Args:
        dbt: the runner of the target.
        reference: the commit that is parsed with prod's names, or LAST_RUN; None for
            the last run if it is kept, for the project as it stands otherwise.
        options: those of the run; the variables may be needed to parse.

    Raises ConfigurationError when there is no such commit, or no manifest kept, and DbtError
    when it cannot be parsed.
    """
    prod_state_dir = dbt.target_dir / "state"
    settings = dbt.settings.model_copy(update={"target": "prod"})
    # Parsed with the profile of dev, the nodes would have dev's names, and what is not built would
    # be read there. This is a parse only: no query of dev's account goes to prod.
    profile = make_profile(dbt.connection.project, settings)
    connection = replace(dbt.connection, profile=profile)
    parser = replace(dbt, connection=connection, settings=settings, target_dir=prod_state_dir)
    if reference == LAST_RUN:
        if not _fetch_last_manifest(dbt, prod_state_dir):
            raise ConfigurationError(
                f"DBT_ARTIFACTS_DIR ({dbt.kept_artifacts.address}) ne garde aucune exécution "
                "lisible de prod : lancez-en une avec ce réglage, ou donnez un commit à "
                "--changed-since."
            )
    elif reference is None:
        # A new bucket keeps no run of prod, although prod has tables for `clone` to copy.
        if not dbt.settings.dbt_artifacts_dir or not _fetch_last_manifest(dbt, prod_state_dir):
            _write_manifest(parser, options)
    else:
        with check_out_commit(PROJECT_ROOT, reference) as files:
            project_dir = files / DBT_PROJECT_DIR.relative_to(PROJECT_ROOT)
            if not (project_dir / "dbt_project.yml").exists():
                raise ConfigurationError(f"Le commit {reference} n'a pas de projet dbt dans dbt/.")
            get_run_logger().info("Projet dbt du commit %s :", reference)
            _write_manifest(replace(parser, project_dir=project_dir), options)
    return replace(dbt, prod_state_dir=prod_state_dir)


def defer_to_prod(dbt: DbtRunner, options: DbtOptions) -> tuple[DbtRunner, list[str]]:
    """Return the runner that reads in prod what it does not build, and what it leaves unbuilt.

    dbt itself reads in prod all that a command does not select: `dbt test` would judge prod's
    model instead of the one just built, and a snapshot or a retry read prod's. So the nodes that
    this run builds are removed from the manifest that dbt defers to.

    Args:
        dbt: a runner with the state of prod.
        options: those of the run, of what changed.
    """
    found = dbt.list_nodes(options)
    if found.return_code:
        raise DbtError(f"Ce qui a changé : {describe_failure(found)}")
    selection = (options.select or "").replace(f",{CHANGED}", "")
    # A mistyped --select lists nothing either, and would pass for « rien n'a changé »: see whether
    # the selection alone, changed or not, names any node.
    if (
        not found.listed
        and selection != CHANGED
        and not dbt.list_nodes(replace(options, select=selection)).listed
    ):
        raise DbtError(
            f"--select {selection} : la sélection ne correspond à aucun nœud, changé ou non."
        )
    left = [
        unique_id
        for unique_id in found.listed
        if set(dbt.commands).isdisjoint(BUILDERS.get(unique_id.partition(".")[0], dbt.commands))
    ]
    built = set(found.listed).difference(left)
    assert dbt.prod_state_dir is not None
    manifest = read_json(dbt.prod_state_dir / MANIFEST)
    for section in ("nodes", "functions"):
        for unique_id in built & manifest.get(section, {}).keys():
            del manifest[section][unique_id]
    deferred = dbt.target_dir / DEFERRED
    deferred.parent.mkdir(exist_ok=True)
    deferred.write_text(json.dumps(manifest), encoding="utf-8")
    return replace(dbt, deferred_dir=deferred.parent), sorted(left)


def _fetch_last_manifest(dbt: DbtRunner, folder: Path) -> bool:
    """Copy the manifest that DBT_ARTIFACTS_DIR keeps of prod; return whether it is there, whole."""
    kept = dbt.kept_artifacts.fetch(f"prod/{MANIFEST}", folder / MANIFEST)
    return kept and "nodes" in read_json(folder / MANIFEST)


def _write_manifest(dbt: DbtRunner, options: DbtOptions) -> None:
    """Have dbt write the manifest of a project; DbtError when it cannot."""
    for command in ["deps", "parse"] if packages_are_missing(dbt.project_dir) else ["parse"]:
        result = dbt.run(command, DbtOptions(vars=options.vars))
        if not result.succeeded:
            raise DbtError(f"État de prod : {describe_failure(result)}")
