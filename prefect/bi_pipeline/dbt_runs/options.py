"""The options of dbt that a run may have, in the words that dbt understands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import click
import yaml

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import MAXIMUM_THREADS

# Options of safe_dump for --vars. Not JSON: its 1e+20 is a text for dbt's YAML, and no number.
ONE_LINE: dict[str, Any] = {"default_flow_style": True, "width": float("inf"), "sort_keys": False}


# Stands for a commit in --changed-since: the last run of prod that DBT_ARTIFACTS_DIR keeps.
LAST_RUN = "DBT_ARTIFACTS_DIR"

# dbt's selection of the nodes that differ from prod's state. Without the `+`, the nodes that depend
# on them would not be built again, and keep the old data.
CHANGED = "state:modified+"

# `dbt snapshot --empty` reads a source without rows: with `hard_deletes`, dbt-bigquery 1.12.1 then
# closes every row of the history.
EMPTY_SNAPSHOT = (
    "un snapshot verrait sa source vide, et fermerait tout son historique, ce qui ne se défait pas."
)

# The one command that is not dbt's: `dbt compile`, then a dry run of what it has compiled.
ESTIMATE = "estimate"

OF_NODES = {
    *("run", "test", "build", "seed", "snapshot", "source freshness", "clone", "compile"),
    *("docs generate", "list"),
}
# dbt refuses an option that a command does not take, so each goes to those whose --help has it
# (dbt 1.12.6). Not --full-refresh to `retry`, which takes it and does nothing with it.
TAKEN_BY = {
    "select": OF_NODES,
    "exclude": OF_NODES,
    "selector": OF_NODES,
    "indirect_selection": OF_NODES | {"retry", "run-operation", "deps", "parse"},
    "full_refresh": {"run", "build", "seed", "clone", "compile"},
    "empty": {"run", "build", "seed", "snapshot", "compile"},
    "vars": OF_NODES | {"retry", "run-operation", "deps", "parse"},
    "event_time_start": {"run", "build"},
    "event_time_end": {"run", "build"},
    "threads": OF_NODES - {"list"} | {"retry", "run-operation", "parse"},
}


@dataclass(frozen=True)
class DbtOptions:
    """The options that the commands of a run share: each gets those that dbt lets it take.

    Names and meaning are dbt's own; what is not given is left to dbt.
    """

    select: str | None = None
    exclude: str | None = None
    selector: str | None = None
    indirect_selection: str | None = None
    full_refresh: bool = False
    empty: bool = False
    vars: Mapping[str, Any] | None = None
    event_time_start: str | None = None
    event_time_end: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse, with ConfigurationError, what dbt would refuse in its own way."""
        for name in ("event_time_start", "event_time_end"):
            moment = getattr(self, name)
            try:
                # dbt's own parser of these options: another would let through a date that dbt then
                # refuses, in English.
                click.DateTime()(moment or None)
            except click.BadParameter:
                raise ConfigurationError(
                    f"{_to_option(name)} : « {moment} » est refusé, il faut une date "
                    "AAAA-MM-JJ, ou AAAA-MM-JJTHH:MM:SS en UTC."
                ) from None
        if bool(self.event_time_start) != bool(self.event_time_end):
            raise ConfigurationError("--event-time-start et --event-time-end vont ensemble.")
        if self.threads is not None and not 1 <= self.threads <= MAXIMUM_THREADS:
            raise ConfigurationError(
                f"--threads : « {self.threads} » est refusé, il faut de 1 à {MAXIMUM_THREADS}."
            )

    def check(self, commands: Collection[str]) -> None:
        """Raise ConfigurationError for an option that none takes, or for --empty on a snapshot."""
        if self.empty and "snapshot" in commands:
            raise ConfigurationError(f"--empty : {EMPTY_SNAPSHOT} Retirez snapshot de --commands.")
        for name in self._list_given():
            if not any(_takes(command, name) for command in commands):
                raise ConfigurationError(
                    f"{_to_option(name)} : aucune commande de cette exécution "
                    f"({', '.join(commands)}) ne la prend."
                )

    def to_words(self, command: str) -> list[str]:
        """Return one word an option that the command takes: `--full-refresh`, `--select=a b`."""
        words = []
        for name, value in self._list_given().items():
            if not _takes(command, name):
                continue
            if value is True:
                words.append(_to_option(name))
            else:
                # Joined by `=`: as a word of its own, a value that starts with a dash would be
                # taken for an option.
                text = yaml.safe_dump(value, **ONE_LINE) if name == "vars" else value
                words.append(f"{_to_option(name)}={text}".strip())
        return words

    def _list_given(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value}

    def select_what_changed(self) -> DbtOptions:
        """Return these options, for the nodes that differ from prod's state and what hangs on them.

        Raises ConfigurationError with a selector, which dbt combines with no --select.
        """
        if self.selector:
            raise ConfigurationError(
                "--selector et --changed-since ne vont pas ensemble : dites la sélection avec "
                "--select."
            )
        selections = self.select.split() if self.select else []
        changed = " ".join(f"{nodes},{CHANGED}" for nodes in selections)
        return replace(self, select=changed or CHANGED)


def _to_option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _takes(command: str, name: str) -> bool:
    """Whether dbt lets a command, `run-operation MACRO` for example, have the option."""
    command = "compile" if command == ESTIMATE else command
    return bool({command, command.partition(" ")[0]} & TAKEN_BY[name])
