"""Says which nodes have something new since the last success, and why.

All of it is decided from values: what dbt knows of the project (its manifest) and when BigQuery
last saw each table change, now and then. Whatever cannot be judged is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, field
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from bi_pipeline.dbt_runs.undetermined_sql import find_undetermined

# The commands that do these kinds of node.
DONE_BY = {
    "model": {"run", "build"},
    "function": {"run", "build"},
    "seed": {"seed", "build"},
    "snapshot": {"snapshot", "build"},
    "test": {"test", "build"},
    "unit_test": {"test", "build"},
}
TESTS = {"test", "unit_test"}
TABLES = {"model", "seed", "snapshot"}

# dbt's own macros: another version of dbt is something new by itself.
DBT_PACKAGES = {"dbt", "dbt_bigquery"}

# What differs between two parses of the same files.
VOLATILE = {
    *("created_at", "build_path", "compiled_path", "compiled", "compiled_code", "doc_blocks"),
    *("extra_ctes", "extra_ctes_injected", "relation_name"),
}
PARTS = {
    "sql": "SQL modifié",
    "config": "configuration modifiée",
    "macros": "macro modifiée",
    "rest": "définition modifiée",
}


@dataclass(frozen=True)
class ProjectState:
    """What a run found when it started, if all of it succeeded; a file of JSON.

    Attributes:
        at: when it started, ISO 8601.
        context: what holds for all nodes (versions, variables…), each under what is said in French
            when it differs.
        nodes: `unique_id` of what it took up -> part of its definition -> digest.
        tables: `unique_id` of a source or a node -> when its table last changed, as BigQuery says
            it; None for what has no table, or none that can be judged.
        warned: the `unique_id` of what warned -> the line that says so: it still warns as long as
            it is not done again.
    """

    at: str
    context: dict[str, str]
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    tables: dict[str, str | None] = field(default_factory=dict)
    warned: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ProjectState:
        """Return the state that a text is; ValueError if it is none, or of another version."""
        return TypeAdapter(cls).validate_json(text)


def list_nodes(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return all that dbt builds or checks, by `unique_id`; hooks are in it, sources are not."""
    return {
        unique_id: node
        for kind in ("nodes", "unit_tests", "functions")
        for unique_id, node in manifest.get(kind, {}).items()
    }


