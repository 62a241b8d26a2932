"""The message of a failed command, and the summary of what a successful one built."""

import pytest

from bi_pipeline.reports.message import (
    describe_failure,
    describe_idle_run,
    describe_news,
    describe_node,
    describe_success,
    describe_warnings,
    render_summary,
)
from bi_pipeline.result import DbtResult, Freshness, NodeResult


def failed(unique_id, message="", *, status="error", **known):
    return NodeResult(unique_id, status, message, **known)


def result(*nodes, command="run", return_code=1, **known):
    return DbtResult(command, return_code, nodes=list(nodes), **known)


@pytest.mark.parametrize("count", [1, 100])
def test_failure_message_gives_the_reason_in_its_first_line(count):
    nodes = [
        failed(f"model.p.n{i}", f"Database Error in model n{i}\n  Reason {i}") for i in range(count)
    ]

    lines = describe_failure(result(*nodes)).splitlines()

    assert lines[0].endswith(": modèle n0 : Reason 0")
    assert len(lines) == (1 if count == 1 else 23)
    assert count == 1 or lines[-1] == "  … et 80 de plus"


def test_reason_comes_before_the_path():
    node = failed("model.p.a", "Database Error in model a\n  Reason.", file="models/a.sql")

    assert describe_failure(result(node)) == "dbt run a échoué : modèle a : Reason (models/a.sql)"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Got 1 result, configured to fail if != 0", "1 ligne en défaut"),
        (
            "Got 2512 results, configured to warn if > 10",
            "2 512 lignes en défaut (avertit si > 10)",
        ),
        ("Got 9 results, configured to fail if >5", "9 lignes en défaut (échoue si >5)"),
    ],
)
def test_rows_of_a_test_are_counted_in_french(message, said):
    node = failed("test.p.unique_a.0123456789", message, status="fail")

    assert describe_node(node) == f"unique_a : {said}"


def test_owner_of_what_failed_is_named_after_the_reason():
    model = failed("model.p.a", "Database Error in model a\n  Reason", owner="équipe ventes")

    assert describe_failure(result(model)) == (
        "dbt run a échoué : modèle a : Reason ; à prévenir : équipe ventes"
    )
    assert "  - a : Reason ; à prévenir : équipe ventes" in describe_failure(
        result(model, failed("test.p.t"))
    )


def test_models_and_tests_are_listed_apart():
    test = failed(
        "test.p.not_null_a_id.0123456789",
        "Got 2 results, configured to fail if != 0",
        status="fail",
    )
    model = failed("model.p.a", "Database Error in model a\n  Reason")

    message = describe_failure(result(test, model))

    assert message.splitlines()[1:] == [
        "Modèles en échec :",
        "  - a : Reason",
        "Tests en échec :",
        "  - not_null_a_id : 2 lignes en défaut",
    ]


# Messages as dbt 1.12.6 and dbt-bigquery 1.12.1 write them.
CONTRACT = """\
Compilation Error in model con (models/con.sql)
  This model has an enforced contract that failed.
  Please ensure the name, data_type, and number of columns in your contract match the columns.

  | column_name | definition_type | contract_type | mismatch_reason    |
  | ----------- | --------------- | ------------- | ------------------ |
  | id          | INT64           | STRING        | data type mismatch |


  > in macro assert_columns_equivalent (macros/relations/column/columns_spec_ddl.sql)"""
UNIT_TEST_ERROR = """\
Runtime Error in unit_test two_keeps (models/two.yml)
  An error occurred during execution of unit test 'two_keeps'. There may be an error in the unit \
test definition: check the data types.
   Database Error
    Unrecognized name: nope at [1:8]"""
