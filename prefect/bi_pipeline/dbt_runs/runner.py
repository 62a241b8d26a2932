"""Runs dbt commands, one at a time: says what to dbt, and returns what it did.

`operation.py` runs the process, `dbt_log.py` and `run_results.py` read what it said and wrote,
`dbt_artifacts.py` keeps it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import get_client, runtime
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Running

from bi_pipeline.bigquery.billing import read_bills, read_reported_bills
from bi_pipeline.bigquery.connection import TOKEN_VARIABLE, DbtConnection
from bi_pipeline.bigquery.failing_rows import add_failing_rows
from bi_pipeline.dbt_runs.dbt_artifacts import (
    DEFERRED,
    DOCS_PAGE,
    RETRIABLE,
    DbtArtifactsDir,
    list_files_to_keep,
)
from bi_pipeline.dbt_runs.dbt_log import read_log, read_started
from bi_pipeline.dbt_runs.encoding import name_undecodable_files
from bi_pipeline.dbt_runs.estimate import estimate_bill
from bi_pipeline.dbt_runs.lock import try_lock, wait_for_lock
from bi_pipeline.dbt_runs.operation import EndedProcess, run_dbt_process
from bi_pipeline.dbt_runs.options import EMPTY_SNAPSHOT, ESTIMATE, DbtOptions
from bi_pipeline.dbt_runs.packages import packages_are_missing
from bi_pipeline.dbt_runs.run_results import (
    MANIFEST,
    RUN_RESULTS,
    SOURCES,
    list_materialized_models,
    read_json,
    read_results,
)
from bi_pipeline.errors import ConfigurationError, InfrastructureError
from bi_pipeline.result import (
    INTERRUPTED,
    NOTHING_TO_DO,
    RETRIED,
    Bill,
    DbtResult,
    NodeResult,
)
from bi_pipeline.settings import DBT_PROJECT_DIR, GOOGLE_ENDPOINT, PipelineSettings

SOURCE_FRESHNESS = "source freshness"
DOCS = "docs generate"
LIST = ["list", "--output=json", "--output-keys=unique_id"]


@dataclass(frozen=True)
class DbtRunner:
    """Runs dbt commands, one at a time, with one connection; `open_dbt` makes it.

    Attributes:
        commands: all those of the run.
        target_dir: where dbt writes, a folder of its own for each target.
        lock: descriptor of the lock on that folder, which every dbt process inherits.
        project_dir: the dbt project.
        prod_state_dir: what `--state` of dbt reads, the manifest of prod: it says what has changed.
        deferred_dir: what `--defer-state` reads, the same manifest without what this run
            builds: it says where all the rest is read.
        bills: one a dbt process that has ended; a copy with other folders adds to the same list.
        interrupted: what the command did that was under way when the run was stopped.
    """

    connection: DbtConnection
    settings: PipelineSettings
    commands: list[str]
    target_dir: Path
    lock: int
    project_dir: Path = DBT_PROJECT_DIR
    prod_state_dir: Path | None = None
    deferred_dir: Path | None = None
    bills: list[Bill] = field(default_factory=list)
    interrupted: list[DbtResult] = field(default_factory=list)

    @property
    def bill(self) -> Bill:
        """The bill of all the commands so far, every attempt included."""
        return sum(self.bills, Bill())

    def run(self, command: str, options: DbtOptions, earlier: DbtResult | None = None) -> DbtResult:
        """Run a dbt command and return what it did.

        After an attempt `earlier`, which met a passing fault, `dbt retry` redoes what failed or
        was skipped, and the result is that of the whole. A command that dbt cannot take up again,
        or of which it would redo nothing, starts from the beginning. `estimate` is dbt's `compile`,
        whose result has an estimate.

        Raises ConfigurationError when there is nothing to retry, when DBT_ARTIFACTS_DIR cannot be
        used, or for a build with --empty that would take up snapshots; DbtError when BigQuery
        estimates nothing.
        """
        if earlier and earlier.can_be_taken_up and command != SOURCE_FRESHNESS:
            # dbt retry reuses the flags of the command, except --defer-state (dbt 1.12): by --state
            # alone, it would read in prod the models that this run builds.
            flags = [f"--defer-state={self.deferred_dir}"] if self.deferred_dir else []
            result = self._run_dbt(command, [*flags, "retry"])
        elif command == "retry":
            found = self._find_last_run()
            result = DbtResult("retry", 0)
            if found is not None:
                result = self._run_dbt("retry", [*found, "retry", *options.to_words("retry")])
        else:
            if command == "build" and options.empty:
                self._refuse_empty_snapshots(options)
            if command in RETRIABLE:
                self._forget_last_run()
            words = [*self._make_words(command), *options.to_words(command)]
            result = self._run_dbt("compile" if command == ESTIMATE else command, words)
        whole = earlier.merge_retry(result) if earlier else result
        whole = replace(whole, docs=self._keep_dbt_artifacts(whole))
        if command == ESTIMATE and whole.succeeded and not whole.did_nothing:
            manifest = read_json(self.target_dir / MANIFEST)
            return replace(
                whole, estimate=estimate_bill(self.connection, self.settings, manifest, whole)
            )
        return whole

    def add_failing_rows(self, result: DbtResult) -> DbtResult:
        """Return the result with the first rows that fail its tests, if the settings ask for it."""
        nodes = add_failing_rows(self.connection, self.settings, result.nodes)
        bill = sum((node.failing_rows.bill for node in nodes if node.failing_rows), Bill())
        self.bills.append(bill)
        return replace(result, nodes=nodes, bill=result.bill + bill)

    def list_nodes(self, options: DbtOptions) -> DbtResult:
        """Have dbt list what the options select; with prod's state, it judges `state:modified`.

        Missing packages are installed first: without them dbt cannot read the project.
        """
        if packages_are_missing(self.project_dir):
            packages = self._run_dbt("deps", ["deps", *options.to_words("deps")])
            if not packages.succeeded:
                return packages
        flags = [f"--state={self.prod_state_dir}"] if self.prod_state_dir else []
        return self._run_dbt("list", [*flags, *LIST, *options.to_words("list")])

    def _refuse_empty_snapshots(self, options: DbtOptions) -> None:
        """Raise ConfigurationError if the options select snapshots."""
        snapshots = [name for name in self.list_nodes(options).listed if "snapshot." in name[:9]]
        if snapshots:
            raise ConfigurationError(
                f"--empty : {EMPTY_SNAPSHOT} Laissez-les de côté avec --exclude "
                f"resource_type:snapshot ({len(snapshots)} ici)."
            )

    def _make_words(self, command: str) -> list[str]:
        """Return the words of the command, with the flags that are not the user's."""
        words = ["compile"] if command == ESTIMATE else command.split()
        if command == DOCS:
            # Without --static, the page reads JSON files beside it: kept alone, it would be empty.
            # bqemulator 1.4.0 has no __TABLES__: there the query of the catalog would fail.
            words += ["--static", *(["--empty-catalog"] if self.settings.is_local else [])]
        if command == "clone":
            return [f"--state={self.prod_state_dir}", *words]
        if self.deferred_dir:
            deferral = ("--defer", "--favor-state", f"--defer-state={self.deferred_dir}")
            return [f"--state={self.prod_state_dir}", *deferral, *words]
        return words

    def _forget_last_run(self) -> None:
        """Remove the results of the last command, the kept copy too.

        If the next one is killed or does not compile, `retry` would take them for its results, and
        say that it has succeeded.
        """
        (self.target_dir / RUN_RESULTS).unlink(missing_ok=True)
        if self.settings.dbt_artifacts_dir:
            try:
                self.kept_artifacts.remove(f"{self.settings.target}/{RUN_RESULTS}")
            except ConfigurationError as error:
                get_run_logger().warning(error)

    def _find_last_run(self) -> list[str] | None:
        """Return the flags by which `dbt retry` finds the last command of an earlier run.

        None if all of it succeeded. Raises ConfigurationError without one that it can take up.
        """
        folder = self.target_dir
        where = (
            f"{folder}. Là où ce dossier ne dure pas (conteneur, Prefect Cloud), définissez "
            "DBT_ARTIFACTS_DIR"
        )
        if self.settings.dbt_artifacts_dir:
            folder, where = self.target_dir / "kept", self.settings.dbt_artifacts_dir
            # An earlier retry left its copies here, perhaps from another DBT_ARTIFACTS_DIR: if this
            # one keeps nothing, dbt would take those up.
            shutil.rmtree(folder, ignore_errors=True)
            for name in (RUN_RESULTS, DEFERRED):
                self.kept_artifacts.fetch(f"{self.settings.target}/{name}", folder / name)
        document = read_json(folder / RUN_RESULTS)
        arguments = document.get("args", {})
        if not document:
            raise ConfigurationError(
                "dbt retry n'a rien à reprendre : aucune exécution de la cible "
                f"{self.settings.target} n'a laissé de résultats lisibles dans {where}."
            )
        if arguments.get("which") in ("run-operation", "compile", "generate"):
            raise ConfigurationError(
                "dbt retry reprend la dernière commande, et ce n'en est pas une qui construit ou "
                f"teste ({arguments['which']}) : relancez run ou build."
            )
        statuses = {result["unique_id"]: result["status"] for result in document.get("results", [])}
        left = {unique_id for unique_id, status in statuses.items() if status in RETRIED}
        if left and all(unique_id.startswith("operation.") for unique_id in left):
            raise ConfigurationError(
                "dbt retry ne refait pas un hook, et seul un hook a échoué "
                f"({', '.join(sorted(left))}) : relancez {arguments['which']}."
            )
        if not left:
            get_run_logger().info("dbt retry : rien à reprendre, la dernière commande a réussi.")
        flags = [f"--state={folder}"] if self.settings.dbt_artifacts_dir else []
        if arguments.get("defer"):
            flags.append(f"--defer-state={(folder / DEFERRED).parent}")
        return flags if left else None

    def _run_dbt(self, command: str, words: list[str]) -> DbtResult:
        """Run `dbt` with these words; return what it did, named as this command."""
        name = SOURCES if command == SOURCE_FRESHNESS else RUN_RESULTS
        started_at, before = time.time(), _read_write_time(self.target_dir / name)

        def note_interruption(lines: list[str]) -> None:
            # An error here would take the place of the signal that ends the run, and of its state.
            with suppress(Exception):
                rewritten = _read_write_time(self.target_dir / name) != before
                document = read_json(self.target_dir / name) if rewritten else {}
                if command != "list":
                    self.interrupted.append(self._read_interrupted(command, document, lines))

        ended = run_dbt_process(
            words,
            self.connection,
            self._make_environment(),
            self.project_dir,
            self.lock,
            shown=command != "list",
            on_interruption=note_interruption,
        )
        # If dbt did not rewrite the file, it belongs to an earlier command, whose results would be
        # reported as this one's.
        rewritten = _read_write_time(self.target_dir / name) != before
        return self._read_result(command, ended, name if rewritten else "", started_at)

    def _read_result(
        self, command: str, ended: EndedProcess, results: str, started_at: float
    ) -> DbtResult:
        """Return what a command did, from what it printed and its file of results, if any."""
        log = read_log(command, ended.lines)
        document = read_json(self.target_dir / results) if results else {}
        nodes = read_results(
            document,
            self.target_dir / MANIFEST,
            log.batch_errors,
            is_local=self.settings.is_local,
        )
        # Without results, a dbt that was killed may have billed anything.
        bill = Bill(is_whole=bool(document) or ended.return_code == 0)
        if any(node.was_taken_up for node in nodes):
            invocation_id = document.get("metadata", {}).get("invocation_id", "")
            nodes, bill = self._read_bills(nodes, invocation_id, started_at)
        self.bills.append(bill)
        return DbtResult(
            command,
            ended.return_code,
            name_undecodable_files(log.errors, self.project_dir),
            NOTHING_TO_DO & log.events,
            nodes,
            document.get("elapsed_time", 0.0),
            bill,
            log.listed,
            document.get("args", {}),
        )

    def _read_interrupted(
        self, command: str, document: dict[str, Any], lines: list[str]
    ) -> DbtResult:
        """Return what a command did before it was interrupted, and what was under way.

        Nothing here asks BigQuery: the run has a few seconds left.
        """
        manifest = self.target_dir / MANIFEST
        nodes = read_results(document, manifest, {}, is_local=self.settings.is_local)
        done, now = {node.unique_id for node in nodes}, time.time()
        nodes += [
            NodeResult(
                unique_id,
                INTERRUPTED,
                f"en cours depuis {now - start:.0f} s",
                now - start,
                (start, now),
            )
            for unique_id, start in read_started(lines).items()
            if unique_id not in done
        ]
        nodes, bill = read_reported_bills(nodes)
        if self.settings.is_local:
            nodes, bill = _take_bills_for_whole(nodes, bill)
        seconds = document.get("elapsed_time", 0.0)
        return DbtResult(
            command, 128 + signal.SIGINT, [], set(), nodes, seconds, bill, was_interrupted=True
        )

    def _read_bills(
        self, nodes: list[NodeResult], invocation_id: str, started_at: float
    ) -> tuple[list[NodeResult], Bill]:
        """Return the nodes of a command with their bills, and the bill of the whole command."""
        endpoint = self.settings.endpoint or GOOGLE_ENDPOINT
        nodes, bill = read_bills(self.connection, endpoint, invocation_id, nodes, started_at)
        if self.settings.is_local:
            return _take_bills_for_whole(nodes, bill)
        return nodes, bill

    def _keep_dbt_artifacts(self, result: DbtResult) -> str:
        """Keep what `retry` and --changed-since read, where DBT_ARTIFACTS_DIR says.

        Returns where the documentation is, if `docs generate` was ever run; empty when unknown.
        """
        if not self.settings.dbt_artifacts_dir or not result.nodes:
            return ""

        def read_models() -> set[str]:
            return list_materialized_models(read_json(self.target_dir / MANIFEST))

        kept = list_files_to_keep(result, read_models, deferred=self.deferred_dir is not None)
        try:
            for name, kept_as in kept.items():
                self.kept_artifacts.keep(
                    self.target_dir / name, f"{self.settings.target}/{kept_as}"
                )
        except ConfigurationError as error:
            # Failing to copy dbt's artifacts must not hide dbt's result: warn and go on.
            get_run_logger().warning(error)
            return ""
        return self.kept_artifacts.locate(f"{self.settings.target}/{DOCS_PAGE}")

    @property
    def kept_artifacts(self) -> DbtArtifactsDir:
        """The files that DBT_ARTIFACTS_DIR keeps; ConfigurationError when it is not set."""
        address = self.settings.dbt_artifacts_dir
        if not address:
            raise ConfigurationError(
                "DBT_ARTIFACTS_DIR n'est pas défini : c'est là que la pipeline garderait les "
                "résultats de dbt, un dossier ou gs://bucket/préfixe."
            )
        return DbtArtifactsDir(address, self.connection.credentials, self.connection.project)

    def _make_environment(self) -> dict[str, str]:
        """Return the environment in which dbt finds itself, its project and our settings.

        `warm_dbt.process` removes dbt's other variables, which come from the user's shell.
        """
        ours = {
            "DBT_PROJECT_DIR": str(self.project_dir),
            "DBT_TARGET_PATH": str(self.target_dir),
            "DBT_LOG_PATH": str(DBT_PROJECT_DIR / "logs"),
            "DBT_PROFILE": self.settings.profile_name,
            "DBT_TARGET": self.settings.target,
            "DBT_BIGQUERY_DATASET_RAW": self.settings.dataset_raw,
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            # dbt 1.12 notes in ~/.dbt when it gave a hint. Confined to the project, dbt cannot, and
            # would repeat the hint in every run.
            "DBT_ENGINE_HINTS_ENABLED": "false",
            # If `flags:` in dbt_project.yml set these otherwise, dbt would write no results or log
            # no errors, and the run could not say what dbt did.
            "DBT_WRITE_JSON": "true",
            "DBT_LOG_LEVEL": "info",
            "DBT_QUIET": "false",
            "DBT_PRINT": "true",
            "DBT_USE_COLORS": "false",
            # dbt 1.12 loads the nearest `.env` when it is imported: a plain dbt process would have
            # variables from it that a fork of the server has not.
            "PYTHON_DOTENV_DISABLED": "1",
            TOKEN_VARIABLE: self.connection.credentials.token,
        }
        return ours | {"PIPELINE_VARIABLES": " ".join(ours)}


