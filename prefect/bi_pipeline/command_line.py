"""Shared by the command-line tools: errors said in one line, and argparse in French."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from dotenv import dotenv_values

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.explanations import explain
from bi_pipeline.proxies import reach_this_machine_directly
from bi_pipeline.settings import ENV_FILE, check_block_name, check_env_file

EXIT_INTERRUPTED = 130
INTERRUPTED = "Interrompu."

# argparse takes its texts from gettext, for which Python has no French catalog: without these,
# --help and errors would be half in English.
FRENCH = {
    "usage: ": "usage : ",
    "positional arguments": "arguments",
    "show this help message and exit": "montrer cette aide",
    "%(prog)s: error: %(message)s\n": "%(prog)s : %(message)s.\n",
    "argument %(argument_name)s: %(message)s": "%(argument_name)s : %(message)s",
    "invalid choice: %(value)r (choose from %(choices)s)": (
        "« %(value)s » est refusé, les valeurs possibles sont %(choices)s"
    ),
    "expected one argument": "il manque la valeur",
    "expected at least one argument": "il manque au moins une valeur",
    "ignored explicit argument %r": "cette option ne prend pas de valeur (%r)",
    "the following arguments are required: %s": "il manque %s",
    "unrecognized arguments: %s": "option inconnue : %s",
    "invalid %(type)s value: %(value)r": "« %(value)s » est refusé",
    "ambiguous option: %(option)s could match %(matches)s": (
        "option ambiguë : %(option)s peut être %(matches)s"
    ),
}


def make_french_parser(prog: str, description: str, **options: object) -> argparse.ArgumentParser:
    """Return a parser of command lines whose help and errors are in French."""
    argparse._ = lambda text: FRENCH.get(text, text)  # type: ignore[attr-defined]
    return argparse.ArgumentParser(prog, description=description, **options)  # type: ignore[arg-type]


def count(number: int, one: str, several: str) -> str:
    """Return a number and what there is of it, in French, where 0 is singular."""
    return f"{number} {several if number > 1 else one}"


def parse_block_name(text: str) -> str:
    """Return the name of a Prefect block unchanged; argparse's error if Prefect refuses it."""
    try:
        return check_block_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"« {text} » est refusé, {error}") from None


def refuse_unreadable_env_file() -> None:
    """End this process, with the reason, if `.env` cannot be read: ours, or this folder's.

    Prefect reads the `.env` of the current folder when it is imported: the tool would end in a
    traceback.
    """
    try:
        for path in (ENV_FILE, Path.cwd() / ".env"):
            check_env_file(path)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def end_at_once(*_: object) -> None:
    """Handle Ctrl-C while the big imports last: no traceback, nothing to put in order."""
    print(INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(EXIT_INTERRUPTED)


def say_errors(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Decorate a tool: an error that the user can mend is a message and an exit code.

    Any other error is a defect, and keeps its traceback.
    """

    @functools.wraps(main)
    def run_tool(argv: list[str] | None = None) -> int:
        refuse_unreadable_env_file()
        reach_this_machine_directly(dotenv_values(ENV_FILE))
        try:
            if signal.getsignal(signal.SIGINT) is end_at_once:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return main(argv)
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            return EXIT_INTERRUPTED
        except Exception as error:
            known = explain(error)
            if known is None:
                raise
            print(known, file=sys.stderr)
            return known.exit_code

    return run_tool
