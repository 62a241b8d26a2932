"""What dbt prints, in JSON: what is read of it, and what the log of the run shows of it.

What is read does not go through the records of a logger: at the level WARNING there would be none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from prefect.logging import get_run_logger

JSON_LOGS = "--log-format=json"


@dataclass(frozen=True)
class DbtLog:
    """What is read of the lines that dbt printed.

    Attributes:
        errors: the errors it logged.
        events: the names of all that it logged.
        listed: the `unique_id` of what `dbt list` found.
    """

    errors: list[str] = field(default_factory=list)
    events: set[str] = field(default_factory=set)
    listed: list[str] = field(default_factory=list)


def read_log(command: str, lines: list[str]) -> DbtLog:
    """Return what the lines say that a dbt command printed, JSON or not."""
    log = DbtLog()
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
                log.listed.append(str(json.loads(message)["unique_id"]))
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
def show_plain_log() -> Iterator[None]:
    """Have the logger of the current run show dbt's JSON as text, for the time of a command."""
    run_logger = get_run_logger()
    logger = run_logger.logger if isinstance(run_logger, logging.LoggerAdapter) else run_logger
    logger.addFilter(_show_plainly)
    try:
        yield
    finally:
        logger.removeFilter(_show_plainly)
