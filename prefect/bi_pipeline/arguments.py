"""The command line of the pipeline: the parameters of the flow, under the names dbt gives them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, NoReturn

import yaml

from bi_pipeline.command_line import make_french_parser
from bi_pipeline.dbt_runs.options import LAST_RUN

# The first words of dbt's two-word commands. If the next word were not joined to them,
# `--commands docs generate` would be refused as two unknown commands.
TWO_WORDS = ("docs", "source")

ON_A_TERMINAL = "elle n'écrit que sur un terminal : voyez « dbt sans Prefect » dans le README"
# dbt commands that users type out of habit, and their remedies: without these, users would only
# read which commands are possible.
NOT_IN_A_RUN = {
    "clean": "elle effacerait le dossier où l'exécution écrit : lancez `make clean`",
    "debug": "`make doctor` dit ce qui est prêt et ce qui manque",
    "docs": "écrivez docs generate",
    "docs serve": "`make docs` construit la documentation et la montre",
    "init": "le projet dbt est déjà là, dans dbt/",
    "list": ON_A_TERMINAL,
    "ls": ON_A_TERMINAL,
    "parse": "chaque commande commence par là",
    "show": ON_A_TERMINAL,
}

# dbt options with another name here: without these, users who type one would only read that it is
# unknown.
INSTEAD = {
    "-s": "--select",
    "-m": "--select",
    "--models": "--select",
    "-x": "fail_fast: true, sous flags: dans dbt/dbt_project.yml",
    "--args": "--vars, que la macro lit par var()",
    "--state": "--changed-since",
    "--defer": "--changed-since",
    "--favor-state": "--changed-since",
}


def parse_arguments(form: Mapping[str, Any], argv: list[str] | None) -> dict[str, Any]:
    """Return the parameters of the flow that the command line gives.

    Args:
        form: the JSON schema of each parameter, that of Prefect's form, by its name.
        argv: the words of the command line; None for those of this process.
    """
    known: list[str] = form["commands"]["items"]["enum"]
    possible = ", ".join(known).replace("run-operation", "run-operation MACRO")
    parser = _make_parser(form, possible)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse_options(unknown, parser)
    given = vars(arguments)
    for name in given.keys() & {"select", "exclude"}:
        given[name] = " ".join(given[name])
    if "commands" in given:
        given["commands"], macros = _parse_commands(given["commands"])
        for command in given["commands"]:
            if command not in known:
                reason = NOT_IN_A_RUN.get(command, f"les valeurs possibles sont {possible}")
                parser.error(f"--commands : « {command} » est refusé, {reason}")
        if len(macros) > 1:
            parser.error("--commands : run-operation, une fois par exécution")
        if macros:
            (given["macro"],) = macros
            if not re.fullmatch(form["macro"]["anyOf"][0]["pattern"], given["macro"]):
                parser.error(f"--commands : « {given['macro']} » n'est pas un nom de macro")
    return given


def _make_parser(form: Mapping[str, Any], possible_commands: str) -> argparse.ArgumentParser:
    """Return the parser of the command line, whose help is the text of Prefect's form."""
    parser = make_french_parser(
        "pipeline.py",
        "Lance dbt run puis dbt test sur BigQuery.",
        argument_default=argparse.SUPPRESS,
    )

    def add(name: str, more: str = "", **how: Any) -> None:
        text = form[name]["description"].strip() + more
        parser.add_argument("--" + name.replace("_", "-"), help=text, **how)

    add("target", choices=("dev", "prod"))
    # dbt adds up several --select. Without `extend`, argparse would keep the last one only.
    add("select", nargs="+", action="extend", type=_parse_text, metavar="NŒUDS")
    add("exclude", nargs="+", action="extend", type=_parse_text, metavar="NŒUDS")
    add("selector", type=_parse_text, metavar="NOM")
    add("changed_since", nargs="?", const=LAST_RUN, type=_parse_text, metavar="COMMIT")
    add("full_refresh", action="store_true")
    add("empty", action="store_true")
    add("only_new", action="store_true")
    add("vars", type=_parse_variables, metavar="YAML")
    add("event_time_start", metavar="DATE")
    add("event_time_end", metavar="DATE")
    add("threads", type=int, metavar="NOMBRE")
    how: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "COMMANDE"}
    add("commands", f" Possibles : {possible_commands}.", **how)
    return parser


def _refuse_options(unknown: list[str], parser: argparse.ArgumentParser) -> NoReturn:
    """End with exit code 2, and say what stands here in the place of these options of dbt."""
    instead = [f"{name} : ici, {INSTEAD[name]}" for name in unknown if name in INSTEAD]
    if instead:
        parser.error(" ; ".join(instead))
    parser.error(
        f"option inconnue : {' '.join(unknown)}. Celles de dbt que la pipeline prend sont dans "
        "--help ; les autres se règlent sous flags: dans dbt/dbt_project.yml"
    )


def _parse_text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("la valeur est vide : ôtez l'option pour tout prendre")
    return text


def _parse_variables(text: str) -> dict[str, Any]:
    """Return the variables that YAML, or JSON, gives; a date is its text, as in Prefect's form."""
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError:
        given = None
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise argparse.ArgumentTypeError("il faut du YAML ou du JSON, par exemple 'nom: valeur'")
    return json.loads(json.dumps(given, default=str))


def _parse_commands(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the dbt commands that these words make, one argument each or several, and macros."""
    commands: list[str] = []
    macros: list[str] = []
    left = iter(" ".join(words).split())
    for word in left:
        if word == "run-operation":
            macros += islice(left, 1)
        commands.append(" ".join([word, *(islice(left, 1) if word in TWO_WORDS else [])]))
    return commands, macros
