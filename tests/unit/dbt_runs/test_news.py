"""With --only-new, each node is done that may give something else than at the last success."""

import copy
from dataclasses import replace

import pytest

from bi_pipeline.dbt_runs.news import (
    ProjectState,
    digest_the_rest,
    find_news,
    list_relations,
    make_digests,
    select_done,
    to_selection,
)

CONTEXT = {"autre version de dbt": "1"}


def node(name, *reads, kind="model", macros=(), **more):
    return {
        "unique_id": f"{kind}.p.{name}",
        "resource_type": kind,
        "package_name": "p",
        "fqn": ["p", name],
        "raw_code": "select 1",
        "relation_name": f"`x`.`dev`.`{name}`" if kind in ("model", "seed", "snapshot") else None,
        "config": {"materialized": "table"},
        "depends_on": {"macros": list(macros)} | ({"nodes": list(reads)} if kind != "seed" else {}),
    } | more


def macro(name, sql, *macros, package="p"):
    unique_id = f"macro.{package}.{name}"
    called = {"depends_on": {"macros": list(macros)}, "package_name": package}
    return {unique_id: {"name": name, "macro_sql": sql} | called}


NODES = [
    node("country", kind="seed", raw_code="", checksum={"name": "sha256", "checksum": "1"}),
    node("stg_a", "source.p.s.a", config={"materialized": "view"}),
    node("stg_b", "source.p.s.b", macros=["macro.p.clean"]),
    node("inline", "model.p.stg_b", config={"materialized": "ephemeral"}, relation_name=None),
    node("fct", "model.p.stg_a", "model.p.inline"),
    node("by_country", "seed.p.country"),
    node("unique_fct", "model.p.fct", kind="test", config={"materialized": "test"}),
    node("unique_a", "source.p.s.a", kind="test", config={"materialized": "test"}),
]
SOURCES = {
    f"source.p.s.{name}": {
        "source_name": "s",
        "name": name,
        "relation_name": f"`x`.`raw`.`{name}`",
    }
    for name in "ab"
}


def make_manifest(nodes):
    children = {name: [] for name in SOURCES} | {x["unique_id"]: [] for x in nodes}
    for one in nodes:
        for read in one["depends_on"].get("nodes", []):
            children[read].append(one["unique_id"])
    return {
        "nodes": {one["unique_id"]: one for one in nodes},
        "sources": copy.deepcopy(SOURCES),
        "macros": macro("clean", "trim(x)", "macro.p.helper")
        | macro("helper", "{{ x }}")
        | macro("generate_schema_name", "{{ schema }}"),
        "child_map": children,
    }


MANIFEST = make_manifest(copy.deepcopy(NODES))


def find_state(manifest, **tables):
    """The state of a run that finds no table changed but these."""
    times = {name: "TABLE 1" for name in list_relations(manifest)}
    done = select_done(manifest, manifest["nodes"], ("run", "test", "seed"))
    nodes = make_digests(manifest)
    return ProjectState("2026-11-27T09:00+01:00", CONTEXT, nodes, done, times | tables)


KEPT = find_state(MANIFEST)


def look(
    manifest=MANIFEST, now=None, kept=KEPT, commands=("run", "test"), selected=None, variables=None
):
    """The names of what a run has to do, each with the reason."""
    selected = manifest["nodes"].keys() if selected is None else selected
    done = select_done(manifest, selected, commands)
    news = find_news(manifest, done, now or find_state(manifest), kept, variables or {})
    return {name.split(".")[2]: why for name, why in news.items()}


def change(name, **parts):
    """The manifest, with parts of one node that differ."""
    manifest = copy.deepcopy(MANIFEST)
    manifest["nodes"][name].update(parts)
    return manifest


def test_nothing_is_done_when_nothing_has_changed():
    assert look() == {}


def test_source_that_changed_has_done_all_that_depends_on_it_and_nothing_else():
    now = find_state(MANIFEST, **{"source.p.s.a": "TABLE 2"})

    assert look(now=now) == {
        "stg_a": "source s.a modifiée",
        "unique_a": "source s.a modifiée",
        "fct": "après stg_a",
        "unique_fct": "après fct",
    }


def test_table_restored_to_an_older_state_is_new():
    assert "stg_a" in look(now=find_state(MANIFEST, **{"source.p.s.a": "TABLE 0"}))


