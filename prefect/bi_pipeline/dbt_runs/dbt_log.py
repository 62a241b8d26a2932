"""Reads the JSON that dbt prints, and shows its text in the log of the run.

The JSON is read from the process, not from the records of a logger, which drops them at WARNING.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

from prefect.logging import get_run_logger

JSON_LOGS = "--log-format=json"


@dataclass(frozen=True)
class DbtLog:
    """The errors, events and nodes in the lines that dbt printed.

    Attributes:
        errors: the errors it logged.
        events: the names of all that it logged.
        listed: the `unique_id` of what `dbt list` found.
        batch_errors: the first error in the batches of a microbatch, by its `unique_id`.
    """

    errors: list[str] = field(default_factory=list)
    events: set[str] = field(default_factory=set)
    listed: list[str] = field(default_factory=list)
    batch_errors: dict[str, str] = field(default_factory=dict)


def read_log(command: str, lines: list[str]) -> DbtLog:
    """Return what is read of the lines that a dbt command printed, JSON or not."""
    log = DbtLog()
    for name, level, message, unique_id in filter(None, map(_read_event, lines)):
        log.events.add(name)
        # When `docs generate` cannot make the catalog, dbt gives the reason in a warning; its
        # error, WriteCatalogFailure, holds a count only, and would hide the reason.
        failed = level >= logging.ERROR and name != "WriteCatalogFailure"
        # When dbt crashes, it logs the message, then its traceback: as the last error, the
        # traceback would be shown instead of the message.
        if (failed or name == "CatalogGenerationError") and not message.startswith("Traceback"):
            log.errors.append(message)
        if name == "GenericExceptionOnRun":
            # run_results.json says « ERROR » of a microbatch, and nothing else says why it failed.
            # The first line (« Unhandled error while executing ») tells users nothing.
            log.batch_errors.setdefault(unique_id, message.partition("\n")[2])
        if command == "list" and name == "PrintEvent":
            # `dbt list` prints each node in a PrintEvent, and so does print() in a macro, any text:
            # without this, that text would end the run in a traceback.
            with suppress(ValueError, TypeError, KeyError):
                log.listed.append(str(json.loads(message)["unique_id"]))
    return log


def read_started(lines: list[str]) -> dict[str, float]:
    """Return the nodes that dbt said it has started, and when, in seconds since 1970."""
    started = {}
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            event = json.loads(line)
            if event["info"]["name"] == "LogStartLine":
                moment = datetime.fromisoformat(event["info"]["ts"]).timestamp()
                started[str(event["data"]["node_info"]["unique_id"])] = moment
    return started


def _read_event(line: str) -> tuple[str, int, str, str] | None:
    """Return the name, the level, the text and the `unique_id`, if any, of an event of dbt.

    None for any other line.
    """
    try:
        content = json.loads(line)
        event = content["info"]
        level = logging.getLevelNamesMapping().get(event["level"].upper(), logging.INFO)
        unique_id = (content.get("data") or {}).get("unique_id", "")
        return event["name"], level, event["msg"].strip(), unique_id
    except Exception:
        # If this function raised in `_show_plainly`, the thread that reads dbt's output would end,
        # and dbt would wait for ever for room in the pipe.
        return None


def _show_plainly(record: logging.LogRecord) -> bool:
    """Turn a record of dbt's JSON into its text, at its level; return whether to show it."""
    line = record.getMessage()
    event = _read_event(line)
    if event is None:
        # Show a line that is no JSON, perhaps a crash of dbt's; but not prefect_shell's remarks on
        # the process (« PID 4242 completed… »), which tell users nothing.
        return not line.startswith(("PID ", "Successfully closed"))
    _, record.levelno, record.msg, _ = event
    record.levelname, record.args = logging.getLevelName(record.levelno), ()
    return bool(record.msg) and not record.msg.startswith("Traceback")


@contextmanager
def show_plain_log() -> Iterator[None]:
    """Have the logger of the current run show dbt's JSON as text, for the time of a command."""
    run_logger = get_run_logger()
    logger = run_logger.logger if isinstance(run_logger, logging.LoggerAdapter) else run_logger
    logger.addFilter(_show_plainly)
    try:
        yield
    finally:
        logger.removeFilter(_show_plainly)