DIFFERENCE = (
    "\n\nactual differs from expected:\n\n@@ ,id,name\r\n   ,1 ,a\r\n+++,2 ,b\r\n---,3 ,c\r\n\n"
)
STALE = Freshness("2014-01-01T04:00:00+00:00", 406_964_940.0, (12, "hour"))
BATCH_ERROR = "Exception on worker thread. Database Error\n  Unrecognized name: nope at [1:8]\n"
HOOK_ERROR = """\
Compilation Error in operation p-on-run-end-0 (./dbt_project.yml)
  'nope' is undefined."""
REFUSED_VERSION = """\
Runtime Error
  This version of dbt is not supported with the 'dbt_utils' package.
    Installed version of dbt: =1.12.6
    Required version of dbt for 'dbt_utils': ['>=2.0.0']
  Check for a different version of the 'dbt_utils' package, or run dbt again with --no-version-check
"""
UNRESOLVED_HUB = (
    "HTTPSConnectionPool(host='hub.getdbt.com', port=443): Max retries exceeded with url: "
    "/api/v1/index.json (Caused by NameResolutionError(\"HTTPSConnection(host='hub.getdbt.com', "
    "port=443): Failed to resolve 'hub.getdbt.com' ([Errno -2] Name or service not known)\"))"
)
UNREACHABLE_HUB = f"External connection exception occurred: {UNRESOLVED_HUB}"
BATCHES = [("2013-01-02T00:00:00+00:00", "2013-01-03T00:00:00+00:00")]


@pytest.mark.parametrize(
    ("node", "lines"),
    [
        (
            failed("model.p.con", CONTRACT),
            [
                "modèle con : This model has an enforced contract that failed",
                "  | column_name | definition_type | contract_type | mismatch_reason    |",
                "  | ----------- | --------------- | ------------- | ------------------ |",
                "  | id          | INT64           | STRING        | data type mismatch |",
            ],
        ),
        (
            failed("unit_test.p.two.two_keeps", DIFFERENCE, status="fail"),
            [
                "test unitaire two.two_keeps : actual differs from expected:",
                *("  @@ ,id,name", "  ,1 ,a", "  +++,2 ,b", "  ---,3 ,c"),
            ],
        ),
        (
            failed("unit_test.p.two.two_keeps", UNIT_TEST_ERROR),
            ["test unitaire two.two_keeps : Unrecognized name: nope at [1:8]"],
        ),
        (
            failed("model.p.b", "Exceeded rate limits: too many\n\nLocation: EU\nJob ID: x"),
            [
                "modèle b : limite de débit de BigQuery atteinte (too many) : baissez "
                "DBT_THREADS, ou relancez plus tard"
            ],
        ),
        (
            failed("source.p.raw.flights", freshness=STALE),
            [
                "source raw.flights : dernière donnée du 2014-01-01 04:00, il y a 4710 j ; "
                "limite : 12 h"
            ],
        ),
        (
            failed("model.p.days", status="partial success", failed_batches=BATCHES),
            ["modèle days : lots en échec : 2013-01-02 00:00 → 2013-01-03 00:00"],
        ),
        (
            failed("model.p.days", BATCH_ERROR, failed_batches=BATCHES),
            [
                "modèle days : lots en échec : 2013-01-02 00:00 → 2013-01-03 00:00 ; "
                "Unrecognized name: nope at [1:8]"
            ],
        ),
        (
            failed("model.p.days", BATCH_ERROR, failed_batches=BATCHES, missing_seed="colours"),
            [
                "modèle days : lots en échec : 2013-01-02 00:00 → 2013-01-03 00:00 ; colours "
                "est un seed de ce projet, pas encore chargé : --commands seed run test"
            ],
        ),
        (
            failed("model.p.a", "Not found: Table p:d.colours was", missing_seed="colours"),
            [
                "modèle a : colours est un seed de ce projet, pas encore chargé : "
                "--commands seed run test"
            ],
        ),
    ],
    ids=[
        "contract",
        "unit test",
        "unit test that errs",
        "no title",
        "stale source",
        "microbatch",
        "microbatch with its reason",
        "microbatch of a seed that is not loaded",
        "seed that is not loaded",
    ],
)
def test_reason_is_the_one_that_helps(node, lines):
    message = describe_failure(result(node))

    assert message.removeprefix("dbt run a échoué : ").splitlines() == lines


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"return_code": -9}, "le processus dbt a été tué (signal 9)"),
        ({"return_code": 2}, "code de sortie 2, voir dbt/logs/dbt.log"),
        (
            {"errors": ["[ERROR]: Encountered an error:\nCompilation Error\n  no 'x'"]},
            "dbt run a échoué : Compilation Error : no 'x'",
        ),
        (
            {"errors": [f"[ERROR]: Encountered an error:\n{HOOK_ERROR}"]},
            "dbt run a échoué : opération p-on-run-end-0 : 'nope' is undefined (dbt_project.yml)",
        ),
        (
            {"errors": [f"[ERROR]: Encountered an error:\n{REFUSED_VERSION}"]},
            "dbt run a échoué : dbt_utils refuse dbt 1.12.6 (require-dbt-version : ['>=2.0.0']) :",
        ),
        (
            {"errors": [f"[ERROR]: Encountered an error:\n{UNREACHABLE_HUB}"]},
            "dbt run a échoué : hub.getdbt.com, d'où dbt prend ses packages, est injoignable",
        ),
        (
            {"errors": ["[ERROR]: Encountered an error:\n503 GET http://x: Unavailable"]},
            "dbt run a échoué : 503 GET http://x: Unavailable",
        ),
        ({"errors": ["[Errno 28] No space left on device"]}, "Vérifiez la place libre"),
    ],
)
def test_failure_without_a_node_says_why(known, words):
    assert words in describe_failure(result(**known))