@pytest.mark.parametrize("found", [None, "VIEW 1", "EXTERNAL 1"])
def test_source_that_cannot_be_judged_is_new_each_time(found):
    state = find_state(MANIFEST, **{"source.p.s.a": found})

    assert look(now=state, kept=state)["stg_a"] == "source s.a : date de modification inconnue"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"raw_code": "select 2"}, "SQL modifié"),
        ({"config": {"materialized": "table", "cluster_by": ["x"]}}, "configuration modifiée"),
        ({"relation_name": "`x`.`dev`.`other`"}, "configuration modifiée"),
        ({"description": "autre"}, "définition modifiée"),
        ({"raw_code": "select current_date()"}, "appelle current_date"),
        ({"config": {"pre-hook": [{"sql": "select rand()"}]}}, "appelle rand"),
        ({"config": {"sql_header": "declare x default current_date();"}}, "appelle current_date"),
        ({"config": {"where": "day > current_date()"}}, "appelle current_date"),
        ({"config": {"incremental_predicates": ["x in (select x from raw.b)"]}}, "nomme raw.b"),
        ({"given": [{"rows": "select current_date() as day"}]}, "appelle current_date"),
        ({"expect": {"rows": "select current_date() as day"}}, "appelle current_date"),
        ({"language": "python"}, "modèle Python"),
        ({"config": {"incremental_strategy": "microbatch"}}, "microbatch"),
        ({"config": {"meta": {"always_build": True}}}, "always_build"),
        ({"meta": {"always_build": True}}, "always_build"),
    ],
)
def test_model_is_done_with_what_depends_on_it(parts, reason):
    found = look(change("model.p.fct", **parts))

    assert found.keys() == {"fct", "unique_fct"}
    assert found["fct"].startswith(reason)


@pytest.mark.parametrize("kept_too", [False, True])
def test_model_that_may_give_something_else_is_done_each_time(kept_too):
    manifest = change("model.p.fct", raw_code="select rand()")

    found = look(manifest, kept=find_state(manifest) if kept_too else KEPT)

    assert found["fct"] == "appelle rand"


@pytest.mark.parametrize(("name", "sql"), [("clean", "ltrim(x)"), ("helper", "{{ y }}")])
def test_macro_that_changed_has_done_the_nodes_that_call_it(name, sql):
    manifest = copy.deepcopy(MANIFEST)
    manifest["macros"] |= macro(name, sql, *(["macro.p.helper"] if name == "clean" else []))

    assert look(manifest) == {
        "stg_b": "macro modifiée",
        "fct": "après inline",
        "unique_fct": "après fct",
    }


def test_clock_in_a_macro_counts_as_the_node_s():
    manifest = copy.deepcopy(MANIFEST)
    manifest["macros"] |= macro("helper", "current_date()")

    assert look(manifest, kept=find_state(manifest))["stg_b"] == "appelle current_date"


@pytest.mark.parametrize(
    ("of_dbt", "changed"),
    [
        ({"default__generate_schema_name": "dbt"}, "generate_schema_name"),
        ({"generate_schema_name": "dbt"}, "clean_names"),
        ({"clean": "dbt"}, "clean"),
    ],
    ids=["with the name of one of dbt's", "that such a macro calls", "that a node calls as well"],
)
def test_macro_is_something_new_for_all_when_dbt_may_call_it_for_all(of_dbt, changed):
    def digest(sql):
        manifest = copy.deepcopy(MANIFEST)
        for name, package in of_dbt.items():
            manifest["macros"] |= macro(name, "dbt's own", package=package)
        manifest["macros"] |= macro("generate_schema_name", "", "macro.p.clean_names")
        manifest["macros"] |= macro("clean_names", "")
        manifest["nodes"]["model.p.fct"]["depends_on"]["macros"] = ["macro.p.clean_names"]
        manifest["macros"][f"macro.p.{changed}"]["macro_sql"] = sql
        return digest_the_rest(manifest)

    assert digest("a") != digest("b")
    assert digest("a") == digest("a")


def test_materialization_of_the_project_is_done_each_time():
    manifest = copy.deepcopy(MANIFEST)
    manifest["macros"] |= macro("materialization_table_bigquery", "…")

    found = look(manifest, kept=find_state(manifest))

    assert found["fct"] == "matérialisation table du projet"
    assert "stg_a" not in found


def test_ephemeral_model_that_changed_has_done_what_depends_on_it():
    manifest = change("model.p.inline", raw_code="select 2")

    assert look(manifest) == {"fct": "après inline", "unique_fct": "après fct"}


@pytest.mark.parametrize("found", ["TABLE 2", None])
def test_table_that_somebody_else_wrote_or_deleted_is_built_again(found):
    now = find_state(MANIFEST, **{"model.p.fct": found})

    assert look(now=now) == {"fct": "table écrite ou effacée", "unique_fct": "après fct"}


def test_table_that_has_never_been_there_is_built():
    state = find_state(MANIFEST, **{"model.p.fct": None})

    assert look(now=state, kept=state)["fct"] == "table introuvable"


