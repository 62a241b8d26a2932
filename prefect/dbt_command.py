"""Runs one dbt command through DbtCoreOperation; returns what it did.

The only module that touches dbt's processes, and the files that a command leaves in `target/`:
`run_results.json`, `sources.json` and, for what failed, `manifest.json`. It writes none of
them, and keeps copies in DBT_ARTIFACTS_DIR. Everything that this project uses of
DbtCoreOperation is behind `DbtRunner._run_dbt`.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import get_client, runtime
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Running

from artifacts_dir import ArtifactsDir
from bigquery_jobs import bytes_billed
from dbt_connection import TOKEN_VARIABLE, DbtConnection
from dbt_options import EMPTY_SNAPSHOT, DbtOptions
from dbt_result import (
    FAILED_STATUSES,
    NOTHING_TO_DO,
    RETRIED,
    DbtResult,
    Freshness,
    NodeResult,
)
from file_lock import try_lock, wait_for_lock
from google_tokens import serve_tokens
from pipeline_errors import ConfigurationError, InfrastructureError
from pipeline_settings import GOOGLE_ENDPOINT, PROJECT_ROOT, PipelineSettings
from warm_dbt import start_dbt_server

DBT_PROJECT_DIR = PROJECT_ROOT / "dbt"

# -I and -S leave out all that would make it slow to start.
DBT_CLIENT = (sys.executable, "-I", "-S", str(PROJECT_ROOT / "prefect" / "dbt_client.py"))

JSON_LOGS = "--log-format=json"
SOURCE_FRESHNESS = "source freshness"
DOCS = "docs generate"
RUN_RESULTS = "run_results.json"
MANIFEST = "manifest.json"
# The manifest of prod without what a run builds itself.
DEFERRED = f"deferred/{MANIFEST}"
LIST = ["list", "--output=json", "--output-keys=unique_id"]
# The commands that `dbt retry` takes up.
RETRIABLE = ("run", "test", "build", "seed", "snapshot", "clone", "retry")

# How long dbt has to cancel its BigQuery jobs before it is ended.
INTERRUPT_SECONDS = 8


@dataclass
class DbtRunner:
    """Runs dbt commands, one at a time, with one connection; `open_dbt` makes it.

    Attributes:
        commands: all those of the run.
        target_dir: where dbt writes, a folder of its own for each target.
        lock: descriptor of the lock on that folder, which every dbt process inherits.
        project_dir: the dbt project.
        state_dir: what `--state` of dbt reads, the manifest of prod: it says what has changed.
        deferred_dir: what `--defer-state` reads, the same manifest without what this run
            builds: it says where all the rest is read.
    """

    connection: DbtConnection
    settings: PipelineSettings
    commands: list[str]
    target_dir: Path
    lock: int
    project_dir: Path = DBT_PROJECT_DIR
    state_dir: Path | None = None
    deferred_dir: Path | None = None
    _last: DbtResult | None = None

    def run(self, command: str, options: DbtOptions, *, resume: bool = False) -> DbtResult:
        """Run a dbt command and return what it did.

        With `resume`, the last command has met a passing fault: `dbt retry` redoes what
        failed or was skipped, and the result is that of the whole. A command that dbt
        cannot take up again, or of which it would redo nothing, starts from the beginning.

        Raises ConfigurationError when there is nothing to retry, when DBT_ARTIFACTS_DIR
        cannot be used, or for a build with --empty that would take up snapshots.
        """
        earlier = self._last if resume else None
        taken_up: set[str] = set()
        if earlier and earlier.can_be_taken_up and command != SOURCE_FRESHNESS:
            # dbt remembers the flags of the command, but for where the rest is read.
            flags = [f"--defer-state={self.deferred_dir}"] if self.deferred_dir else []
            result = self._run_dbt(command, [*flags, "retry"])
        elif command == "retry":
            result, taken_up = self._retry(options)
        else:
            if command == "build" and options.empty:
                self._refuse_empty_snapshots(options)
            result = self._run_dbt(command, self._words(command), options)
        self._last = earlier.followed_by(result) if earlier else result
        self._keep_artifacts(self._last, taken_up)
        return self._last

    def _refuse_empty_snapshots(self, options: DbtOptions) -> None:
        """Raise ConfigurationError if the options select snapshots."""
        snapshots = [name for name in self.list_nodes(options).listed if "snapshot." in name[:9]]
        if snapshots:
            raise ConfigurationError(
                f"--empty : {EMPTY_SNAPSHOT} Laissez-les de côté avec --exclude "
                f"resource_type:snapshot ({len(snapshots)} ici)."
            )

    def _words(self, command: str) -> list[str]:
        """Return the words of the command, with the flags that are not the user's."""
        words = command.split()
        if command == DOCS:
            # One file, and on the local BigQuery, which has no __TABLES__, no catalogue.
            words += ["--static", *(["--empty-catalog"] if self.settings.is_local else [])]
        if command == "clone":
            return [f"--state={self.state_dir}", *words]
        if self.deferred_dir:
            deferral = ("--defer", "--favor-state", f"--defer-state={self.deferred_dir}")
            return [f"--state={self.state_dir}", *deferral, *words]
        return words

    def _retry(self, options: DbtOptions) -> tuple[DbtResult, set[str]]:
        """Redo what failed or was skipped in the last command of an earlier run.

        Returns what that did, and the `unique_id` of all that the earlier command took up.
        """
        folder = self.target_dir
        where = (
            f"{folder}. Là où ce dossier ne dure pas (conteneur, Prefect Cloud), définissez "
            "DBT_ARTIFACTS_DIR"
        )
        if self.settings.artifacts_dir:
            folder, where = self.target_dir / "kept", self.settings.artifacts_dir
            # Of another DBT_ARTIFACTS_DIR, perhaps.
            shutil.rmtree(folder, ignore_errors=True)
            for name in (RUN_RESULTS, DEFERRED):
                self.artifacts.fetch(f"{self.settings.target}/{name}", folder / name)
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
        if not left:
            get_run_logger().info("dbt retry : rien à reprendre, la dernière commande a réussi.")
            return DbtResult("retry", 0), set()
        if all(unique_id.startswith("operation.") for unique_id in left):
            raise ConfigurationError(
                "dbt retry ne refait pas un hook, et seul un hook a échoué "
                f"({', '.join(sorted(left))}) : relancez {arguments['which']}."
            )
        flags = [f"--state={folder}"] if self.settings.artifacts_dir else []
        if arguments.get("defer"):
            flags.append(f"--defer-state={(folder / DEFERRED).parent}")
        return self._run_dbt("retry", [*flags, "retry"], options), statuses.keys() | set()

    def list_nodes(self, options: DbtOptions) -> DbtResult:
        """Have dbt list what the options select; with a state, it judges `state:modified`."""
        state = [f"--state={self.state_dir}"] if self.state_dir else []
        return self._run_dbt("list", [*state, *LIST], options)

    def _run_dbt(
        self, command: str, arguments: list[str], options: DbtOptions | None = None
    ) -> DbtResult:
        """Run `dbt` with these arguments, in the folder of the dbt project.

        Its lines go to the logger of the Prefect run as they come. The profile lives in a
        private temporary folder for the time of the command. Never raises for what dbt
        does; whatever else interrupts the wait ends dbt first.
        """
        # build_connection() has imported it already, its deprecation warning silenced.
        from prefect_dbt.cli import DbtCoreOperation

        asked = options.words(command) if options else []
        started_at = time.time()
        path = self.target_dir / ("sources.json" if command == SOURCE_FRESHNESS else RUN_RESULTS)
        before = _written_at(path)
        with (
            tempfile.TemporaryDirectory(prefix="dbt-profile-") as profiles_dir,
            _plain_log(),
            ExitStack() as sockets,
        ):
            server = sockets.enter_context(start_dbt_server().connect())
            tokens = sockets.enter_context(serve_tokens(self.connection.credentials))
            descriptors = [server.fileno(), self.lock, tokens.fileno()]
            words = [*DBT_CLIENT, *map(str, descriptors), JSON_LOGS, *arguments, *asked]
            with DbtCoreOperation(
                # With `exec`, the process is the client itself: its exit code, its signals.
                commands=["exec " + shlex.join(words)],
                dbt_cli_profile=self.connection.profile,
                overwrite_profiles=True,
                profiles_dir=Path(profiles_dir),
                working_dir=self.project_dir,
                env=self._environment(),
                log_prefix=None,
                stream_output=command != "list",
            ) as operation:
                process = operation.trigger(pass_fds=descriptors)
                # The client has them: kept open here too, they would hide that it has ended.
                sockets.close()
                try:
                    # Raises RuntimeError for any exit code but 0, which is read below.
                    with suppress(RuntimeError):
                        process.wait_for_completion()
                except BaseException:
                    _interrupt(process.pid)
                    raise
            # Not from the records of a logger: at WARNING, there would be none.
            log = _read_log(command, process.fetch_result())
            # If dbt did not rewrite the file, it belongs to an earlier command.
            document = read_json(path) if _written_at(path) != before else {}
            nodes = _read_results(document, self.target_dir / MANIFEST)
            jobs = {str(node.response["job_id"]) for node in nodes if node.response.get("job_id")}
            billed: int | None = 0
            # Of a macro or of a microbatch, dbt reports no job.
            if jobs or any(node.status == "success" for node in nodes):
                billed = bytes_billed(
                    self.connection,
                    self.settings.endpoint or GOOGLE_ENDPOINT,
                    document["metadata"]["invocation_id"],
                    jobs,
                    started_at,
                )
            return DbtResult(
                command,
                1 if process.return_code is None else process.return_code,
                log.errors,
                NOTHING_TO_DO & log.events,
                nodes,
                document.get("elapsed_time", 0.0),
                billed,
                log.listed,
                document.get("args", {}),
            )

    def _keep_artifacts(self, result: DbtResult, taken_up: set[str]) -> None:
        """Keep what `retry` and --changed-since read, where DBT_ARTIFACTS_DIR says.

        `taken_up` are the nodes of the command that a `retry` has completed.
        """
        if not self.settings.artifacts_dir or not result.nodes:
            return
        kept = {}
        if result.command in RETRIABLE:
            kept[RUN_RESULTS] = RUN_RESULTS
            if self.deferred_dir:
                kept[DEFERRED] = DEFERRED
        # A retry says of `which` the command that it took up.
        built = result.arguments.get("which") in ("run", "build")
        if result.succeeded and built and not result.arguments.get("empty"):
            # The manifest tells of the whole project: --changed-since would take for built what a
            # selection left out, that of a default selector too, of which dbt's arguments say
            # nothing.
            done = taken_up | {node.unique_id for node in result.nodes}
            if done >= _tables_of_models(read_json(self.target_dir / MANIFEST)):
                kept[MANIFEST] = MANIFEST
        if result.succeeded and result.command == DOCS:
            kept["static_index.html"] = "docs.html"
        try:
            for name, kept_as in kept.items():
                self.artifacts.keep(self.target_dir / name, f"{self.settings.target}/{kept_as}")
        except ConfigurationError as error:
            # What dbt did stands, and is what the run has to say.
            get_run_logger().warning(error)

    @property
    def artifacts(self) -> ArtifactsDir:
        """What DBT_ARTIFACTS_DIR keeps; ConfigurationError when it is not set."""
        address = self.settings.artifacts_dir
        if not address:
            raise ConfigurationError(
                "DBT_ARTIFACTS_DIR n'est pas défini : c'est là que la pipeline garderait les "
                "résultats de dbt, un dossier ou gs://bucket/préfixe."
            )
        return ArtifactsDir(address, self.connection.credentials, self.connection.project)

    def _environment(self) -> dict[str, str]:
        """Return the environment in which dbt finds itself, its project and our settings.

        What else the user's shell tells dbt, `dbt_process.py` forgets.
        """
        ours = {
            "DBT_PROJECT_DIR": str(self.project_dir),
            "DBT_TARGET_PATH": str(self.target_dir),
            "DBT_LOG_PATH": str(DBT_PROJECT_DIR / "logs"),
            "DBT_PROFILE": self.settings.profile_name,
            "DBT_TARGET": self.settings.target,
            "DBT_BIGQUERY_DATASET_RAW": self.settings.dataset_raw,
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            # It would write in ~/.dbt when it last gave a hint.
            "DBT_ENGINE_HINTS_ENABLED": "false",
            # A project's own `flags:` may say otherwise, and what dbt did would not be known.
            "DBT_WRITE_JSON": "true",
            "DBT_LOG_LEVEL": "info",
            "DBT_QUIET": "false",
            "DBT_PRINT": "true",
            "DBT_USE_COLORS": "false",
            # dbt 1.12 would load `.env` itself, flags included, after they were forgotten.
            "PYTHON_DOTENV_DISABLED": "1",
            TOKEN_VARIABLE: self.connection.credentials.token,
        }
        return ours | {"PIPELINE_VARIABLES": " ".join(ours)}


