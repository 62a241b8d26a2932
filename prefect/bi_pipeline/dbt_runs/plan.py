"""Turns the parameters of a run into dbt commands, and refuses those that make no sense."""

from __future__ import annotations

from collections.abc import Sequence

from bi_pipeline.dbt_runs.options import DbtOptions
from bi_pipeline.dbt_runs.packages import packages_are_missing
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import DBT_PROJECT_DIR

# The commands that leave something done: only of these can it be said that nothing is left to do.
OF_ONLY_NEW = {"run", "test", "build", "seed", "snapshot"}
WITHOUT_SELECTION = {"deps", "retry", "run-operation"}


def plan_commands(
    commands: Sequence[str],
    macro: str | None,
    options: DbtOptions,
    changed_since: str | None,
    only_new: bool,
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
    if only_new:
        _check_only_new(commands, options, changed_since)
    words = [f"{name} {macro}" if name == "run-operation" else name for name in commands]
    if packages_are_missing(DBT_PROJECT_DIR) and "deps" not in words:
        words.insert(0, "deps")
    return words, options


def _check_only_new(
    commands: Sequence[str], options: DbtOptions, changed_since: str | None
) -> None:
    """Raise ConfigurationError for what --only-new could not be right with."""
    if changed_since:
        raise ConfigurationError(
            "--only-new et --changed-since ne vont pas ensemble : l'un compare avec la dernière "
            "exécution, l'autre avec un commit."
        )
    others = [name for name in commands if name not in OF_ONLY_NEW | {"deps"}]
    if others or OF_ONLY_NEW.isdisjoint(commands):
        raise ConfigurationError(
            "--only-new est pour run, test, build, seed et snapshot, et pas pour "
            f"{', '.join(others or commands)} : changez --commands."
        )
    for name in ("selector", "empty", "event_time_start"):
        if getattr(options, name):
            raise ConfigurationError(
                f"--only-new et --{name.replace('_', '-')} ne vont pas ensemble : la prochaine "
                "exécution prendrait pour fait ce que celle-ci laisse de côté."
            )
