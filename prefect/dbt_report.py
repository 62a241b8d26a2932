"""Reads what a dbt command left in `target/` and says it in French.

Source: `run_results.json`, through dbt-core's own `RunResultsArtifact`, and, for what
failed only, `manifest.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dbt_command import DBT_TARGET_DIR, DbtOutcome
from pipeline_settings import PipelineSettings

if TYPE_CHECKING:
    from dbt.artifacts.schemas.run import RunResultOutput

RUN_RESULTS = DBT_TARGET_DIR / "run_results.json"
MANIFEST = DBT_TARGET_DIR / "manifest.json"

BUILT_OBJECTS = {"CREATE VIEW": "vue", "CREATE TABLE": "table", "MERGE": "incrémental"}
FAILED_STATUSES = {"error", "fail", "runtime error", "partial success"}


@dataclass(frozen=True)
class DbtReport:
    """What one dbt command did.

    Attributes:
        command: words after `dbt`, for example `run`.
        outcome: exit code and logged errors.
        results: one entry a node that dbt took up, in the order they ended; empty when
            dbt stopped before the first node.
    """

    command: str
    outcome: DbtOutcome
    results: list[RunResultOutput]

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

    @cached_property
    def failure_message(self) -> str:
        """What failed, one line a node: its name, its file, BigQuery's first line."""
        if self.selected_nothing and self.outcome.return_code == 0:
            return (
                f"dbt {self.command} n'a rien à faire : la sélection ne correspond à aucun "
                "nœud. Vérifiez --select et --exclude."
            )
        if not self.failed:
            details = [
                error.removeprefix("Encountered an error:\n") for error in self.outcome.errors[-1:]
            ] or [f"code de sortie {self.outcome.return_code}"]
            return "\n".join([f"dbt {self.command} a échoué.", *details])
        files = _files_of_nodes()
        lines = [
            f"  - {result.unique_id.split('.')[2]} ({files.get(result.unique_id, '?')}) : "
            f"{_first_line(result)}"
            for result in self.failed
        ]
        count = f"{len(self.failed)} sur {len(self.results)}"
        return "\n".join([f"dbt {self.command} a échoué ({count}) :", *lines])

    def markdown(self, settings: PipelineSettings, warnings: list[str]) -> str:
        """Return the report as the Markdown of a Prefect artifact, warnings first."""
        outcome = "réussi" if self.succeeded else "échoué"
        counts = Counter(str(result.status) for result in self.results)
        lines = [
            *(f"> ⚠️ {warning}\n" for warning in warnings),
            f"# dbt {self.command} : {outcome}",
            f"Dataset `{settings.dataset}`, cible `{settings.target}`. "
            + ", ".join(f"{count} {status}" for status, count in counts.items()),
            *([] if self.succeeded else [f"```\n{self.failure_message}\n```"]),
            "| nœud | état | secondes |\n| --- | --- | ---: |",
        ]
        table = [
            f"| {result.unique_id.split('.')[2]} | {result.status} | {result.execution_time:.1f} |"
            for result in self.results
        ]
        return "\n\n".join(lines) + "\n" + "\n".join(table)

    def summary(self, settings: PipelineSettings) -> str:
        """Return what was built, with the rows written, and where; empty when nothing was."""
        built = [
            result
            for result in self.results
            if result.relation_name and not result.unique_id.startswith("test.")
        ]
        if not built:
            return ""
        width = max(len(_relation(result)) for result in built)
        lines = [
            f"  {_relation(result):<{width}}  {_object_type(result):<11}  {_rows(result)}".rstrip()
            for result in built
        ]
        where = f"{settings.dataset} (cible {settings.target})"
        return "\n".join([f"Construit dans {where} :", *lines])


def forget_last_results() -> None:
    """Remove the results of an earlier command, so that they are never taken for new ones."""
    RUN_RESULTS.unlink(missing_ok=True)


def read_report(command: str, outcome: DbtOutcome) -> DbtReport:
    """Return the report of the command that has just ended."""
    from dbt.artifacts.schemas.run import RunResultsArtifact

    if not RUN_RESULTS.exists():
        return DbtReport(command, outcome, [])
    artifact = RunResultsArtifact.read_and_check_versions(str(RUN_RESULTS))
    return DbtReport(command, outcome, list(artifact.results))


def _files_of_nodes() -> dict[str, str]:
    """Return the file of each node and unit test, relative to the dbt project."""
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    nodes = manifest["nodes"] | manifest["unit_tests"]
    return {unique_id: node["original_file_path"] for unique_id, node in nodes.items()}


def _first_line(result: RunResultOutput) -> str:
    """Return the first line that says why; dbt puts the name of the node before it."""
    lines = [line.strip() for line in (result.message or "").splitlines() if line.strip()]
    return next(iter(lines[1:] or lines), str(result.status))


def _relation(result: RunResultOutput) -> str:
    return (result.relation_name or "").replace("`", "").rsplit(".", 1)[-1]


def _object_type(result: RunResultOutput) -> str:
    code = str(result.adapter_response.get("code"))
    return BUILT_OBJECTS.get(code, code.lower())


def _rows(result: RunResultOutput) -> str:
    rows = result.adapter_response.get("rows_affected")
    return "" if rows is None else f"{int(rows):>9,} lignes écrites".replace(",", " ")