@contextmanager
def open_dbt(
    connection: DbtConnection, settings: PipelineSettings, commands: list[str]
) -> Iterator[DbtRunner]:
    """Yield a runner that has `dbt/target/<target>` for itself.

    Waits for whoever has it, and has Prefect show so: another pipeline, or a dbt whose
    pipeline was killed and that still writes. Raises InfrastructureError when the folder
    cannot be written.
    """
    target_dir = DBT_PROJECT_DIR / "target" / settings.target
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        # Fails here, with the reason, rather than in the middle of a run.
        with tempfile.TemporaryFile(dir=target_dir) as probe:
            probe.write(bytes(4096))
        # Not "w": it would empty what the pipeline that has the lock wrote there.
        lock = (target_dir / ".lock").open("a+", encoding="utf-8")
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
            _show_state(Running(name="En attente", message=message))
            wait_for_lock(lock)
            _show_state(Running())
        lock.truncate(0)
        lock.write(f"processus {os.getpid()}, depuis le {datetime.now():%d/%m à %H:%M}")
        lock.flush()
        yield DbtRunner(connection, settings, commands, target_dir, lock.fileno())


def _show_state(state: State[Any]) -> None:
    """Have Prefect show this state of the run, which goes on."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(runtime.flow_run.id, state)


def _written_at(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _read_results(document: dict[str, Any], manifest_path: Path) -> list[NodeResult]:
    """Return the results in a file of dbt, with what the manifest knows of their nodes."""
    results: list[dict[str, Any]] = document.get("results", [])
    # The manifest is big: it is read for what failed or warned, and for seeds, whose table it
    # names.
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
    return [_node_result(result, known.get(result["unique_id"], {})) for result in results]


def _node_result(result: dict[str, Any], node: dict[str, Any]) -> NodeResult:
    """Return one result of dbt's JSON, with what the manifest knows of its node."""
    moments = [
        datetime.fromisoformat(timing[key]).timestamp()
        for timing in result.get("timing", [])
        for key in ("started_at", "completed_at")
        if timing.get(key)
    ]
    compiled_path = node.get("compiled_path")
    # A test has one in the manifest, where its failures would be stored.
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
        node.get("original_file_path", "?"),
        os.path.relpath(DBT_PROJECT_DIR / compiled_path, PROJECT_ROOT) if compiled_path else "",
        (result.get("batch_results") or {}).get("failed", []),
        _freshness(result),
    )


