"""The options of a run, in dbt's words."""

from typing import get_args

import pytest
import yaml
from dbt.cli.main import cli

from bi_pipeline.dbt_runs.options import ESTIMATE, TAKEN_BY, DbtOptions
from bi_pipeline.errors import ConfigurationError
from pipeline import Command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DbtOptions(), []),
        (DbtOptions("a+ b", "c"), ["--select=a+ b", "--exclude=c"]),
        (DbtOptions("--help"), ["--select=--help"]),
        (DbtOptions(selector="nightly"), ["--selector=nightly"]),
        (DbtOptions(full_refresh=True, empty=True), ["--full-refresh", "--empty"]),
        (DbtOptions(vars={}), []),
        (DbtOptions(threads=2), ["--threads=2"]),
        (
            DbtOptions(event_time_start="2013-01-01", event_time_end="2013-01-02T03:04:05"),
            ["--event-time-start=2013-01-01", "--event-time-end=2013-01-02T03:04:05"],
        ),
    ],
)
def test_each_option_is_one_word(options, words):
    assert options.to_words("build") == words


@pytest.mark.parametrize("option", TAKEN_BY)
def test_command_takes_the_options_that_dbt_lets_it_take(option):
    """With dbt 1.12.6."""
    commands = {*get_args(Command), "list", "parse"} - {ESTIMATE}

    taken_by = {
        command
        for command in commands
        if "--" + option.replace("_", "-")
        in [name for parameter in dbt_command(command).params for name in parameter.opts]
    }

    ignored = {"retry"} if option == "full_refresh" else set()
    assert taken_by - ignored == TAKEN_BY[option]


def dbt_command(words):
    """Return the command of dbt's own command line that the words name."""
    command = cli
    for word in words.split():
        command = command.commands[word]
    return command


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("test", ["--select=a", "--vars={b: 1}"]),
        ("estimate", ["--select=a", "--full-refresh", "--vars={b: 1}"]),
        ("source freshness", ["--select=a", "--vars={b: 1}"]),
        ("run-operation run", ["--vars={b: 1}"]),
        ("retry", ["--vars={b: 1}"]),
    ],
)
def test_command_gets_those_of_the_options_that_it_takes(command, words):
    assert DbtOptions("a", full_refresh=True, vars={"b": 1}).to_words(command) == words


def test_option_that_no_command_takes_is_refused():
    options = DbtOptions(event_time_start="2013-01-01", event_time_end="2013-01-02")

    options.check(["seed", "build"])
    with pytest.raises(ConfigurationError, match=r"--event-time-start : aucune.*\(seed, test\)"):
        options.check(["seed", "test"])


def test_snapshot_of_no_data_is_refused_with_the_reason():
    """Even if another command takes --empty: the snapshot would read what that has emptied."""
    with pytest.raises(ConfigurationError, match="--empty : un snapshot verrait sa source vide"):
        DbtOptions(empty=True).check(["run", "snapshot"])


@pytest.mark.parametrize(
    "value",
    [
        "é ' \" \n 😀",
        "2013-01-01",
        "1",
        "null",
        1,
        1.0e20,
        0.00001,
        True,
        None,
        [1, {"a": "b"}],
        "",
    ],
)
def test_variable_reaches_dbt_as_it_is(value):
    (word,) = DbtOptions(vars={"name": value}).to_words("run")

    # dbt reads --vars as YAML.
    assert yaml.safe_load(word.removeprefix("--vars=")) == {"name": value}


@pytest.mark.parametrize(
    ("select", "changed"),
    [
        (None, "state:modified+"),
        ("a", "a,state:modified+"),
        ("a+ tag:b,c", "a+,state:modified+ tag:b,c,state:modified+"),
    ],
)
def test_what_changed_is_looked_for_in_what_is_selected(select, changed):
    assert DbtOptions(select, "x").select_what_changed() == DbtOptions(changed, "x")


def test_selector_leaves_no_room_for_what_changed():
    with pytest.raises(ConfigurationError, match="--selector et --changed-since"):
        DbtOptions(selector="nightly").select_what_changed()


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_time_start": "2013-02-31"},
        {"event_time_start": "2013-02-01"},
        {"event_time_end": "hier"},
        {"threads": 0},
    ],
)
def test_value_that_dbt_would_refuse_is_refused_by_its_option(wrong):
    with pytest.raises(ConfigurationError, match="--" + next(iter(wrong)).replace("_", "-")):
        DbtOptions(**wrong)