@contextmanager
def open_dbt(
    connection: DbtConnection, settings: PipelineSettings, commands: list[str]
) -> Iterator[DbtRunner]:
    """Yield a runner that has `dbt/target/<target>` for itself.

    Waits, and has Prefect show so, while another pipeline has the folder, or a dbt that still
    writes although its pipeline was killed. Raises InfrastructureError when the folder cannot be
    written.
    """
    target_dir = DBT_PROJECT_DIR / "target" / settings.target
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        # Missing rights or a full disk show once bytes are written: find out now, with the reason,
        # rather than in the middle of a run.
        with tempfile.TemporaryFile(dir=target_dir) as probe:
            probe.write(bytes(4096))
        # Not "w": that would erase the name of the pipeline that has the lock, which the message to
        # those who wait reads here.
        lock = (target_dir / ".lock").open("a+", encoding="utf-8")
        # Another user who could open the file could hold the lock, and block every run.
        with suppress(PermissionError):
            os.fchmod(lock.fileno(), 0o600)
    except OSError as error:
        raise InfrastructureError(
            f"Dossier {target_dir} : écriture impossible ({error.strerror}). Vérifiez ses "
            "droits et la place libre, ou effacez-le : dbt le recrée."
        ) from None
    with lock:
        if not try_lock(lock):
            lock.seek(0)
            owner = lock.read().strip()
            message = (
                f"Une autre pipeline{f' ({owner})' if owner else ''} utilise {target_dir} : "
                "celle-ci attend sa fin."
            )
            get_run_logger().warning(message)
            _show_run_state(Running(name="En attente", message=message))
            wait_for_lock(lock)
            _show_run_state(Running())
        lock.truncate(0)
        lock.write(f"processus {os.getpid()}, depuis le {datetime.now():%d/%m à %H:%M}")
        lock.flush()
        try:
            yield DbtRunner(connection, settings, commands, target_dir, lock.fileno())
        finally:
            # If our name stayed in the file, another holder of the lock would be taken for this
            # process in the message to those who wait.
            lock.truncate(0)


def _show_run_state(state: State[Any]) -> None:
    """Have Prefect show this state of the run, which goes on."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(runtime.flow_run.id, state)


def _take_bills_for_whole(nodes: list[NodeResult], bill: Bill) -> tuple[list[NodeResult], Bill]:
    """Return these bills of the local BigQuery as whole.

    bqemulator 1.4.0 bills nothing and keeps the labels of few jobs: the page would say « au moins
    0 o » of each node.
    """
    nodes = [replace(node, bill=replace(node.bill, is_whole=True)) for node in nodes]
    return nodes, replace(bill, is_whole=True)


def _read_write_time(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