def test_new_model_and_new_test_are_done():
    manifest = make_manifest(
        [
            *copy.deepcopy(NODES),
            node("more", "model.p.fct"),
            node("again", "model.p.fct", kind="test"),
        ]
    )

    assert look(manifest) == {"more": "nouveau", "again": "nouveau, ou à refaire"}


def test_seed_is_judged_when_a_command_loads_it():
    manifest = change("seed.p.country", checksum={"name": "sha256", "checksum": "2"})

    assert look(manifest, commands=("seed", "run")) == {
        "country": "SQL modifié",
        "by_country": "après country",
    }
    assert look(manifest, commands=("run",)) == {}


def test_seed_of_which_dbt_gives_no_digest_is_loaded_each_time():
    manifest = change("seed.p.country", checksum={"name": "path", "checksum": "seeds/x.csv"})

    found = look(manifest, kept=find_state(manifest), commands=("build",))

    assert found["country"] == "seed de plus de 1 Mio"


def test_everything_is_done_without_a_success_to_compare_with():
    assert set(look(kept=None).values()) == {"aucune exécution réussie gardée"}


def test_everything_is_done_when_what_holds_for_all_differs():
    now = replace(find_state(MANIFEST), context={"autre version de dbt": "2"})

    found = look(now=now)

    assert set(found.values()) == {"autre version de dbt"}
    assert found.keys() == {"stg_a", "stg_b", "fct", "by_country", "unique_fct", "unique_a"}


def test_selection_narrows_what_is_done():
    now = find_state(MANIFEST, **{"source.p.s.a": "TABLE 2"})

    assert look(now=now, selected=["model.p.fct"]) == {"fct": "après stg_a"}


def test_model_outside_the_selection_that_was_built_since_is_news_for_those_inside():
    now = find_state(MANIFEST, **{"model.p.stg_a": "TABLE 2"})

    assert look(now=now, selected=["model.p.fct"]) == {"fct": "après stg_a"}


def test_words_name_the_nodes_and_no_test_that_comes_along():
    names = ["model.p.stg_a", "model.p.fct", "test.p.unique_fct", "test.p.unique_a"]

    assert to_selection(MANIFEST, names) == ["fqn:p.fct", "fqn:p.stg_a", "fqn:p.unique_a"]


def test_name_that_dbt_s_syntax_cannot_say_is_no_selection():
    manifest = change("model.p.fct", fqn=["p", "fct, et plus"])

    assert to_selection(manifest, ["model.p.fct"]) is None


def test_state_is_the_same_after_a_file():
    assert ProjectState.from_json(KEPT.to_json()) == KEPT


@pytest.mark.parametrize("text", ["", "[]", "{", '{"at": "2026"}', '{"at": 1, "else": 2}'])
def test_file_that_is_no_state_is_refused(text):
    with pytest.raises(ValueError):
        ProjectState.from_json(text)


def test_macro_that_nothing_calls_is_nothing_new():
    manifest = copy.deepcopy(MANIFEST)
    manifest["macros"] |= macro("unused", "current_date()")

    assert look(manifest) == {}
    assert digest_the_rest(manifest) == digest_the_rest(MANIFEST)


@pytest.mark.parametrize(
    "name", ["bigquery__where_subquery", "where_subquery", "get_incremental_mine_sql"]
)
def test_clock_in_a_macro_that_dbt_calls_for_all_is_every_node_s(name):
    """dbt says that the node depends on its own macro, or on none."""
    manifest = copy.deepcopy(MANIFEST)
    manifest["macros"] |= macro("default__where_subquery", "", package="dbt")
    manifest["macros"] |= macro(name, "{{ modules.datetime.date.today() }}")

    found = look(manifest, kept=find_state(manifest))

    assert found["fct"] == found["unique_a"] == "appelle modules"


def test_macro_given_by_its_name_to_another_is_called():
    nodes = copy.deepcopy(NODES)
    nodes[4]["raw_code"] = "select {{ call_it('helper') }}"
    manifest, changed = make_manifest(nodes), make_manifest(nodes)
    changed["macros"] |= macro("helper", "{{ y }}")

    assert look(changed, kept=find_state(manifest))["fct"] == "macro modifiée"


@pytest.mark.parametrize(
    ("value", "reason"),
    [("current_date()", "appelle current_date"), ("{{ env_var('X') }}", "appelle env_var")],
)
def test_clock_in_a_variable_counts_as_that_of_the_node_that_reads_it(value, reason):
    manifest = change("model.p.fct", raw_code="select {{ var('until') }}")

    found = look(manifest, kept=find_state(manifest), variables={"until": [value], "x": ["rand()"]})

    assert found == {"fct": reason, "unique_fct": "après fct"}


