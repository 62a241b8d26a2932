"""Says what deploy.py would change of an existing deployment, and whether it is another team's.

Pure: compares what Prefect has with what would be sent. A deployment `wanted` has the keys of one
in prefect.yaml, and `pull_steps` and `job_variables` as they would be sent.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from bi_pipeline.settings import PipelineSettings

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse

# If one of these differs, the deployment is another team's. The dataset of dev is not compared: a
# deployment for production does not use it.
WHERE_IT_WRITES = ("GCP_PROJECT_ID", "DBT_BIGQUERY_DATASET_PROD")


def fill_in(steps: list[dict[str, Any]], source: dict[str, str]) -> list[dict[str, Any]]:
    """Return the pull steps of prefect.yaml with the variables that say where the code is."""
    text = re.sub(
        r"{{ *\$(\w+) *}}", lambda match: source.get(match[1], match[0]), json.dumps(steps)
    )
    filled: list[dict[str, Any]] = json.loads(text)
    return filled


def find_clone(pull_steps: list[dict[str, Any]] | None) -> dict[str, str]:
    """Return the inputs of the step git_clone; empty without one, when an image holds the code."""
    for step in pull_steps or []:
        for name, inputs in step.items():
            if name.endswith(".git_clone"):
                return dict(inputs)
    return {}


def is_same_repository(one: str, other: str) -> bool:
    """Whether two addresses are of one repository: SSH or HTTPS, with a token or `.git` or not.

    Case does not count, as for the services that host repositories.
    """

    def normalize(url: str) -> str:
        scheme, _, address = url.strip().lower().rpartition("://")
        address = re.sub(r"^[^@/]*@", "", address)
        # In `ssh://git@host:22/a/b` the number is a port. In `git@host:123/b` it is a team: if it
        # were removed there too, the repositories `b` of two teams would count as one.
        address = re.sub(r"^([^:/]+):" + (r"\d+/" if scheme else "/*"), r"\1/", address)
        return address.rstrip("/").removesuffix(".git")

    return normalize(one) == normalize(other)


def find_differences_of_owner(before: DeploymentResponse, wanted: dict[str, Any]) -> list[str]:
    """Return a line, in French, for each thing that says that `before` is somebody else's.

    It is, if it has another repository, GCP project or dataset of prod. If `before` lacks one of
    these, such as a setting that is a Prefect Variable, that one is not compared.
    """
    lines = []
    old_clone, new_clone = find_clone(before.pull_steps), find_clone(wanted["pull_steps"])
    if old_clone and new_clone:
        old_url, new_url = old_clone["repository"], new_clone["repository"]
        if not is_same_repository(old_url, new_url):
            lines.append(
                f"dépôt : {_describe_change(_remove_token(old_url), _remove_token(new_url))}"
            )
    old, new = before.job_variables.get("env") or {}, wanted["job_variables"]["env"]
    return lines + [
        f"{name} : {_describe_change(old[name], new.get(name))}"
        for name in WHERE_IT_WRITES
        if old.get(name) and old[name] != new.get(name)
    ]


def describe_plan(before: DeploymentResponse | None, wanted: dict[str, Any]) -> list[str]:
    """Return, in French, the lines that say what the deployment would have, and had."""
    code, schedule = (
        _describe_code(wanted["pull_steps"], wanted["job_variables"]),
        _describe_new_schedule(wanted),
    )
    environment = wanted["job_variables"]["env"]
    if before is None:
        settings = [f"  {name}={value}" for name, value in sorted(environment.items())]
        return [f"Code : {code}", f"Horaire : {schedule}", "Réglages :", *settings]
    had = _describe_old_schedules(before) or 'aucun (--cron "0 9 * * *" en donne un)'
    pool = wanted["work_pool"]["name"]
    return [
        f"Work pool : {_describe_change(before.work_pool_name, pool)}",
        f"Code : {_describe_change(_describe_code(before.pull_steps, before.job_variables), code)}",
        f"Horaire : {_describe_change(had, schedule or had)}",
        "Réglages :",
        *_describe_changes_of_variables(before.job_variables.get("env") or {}, environment),
    ]


def _describe_change(old: str | None, new: str | None) -> str:
    """Return, in French, what a value becomes; None is one that is not there."""
    return f"{new} (inchangé)" if old == new else f"{old or 'rien'} → {new or 'rien'}"


def _describe_changes_of_variables(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return a line for each variable; a value that is not one of our settings may be secret."""
    lines = []
    for name in sorted(old | new):
        if name in PipelineSettings.list_variables():
            lines.append(f"  {name} : {_describe_change(old.get(name), new.get(name))}")
        else:
            kept = old.get(name) == new.get(name)
            lines.append(f"  {name} : {'inchangé' if kept else 'la valeur de prefect.yaml'}")
    return lines


def _describe_code(pull_steps: list[dict[str, Any]] | None, job_variables: dict[str, Any]) -> str:
    """Return, in French, where a deployment has its code from."""
    if clone := find_clone(pull_steps):
        url = _remove_token(clone["repository"])
        return f"{url}, branche {clone.get('branch') or 'par défaut'}"
    return f"l'image {job_variables.get('image', 'du work pool')}"


def _remove_token(url: str) -> str:
    """Return the address of a repository without the token that may stand before its host."""
    return re.sub(r"^(https?)://[^@/]+@", r"\1://", url)


def _describe_new_schedule(wanted: dict[str, Any]) -> str:
    """Return, in French, when the pipeline would run; nothing if its schedule is left alone."""
    return " ; ".join(
        _describe_schedule(one.get("cron"), one.get("timezone"), one.get("parameters"))
        for one in wanted.get("schedules") or []
    )


def _describe_old_schedules(before: DeploymentResponse) -> str:
    """Return, in French, when the pipeline runs; nothing if never."""
    return " ; ".join(
        _describe_schedule(
            getattr(one.schedule, "cron", None),
            getattr(one.schedule, "timezone", None),
            one.parameters,
        )
        + ("" if one.active else ", suspendu")
        for one in before.schedules
    )


def _describe_schedule(
    cron: str | None, timezone: str | None, parameters: dict[str, Any] | None
) -> str:
    """Return a schedule in French; Prefect has others than crons, which we never make."""
    given = "".join(f", {name}={value}" for name, value in (parameters or {}).items())
    return f"{cron or 'autre'} ({timezone or 'UTC'}){given}"