def done(command, *nodes):
    return DbtResult(command, 0, nodes=list(nodes))


def idle(command, event):
    return DbtResult(command, 0, idle_events={event})


OK = NodeResult("model.p.a", "success")


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([done("run", OK), done("test", OK)], "dbt run, dbt test : réussi."),
        (
            [done("run", OK), idle("test", "NothingToDo")],
            "dbt run : réussi. dbt test : aucun test.",
        ),
        ([idle("test", "NothingToDo")], "dbt test : aucun test."),
        ([done("deps"), done("run", OK)], "dbt deps, dbt run : réussi."),
        (
            [idle("seed", "NoNodesForSelectionCriteria"), done("run", OK)],
            "dbt run : réussi. dbt seed : aucun seed.",
        ),
    ],
)
def test_command_that_had_nothing_to_do_is_told_from_one_that_succeeded(results, said):
    assert describe_idle_run(results) == ""
    assert describe_success(results) == said


@pytest.mark.parametrize(
    "results",
    [
        [idle("run", "NoNodesForSelectionCriteria"), idle("test", "NoNodesForSelectionCriteria")],
        # A default selector that names no node, or a project without a model.
        [done("deps"), idle("run", "NothingToDo"), idle("test", "NothingToDo")],
    ],
)
def test_run_of_which_no_command_had_anything_to_do_is_said(results):
    assert "dbt run, dbt test : rien à faire, la sélection" in describe_idle_run(results)


def built(relation, *, kind="model", **response):
    return NodeResult(f"{kind}.p.x", "success", relation=relation, response=response)


def test_summary_has_the_work_of_every_command_each_relation_in_its_dataset():
    seeds = result(
        built("dev.colours", kind="seed", code="INSERT", rows_affected=1), command="seed"
    )
    models = result(
        built("dev_staging.a", code="CREATE VIEW"),
        built("dev.b", code="MERGE", rows_affected=1200),
        NodeResult("test.p.t", "pass"),
        # A microbatch: dbt keeps no answer of BigQuery for it, hence neither kind nor rows.
        built("dev.days"),
        NodeResult("model.p.c", "skipped", relation="dev.c"),
    )

    assert render_summary([seeds, models], "dev").splitlines() == [
        "Construit (cible dev) :",
        "  dev.colours    seed                 1 ligne écrite",
        "  dev_staging.a  vue",
        "  dev.b          incrémental      1 200 lignes écrites",
        "  dev.days",
    ]