def test_model_that_is_not_selected_but_read_as_it_stands_is_judged():
    manifest = change("model.p.stg_a", raw_code="select current_date()")

    found = look(manifest, kept=find_state(manifest), selected=["model.p.fct"])

    assert found == {"fct": "après stg_a"}


@pytest.mark.parametrize(
    "sql",
    [
        "select * from a where id > (select max(id) from {{ this }}) order by id limit 1000",
        "select * from a where day = (select date_add(max(day), interval 1 day) from {{ this }})",
        "select * from a where day <= (select max(day) + 7 from {{ this }})",
    ],
)
def test_incremental_model_that_goes_on_from_its_own_table_is_done_each_time(sql):
    manifest = change("model.p.fct", config={"materialized": "incremental"}, raw_code=sql)

    assert look(manifest, kept=find_state(manifest))["fct"] == "avance à chaque exécution"


def test_incremental_model_that_takes_all_that_is_later_than_its_table_is_not():
    sql = "select * from a where day >= (select max(day) from {{ this }})"
    manifest = change("model.p.fct", config={"materialized": "incremental"}, raw_code=sql)

    assert look(manifest, kept=find_state(manifest)) == {}


def test_seed_with_a_hook_that_reads_another_table_is_loaded_each_time():
    hook = {"post-hook": [{"sql": "delete from {{ this }} where id in (select id from raw.b)"}]}
    manifest = change("seed.p.country", config=hook)

    found = look(manifest, kept=find_state(manifest), commands=("seed",))

    assert found["country"].startswith("nomme raw.b")


def test_test_against_a_table_of_no_ref_is_run_each_time():
    metadata = {"name": "relationships", "kwargs": {"to": "raw.b", "field": "id"}}
    manifest = change("test.p.unique_a", test_metadata=metadata)

    assert look(manifest, kept=find_state(manifest)) == {
        "unique_a": "nomme raw.b sans ref() ni source()"
    }


def test_source_that_only_an_incremental_run_reads_is_read():
    """dbt parses with `is_incremental()` false, and sees neither the source nor the macro."""
    nodes = copy.deepcopy(NODES)
    nodes[4]["raw_code"] = (
        "select 1 {% if is_incremental() %} from {{ source('s', 'late') }} {{ other.days() }}"
        "{% endif %}"
    )
    manifest = make_manifest(nodes)
    late = {"source_name": "s", "name": "late", "relation_name": "`x`.`raw`.`late`"}
    manifest["sources"]["source.p.s.late"] = late
    manifest["macros"] |= macro("days", "1", package="other")
    changed = copy.deepcopy(manifest)
    changed["macros"] |= macro("days", "2", package="other")
    kept = find_state(manifest)

    now = find_state(manifest, **{"source.p.s.late": "TABLE 2"})

    assert look(manifest, kept=kept) == {}
    assert look(manifest, now=now, kept=kept)["fct"] == "source s.late modifiée"
    assert look(changed, kept=kept)["fct"] == "macro modifiée"


def test_table_that_reads_itself_is_built_each_time():
    manifest = change("model.p.fct", raw_code="select max(n) + 1 as n from {{ this }}")

    assert look(manifest, kept=find_state(manifest))["fct"] == "lit sa propre table"


def test_function_is_compared_by_its_routine_and_made_by_build_alone():
    nodes = [*copy.deepcopy(NODES), node("double", kind="function", relation_name="`x`.`dev`.`d`")]
    nodes[4]["depends_on"]["nodes"].append("function.p.double")
    manifest = make_manifest(nodes)
    kept = find_state(manifest)
    now = find_state(manifest, **{"function.p.double": "ROUTINE 2"})

    assert list_relations(manifest)["function.p.double"] == "x.dev.d()"
    assert look(manifest, now=now, kept=kept) == {"fct": "après double", "unique_fct": "après fct"}
    assert "double" in look(manifest, now=now, kept=kept, commands=("build",))


def test_source_that_only_a_hook_reads_under_a_condition_is_read():
    sql = "{% if is_incremental() %}delete from {{ this }} where id in (select id from "
    hook = {"post-hook": [{"sql": sql + "{{ source('s', 'b') }}){% endif %}"}]}
    manifest = change("model.p.by_country", config=hook)
    now = find_state(manifest, **{"source.p.s.b": "TABLE 2"})

    assert look(manifest, now=now, kept=find_state(manifest))["by_country"] == "source s.b modifiée"


def test_clock_in_a_function_that_no_command_makes_is_its_readers():
    function = node("today", kind="function", raw_code="current_timestamp()")
    nodes = [*copy.deepcopy(NODES), function]
    nodes[4]["depends_on"]["nodes"].append("function.p.today")
    manifest = make_manifest(nodes)

    assert look(manifest, kept=find_state(manifest))["fct"] == "après today"