def list_relations(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of a project: `project.dataset.name`, by the source or node they are.

    Of the sources, those that something reads.
    """
    read = {name for name, children in manifest.get("child_map", {}).items() if children}
    nodes = {
        unique_id: node
        for unique_id, node in list_nodes(manifest).items()
        if node["resource_type"] in TABLES and node["config"].get("materialized") != "ephemeral"
    }
    return {
        unique_id: node["relation_name"].replace("`", "")
        for unique_id, node in (manifest.get("sources", {}) | nodes).items()
        if node.get("relation_name") and (unique_id in nodes or unique_id in read)
    }


def select_done(
    manifest: Mapping[str, Any], selected: Collection[str], commands: Collection[str]
) -> set[str]:
    """Return those of the selected nodes that one of the commands does, never an ephemeral one."""
    return {
        unique_id
        for unique_id, node in list_nodes(manifest).items()
        if unique_id in selected
        and node["config"].get("materialized") != "ephemeral"
        and not DONE_BY.get(node["resource_type"], set()).isdisjoint(commands)
    }


def make_digests(manifest: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the digest of each part of each node's definition."""
    macros = manifest.get("macros", {})
    return {
        unique_id: {
            "sql": _digest([node.get("raw_code"), node.get("checksum")]),
            "config": _digest([node.get("config"), node.get("relation_name")]),
            "macros": _digest([macros[x]["macro_sql"] for x in _find_macros(node, macros)]),
            "rest": _digest({name: node[name] for name in node.keys() - VOLATILE - {"config"}}),
        }
        for unique_id, node in list_nodes(manifest).items()
    }


def digest_the_rest(manifest: Mapping[str, Any]) -> str:
    """Return the digest of the macros that no node calls, and of the hooks of a whole run.

    Such a macro may be one that dbt itself calls for all nodes: `generate_schema_name`, a
    materialization. One that has the name of dbt's own is, even if a node calls it as well.
    """
    macros, nodes = manifest.get("macros", {}), list_nodes(manifest)
    called = {name for node in nodes.values() for name in _find_macros(node, macros)}
    of_dbt = {macro["name"] for macro in macros.values() if macro["package_name"] in DBT_PACKAGES}
    others = [
        name
        for name, macro in macros.items()
        if (name not in called or macro["name"] in of_dbt)
        and macro["package_name"] not in DBT_PACKAGES
    ]
    texts = [macros[name]["macro_sql"] for name in _follow_calls(others, macros)]
    hooks = {name: node["raw_code"] for name, node in nodes.items() if name[:10] == "operation."}
    return _digest([texts, hooks])


def find_news(
    manifest: Mapping[str, Any],
    selected: Collection[str],
    done: Collection[str],
    now: ProjectState,
    kept: ProjectState | None,
) -> dict[str, str]:
    """Return the `unique_id` of what a run has to do, each with the reason in French.

    Args:
        manifest: dbt's, of the project as it is now.
        selected: the `unique_id` of what the user wants.
        done: of these, what the run would do without --only-new: see `select_done`.
        now: what this run found at its start.
        kept: what the last success with these commands had found; None without one.
    """
    if whole := _find_difference(now, kept):
        return dict.fromkeys(done, whole)
    assert kept is not None
    nodes = list_nodes(manifest)
    news = _find_changed_tables(manifest, now, kept)
    for unique_id in sorted(set(selected) & nodes.keys()):
        judged = unique_id in done or nodes[unique_id]["resource_type"] == "model"
        if judged and (reason := _judge(nodes[unique_id], manifest, now, kept, unique_id in done)):
            news.setdefault(unique_id, reason)
    return {name: why for name, why in _spread(news, manifest).items() if name in done}


def to_selection(manifest: Mapping[str, Any], news: Collection[str]) -> list[str] | None:
    """Return the words for --select that name these nodes, and no test that comes along anyway.

    None when a name cannot be written in dbt's syntax.
    """
    nodes = list_nodes(manifest)
    built = {name for name in news if nodes[name]["resource_type"] not in TESTS}
    words = []
    for name in sorted(news):
        node = nodes[name]
        # With --indirect-selection=eager dbt takes all tests of a model that is selected. Were they
        # named as well, the words of a big project would be too long for a command line.
        if name in built or built.isdisjoint(node["depends_on"]["nodes"]):
            path = ".".join(node["fqn"])
            if not path.replace(".", "").replace("_", "").replace("-", "").isalnum():
                return None
            words.append(f"fqn:{path}")
    return words


def _find_difference(now: ProjectState, kept: ProjectState | None) -> str:
    """Return why nothing of what is kept can be compared; empty if it can be."""
    if kept is None:
        return "aucune exécution réussie gardée"
    for words in now.context.keys() | kept.context.keys():
        if now.context.get(words) != kept.context.get(words):
            return words
    return ""


def _find_changed_tables(
    manifest: Mapping[str, Any], now: ProjectState, kept: ProjectState
) -> dict[str, str]:
    """Return the sources that have news, and the nodes whose table is not what we have built."""
    news = {}
    for unique_id, changed_at in now.tables.items():
        source = manifest.get("sources", {}).get(unique_id)
        if source and not (changed_at or "").startswith("TABLE "):
            # A view, a file, another database: their rows change, and their metadata do not.
            news[unique_id] = f"source {_name(source)} : date de modification inconnue"
        elif unique_id not in kept.tables:
            news[unique_id] = f"source {_name(source)} nouvelle" if source else "nouveau"
        elif changed_at != kept.tables[unique_id]:
            what = f"source {_name(source)} modifiée" if source else "table modifiée ou effacée"
            news[unique_id] = what
    return news


def _judge(
    node: Mapping[str, Any],
    manifest: Mapping[str, Any],
    now: ProjectState,
    kept: ProjectState,
    is_done: bool,
) -> str:
    """Return why a node is new by itself, whatever it reads; empty if it is not."""
    unique_id = node["unique_id"]
    if always := find_why_always(node, manifest.get("macros", {})):
        return always
    if unique_id not in kept.nodes:
        return "nouveau"
    for part, words in PARTS.items():
        if now.nodes[unique_id][part] != kept.nodes[unique_id].get(part):
            return words
    if is_done and unique_id in now.tables and now.tables[unique_id] is None:
        return "table introuvable"
    return ""


def find_why_always(node: Mapping[str, Any], macros: Mapping[str, Any]) -> str:
    """Return why a node is built each time, in French; empty if it is not."""
    config = node.get("config", {})
    if {**node.get("meta", {}), **config.get("meta", {})}.get("always_build"):
        return "always_build"
    if node.get("language") == "python":
        return "modèle Python"
    if config.get("incremental_strategy") == "microbatch":
        # Its batches end now: a row of the future, which the last run left out, may be due.
        return "microbatch"
    if node["resource_type"] == "seed":
        # dbt gives no digest of a file of more than 1 MiB.
        is_big = (node.get("checksum") or {}).get("name") == "path"
        return "seed de plus de 1 Mio" if is_big else ""
    # dbt does not say which nodes a materialization of the project is for, nor what it calls.
    kind = f"materialization_{config.get('materialized')}_"
    if any(
        macro["name"].startswith(kind) and macro["package_name"] not in DBT_PACKAGES
        for macro in macros.values()
    ):
        return f"matérialisation {config['materialized']} du projet"
    called = [macros[name]["macro_sql"] for name in _find_macros(node, macros)]
    settings = {name: value for name, value in config.items() if name not in ("meta", "docs")}
    parts = [node.get(part) for part in ("raw_code", "given", "test_metadata")]
    return next(filter(None, map(find_undetermined, _find_texts([called, settings, *parts]))), "")


def _find_texts(value: Any) -> Iterator[str]:
    """Yield all texts in a value of a manifest."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _find_texts(part)


def _find_macros(node: Mapping[str, Any], macros: Mapping[str, Any]) -> list[str]:
    """Return the macros that a node calls, and those that they call, but for dbt's own."""
    return _follow_calls(node.get("depends_on", {}).get("macros", []), macros)


def _follow_calls(names: Iterable[str], macros: Mapping[str, Any]) -> list[str]:
    """Return these macros and all that they call, but for dbt's own."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        macro = macros.get(name)
        if macro and name not in found and macro["package_name"] not in DBT_PACKAGES:
            found.add(name)
            left += macro["depends_on"]["macros"]
    return sorted(found)


def _spread(news: Mapping[str, str], manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the news, with all that depends on them."""
    found, left = dict(news), list(news)
    while left:
        name = left.pop(0)
        why = found[name] if name.startswith("source.") else f"après {name.split('.')[2]}"
        for child in manifest.get("child_map", {}).get(name, []):
            if child not in found:
                found[child] = why
                left.append(child)
    return found


def _name(source: Mapping[str, Any]) -> str:
    return f"{source['source_name']}.{source['name']}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
