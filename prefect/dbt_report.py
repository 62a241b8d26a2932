"""Runs a dbt command, reads what it left in `target/` and says in French how it ended.

Source: `run_results.json`, through dbt-core's own `RunResultsArtifact`, and, for what
failed only, `manifest.json`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dbt_command import DBT_TARGET_DIR, DbtOutcome, DbtRunner
from pipeline_settings import PipelineSettings

if TYPE_CHECKING:
    from dbt.artifacts.schemas.run import RunResultOutput, RunResultsArtifact

RUN_RESULTS = DBT_TARGET_DIR / "run_results.json"
MANIFEST = DBT_TARGET_DIR / "manifest.json"

BUILT_OBJECTS = {"CREATE VIEW": "vue", "CREATE TABLE": "table", "MERGE": "incrémental"}
KINDS = {
    "model": "modèle",
    "test": "test",
    "unit_test": "test unitaire",
    "seed": "seed",
    "snapshot": "snapshot",
    "operation": "opération",
}
ERROR_STATUSES = {"error", "runtime error", "partial success"}
FAILED_STATUSES = ERROR_STATUSES | {"fail"}

# How many failed nodes a message names; the rest is counted.
NAMED_FAILURES = 20

# The faults that go away by themselves, as the BigQuery client and dbt word them. A job
# that hits its time limit is not one: it would hit it again.
PASSING_FAULT = re.compile(
    r"""
    ^\s*(?:429|500|502|503|504)\ (?:(?:GET|POST|PUT|PATCH|DELETE)\ http|.*;\ reason:\ (?!timeout))
    | Exceeded\ rate\ limits
    | Connection\ (?:aborted|refused|reset) | ConnectionResetError | RemoteDisconnected
    | Max\ retries\ exceeded | NewConnectionError | Failed\ to\ resolve
    | Read\ timed\ out | Timeout\ of\ .*\ exceeded,\ last\ exception
    """,
    re.VERBOSE | re.MULTILINE,
)


@dataclass(frozen=True)
class DbtNode:
    """Where a node of the dbt project is, and where dbt put its compiled SQL."""

    file: str = "?"
    compiled_path: str = ""


@dataclass(frozen=True)
class DbtReport:
    """What one dbt command did.

    Attributes:
        command: words after `dbt`, for example `run`.
        outcome: exit code and logged errors.
        results: one entry a node that dbt took up, in the order they ended; empty when
            dbt stopped before the first node.
        elapsed_seconds: how long dbt worked on the nodes.
    """

    command: str
    outcome: DbtOutcome
    results: list[RunResultOutput]
    elapsed_seconds: float = 0.0

    @property
    def selected_nothing(self) -> bool:
        """Whether the selection matches no node: dbt itself takes that for a success."""
        return self.outcome.selection_is_empty and not self.results

    @property
    def succeeded(self) -> bool:
        """Whether dbt ended with exit code 0, after doing something if it was asked to."""
        return self.outcome.return_code == 0 and not self.selected_nothing

    @cached_property
    def failed(self) -> list[RunResultOutput]:
        """The nodes that failed; a node skipped after another is not one of them."""
        return [result for result in self.results if result.status in FAILED_STATUSES]

    @property
    def hit_a_passing_fault(self) -> bool:
        """Whether all that failed is BigQuery's or the network's, and may work later."""
        if self.succeeded or self.selected_nothing:
            return False
        if self.failed:
            return all(
                result.status in ERROR_STATUSES and PASSING_FAULT.search(result.message or "")
                for result in self.failed
            )
        return any(PASSING_FAULT.search(error) for error in self.outcome.errors)

    @cached_property
    def failure_message(self) -> str:
        """What failed, the reason in the first line, then models and tests apart."""
        if self.selected_nothing and self.outcome.return_code == 0:
            return (
                f"dbt {self.command} n'a rien à faire : la sélection ne correspond à aucun "
                "nœud. Vérifiez --select et --exclude."
            )
        if not self.failed:
            return f"dbt {self.command} a échoué : {self._reason_without_a_node()}"
        first, others = self.failed[0], len(self.failed) - 1
        count = f" (et {others} de plus)" if others else ""
        reason = f"dbt {self.command} a échoué{count} : {node_kind(first)} {self.describe(first)}"
        return "\n".join([reason, *(self._list_failures() if others else [])])

    @cached_property
    def _nodes(self) -> dict[str, DbtNode]:
        return _read_nodes()

    def node(self, result: RunResultOutput) -> DbtNode:
        """Return where the node of a result is; unknown when dbt left no manifest."""
        return self._nodes.get(result.unique_id, DbtNode())

    def describe(self, result: RunResultOutput) -> str:
        """Return the name of a failed node, its file and the first line that says why."""
        # dbt puts the name of the node in a line of its own before BigQuery's message.
        lines = [line.strip() for line in (result.message or "").splitlines() if line.strip()]
        reason = next(iter(lines[1:] or lines), str(result.status))
        return f"{node_name(result)} ({self.node(result).file}) : {reason}"

    def _reason_without_a_node(self) -> str:
        if self.outcome.return_code in (-9, 137):
            return "le processus dbt a été tué (signal 9), peut-être faute de mémoire."
        if not self.outcome.errors:
            return f"code de sortie {self.outcome.return_code}, voir dbt/logs/dbt.log."
        error = re.sub(r"^(\[ERROR\]: )?(Encountered an error:\n)?", "", self.outcome.errors[-1])
        if error.startswith("[Errno"):
            return f"{error}\nVérifiez la place libre et les droits du dossier dbt/."
        # « Compilation Error », then the reason on a line of its own.
        return re.sub(r"^(\w+ Error)\n\s*", r"\1 : ", error)

    def _list_failures(self) -> list[str]:
        """Return one line a failed node under the title of its group."""
        lines = []
        for title, of_tests in (("Modèles en échec", False), ("Tests en échec", True)):
            group = [result for result in self.failed if is_test(result) is of_tests]
            lines += [f"{title} :"] if group else []
            lines += [f"  - {self.describe(result)}" for result in group[:NAMED_FAILURES]]
            if len(group) > NAMED_FAILURES:
                lines.append(f"  … et {len(group) - NAMED_FAILURES} de plus")
        return lines

    def summary(self, settings: PipelineSettings) -> str:
        """Return what was built, with the rows written, and where; empty when nothing was."""
        built = [result for result in self.results if result.relation_name and not is_test(result)]
        if not built:
            return ""
        width = max(len(_relation(result)) for result in built)
        lines = [
            f"  {_relation(result):<{width}}  {_object_type(result):<11}  {_rows(result)}".rstrip()
            for result in built
        ]
        where = f"{settings.dataset} (cible {settings.target})"
        return "\n".join([f"Construit dans {where} :", *lines])


def run_command(dbt: DbtRunner, arguments: list[str], *, again: bool) -> DbtReport:
    """Run a dbt command and return its report.

    `again` is for a command that a passing fault has just hit: `dbt retry` then redoes what
    failed or was skipped, and the report is that of the whole. A command that dbt cannot
    take up again, or that had done nothing, starts from the beginning.
    """
    earlier = _read_results() if again else None
    if earlier is None:
        # So that they are never taken for new ones.
        RUN_RESULTS.unlink(missing_ok=True)
    outcome = dbt.run(["retry"] if earlier else arguments)
    results = _read_results()
    if earlier and results:
        results = _merge_results(earlier, results)
    command = " ".join(word for word in arguments if not word.startswith("-"))
    if results is None:
        return DbtReport(command, outcome, [])
    return DbtReport(command, outcome, list(results.results), results.elapsed_time)


def _read_results() -> RunResultsArtifact | None:
    """Return the results on the disk; None when there are none, or only a half-written file."""
    from dbt.artifacts.schemas.run import RunResultsArtifact
    from dbt_common.exceptions import DbtRuntimeError

    try:
        return RunResultsArtifact.read_and_check_versions(str(RUN_RESULTS))
    except DbtRuntimeError:
        return None


def _merge_results(earlier: RunResultsArtifact, later: RunResultsArtifact) -> RunResultsArtifact:
    """Return the results of a command and of the `dbt retry` that redid some of its nodes.

    The file in `target/` is replaced by the whole: the next `dbt retry`, and whoever reads
    it, finds every node in it.
    """
    if later.metadata.invocation_id == earlier.metadata.invocation_id:
        # dbt retry stopped before the first node.
        return earlier
    redone = {result.unique_id: result for result in later.results}
    results = [redone.get(result.unique_id, result) for result in earlier.results]
    elapsed_time = earlier.elapsed_time + later.elapsed_time
    merged = replace(earlier, results=results, elapsed_time=elapsed_time)
    merged.write(str(RUN_RESULTS))
    return merged


def _read_nodes() -> dict[str, DbtNode]:
    """Return the nodes and unit tests of the project; empty when dbt left no manifest."""
    try:
        manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    nodes: dict[str, dict[str, Any]] = manifest["nodes"] | manifest["unit_tests"]
    return {
        unique_id: DbtNode(node["original_file_path"], node.get("compiled_path") or "")
        for unique_id, node in nodes.items()
    }


def is_test(result: RunResultOutput) -> bool:
    """Whether the node checks data or SQL, rather than builds something."""
    return result.unique_id.startswith(("test.", "unit_test."))


def node_kind(result: RunResultOutput) -> str:
    """Return what the node is, in French."""
    return KINDS.get(result.unique_id.split(".")[0], "nœud")


def node_name(result: RunResultOutput) -> str:
    """Return the name of the node, as its file or its YAML gives it."""
    parts = result.unique_id.split(".")[2:]
    # A generic test has a hash after its name.
    return parts[0] if result.unique_id.startswith("test.") else ".".join(parts)


def _relation(result: RunResultOutput) -> str:
    return (result.relation_name or "").replace("`", "").rsplit(".", 1)[-1]


def _object_type(result: RunResultOutput) -> str:
    code = str(result.adapter_response.get("code"))
    return BUILT_OBJECTS.get(code, code.lower())


def _rows(result: RunResultOutput) -> str:
    rows = result.adapter_response.get("rows_affected")
    return "" if rows is None else f"{int(rows):>9,} lignes écrites".replace(",", " ")
