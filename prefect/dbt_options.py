"""The options of dbt that a run may have, in the words that dbt understands."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

import yaml

from pipeline_errors import ConfigurationError

# YAML as dbt reads it back: JSON has no way to write some numbers.
ONE_LINE: dict[str, Any] = {"default_flow_style": True, "width": float("inf"), "sort_keys": False}


@dataclass(frozen=True)
class DbtOptions:
    """The options that the commands of a run share: each gets those that dbt lets it take.

    Names and meaning are dbt's own; what is not given is left to dbt.
    """

    select: str | None = None
    exclude: str | None = None
    selector: str | None = None
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
            if moment and not _is_moment(moment):
                raise ConfigurationError(
                    f"--{name.replace('_', '-')} : « {moment} » est refusé, il faut une date "
                    "AAAA-MM-JJ, ou AAAA-MM-JJTHH:MM:SS en UTC."
                )
        if bool(self.event_time_start) != bool(self.event_time_end):
            raise ConfigurationError("--event-time-start et --event-time-end vont ensemble.")
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(
                f"--threads : « {self.threads} » est refusé, il faut 1 ou plus."
            )

    def words(self) -> list[str]:
        """Return one word an option, `--full-refresh` or `--select=a b`."""
        words = []
        for name, value in ((field.name, getattr(self, field.name)) for field in fields(self)):
            option = "--" + name.replace("_", "-")
            if value is True:
                words.append(option)
            elif value:
                # With `=`, a value that starts with a dash stays a value.
                text = yaml.safe_dump(value, **ONE_LINE) if name == "vars" else value
                words.append(f"{option}={text}".strip())
        return words

    def of_what_changed(self) -> DbtOptions:
        """Return these options, for the nodes that differ from the state and what hangs on them.

        Raises ConfigurationError with a selector, which dbt joins with no selection.
        """
        if self.selector:
            raise ConfigurationError(
                "--selector et --changed-since ne vont pas ensemble : dites la sélection avec "
                "--select."
            )
        selections = self.select.split() if self.select else []
        changed = " ".join(f"{nodes},state:modified+" for nodes in selections)
        return replace(self, select=changed or "state:modified+")


def _is_moment(text: str) -> bool:
    """Whether dbt reads the text as a moment."""
    for known in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"):
        with suppress(ValueError):
            return bool(datetime.strptime(text, known))
    return False
