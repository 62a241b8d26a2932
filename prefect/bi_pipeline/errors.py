"""The errors that a user can mend, each with its exit code.

| error | exit code |
| --- | --- |
| `PipelineError` | 1 |
| `ConfigurationError` | 2 |
| `InfrastructureError`, and `PassingFaultError` below it | 3 |
| `DbtError` | 1 |
| `OutOfTimeError`, `OutOfBudgetError` | 143 |
"""

from __future__ import annotations

import signal


class PipelineError(Exception):
    """Something that a user can mend: its text is the whole message, in French."""

    exit_code = 1


class ConfigurationError(PipelineError):
    """Settings, a file, a block or a command line to correct."""

    exit_code = 2


class InfrastructureError(PipelineError):
    """A server, the network or the disk that does not do its part."""

    exit_code = 3


class DbtError(PipelineError):
    """A dbt command failed."""


class OutOfTimeError(PipelineError):
    """A run that took longer than it may: it was stopped as by a signal."""

    exit_code = 128 + signal.SIGTERM


class OutOfBudgetError(PipelineError):
    """A run that billed more than it may: nothing more was started."""

    exit_code = OutOfTimeError.exit_code


class PassingFaultError(InfrastructureError):
    """A dbt command failed because of BigQuery or the network alone: it may work later."""
