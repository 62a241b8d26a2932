"""Says which nodes have something new since the last success, and why.

All of it is decided from values: what dbt knows of the project (its manifest) and when BigQuery
last saw each table change, now and then. Whatever cannot be judged is new.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, field
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from bi_pipeline.dbt_runs.project_macros import ProjectMacros, read_code
from bi_pipeline.dbt_runs.run_results import read_meta
from bi_pipeline.dbt_runs.undetermined_sql import JINJA_COMMENT, find_undetermined

# The commands that do these kinds of node.
DONE_BY = {
    "model": {"run", "build"},
    "function": {"build"},
    "seed": {"seed", "build"},
    "snapshot": {"snapshot", "build"},
    "test": {"test", "build"},
    "unit_test": {"test", "build"},
}
TESTS = {"test", "unit_test"}
TABLES = {"model", "seed", "snapshot", "function"}
# dbt sees no source under `is_incremental()` or `execute`.
SOURCE = re.compile(r"""\bsource\s*\(\s*['"](\w+)['"]\s*,\s*['"](\w+)['"]""")
READS_ITSELF = re.compile(r"\{[{%](?:(?![}%]\}).)*\bthis\b", re.DOTALL)

VARIABLE = re.compile(r"\bvar\s*\(\s*['\"](\w+)['\"]")
# « the next thousand rows », « the day after the last »: each run of such an incremental model goes
# on from its own table, and gives more although nothing else has changed.
CATCHES_UP = re.compile(
    r"\blimit\b|(?:(?<![<>!])=|<=?|\bbetween)\s*\(\s*select\b(?:(?!\bfrom\b).)*\bfrom\s*"
    r"\{\{-?\s*this\b",
    re.IGNORECASE | re.DOTALL,
)

# Two parses of the same files differ in these: with them, every node would be new.
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
    """The project and its tables as a run found and left them, if it succeeded; a file of JSON.

    Attributes:
        at: when it started, ISO 8601.
        context: what holds for all nodes (versions, variables…), each under what is said in French
            when it differs.
        nodes: `unique_id` -> part of its definition -> digest, of all nodes.
        done: the `unique_id` of what it would have done without --only-new.
        tables: `unique_id` of a source or a node -> when its table last changed, as BigQuery says
            it; None for what has no table, or none that can be judged.
        warned: the `unique_id` of what warned -> the line that says so: it still warns as long as
            it is not done again.
    """

    at: str
    context: dict[str, str]
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    tables: dict[str, str | None] = field(default_factory=dict)
    warned: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), default=sorted)

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

    A routine has `()` after its name. Of the sources, those that something reads.
    """
    read = {name for name, children in find_children(manifest).items() if children}
    nodes = {
        unique_id: node
        for unique_id, node in list_nodes(manifest).items()
        if node["resource_type"] in TABLES and node["config"].get("materialized") != "ephemeral"
    }
    return {
        unique_id: node["relation_name"].replace("`", "") + "()" * unique_id.startswith("function.")
        for unique_id, node in (manifest.get("sources", {}) | nodes).items()
        if node.get("relation_name") and (unique_id in nodes or unique_id in read)
    }


def find_children(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return what reads each node and source: what dbt knows, and the sources that a text names."""
    children = {name: set(found) for name, found in manifest.get("child_map", {}).items()}
    macros = ProjectMacros(manifest.get("macros", {}))
    sources = {
        (source["source_name"], source["name"]): unique_id
        for unique_id, source in manifest.get("sources", {}).items()
    }
    for unique_id, node in list_nodes(manifest).items():
        texts = [read_code(node), *(macros.texts[name] for name in macros.find_all(node))]
        for named in {found for text in texts for found in SOURCE.findall(text)}:
            if named in sources:
                children.setdefault(sources[named], set()).add(unique_id)
    return children


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
    """Return the digest of each part of each node's definition.

    It is the same after `dbt list`, and after a command, which adds to a node's `depends_on` the
    macros that dbt itself has called: those are in `digest_the_rest`.
    """
    macros = ProjectMacros(manifest.get("macros", {}))
    for_all = set(macros.follow(macros.called_for_all | macros.of_names))

    def digest(node: Mapping[str, Any]) -> dict[str, str]:
        called = [macros.texts[name] for name in macros.find_all(node) if name not in for_all]
        rest = {name: node[name] for name in node.keys() - VOLATILE - {"config", "depends_on"}}
        return {
            "sql": _digest([node.get("raw_code"), node.get("checksum")]),
            "config": _digest([node.get("config"), node.get("relation_name")]),
            "macros": _digest(called),
            "rest": _digest([rest, node["depends_on"].get("nodes")]),
        }

    return {unique_id: digest(node) for unique_id, node in list_nodes(manifest).items()}


def digest_the_rest(manifest: Mapping[str, Any]) -> str:
    """Return the digest of the macros that dbt calls by itself, and of the hooks of a whole run.

    They hold for all nodes: `generate_schema_name`, a materialization, an incremental strategy.
    """
    macros = ProjectMacros(manifest.get("macros", {}))
    hooks = [node for x, node in list_nodes(manifest).items() if x.startswith("operation.")]
    called = macros.follow(macros.called_for_all | macros.of_names)
    called += [name for hook in hooks for name in macros.find_all(hook)]
    return _digest([[macros.texts[x] for x in called], [hook["raw_code"] for hook in hooks]])


