"""A run with --only-new keeps the right state for the next one, command after command."""

import copy
import json
from types import SimpleNamespace

import pytest

from bi_pipeline.dbt_runs import only_new
from bi_pipeline.dbt_runs.news import ProjectState, make_digests
from bi_pipeline.dbt_runs.only_new import News, keep_state, look_for_news, note_command
from bi_pipeline.dbt_runs.options import DbtOptions
from bi_pipeline.errors import DbtError
from bi_pipeline.result import DbtResult, NodeResult

MANIFEST = {
    "nodes": {
        f"{kind}.p.{name}": {
            "unique_id": f"{kind}.p.{name}",
            "resource_type": kind,
            "package_name": "p",
            "raw_code": "select 1",
            "config": {"materialized": "table"},
            "depends_on": {"nodes": [], "macros": []},
        }
        for kind, name in (("model", "a"), ("test", "unique_a"))
    },
    "child_map": {"model.p.a": ["test.p.unique_a"], "test.p.unique_a": []},
}
DONE = {"model.p.a", "test.p.unique_a"}


@pytest.fixture
def dbt(tmp_path, monkeypatch):
    """A runner whose folder has the manifest; the tables of BigQuery have changed at 2."""
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    monkeypatch.setattr(only_new, "_read_change_times", lambda _, x: dict.fromkeys(x, "TABLE 2"))
    monkeypatch.setattr(only_new, "get_run_logger", lambda: SimpleNamespace(warning=print))
    settings = SimpleNamespace(dataset="dev", target="dev", dbt_artifacts_dir=None)
    return SimpleNamespace(target_dir=tmp_path, settings=settings, commands=["run", "test"])


@pytest.fixture
def news():
    state = ProjectState("", {}, make_digests(MANIFEST), set(DONE), {"model.p.a": "TABLE 1"})
    reasons = dict.fromkeys(DONE, "nouveau")
    return News(reasons, DONE, "", state, {"model.p.a": "p.dev.a"}, {}, is_whole=True)


@pytest.mark.parametrize(
    ("manifest", "commands", "said"),
    [("{", ["run"], "illisible"), (json.dumps(MANIFEST), ["snapshot"], "aucune commande ne fait")],
)
def test_run_that_can_do_nothing_is_not_taken_for_one_in_which_nothing_is_new(
    dbt, manifest, commands, said
):
    (dbt.target_dir / "manifest.json").write_text(manifest)
    dbt.commands = commands
    dbt.list_nodes = lambda _: DbtResult("list", 0, listed=sorted(DONE))

    with pytest.raises(DbtError, match=said):
        look_for_news(dbt, DbtOptions())


def result(*names, status="success"):
    return DbtResult("run", 0, nodes=[NodeResult(name, status) for name in names])


def kept(dbt):
    path = dbt.target_dir / "only_new" / "dev-run-test.json"
    return ProjectState.from_json(path.read_text()) if path.exists() else None


def test_table_is_dated_when_its_command_ends(dbt, news, monkeypatch):
    note_command(dbt, news, result("model.p.a"))
    monkeypatch.setattr(only_new, "_read_change_times", lambda _, x: dict.fromkeys(x, "TABLE 3"))
    note_command(dbt, news, result("test.p.unique_a"))
    keep_state(dbt, news)

    assert kept(dbt).tables == {"model.p.a": "TABLE 2"}
    assert kept(dbt).done == DONE


def test_what_an_earlier_command_has_read_before_is_to_be_done_again(dbt, news):
    """With `--commands test run`, the test has judged the table of before."""
    note_command(dbt, news, result("test.p.unique_a"))
    note_command(dbt, news, result("model.p.a"))
    keep_state(dbt, news)

    assert kept(dbt).done == {"model.p.a"}


def test_nothing_is_kept_when_the_project_changed_during_the_run(dbt, news):
    changed = copy.deepcopy(MANIFEST)
    changed["nodes"]["test.p.unique_a"]["raw_code"] = "select 2"
    (dbt.target_dir / "manifest.json").write_text(json.dumps(changed))

    note_command(dbt, news, result(*DONE))
    keep_state(dbt, news)

    assert kept(dbt) is None


def test_nothing_is_kept_when_dbt_left_something_new(dbt, news):
    note_command(dbt, news, result("model.p.a"))
    keep_state(dbt, news)

    assert kept(dbt) is None


def test_warnings_are_kept_until_their_node_is_done_again(dbt, news):
    news.warned |= {"model.p.a": "a : old", "model.p.b": "b : old"}

    note_command(dbt, news, result("model.p.a"))
    note_command(dbt, news, result("test.p.unique_a", status="warn"))
    keep_state(dbt, news)

    assert kept(dbt).warned.keys() == {"model.p.b", "test.p.unique_a"}
