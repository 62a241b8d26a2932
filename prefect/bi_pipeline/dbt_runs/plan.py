"""Turns the parameters of a run into dbt commands, and refuses those that make no sense."""

from __future__ import annotations

from collections.abc import Sequence

from bi_pipeline.dbt_runs.options import DbtOptions
from bi_pipeline.dbt_runs.packages import packages_are_missing
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import DBT_PROJECT_DIR

WITHOUT_SELECTION = {"deps", "retry", "run-operation"}


def plan_commands(
    commands: Sequence[str], macro: str | None, options: DbtOptions, changed_since: str | None
) -> tuple[list[str], DbtOptions]:
    """Return the words of each dbt command, missing packages first, and the options they share.

    Raises ConfigurationError for what dbt would ignore, or take for something else.
    """
    if "run-operation" in commands and not macro:
        raise ConfigurationError("run-operation : il manque la macro à lancer.")
    if macro and "run-operation" not in commands:
        raise ConfigurationError(f"La macro {macro} est pour run-operation, qui n'est pas demandé.")
    options.check(commands)
    if changed_since:
        if set(commands) <= WITHOUT_SELECTION:
            raise ConfigurationError(
                f"--changed-since : {', '.join(commands)} ne prend aucune sélection."
            )
        options = options.select_what_changed()
    words = [f"{name} {macro}" if name == "run-operation" else name for name in commands]
    if packages_are_missing(DBT_PROJECT_DIR) and "deps" not in words:
        words.insert(0, "deps")
    return words, options
