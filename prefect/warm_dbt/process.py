"""dbt's command line, in a process that the caller controls.

Run as `python -P process.py TOKENS ARGUMENT…`, or forked by `server.py`, which imports
it once. Six things differ from dbt's own command: Python's garbage collector stays off,
Google's tokens come from the pipeline, the environment says nothing to dbt but what the
pipeline wants said, a call to BigQuery that keeps failing is said, no file from outside the project
is opened, and dbt ends when the pipeline has gone.
"""

# ruff: noqa: E402 - gc.disable() comes before the imports

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

# dbt's imports leave hundreds of thousands of objects that live as long as the process, and
# the process lives for one command: to scan them takes a fifth of a short run.
gc.disable()

# As a script, this file does not find `warm_dbt`, so prefect/ goes on the path; and last, or a
# module of ours would hide a library's of the same name.
sys.path.append(str(Path(__file__).parents[1]))

import dbt.adapters.bigquery  # noqa: F401 - would be imported for each command
from dbt.adapters.bigquery import clients, python_submissions
from dbt.cli.main import cli
from dbt.cli.requires import KNOWN_ENGINE_ENV_VARS
from dbt_common.events.base_types import EventLevel
from dbt_common.events.functions import fire_event
from dbt_common.events.types import Note
from google.api_core.retry import retry_unary

from warm_dbt import INTERRUPT_SECONDS, SILENT_SECONDS
from warm_dbt.confinement import confine, keep_jinja_in_its_sandbox
from warm_dbt.tokens import PipelineCredentials

# The variable that lists, separated by spaces, those that the pipeline sets for dbt: unlisted, they
# would be removed with the flags of the user's shell.
OURS = "PIPELINE_VARIABLES"

KILLED = 128 + signal.SIGKILL


def forget_what_the_shell_says() -> None:
    """Remove dbt's flags and what opens the Prefect API from the environment.

    If the flags of the user's shell stayed, DBT_EMPTY=1 would empty the tables, and
    DBT_WRITE_JSON=0 hide what failed. The list of flags is dbt's own; any other variable is the
    project's, for `env_var()`.
    """
    ours = os.environ.pop(OURS, "").split()
    flags = {name for flag in KNOWN_ENGINE_ENV_VARS for name in (flag.name, flag.old_name)}
    prefixes = ("DBT_ENGINE_", "DBT_RECORDER_", "PREFECT_")
    for name in list(os.environ):
        if name not in ours and (name in flags or name.startswith(prefixes)):
            del os.environ[name]


def use_tokens_of_the_pipeline(tokens: int) -> None:
    """Have the adapter take its credentials from the pipeline, once for the whole process.

    The adapter otherwise makes new ones for each node, with a token request each time. The
    function is private to the adapter: if it moves, dbt falls back to the token of the profile.

    Args:
        tokens: descriptor of the socket that `tokens.serve_tokens` answers.
    """
    credentials = PipelineCredentials(socket.socket(fileno=tokens))
    for module in (clients, python_submissions):
        if hasattr(module, "create_google_credentials"):
            module.create_google_credentials = lambda _: credentials


def end_with_the_pipeline(tokens: int) -> None:
    """Interrupt dbt when the pipeline has gone, and end it INTERRUPT_SECONDS later.

    If the pipeline is killed, nobody reads what dbt does, and the lock that dbt holds keeps the
    next pipeline waiting.

    Args:
        tokens: descriptor of a socket whose other end only the pipeline holds.
    """

    def wait() -> None:
        # Event mask 0, as poll() always reports a hang-up: with POLLIN, the first token for dbt
        # would pass for the end of the pipeline.
        poller = select.poll()
        poller.register(tokens, 0)
        poller.poll()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(INTERRUPT_SECONDS)
        os._exit(KILLED)

    threading.Thread(target=wait, daemon=True).start()


def open_only_the_project(arguments: list[str]) -> None:
    """Have Python refuse dbt all files but those that its command needs (`confinement.py`)."""
    project_dir = Path.cwd()
    written = [
        os.environ.get("DBT_TARGET_PATH", str(project_dir / "target")),
        os.environ.get("DBT_LOG_PATH", str(project_dir / "logs")),
    ]
    profile = [
        f"{folder}/profiles.yml"
        for option, folder in pairwise(arguments)
        if option == "--profiles-dir"
    ]
    confine(project_dir, written, profile)


def say_what_keeps_failing() -> None:
    """Have dbt's log say that a call to BigQuery failed and is still tried again 15 s later.

    Google's client retries in silence, for ten minutes or more.
    """
    silent = retry_unary.retry_target

    def retry_target(*args: Any, on_error: Any = None, **options: Any) -> Any:
        errors: list[Exception] = []

        def note(error: Exception) -> None:
            # While a query runs, Google's client polls its job by raising an error without text and
            # retrying. If that error counted, any query of 15 s would be said to fail.
            if str(error):
                errors.append(error)
                if len(errors) == 1:
                    timer.start()
            if on_error:
                on_error(error)

        timer = threading.Timer(SILENT_SECONDS, say_failure, [errors])
        timer.daemon = True
        try:
            return silent(*args, on_error=note, **options)
        finally:
            timer.cancel()

    retry_unary.retry_target = retry_target


def say_failure(errors: list[Exception]) -> None:
    """Log the last of the errors of a call, as a warning of dbt's."""
    reason = str(errors[-1]).partition("\n")[0]
    message = (
        f"{SILENT_SECONDS} s après avoir échoué, un appel à BigQuery n'a toujours pas abouti ; "
        f"dbt le refait, dix minutes ou plus s'il le faut : {reason}"
    )
    fire_event(Note(msg=message), EventLevel.WARN)


def run(tokens: int, arguments: list[str]) -> None:
    """Run a dbt command in this process; raises SystemExit with dbt's exit code."""
    # The pipeline stops dbt with SIGINT. Where a script runs `pipeline.py &`, dbt inherits from its
    # shell that SIGINT is ignored, and would go on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    forget_what_the_shell_says()
    use_tokens_of_the_pipeline(tokens)
    # Confined, `dbt deps` could install nothing: it starts git, and links local packages.
    if next(word for word in arguments if word[0] != "-") != "deps":
        open_only_the_project(arguments)
        keep_jinja_in_its_sandbox()
    say_what_keeps_failing()
    sys.argv = ["dbt", *arguments]
    cli(prog_name="dbt")


if __name__ == "__main__":
    # A server ends its fork when the pipeline is killed. Started without one, dbt would go on
    # sending queries alone: so a thread waits, though it runs only when dbt releases the GIL.
    end_with_the_pipeline(int(sys.argv[1]))
    run(int(sys.argv[1]), sys.argv[2:])