def find_news(
    manifest: Mapping[str, Any],
    done: Collection[str],
    now: ProjectState,
    kept: ProjectState | None,
    variables: Mapping[str, Any],
) -> dict[str, str]:
    """Return the `unique_id` of what a run has to do, each with the reason in French.

    Args:
        manifest: dbt's, of the project as it is now.
        done: the `unique_id` of what the run would do without --only-new: see `select_done`.
        now: what this run found at its start.
        kept: what the last success with these commands had found; None without one.
        variables: the values that `var()` may give, by name.
    """
    if whole := _find_difference(now, kept):
        return dict.fromkeys(done, whole)
    assert kept is not None
    nodes, macros = list_nodes(manifest), ProjectMacros(manifest.get("macros", {}))
    news = _find_changed_tables(manifest, now, kept)
    for unique_id, node in sorted(nodes.items()):
        # A model that is not selected, too: one that is ephemeral, or a view, is read as it stands.
        if unique_id not in done and node["resource_type"] not in ("model", "function"):
            continue
        reason = find_why_always(node, macros, variables)
        if reason := reason or _find_difference_of(unique_id, now, kept, unique_id in done):
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
            what = f"source {_name(source)} modifiée" if source else "table écrite ou effacée"
            news[unique_id] = what
    return news


def _find_difference_of(
    unique_id: str, now: ProjectState, kept: ProjectState, is_done: bool
) -> str:
    """Return how a node differs from what it was; empty if it does not."""
    if unique_id not in kept.nodes or (is_done and unique_id not in kept.done):
        return "nouveau, ou à refaire"
    for part, words in PARTS.items():
        if now.nodes[unique_id][part] != kept.nodes[unique_id].get(part):
            return words
    if is_done and unique_id in now.tables and now.tables[unique_id] is None:
        return "table introuvable"
    return ""


def find_why_always(
    node: Mapping[str, Any], macros: ProjectMacros, variables: Mapping[str, Any]
) -> str:
    """Return why a node is done each time, in French; empty if it is not."""
    config = node.get("config", {})
    if read_meta(node).get("always_build"):
        return "always_build"
    if node.get("language") == "python":
        return "modèle Python"
    if config.get("incremental_strategy") == "microbatch":
        # The batches end now: a row of the future, which the last run left out, may be due.
        return "microbatch"
    if node["resource_type"] == "seed" and (node.get("checksum") or {}).get("name") == "path":
        # dbt gives no digest of a file of more than 1 MiB.
        return "seed de plus de 1 Mio"
    # dbt does not say what a materialization of the project calls.
    if config.get("materialized") in macros.materializations:
        return f"matérialisation {config['materialized']} du projet"
    code = JINJA_COMMENT.sub("", node.get("raw_code") or "")
    is_incremental = config.get("materialized") == "incremental"
    if is_incremental and "this" in code and CATCHES_UP.search(code):
        return "avance à chaque exécution"
    is_table = config.get("materialized") in ("table", "view")
    if is_table and READS_ITSELF.search(code):
        return "lit sa propre table"
    for text in _find_all_texts(node, macros, variables):
        if why := find_undetermined(text, macros.table_macros):
            return why
    return ""


def _find_all_texts(
    node: Mapping[str, Any], macros: ProjectMacros, variables: Mapping[str, Any]
) -> list[str]:
    """Return the texts that decide what a node gives: its own, its macros', its variables'."""
    config = node.get("config", {})
    settings = {name: value for name, value in config.items() if name not in ("meta", "docs")}
    parts = [node.get(part) for part in ("raw_code", "given", "expect", "overrides")]
    arguments = (node.get("test_metadata") or {}).get("kwargs", {})
    tables = [f"from {arguments[x]}" for x in ("to", "compare_model") if x in arguments]
    called = {*macros.find_all(node), *macros.follow(macros.called_for_all)}
    texts = list(_find_texts([parts, settings, arguments, tables, *map(macros.texts.get, called)]))
    used = {name for text in texts for name in VARIABLE.findall(text)}
    return texts + list(_find_texts([variables.get(name) for name in used]))


def _find_texts(value: Any) -> Iterator[str]:
    """Yield all texts in a value of a manifest."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _find_texts(part)


def find_descendants(manifest: Mapping[str, Any], names: Collection[str]) -> set[str]:
    """Return all that reads these nodes, directly or not, themselves left out."""
    return _spread(dict.fromkeys(names, ""), manifest).keys() - set(names)


def _spread(news: Mapping[str, str], manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the news, with all that depends on them."""
    children = find_children(manifest)
    found, left = dict(news), list(news)
    while left:
        name = left.pop(0)
        why = found[name] if name.startswith("source.") else f"après {name.split('.')[2]}"
        for child in sorted(children.get(name, ())):
            if child not in found:
                found[child] = why
                left.append(child)
    return found


def _name(source: Mapping[str, Any]) -> str:
    return f"{source['source_name']}.{source['name']}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
