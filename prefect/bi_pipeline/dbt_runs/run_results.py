"""Reads the files that dbt writes in `target/` as plain values: results of nodes, manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bi_pipeline.result import FAILED_STATUSES, Freshness, NodeResult

RUN_RESULTS = "run_results.json"
SOURCES = "sources.json"
MANIFEST = "manifest.json"

# BigQuery names the table « project:dataset.name », bqemulator « project.dataset.name »: with the
# colon in this pattern, a seed that is not loaded would not be recognised on the local BigQuery.
MISSING_TABLE = re.compile(r"Not found: Table (.+?) was not found")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of dbt; an empty one when it is not there, or is no object."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def read_results(
    document: dict[str, Any],
    manifest_path: Path,
    batch_errors: dict[str, str],
    *,
    is_local: bool,
) -> list[NodeResult]:
    """Return the results in a file of dbt, with what the manifest knows of their nodes.

    `batch_errors` are those that dbt logged of microbatches, by `unique_id`; `is_local` says
    whether the results are those of the BigQuery on this machine.
    """
    # dbt's own message of a microbatch says only that it failed (« ERROR »).
    results: list[dict[str, Any]] = [
        result | {"message": batch_errors.get(result["unique_id"], "")}
        if _list_failed_batches(result)
        else result
        for result in document.get("results", [])
    ]
    # The manifest is big, and reading it slow: read it only for nodes that failed or warned, for
    # their file and a seed that they miss, and for seeds, for their table, which run_results.json
    # does not name.
    needed = any(
        result["status"] in {*FAILED_STATUSES, "warn"} or result["unique_id"].startswith("seed.")
        for result in results
    )
    manifest = read_json(manifest_path) if needed else {}
    known = {
        unique_id: node
        for kind in ("nodes", "unit_tests", "sources", "functions")
        for unique_id, node in manifest.get(kind, {}).items()
    }
    nodes = [_make_node_result(result, known.get(result["unique_id"], {})) for result in results]
    blockers = _find_blockers(nodes, known)
    return [
        replace(
            node,
            missing_seed=_find_missing_seed(node.message, known),
            blocked_by=blockers.get(node.unique_id, ""),
            owner=_find_owner(node.unique_id, known, manifest.get("groups", {})),
            is_local=is_local,
        )
        for node in nodes
    ]


def read_meta(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `meta` of a node of the manifest, from its properties or its configuration."""
    config = node.get("config") or {}
    return {**(node.get("meta") or {}), **(config.get("meta") or {})}


def _find_owner(
    unique_id: str, known: dict[str, dict[str, Any]], groups: dict[str, dict[str, Any]]
) -> str:
    """Return who is to be told of a node; empty if the project does not say.

    It is `meta.owner`, else the owner of its group; of a test without either, that of the node
    that it tests.
    """
    node = known.get(unique_id, {})
    meta = read_meta(node)
    group = groups.get(f"group.{unique_id.split('.')[1]}.{node.get('group')}", {})
    if owner := _name_owner(meta.get("owner")) or _name_owner(group.get("owner")):
        return owner
    if not unique_id.startswith(("test.", "unit_test.")):
        return ""
    parents = _list_parents(unique_id, known)
    models = [name for name in parents if name.startswith("model.")]
    tested = node.get("attached_node") or next(iter(models or parents), "")
    return _find_owner(tested, known, groups) if tested else ""


def _name_owner(owner: Any) -> str:
    """Return an owner in one line: a text, a list of texts, or what dbt has of a group's."""
    if isinstance(owner, dict):
        name, email = (str(owner.get(key) or "") for key in ("name", "email"))
        owner = f"{name} ({email})" if name and email else name or email
    return " ".join(
        str(", ".join(map(str, owner)) if isinstance(owner, list) else owner or "").split()
    )


