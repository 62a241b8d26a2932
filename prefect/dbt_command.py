"""Runs one dbt command through DbtCoreOperation; returns what it did.

The only module that touches dbt's processes, and the files that dbt leaves in `target/`:
`run_results.json`, `sources.json` and, for what failed, `manifest.json`. It writes none of
them. Everything that this project uses of DbtCoreOperation is behind `DbtRunner._run_dbt`.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
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

import yaml
from prefect.logging import get_run_logger

from dbt_connection import TOKEN_VARIABLE, DbtConnection
from dbt_result import FAILED_STATUSES, DbtResult, Freshness, NodeResult
from file_lock import try_lock, wait_for_lock
from google_tokens import serve_tokens
from pipeline_errors import InfrastructureError
from pipeline_settings import PROJECT_ROOT, PipelineSettings
from warm_dbt import start_dbt_server

DBT_PROJECT_DIR = PROJECT_ROOT / "dbt"

# -I and -S leave out all that would make it slow to start.
DBT_CLIENT = (sys.executable, "-I", "-S", str(PROJECT_ROOT / "prefect" / "dbt_client.py"))

JSON_LOGS = ("--log-format", "json")
SOURCE_FRESHNESS = "source freshness"

LOG_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

# How long dbt has to cancel its BigQuery jobs before it is ended.
INTERRUPT_SECONDS = 8


@dataclass
class _DbtLogReader(logging.Filter):
    """Turns dbt's JSON lines into plain records of the right level, and keeps what failed."""

    errors: list[str] = field(default_factory=list)
    events: set[str] = field(default_factory=set)

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        try:
            event = json.loads(line)["info"]
            message, level, name = event["msg"].strip(), event["level"], event["name"]
        except (ValueError, KeyError, TypeError):
            # Not dbt's: the operation's own remarks on its process, or a crash.
            return not line.startswith(("PID ", "Successfully closed"))
        record.msg, record.args = message, ()
        record.levelno = LOG_LEVELS.get(level, logging.INFO)
        record.levelname = logging.getLevelName(record.levelno)
        self.events.add(name)
        if record.msg.startswith("Traceback"):
            # dbt's own crash: its message was logged just before.
            return False
        if record.levelno >= logging.ERROR:
            self.errors.append(record.msg)
        return bool(record.msg)


