"""The macros of a dbt project: which of them a node depends on, and which dbt calls by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from bi_pipeline.dbt_runs.undetermined_sql import JINJA, takes_a_table

# Another version of these packages is something new by itself.
DBT_PACKAGES = {"dbt", "dbt_bigquery"}
# dbt calls a macro with this prefix in the place of its own, for all nodes.
PREFIX = re.compile(r"^(?:default|bigquery)__")
# dbt makes these names of a node's configuration, and no node is said to call them.
NAMED_BY_A_CONFIGURATION = re.compile(
    r"^(?:get_incremental_\w+_sql|snapshot_\w+_strategy|materialization_\w+)$"
)
# These give the name of a node's table, which is compared by itself.
NAMES = re.compile(r"^generate_(?:schema|alias|database)_name$")


def read_code(node: Mapping[str, Any]) -> str:
    """Return the text of a node and of its hooks, as they are before dbt renders them."""
    config = node.get("config", {})
    hooks = [hook["sql"] for kind in ("pre-hook", "post-hook") for hook in config.get(kind, ())]
    return "\n".join([node.get("raw_code") or "", *hooks])


class ProjectMacros:
    """The macros of a manifest that are not dbt's own.

    Attributes:
        texts: `unique_id` -> text.
        called_for_all: the `unique_id` of those that dbt may call for any node, without saying so.
        of_names: those that give the name of a node's table, which is compared by itself.
        materializations: the names of the project's own.
    """

    def __init__(self, macros: Mapping[str, Any]) -> None:
        ours = {x: y for x, y in macros.items() if y["package_name"] not in DBT_PACKAGES}
        of_dbt = {PREFIX.sub("", macros[x]["name"]) for x in macros.keys() - ours.keys()}
        self.texts: dict[str, str] = {name: macro["macro_sql"] for name, macro in ours.items()}
        self._by_name: dict[str, set[str]] = {}
        for unique_id, macro in ours.items():
            self._by_name.setdefault(PREFIX.sub("", macro["name"]), set()).add(unique_id)
        self._called = {
            unique_id: self._find_called(macro, macro["macro_sql"])
            for unique_id, macro in ours.items()
        }
        by_dbt = {x for x in self._by_name if x in of_dbt or NAMED_BY_A_CONFIGURATION.match(x)}
        self.of_names = {y for x in by_dbt if NAMES.match(x) for y in self._by_name[x]}
        self.called_for_all = {y for x in by_dbt for y in self._by_name[x]} - self.of_names
        self.materializations = {
            found[1]
            for macro in ours.values()
            if (found := re.match(r"materialization_(\w+)_(?:default|bigquery)$", macro["name"]))
        }

    @cached_property
    def table_macros(self) -> frozenset[str]:
        """The names of those that read a table which they are given."""
        found = frozenset[str]()
        while more := {
            name
            for name in self._by_name.keys() - found
            if any(takes_a_table(self.texts[x], found) for x in self._by_name[name])
        }:
            found |= more
        return found

    def find_all(self, node: Mapping[str, Any]) -> list[str]:
        """Return the macros that a node calls, and those that they call."""
        return self.follow(self._find_called(node, read_code(node)))

    def follow(self, names: Iterable[str]) -> list[str]:
        """Return these macros and all that they call."""
        found, left = set[str](), [name for name in names if name in self.texts]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self._called[name]
        return sorted(found)

    def _find_called(self, caller: Mapping[str, Any], text: str) -> set[str]:
        """Return the macros that dbt says a node or a macro calls, and those that its Jinja names.

        dbt sees no call under `is_incremental()` or `execute`, and none of a macro that is given to
        another by its name: that only in the same package, as a column may well have the name of
        some other package's macro, `date` for example.
        """
        jinja = " ".join(found[0] for found in JINJA.finditer(text))
        start = f"macro.{caller['package_name']}."
        words = set(re.findall(r"\w+", jinja))
        called = {y for x in re.findall(r"(\w+)\s*\(", jinja) for y in self._by_name.get(x, ())}
        named = {y for x in words for y in self._by_name.get(x, ()) if y.startswith(start)}
        return {*called, *named, *caller["depends_on"].get("macros", ())} & self.texts.keys()
