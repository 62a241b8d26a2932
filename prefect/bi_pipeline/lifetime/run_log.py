"""Has the log of a run end with the message of its state, once, in place of Prefect's own ends."""

from __future__ import annotations

import logging
from typing import Any

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from bi_pipeline.errors import PipelineError

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
FINISHED = "Finished in state "


def leave_out_echoes() -> None:
    """Have Prefect's loggers leave out, in this process, what repeats the end of a run.

    `log_ending` says it. An error that a user cannot mend keeps its traceback.
    """
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_no_echo)


def _is_no_echo(record: logging.LogRecord) -> bool:
    """Return whether to log a record; shorten that of a task's end to the name of its state."""
    message = record.getMessage()
    # A worker's process raises the error of a Failed state, and Prefect logs 35 lines of its own
    # code with it (3.9.1), below the reason.
    error = record.exc_info[1] if record.exc_info else None
    if "exited with unexpected exception" in message and isinstance(error, PipelineError):
        return False
    if message.startswith(FINISHED):
        # Prefect shows the message of a state as a Python literal: « Failed('dbt run…\n…') ».
        record.msg, record.args = message.partition("(")[0], ()
        return record.name != "prefect.flow_runs"
    return not message.startswith("Task run failed with")


def log_ending(state: State[Any]) -> None:
    """Log the message of the state in which the current run ends."""
    has_own_name = state.name != "Completed"
    level = logging.WARNING if has_own_name else logging.INFO
    get_run_logger().log(
        level if state.is_completed() else logging.ERROR, state.message, extra={"is_ending": True}
    )


def leave_ending_off_the_terminal() -> None:
    """Have this process's terminal show no record of `log_ending`: the caller prints the message.

    Prefect's interface still gets the record.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not getattr(record, "is_ending", False))