@dataclass
class DbtRunner:
    """Runs dbt commands, one at a time, with one connection; `open_dbt` makes it.

    Attributes:
        target_dir: where dbt writes, a folder of its own for each target.
        lock: descriptor of the lock on that folder, which every dbt process inherits.
    """

    connection: DbtConnection
    settings: PipelineSettings
    target_dir: Path
    lock: int
    _last: DbtResult | None = None

    def run(self, arguments: list[str], *, resume: bool = False) -> DbtResult:
        """Run a dbt command and return what it did.

        With `resume`, the last command has met a passing fault: `dbt retry` redoes what
        failed or was skipped, and the result is that of the whole. A command that dbt
        cannot take up again, or that had done nothing, starts from the beginning.
        """
        command = " ".join(word for word in arguments if not word.startswith("-"))
        earlier = self._last if resume and command != SOURCE_FRESHNESS else None
        if earlier and earlier.nodes:
            self._last = earlier.followed_by(self._run_dbt(command, ["retry"]))
        else:
            self._last = self._run_dbt(command, arguments)
        return self._last

    def _run_dbt(self, command: str, arguments: list[str]) -> DbtResult:
        """Run `dbt` with these arguments, in the folder of the dbt project.

        Its lines go to the logger of the Prefect run as they come. The profile lives in a
        private temporary folder for the time of the command. Never raises for what dbt
        does; whatever else interrupts the wait ends dbt first.
        """
        # build_connection() has imported it already, its deprecation warning silenced.
        from prefect_dbt.cli import DbtCoreOperation

        results = _ResultsFile(self.target_dir, command)
        with (
            tempfile.TemporaryDirectory(prefix="dbt-profile-") as profiles_dir,
            _dbt_log_reader() as log,
            ExitStack() as sockets,
        ):
            server = sockets.enter_context(start_dbt_server().connect())
            tokens = sockets.enter_context(serve_tokens(self.connection.credentials))
            descriptors = [server.fileno(), self.lock, tokens.fileno()]
            words = [*DBT_CLIENT, *map(str, descriptors), *JSON_LOGS, *arguments]
            with DbtCoreOperation(
                # With `exec`, the process is the client itself: its exit code, its signals.
                commands=["exec " + shlex.join(words)],
                dbt_cli_profile=self.connection.profile,
                overwrite_profiles=True,
                profiles_dir=Path(profiles_dir),
                working_dir=DBT_PROJECT_DIR,
                env=self._environment(),
                log_prefix=None,
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
            nodes, seconds = results.read()
            return DbtResult(
                command,
                1 if process.return_code is None else process.return_code,
                log.errors,
                _selection_is_empty(arguments, log.events),
                nodes,
                seconds,
            )

    def _environment(self) -> dict[str, str]:
        """Return the environment in which dbt finds itself, its project and our settings.

        What else the user's shell tells dbt, `dbt_process.py` forgets.
        """
        ours = {
            "DBT_PROJECT_DIR": str(DBT_PROJECT_DIR),
            "DBT_TARGET_PATH": str(self.target_dir),
            "DBT_LOG_PATH": str(DBT_PROJECT_DIR / "logs"),
            "DBT_PROFILE": self.settings.profile_name,
            "DBT_TARGET": self.settings.target,
            "DBT_BIGQUERY_DATASET_RAW": self.settings.dataset_raw,
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            # It would write in ~/.dbt when it last gave a hint.
            "DBT_ENGINE_HINTS_ENABLED": "false",
            "DBT_USE_COLORS": "false",
            # dbt 1.12 would load `.env` itself, flags included, after they were forgotten.
            "PYTHON_DOTENV_DISABLED": "1",
            TOKEN_VARIABLE: self.connection.credentials.token,
        }
        return ours | {"PIPELINE_VARIABLES": " ".join(ours)}


@contextmanager
def open_dbt(connection: DbtConnection, settings: PipelineSettings) -> Iterator[DbtRunner]:
    """Yield a runner that has `dbt/target/<target>` for itself.

    Waits for whoever has it: another pipeline, or a dbt whose pipeline was killed and that
    still writes. Raises InfrastructureError when the folder cannot be written.
    """
    target_dir = DBT_PROJECT_DIR / "target" / settings.target
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        # Fails here, with the reason, rather than in the middle of a run.
        with tempfile.TemporaryFile(dir=target_dir) as probe:
            probe.write(bytes(4096))
        lock = (target_dir / ".lock").open("w")
    except OSError as error:
        raise InfrastructureError(
            f"Dossier {target_dir} : écriture impossible ({error.strerror}). Vérifiez ses "
            "droits et la place libre, ou effacez-le : dbt le recrée."
        ) from None
    with lock:
        if not try_lock(lock):
            get_run_logger().warning(
                "Une autre pipeline utilise %s : celle-ci attend qu'elle se termine.", target_dir
            )
            wait_for_lock(lock)
        yield DbtRunner(connection, settings, target_dir, lock.fileno())


class _ResultsFile:
    """The file in which a dbt command leaves its results, as it was before the command."""

    def __init__(self, target_dir: Path, command: str) -> None:
        name = "sources.json" if command == SOURCE_FRESHNESS else "run_results.json"
        self.path, self.manifest = target_dir / name, target_dir / "manifest.json"
        self.before = self._written_at()

    def _written_at(self) -> int | None:
        return self.path.stat().st_mtime_ns if self.path.exists() else None

    def read(self) -> tuple[list[NodeResult], float]:
        """Return the results, and the seconds they took; none if the command left no new file."""
        document = _read_json(self.path) if self._written_at() != self.before else {}
        results: list[dict[str, Any]] = document.get("results", [])
        failed = any(result["status"] in FAILED_STATUSES for result in results)
        manifest = _read_json(self.manifest) if failed else {}
        known = {
            unique_id: node
            for kind in ("nodes", "unit_tests", "sources")
            for unique_id, node in manifest.get(kind, {}).items()
        }
        nodes = [_node_result(result, known.get(result["unique_id"], {})) for result in results]
        return nodes, document.get("elapsed_time", 0.0)


def _node_result(result: dict[str, Any], node: dict[str, Any]) -> NodeResult:
    """Return one result of dbt's JSON, with what the manifest knows of its node."""
    moments = [
        datetime.fromisoformat(timing[key]).timestamp()
        for timing in result.get("timing", [])
        for key in ("started_at", "completed_at")
        if timing.get(key)
    ]
    compiled_path = node.get("compiled_path")
    return NodeResult(
        result["unique_id"],
        str(result["status"]),
        result.get("message") or result.get("error") or "",
        result.get("execution_time", 0.0),
        (min(moments), max(moments)) if moments else None,
        ".".join((result.get("relation_name") or "").replace("`", "").split(".")[-2:]),
        result.get("adapter_response") or {},
        node.get("original_file_path", "?"),
        os.path.relpath(DBT_PROJECT_DIR / compiled_path, PROJECT_ROOT) if compiled_path else "",
        (result.get("batch_results") or {}).get("failed", []),
        _freshness(result),
    )


def _freshness(result: dict[str, Any]) -> Freshness | None:
    criteria = result.get("criteria") or {}
    for limit in (criteria.get("error_after") or {}, criteria.get("warn_after") or {}):
        if limit.get("count") is not None:
            return Freshness(
                result["max_loaded_at"],
                result["max_loaded_at_time_ago_in_s"],
                (limit["count"], limit["period"]),
            )
    return None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of dbt; an empty one when it is not there, or cut."""
    with suppress(OSError, ValueError):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    return {}


def _interrupt(pid: int) -> None:
    """Let dbt cancel its BigQuery jobs; the operation ends what is left when it closes."""
    deadline = time.monotonic() + INTERRUPT_SECONDS
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGINT)
        # Not waitid, which macOS lacks before Python 3.13.
        while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.1)


def _selection_is_empty(arguments: list[str], events: set[str]) -> bool:
    """Return whether the selection of the command names no node at all.

    A selected model that has no test leaves `dbt test` with nothing to do: that is no error.
    """
    selects = any(word.startswith(("--select=", "--exclude=")) for word in arguments)
    return selects and (
        "NoNodesForSelectionCriteria" in events
        or ("NothingToDo" in events and arguments[0] != "test")
    )


@contextmanager
def _dbt_log_reader() -> Iterator[_DbtLogReader]:
    """Put the reader on the logger of the current run, for the time of the command."""
    run_logger = get_run_logger()
    logger = run_logger.logger if isinstance(run_logger, logging.LoggerAdapter) else run_logger
    reader = _DbtLogReader()
    logger.addFilter(reader)
    try:
        yield reader
    finally:
        logger.removeFilter(reader)


def packages_are_missing() -> bool:
    """Whether `dbt/` declares packages that `dbt deps` has not installed, or not since a change.

    What is declared is in the lock, what is in the lock is installed, and no file is newer
    than the folder of what is installed: a version changes in place.
    """
    declarations = [DBT_PROJECT_DIR / name for name in ("packages.yml", "dependencies.yml")]
    declared = [package for path in declarations for package in _packages(path)]
    if not declared:
        return False
    lock, installed = DBT_PROJECT_DIR / "package-lock.yml", DBT_PROJECT_DIR / "dbt_packages"
    locked = _packages(lock)
    if not installed.exists() or not _origins(declared) <= _origins(locked):
        return True
    changed = [path.stat().st_mtime for path in (*declarations, lock) if path.exists()]
    return max(changed) > installed.stat().st_mtime or not all(
        (installed / package.get("name", "")).exists() for package in locked
    )


def _packages(path: Path) -> list[dict[str, Any]]:
    return _read_yaml(path).get("packages") or []


def _origins(packages: list[dict[str, Any]]) -> set[str]:
    """Return where the packages come from: a name on the hub, a git address, a folder…"""
    kinds = ("package", "git", "local", "tarball", "private")
    return {str(package[kind]) for package in packages for kind in kinds if kind in package}


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, or an empty one: what is wrong with it is dbt's to say."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