def _find_blockers(nodes: list[NodeResult], known: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the failed node after which each was skipped, by `unique_id`; dbt does not write it.

    It is a failed ancestor or, in a `build`, a failed test of an ancestor, or its own unit test;
    else a failed hook, after which dbt skips all.
    """
    failed = {node.unique_id for node in nodes if node.status in FAILED_STATUSES}
    tested = {
        parent: unique_id
        for unique_id in failed
        if unique_id.startswith(("test.", "unit_test."))
        for parent in _list_parents(unique_id, known)
    }
    hook = next((name for name in failed if name.startswith("operation.")), "")
    blockers = {node.unique_id: hook for node in nodes if node.status == "skipped"}
    for node in nodes:
        left, seen = [node.unique_id] if node.status == "skipped" else [], set()
        while left:
            name = left.pop(0)
            if name in failed or name in tested:
                blockers[node.unique_id] = name if name in failed else tested[name]
                break
            left += [parent for parent in _list_parents(name, known) if parent not in seen]
            seen.update(left)
    return blockers


def _list_parents(unique_id: str, known: dict[str, dict[str, Any]]) -> list[str]:
    parents: list[str] = known.get(unique_id, {}).get("depends_on", {}).get("nodes", [])
    return parents


def _find_missing_seed(message: str, known: dict[str, dict[str, Any]]) -> str:
    """Return the name of the seed whose table a message of BigQuery misses; empty if of none."""
    if not (missing := MISSING_TABLE.search(message)):
        return ""
    table = missing[1].replace(":", ".")
    for unique_id, node in known.items():
        relation = (node.get("relation_name") or "").replace("`", "").replace(":", ".")
        if unique_id.startswith("seed.") and relation == table:
            return str(node["name"])
    return ""


def _make_node_result(result: dict[str, Any], node: dict[str, Any]) -> NodeResult:
    """Return one result of dbt's JSON, with what the manifest knows of its node."""
    moments = [
        datetime.fromisoformat(timing[key]).timestamp()
        for timing in result.get("timing", [])
        for key in ("started_at", "completed_at")
        if timing.get(key)
    ]
    failed = result["status"] in {*FAILED_STATUSES, "warn"}
    # run_results.json names no table for a seed: take the manifest's. Not for a test, to which the
    # manifest gives one too (store_failures): its result would claim to have built a table.
    relation = result.get("relation_name")
    if result["unique_id"].startswith("seed."):
        relation = node.get("relation_name")
    return NodeResult(
        result["unique_id"],
        str(result["status"]),
        result.get("message") or result.get("error") or "",
        result.get("execution_time", 0.0),
        (min(moments), max(moments)) if moments else None,
        ".".join((relation or "").replace("`", "").split(".")[-2:]),
        result.get("adapter_response") or {},
        failures=result.get("failures"),
        file=node.get("original_file_path", "?"),
        # The file of it is gone with the clone that a deployment ran from.
        compiled_code=(result.get("compiled_code") or "") if failed else "",
        stored_failures=_find_stored_failures(result, node),
        failed_batches=_list_failed_batches(result),
        freshness=_find_freshness(result),
    )


def _find_stored_failures(result: dict[str, Any], node: dict[str, Any]) -> str:
    """Return the table where a test has stored the rows that fail it; empty if in a view or none.

    BigQuery lists the rows of a table for nothing, and not those of a view.
    """
    is_view = (node.get("config") or {}).get("store_failures_as") == "view"
    if is_view or not result["unique_id"].startswith("test."):
        return ""
    return (result.get("relation_name") or "").replace("`", "")


def _list_failed_batches(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return start and end of each batch that failed; none for what is no microbatch."""
    failed: list[tuple[str, str]] = (result.get("batch_results") or {}).get("failed", [])
    return failed


def _find_freshness(result: dict[str, Any]) -> Freshness | None:
    """Return how a source is older than it may be; None if it is not, or if dbt cannot tell."""
    limit = (result.get("criteria") or {}).get(f"{result['status']}_after")
    if not limit:
        return None
    age = result["max_loaded_at_time_ago_in_s"]
    return Freshness(result["max_loaded_at"], age, (limit["count"], limit["period"]))


def list_materialized_models(manifest: dict[str, Any]) -> set[str]:
    """Return the `unique_id` of all that a `run` of the whole project builds."""
    models = {
        unique_id
        for unique_id, node in manifest.get("nodes", {}).items()
        if node["resource_type"] == "model" and node["config"]["materialized"] != "ephemeral"
    }
    return models | manifest.get("functions", {}).keys()
