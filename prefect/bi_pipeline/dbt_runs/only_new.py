"""Narrows a run to what has something new, and keeps what the next one compares with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from bi_pipeline.bigquery.tables import read_change_times
from bi_pipeline.dbt_runs.news import (
    ProjectState,
    digest_the_rest,
    find_descendants,
    find_news,
    list_relations,
    make_digests,
    select_done,
    to_selection,
)
from bi_pipeline.dbt_runs.options import DbtOptions
from bi_pipeline.dbt_runs.run_results import MANIFEST, list_materialized_models, read_json
from bi_pipeline.dbt_runs.runner import DbtRunner
from bi_pipeline.errors import ConfigurationError, DbtError
from bi_pipeline.reports.message import describe_failure, describe_node
from bi_pipeline.result import DbtResult, find_name
from bi_pipeline.settings import GOOGLE_ENDPOINT
from warm_dbt.packages import find_packages_dir, read_yaml

# Change it with the content of a state, or with a rule that judges it: everything is then built
# once, in place of a comparison with a state that means something else.
STATE_VERSION = "1"

# Longer than a word of a command line may be on Linux (128 KiB), with the rest of it: the run then
# does all that the user selected.
LONGEST_SELECTION = 100_000

EDITED_WARNING = (
    "--only-new : le projet dbt a changé pendant l'exécution : rien n'en est gardé, la prochaine "
    "reprendra le tout."
)
LEFT_WARNING = (
    "--only-new : dbt n'a pas traité %s (%s en tout), qui a du neuf : rien n'est gardé de cette "
    "exécution, la prochaine reprendra le tout."
)


@dataclass
class News:
    """The news of a run, and the state that the next one will compare with.

    Attributes:
        reasons: `unique_id` of what the run has to do -> why, in French.
        done: the `unique_id` of what it would do without --only-new.
        since: when the success that it is compared with started, ISO 8601; empty without one.
        state: what the run found at its start, then what its commands have left.
        relations: the tables of the project, `project.dataset.name`, by `unique_id`.
        warned: the lines of what warned, then and in this run, by `unique_id`.
        is_whole: whether the user selects nothing: only then the next run can build on this one.
        taken_up: the `unique_id` of what the commands have done so far.
    """

    reasons: dict[str, str]
    done: set[str]
    since: str
    state: ProjectState = field(repr=False)
    relations: dict[str, str] = field(repr=False)
    warned: dict[str, str]
    is_whole: bool
    taken_up: set[str] = field(default_factory=set)


def look_for_news(dbt: DbtRunner, options: DbtOptions) -> tuple[News, DbtOptions]:
    """Return what is new for the run, and its options, which select that.

    Raises DbtError when dbt cannot read the project, or when the selection names no node.
    """
    found = dbt.list_nodes(options)
    if not found.succeeded:
        raise DbtError(f"Ce qui est nouveau : {describe_failure(found)}")
    if not found.listed:
        raise DbtError("--only-new : la sélection ne correspond à aucun nœud, nouveau ou non.")
    manifest = read_json(dbt.target_dir / MANIFEST)
    if "nodes" not in manifest:
        # Of a project without nodes, nothing would be new, and the run green.
        raise DbtError(f"--only-new : {dbt.target_dir / MANIFEST} est illisible, relancez.")
    relations = list_relations(manifest)
    done = select_done(manifest, found.listed, dbt.commands)
    # A selected model that has no test leaves `dbt test` with nothing to do: that is no error.
    if not done and not set(dbt.commands) <= {"test", "deps"}:
        raise DbtError(
            "--only-new : rien à faire, aucune commande ne fait ce que prend la sélection "
            f"({', '.join(dbt.commands)})."
        )
    state = ProjectState(
        datetime.now().astimezone().isoformat(timespec="minutes"),
        _describe_context(dbt, options, manifest),
        make_digests(manifest),
        set(done),
        _read_change_times(dbt, relations),
    )
    kept = _read_kept_state(dbt)
    if options.full_refresh:
        reasons = dict.fromkeys(done, "--full-refresh")
    else:
        reasons = find_news(manifest, done, state, kept, _read_variables(dbt, options))
    old = kept.warned if kept else {}
    warned = {name: line for name, line in old.items() if name in done and name not in reasons}
    is_whole = not (options.select or options.exclude)
    news = News(reasons, done, kept.at if kept else "", state, relations, warned, is_whole)
    words = to_selection(manifest, reasons)
    if reasons.keys() == done or words is None or len(" ".join(words)) > LONGEST_SELECTION:
        return news, options
    # In another mode, which dbt_project.yml may set, dbt would leave out tests of these nodes.
    return news, replace(options, select=" ".join(words), indirect_selection="eager")


def note_command(dbt: DbtRunner, news: News, result: DbtResult) -> None:
    """Note in the state what a command that succeeded has left, as soon as it ends.

    What somebody else writes later, while the tests run for example, is then new for the next run.
    """
    manifest = read_json(dbt.target_dir / MANIFEST)
    if make_digests(manifest) != news.state.nodes:
        get_run_logger().warning(EDITED_WARNING)
        news.is_whole = False
    done = {node.unique_id for node in result.nodes}
    built = done & news.relations.keys()
    news.state.tables.update(
        _read_change_times(dbt, {name: news.relations[name] for name in built})
    )
    # With `test run`, or `run snapshot`, an earlier command has read what this one has written.
    read_before = find_descendants(manifest, built) & news.taken_up - done
    news.state.done.difference_update(read_before)
    news.taken_up |= done
    news.warned = {name: line for name, line in news.warned.items() if name not in done}
    news.warned |= {x.unique_id: describe_node(x) for x in result.nodes if x.status == "warn"}


def keep_state(dbt: DbtRunner, news: News) -> None:
    """Keep what the next run compares with, after a run whose commands all succeeded."""
    if not news.is_whole:
        return
    if left := sorted(news.reasons.keys() - news.taken_up):
        get_run_logger().warning(LEFT_WARNING, find_name(left[0]), len(left))
        return
    path = _get_path(dbt)
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(replace(news.state, warned=news.warned).to_json(), encoding="utf-8")
        if dbt.settings.dbt_artifacts_dir:
            dbt.kept_artifacts.keep(path, _name_file(dbt))
            manifest = dbt.target_dir / MANIFEST
            # All models are as the manifest says, whether this run built them or not.
            if list_materialized_models(read_json(manifest)) <= news.state.done:
                dbt.kept_artifacts.keep(manifest, f"{dbt.settings.target}/{MANIFEST}")
    except (OSError, ConfigurationError) as error:
        # The next run does more than it has to: that must not fail this one.
        get_run_logger().warning(error)


def _read_kept_state(dbt: DbtRunner) -> ProjectState | None:
    """Return what the last success of these commands on this target has kept; None without one."""
    path = _get_path(dbt)
    if dbt.settings.dbt_artifacts_dir:
        path.unlink(missing_ok=True)
        dbt.kept_artifacts.fetch(_name_file(dbt), path)
    try:
        return ProjectState.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _get_path(dbt: DbtRunner) -> Path:
    """Return the file of the state: of these commands only, as others leave other things undone.

    The dataset is in its name: the members of a team may share DBT_ARTIFACTS_DIR for dev.
    """
    commands = "-".join(command for command in dbt.commands if command != "deps")
    return dbt.target_dir / "only_new" / f"{dbt.settings.dataset}-{commands}.json"


def _name_file(dbt: DbtRunner) -> str:
    return f"{dbt.settings.target}/only_new/{_get_path(dbt).name}"


def _describe_context(
    dbt: DbtRunner, options: DbtOptions, manifest: dict[str, Any]
) -> dict[str, str]:
    """Return what holds for all nodes, under what is said in French when it differs."""
    settings = dbt.settings
    files = hashlib.sha256(b"\0".join(path.read_bytes() for path in _list_project_files(dbt)))
    versions = [version(name) for name in ("dbt-core", "dbt-adapters", "dbt-bigquery")]
    return {
        "autre version de la pipeline": STATE_VERSION,
        "autre version de dbt": " ".join(versions),
        "autre projet ou autres datasets": json.dumps(
            [dbt.connection.project, *settings.datasets, settings.endpoint, settings.region]
        ),
        "autres variables (--vars)": json.dumps(dict(options.vars or {}), sort_keys=True),
        "dbt_project.yml, vars.yml ou catalogs.yml modifié": files.hexdigest(),
        "macro ou hook du projet modifié": digest_the_rest(manifest),
    }


def _list_project_files(dbt: DbtRunner) -> list[Path]:
    """Return the files of the project, and of its packages, that hold for all nodes."""
    projects = [dbt.project_dir, *sorted(find_packages_dir(dbt.project_dir).glob("*"))]
    names = ("dbt_project.yml", "vars.yml", "catalogs.yml")
    return [path / name for path in projects for name in names if (path / name).is_file()]


def _read_variables(dbt: DbtRunner, options: DbtOptions) -> dict[str, list[Any]]:
    """Return the values that `var()` may give in the project and its packages, by name."""
    found: dict[str, list[Any]] = {}

    def add(variables: Mapping[str, Any]) -> None:
        for name, value in variables.items():
            found.setdefault(name, []).append(value)
            # The variables of one package are a mapping under its name.
            if isinstance(value, dict):
                add(value)

    for path in _list_project_files(dbt):
        add(read_yaml(path).get("vars") or {})
    add(options.vars or {})
    return found


def _read_change_times(dbt: DbtRunner, relations: dict[str, str]) -> dict[str, str | None]:
    return read_change_times(dbt.connection, dbt.settings.endpoint or GOOGLE_ENDPOINT, relations)