def _freshness(result: dict[str, Any]) -> Freshness | None:
    """Return how a source is older than it may be; None if it is not, or if dbt cannot tell."""
    limit = (result.get("criteria") or {}).get(f"{result['status']}_after")
    if not limit:
        return None
    age = result["max_loaded_at_time_ago_in_s"]
    return Freshness(result["max_loaded_at"], age, (limit["count"], limit["period"]))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of dbt; an empty one when it is not there, or is no object."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def _interrupt(pid: int) -> None:
    """Let dbt cancel its BigQuery jobs; the operation ends what is left when it closes."""
    deadline = time.monotonic() + INTERRUPT_SECONDS
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGINT)
        # Not waitid, which macOS lacks before Python 3.13.
        while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.1)


def _tables_of_models(manifest: dict[str, Any]) -> set[str]:
    """Return the `unique_id` of all that a `run` of the whole project builds."""
    models = {
        unique_id
        for unique_id, node in manifest.get("nodes", {}).items()
        if node["resource_type"] == "model" and node["config"]["materialized"] != "ephemeral"
    }
    return models | manifest.get("functions", {}).keys()


@dataclass
class _DbtLog:
    """What is read of the lines that dbt printed.

    Attributes:
        errors: the errors it logged.
        events: the names of all that it logged.
        listed: the `unique_id` of what `dbt list` found.
    """

    errors: list[str] = field(default_factory=list)
    events: set[str] = field(default_factory=set)
    listed: list[str] = field(default_factory=list)


