"""A run refuses, before it begins, parameters that make no sense together."""

import pytest

from bi_pipeline.dbt_runs.options import DbtOptions
from bi_pipeline.dbt_runs.plan import plan_commands
from bi_pipeline.errors import ConfigurationError


@pytest.mark.parametrize(
    ("commands", "options", "changed_since", "named"),
    [
        (["run"], {}, "HEAD", "--changed-since"),
        (["run", "docs generate"], {}, None, "docs generate"),
        (["retry"], {}, None, "retry"),
        (["deps"], {}, None, "deps"),
        (["run"], {"selector": "nightly"}, None, "--selector"),
        (["run"], {"empty": True}, None, "--empty"),
        (
            ["run"],
            {"event_time_start": "2026-01-01", "event_time_end": "2026-01-02"},
            None,
            "--event-time-start",
        ),
    ],
)
def test_only_new_is_refused_with_what_it_could_not_be_right_with(
    commands, options, changed_since, named
):
    with pytest.raises(ConfigurationError) as refused:
        plan_commands(commands, None, DbtOptions(**options), changed_since, only_new=True)

    assert "--only-new" in str(refused.value)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "commands", [["run", "test"], ["seed", "snapshot", "build"], ["deps", "run"]]
)
def test_only_new_is_for_what_builds_and_tests(commands):
    options = DbtOptions(select="a", exclude="b", full_refresh=True, vars={"x": 1})

    assert plan_commands(commands, None, options, None, only_new=True)[1] == options
