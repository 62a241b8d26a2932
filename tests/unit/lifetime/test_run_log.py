"""Prefect's own lines about the end of a run leave the log, all others stay."""

import logging

import pytest

from bi_pipeline.errors import DbtError
from bi_pipeline.lifetime.run_log import leave_out_echoes

UNEXPECTED = "Engine execution exited with unexpected exception"


def log(name, message, error=None):
    """Return the message that a logger of Prefect's makes of this one; None if it drops it."""
    leave_out_echoes()
    exc_info = (type(error), error, None) if error else None
    record = logging.LogRecord(name, logging.INFO, "", 0, message, (), exc_info)
    return record.getMessage() if logging.getLogger(name).filter(record) else None


@pytest.mark.parametrize("name", ["prefect.flow_runs", "prefect.engine"])
def test_traceback_of_an_error_that_a_user_can_mend_is_left_out(name):
    assert log(name, UNEXPECTED, DbtError("dbt run a échoué")) is None


def test_traceback_of_a_defect_is_kept():
    assert log("prefect.flow_runs", UNEXPECTED, KeyError("target")) == UNEXPECTED


def test_state_of_a_task_is_named_without_its_message_and_that_of_the_run_is_left_out():
    finished = "Finished in state Failed('dbt run a échoué : a (b)\\n  - c')"

    assert log("prefect.task_runs", finished) == "Finished in state Failed"
    assert log("prefect.flow_runs", finished) is None


def test_other_records_are_kept_whole():
    assert log("prefect.flow_runs", "Crash detected! (x)") == "Crash detected! (x)"