def test_long_summary_is_cut_and_the_rest_counted():
    lines = render_summary([result(*(built(f"dev.t{i}") for i in range(80)))], "dev").splitlines()

    assert len(lines) == 52
    assert lines[-1] == "  … et 30 de plus"


def test_nothing_built_says_nothing():
    assert render_summary([result(NodeResult("test.p.t", "pass"))], "dev") == ""


@pytest.mark.parametrize("command", ["compile", "docs generate"])
def test_what_was_only_compiled_is_not_built(command):
    assert render_summary([result(built("dev.orders"), command=command)], "dev") == ""


def test_bill_far_above_the_usual_is_a_warning():
    drifted = result(drift="dbt run : BigQuery a facturé 10,0 Gio.")

    assert describe_warnings([drifted], {}).splitlines() == [
        "Avertissements :",
        "  - dbt run : BigQuery a facturé 10,0 Gio.",
    ]


def test_what_dbt_warned_of_is_listed_and_nothing_else():
    old = failed("source.p.raw.flights", freshness=STALE, status="warn")
    test = failed(
        "test.p.not_null_a_id.0123456789",
        "Got 2512 results, configured to warn if != 0",
        status="warn",
    )
    fine = failed("model.p.a", status="success")

    message = describe_warnings([result(fine, test), result(old)], {})

    assert message.splitlines()[:2] == [
        "Avertissements :",
        "  - not_null_a_id : 2 512 lignes en défaut",
    ]
    assert message.splitlines()[2].startswith("  - raw.flights : dernière donnée du 2014-01-01")
    assert len(message.splitlines()) == 3
    assert describe_warnings([result(fine)], {}) == ""


def test_warning_of_an_earlier_run_holds_until_its_node_is_done_again():
    fine = failed("model.p.a", status="success")
    earlier = {"model.p.a": "a : old", "model.p.b": "b : old"}

    assert describe_warnings([result(fine)], earlier).splitlines() == [
        "Avertissements :",
        "  - b : old",
    ]


SINCE = "2026-11-27T09:05+01:00"
DONE = {"model.p.a", "model.p.b", "test.p.unique_a.0123456789", "unit_test.p.a.sums"}


def test_nothing_new_is_said_with_the_moment_it_is_compared_with():
    assert describe_news({}, DONE, SINCE) == (
        "Rien de neuf depuis le 27/11 à 9 h 05 : 0 modèle sur 2, 0 test sur 2, aucune requête."
    )


def test_models_that_are_new_are_named_with_the_reason():
    reasons = {"model.p.a": "source raw.x modifiée", "test.p.unique_a.0123456789": "après a"}

    assert describe_news(reasons, DONE, SINCE).splitlines() == [
        "De neuf depuis le 27/11 à 9 h 05 : 1 modèle sur 2, 1 test sur 2.",
        "  - a : source raw.x modifiée",
    ]


def test_tests_are_named_when_no_model_is_new():
    reasons = {"test.p.unique_a.0123456789": "SQL modifié"}

    assert describe_news(reasons, DONE, SINCE).splitlines()[1:] == ["  - unique_a : SQL modifié"]


def test_reason_of_everything_is_said_once():
    reasons = dict.fromkeys(DONE, "autre version de dbt")

    assert describe_news(reasons, DONE, "") == (
        "Tout est à faire (2 modèles sur 2, 2 tests sur 2) : autre version de dbt."
    )


def test_long_list_of_news_is_cut_and_the_rest_counted():
    reasons = {f"model.p.m{i}": "SQL modifié" for i in range(30)}

    lines = describe_news(reasons, reasons.keys() | DONE, SINCE).splitlines()

    assert len(lines) == 22
    assert lines[-1] == "  … et 10 de plus"
