"""The variables that dbt gets of the user's shell, and the source of its credentials."""

import gc
import inspect
import os
import time

import pytest
from google.api_core.exceptions import ServiceUnavailable
from google.api_core.future.polling import _OperationNotComplete
from google.api_core.retry import Retry, retry_unary

from warm_dbt import process as dbt_process

# Importing warm_dbt.process turns the garbage collector off: the memory of the tests would grow.
gc.enable()


@pytest.fixture
def environment(monkeypatch):
    """A copy of the environment, for dbt_process.py to forget in."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return os.environ


@pytest.mark.parametrize(
    "name",
    [
        *("DBT_EMPTY", "DBT_ENGINE_EMPTY", "DBT_WRITE_JSON", "DBT_FULL_REFRESH", "DBT_STATE"),
        *("DBT_ENGINE_RECORDER_MODE", "DBT_RECORDER_MODE"),
        *("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"),
    ],
)
def test_flag_of_dbt_and_what_opens_prefect_are_forgotten(name, environment):
    environment[name] = "1"

    dbt_process.forget_what_the_shell_says()

    assert name not in environment


@pytest.mark.parametrize("name", ["DBT_MY_COUNTRY", "DBT_ENV_SECRET_TOKEN", "PATH"])
def test_variable_of_the_project_is_kept(name, environment):
    environment[name] = "x"

    dbt_process.forget_what_the_shell_says()

    assert environment[name] == "x"


def test_variable_that_the_pipeline_sets_is_kept(environment):
    environment["DBT_TARGET"] = "dev"
    environment[dbt_process.OURS] = "DBT_TARGET DBT_PROFILE"

    dbt_process.forget_what_the_shell_says()

    assert environment["DBT_TARGET"] == "dev"
    assert dbt_process.OURS not in environment


@pytest.mark.parametrize("module", [dbt_process.clients, dbt_process.python_submissions])
def test_adapter_still_makes_its_credentials_where_they_are_replaced(module):
    """With dbt-bigquery 1.12.1. Moved, the pipeline still runs, with one token of an hour."""
    parameters = inspect.signature(module.create_google_credentials).parameters

    assert list(parameters) == ["credentials"]
    assert "create_google_credentials(credentials)" in inspect.getsource(module)


FAILS = [ServiceUnavailable("first"), ServiceUnavailable("second")]


@pytest.mark.parametrize(
    ("errors", "seconds", "said"),
    [
        (FAILS, 0.4, ["503 second"]),
        (FAILS, 0, []),
        ([_OperationNotComplete()], 0.4, []),
        ([], 0.4, []),
    ],
    ids=["goes on", "passes", "job that is not finished", "slow"],
)
def test_call_still_failing_after_a_while_is_said_once(errors, seconds, said, monkeypatch):
    """It fails with the errors, then takes these seconds; 0.2 s is too long."""
    messages = []
    monkeypatch.setattr(retry_unary, "retry_target", retry_unary.retry_target)
    monkeypatch.setattr(dbt_process, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(dbt_process, "fire_event", lambda event, _: messages.append(event.msg))
    dbt_process.say_what_keeps_failing()
    left = list(errors)

    def call():
        if left:
            raise left.pop(0)
        time.sleep(seconds)

    Retry(lambda _: True, initial=0.01, maximum=0.01)(call)()
    time.sleep(0.3)

    assert [message.rpartition(" : ")[2] for message in messages] == said
