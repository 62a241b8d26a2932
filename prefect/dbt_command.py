"""Runs one dbt command through DbtCoreOperation and tells how it ended.

Everything that this project uses of DbtCoreOperation is behind `DbtRunner.run`.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prefect.logging import get_run_logger

from dbt_connection import DbtConnection
from file_lock import try_lock, wait_for_lock
from pipeline_errors import InfrastructureError
from pipeline_settings import PROJECT_ROOT, PipelineSettings

DBT_PROJECT_DIR = PROJECT_ROOT / "dbt"
DBT_TARGET_DIR = DBT_PROJECT_DIR / "target"

# With -P, what dbt imports is never one of our files.
DBT = (sys.executable, "-P", str(PROJECT_ROOT / "prefect" / "dbt_process.py"))

JSON_LOGS = ("--log-format", "json")

LOG_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

# How long dbt has to cancel its BigQuery jobs before it is ended.
INTERRUPT_SECONDS = 8


@dataclass(frozen=True)
class DbtOutcome:
    """How a dbt command ended: its exit code, the errors it logged, a selection without a node."""

    return_code: int
    errors: list[str]
    selection_is_empty: bool


@dataclass
class _DbtLogFilter(logging.Filter):
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
            # dbt's own crash: its message came before, the rest is in dbt/logs/dbt.log.
            return False
        if record.levelno >= logging.ERROR:
            self.errors.append(record.msg)
        return bool(record.msg)


@dataclass(frozen=True)
class DbtRunner:
    """Runs dbt commands, one at a time, with one connection; `open_dbt` makes it.

    Attributes:
        lock: descriptor of the lock on `dbt/target`, which every dbt process inherits.
    """

    connection: DbtConnection
    settings: PipelineSettings
    lock: int

    def run(self, arguments: list[str]) -> DbtOutcome:
        """Run `dbt` with these arguments, in the folder of the dbt project; return how it ended.

        Its lines go to the logger of the Prefect run as they come. The profile lives in a
        private temporary folder for the time of the command. Never raises for what dbt
        does; whatever else interrupts the wait ends dbt first.
        """
        # Imported already, its warning silenced, to build the profile of the connection.
        from prefect_dbt.cli import DbtCoreOperation

        environment = _environment(self.settings) | self.connection.secret_environment
        with (
            tempfile.TemporaryDirectory(prefix="dbt-profile-") as profiles_dir,
            _dbt_log_filter() as log_filter,
            DbtCoreOperation(
                # With `exec`, the process is dbt itself: its exit code, its signals.
                commands=[
                    "exec "
                    + shlex.join([*_unset_inherited(environment), *DBT, *JSON_LOGS, *arguments])
                ],
                dbt_cli_profile=self.connection.profile,
                overwrite_profiles=True,
                profiles_dir=Path(profiles_dir),
                working_dir=DBT_PROJECT_DIR,
                env=environment,
                log_prefix=None,
            ) as operation,
        ):
            process = operation.trigger(pass_fds=(self.lock,))
            try:
                # What it raises says no more than the exit code does.
                with suppress(RuntimeError):
                    process.wait_for_completion()
            except BaseException:
                _interrupt(process.pid)
                raise
            return DbtOutcome(
                1 if process.return_code is None else process.return_code,
                log_filter.errors,
                _selection_is_empty(arguments, log_filter.events),
            )


@contextmanager
def open_dbt(connection: DbtConnection, settings: PipelineSettings) -> Iterator[DbtRunner]:
    """Yield a runner that has `dbt/target` for itself.

    Waits for whoever has it: another pipeline, or a dbt whose pipeline was killed and that
    still writes. Raises InfrastructureError when the folder cannot be written.
    """
    try:
        DBT_TARGET_DIR.mkdir(exist_ok=True)
        # Fails here, with the reason, rather than in the middle of a run.
        with tempfile.TemporaryFile(dir=DBT_TARGET_DIR) as probe:
            probe.write(bytes(4096))
        lock = (DBT_TARGET_DIR / ".lock").open("w")
    except OSError as error:
        raise InfrastructureError(
            f"Dossier {DBT_TARGET_DIR} : écriture impossible ({error.strerror}). Vérifiez ses "
            "droits et la place libre, ou effacez-le : dbt le recrée."
        ) from None
    with lock:
        if not try_lock(lock):
            get_run_logger().warning(
                "Une autre pipeline utilise %s : celle-ci attend qu'elle se termine.",
                DBT_TARGET_DIR,
            )
            wait_for_lock(lock)
        yield DbtRunner(connection, settings, lock.fileno())


def _interrupt(pid: int) -> None:
    """Let dbt cancel its BigQuery jobs; the operation ends what is left when it closes."""
    deadline = time.monotonic() + INTERRUPT_SECONDS
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGINT)
        # Not waitid, which macOS lacks before Python 3.13.
        while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.1)


def _unset_inherited(environment: dict[str, str]) -> list[str]:
    """Return the start of a command that takes away what dbt must not have of the user's shell.

    That is dbt's flags, by dbt's own list: left there, DBT_EMPTY=1 would empty the tables
    and DBT_WRITE_JSON=0 hide what failed. And what opens the Prefect API. Any other variable
    is the project's, for `env_var()`; those of `environment` are ours.
    """
    from dbt.cli.requires import KNOWN_ENGINE_ENV_VARS

    flags = {name for flag in KNOWN_ENGINE_ENV_VARS for name in (flag.name, flag.old_name)}
    unset = {name for name in os.environ if name in flags or name.startswith("PREFECT_")}
    return ["env", *(word for name in sorted(unset - environment.keys()) for word in ("-u", name))]


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
def _dbt_log_filter() -> Iterator[_DbtLogFilter]:
    """Put the filter on the logger of the current run, for the time of the command."""
    run_logger = get_run_logger()
    logger = run_logger.logger if isinstance(run_logger, logging.LoggerAdapter) else run_logger
    log_filter = _DbtLogFilter()
    logger.addFilter(log_filter)
    try:
        yield log_filter
    finally:
        logger.removeFilter(log_filter)


def _environment(settings: PipelineSettings) -> dict[str, str]:
    """Return the environment in which dbt finds itself, its project and our settings.

    What else the user's shell tells dbt, `_unset_inherited` takes away.
    """
    return {
        "DBT_PROJECT_DIR": str(DBT_PROJECT_DIR),
        "DBT_TARGET_PATH": str(DBT_TARGET_DIR),
        "DBT_LOG_PATH": str(DBT_PROJECT_DIR / "logs"),
        "DBT_PROFILE": settings.profile_name,
        "DBT_TARGET": settings.target,
        "DBT_BIGQUERY_DATASET_RAW": settings.dataset_raw,
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        # It would write in ~/.dbt when it last gave a hint.
        "DBT_ENGINE_HINTS_ENABLED": "false",
        "DBT_USE_COLORS": "false",
    }


def packages_are_missing() -> bool:
    """Whether `dbt/` declares packages that `dbt deps` has not installed, or not since a change.

    What is installed is as old as its folder, and each package of the lock is there.
    """
    declarations = [DBT_PROJECT_DIR / name for name in ("packages.yml", "dependencies.yml")]
    if not any(_read_yaml(path).get("packages") for path in declarations):
        return False
    lock, installed = DBT_PROJECT_DIR / "package-lock.yml", DBT_PROJECT_DIR / "dbt_packages"
    if not lock.exists() or not installed.exists():
        return True
    changed = [path.stat().st_mtime for path in (*declarations, lock) if path.exists()]
    names = [package.get("name", "") for package in _read_yaml(lock).get("packages", [])]
    return max(changed) > installed.stat().st_mtime or not all(
        (installed / name).exists() for name in names
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, or an empty one: what is wrong with it is dbt's to say."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