def _read_log(command: str, lines: list[str]) -> _DbtLog:
    log = _DbtLog()
    for name, level, message in filter(None, map(_read_event, lines)):
        log.events.add(name)
        # When a catalog fails, the reason is in a warning; the error holds only a count.
        failed = level >= logging.ERROR and name != "WriteCatalogFailure"
        # dbt's own crash: its message was logged just before.
        if (failed or name == "CatalogGenerationError") and not message.startswith("Traceback"):
            log.errors.append(message)
        if command == "list" and name == "PrintEvent":
            # A macro may print while the project is parsed.
            with suppress(ValueError, TypeError, KeyError):
                log.listed.append(json.loads(message)["unique_id"])
    return log


def _read_event(line: str) -> tuple[str, int, str] | None:
    """Return the name, the level and the text of an event of dbt; None for any other line."""
    try:
        event = json.loads(line)["info"]
        level = logging.getLevelNamesMapping().get(event["level"].upper(), logging.INFO)
        return event["name"], level, event["msg"].strip()
    except Exception:
        # If this raised in `_show_plainly`, the thread that reads dbt's output would end, and dbt
        # would wait for ever for room in the pipe.
        return None


def _show_plainly(record: logging.LogRecord) -> bool:
    """Turn a record of dbt's JSON into its text, at its level; return whether to show it."""
    line = record.getMessage()
    event = _read_event(line)
    if event is None:
        # Not dbt's: the operation's own remarks on its process, or a crash.
        return not line.startswith(("PID ", "Successfully closed"))
    _, record.levelno, record.msg = event
    record.levelname, record.args = logging.getLevelName(record.levelno), ()
    return bool(record.msg) and not record.msg.startswith("Traceback")


@contextmanager
def _plain_log() -> Iterator[None]:
    """Have the logger of the current run show dbt's JSON as text, for the time of a command."""
    run_logger = get_run_logger()
    logger = run_logger.logger if isinstance(run_logger, logging.LoggerAdapter) else run_logger
    logger.addFilter(_show_plainly)
    try:
        yield
    finally:
        logger.removeFilter(_show_plainly)
