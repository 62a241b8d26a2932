"""The result of a command, and which failures are worth another try."""

from dataclasses import replace

import pytest

from bi_pipeline.result import Bill, DbtResult, NodeResult

# Messages as dbt 1.12.6 and dbt-bigquery 1.12.1 wrote them, the fault made by a proxy.
IN = "Database Error in model second (models/second.sql)\n  "
JOB = "\n  \n  Location: US\n  Job ID: 8a66eb51\n  \n  compiled code at second.sql"
PASSING = {
    "backend error": "500 Error encountered during execution.; reason: backendError, message: "
    "Error encountered during execution., domain: global",
    "gateway timeout": "504 POST http://127.0.0.1:1/bigquery/v2/projects/p/jobs?prettyPrint=false: "
    "The gateway gave up.",
    "unavailable": "503 GET http://127.0.0.1:1/bigquery/v2/projects/p/datasets: Unavailable",
    "too many requests": "429 POST http://127.0.0.1:1/bigquery/v2/projects/p/jobs: Too many.",
    "bad gateway": "502 GET http://127.0.0.1:1/bigquery/v2/projects/p/datasets: Bad Gateway",
    "rate limit": "Exceeded rate limits: too many queries.",
    "reset": "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
    "refused": "HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: /x",
}
PERMANENT = {
    "denied": "Access Denied: Table second",
    "quota": "Quota exceeded: too many table updates",
    "syntax": "Syntax error: Unexpected keyword FROM at [3:8]",
    "time limit": "500 Operation timed out after 6.0 hours.; reason: timeout, message: Operation "
    "timed out after 6.0 hours., domain: global",
    "value": "Bad int64 value: 503 GET http",
    "no message": "",
}


def node(name="second", status="error", message=PASSING["backend error"]):
    return NodeResult(f"model.p.{name}", status, f"{IN}{message}{JOB}")


def result(*nodes, return_code=1, **known):
    return DbtResult("run", return_code, nodes=list(nodes), **known)


@pytest.mark.parametrize("message", PASSING.values(), ids=PASSING)
def test_fault_of_bigquery_or_the_network_passes(message):
    assert result(node(message=message)).hit_a_passing_fault


@pytest.mark.parametrize("message", PERMANENT.values(), ids=PERMANENT)
def test_fault_of_the_query_or_a_right_does_not_pass(message):
    assert not result(node(message=message)).hit_a_passing_fault


def test_failed_data_test_never_passes_whatever_it_says():
    assert not result(node(status="fail", message=PASSING["unavailable"])).hit_a_passing_fault


def test_one_permanent_failure_is_enough_to_stop():
    assert not result(node("a"), node("b", message="Syntax error")).hit_a_passing_fault


def test_node_skipped_after_a_fault_does_not_count():
    assert result(node("a"), node("b", "skipped", "")).hit_a_passing_fault


@pytest.mark.parametrize(
    ("error", "passes"),
    [(PASSING["unavailable"], True), (PASSING["refused"], True), ("Compilation Error", False)],
)
def test_fault_before_the_first_node_is_read_in_the_log(error, passes):
    assert result(errors=[error]).hit_a_passing_fault is passes


def test_success_hit_no_fault_even_after_an_error_in_the_log():
    assert not result(return_code=0, errors=[PASSING["reset"]]).hit_a_passing_fault


@pytest.mark.parametrize(
    ("command", "events", "nodes", "nothing", "empty"),
    [
        ("run", {"NothingToDo"}, [], True, True),
        ("test", {"NothingToDo"}, [], True, False),
        ("test", {"NothingToDo", "NoNodesForSelectionCriteria"}, [], True, True),
        # One of two selections names no node.
        ("run", {"NoNodesForSelectionCriteria"}, [node(status="success")], False, False),
        ("deps", set(), [], False, False),
    ],
)
def test_command_without_a_node_is_known(command, events, nodes, nothing, empty):
    done = DbtResult(command, 0, nodes=nodes, idle_events=events)

    assert (done.did_nothing, done.selection_is_empty) == (nothing, empty)


HOOK = NodeResult("operation.p.p-on-run-end-0", "error", PASSING["rate limit"])


def test_hook_that_failed_is_a_failure_whatever_the_exit_code_of_the_retry_that_left_it_out():
    whole = result(node("a", "success"), HOOK).merge_retry(result(return_code=0))

    assert not whole.succeeded


@pytest.mark.parametrize(
    ("nodes", "taken_up"),
    [
        ([node("a", "success"), HOOK], False),
        ([node("a"), HOOK], True),
        ([node("a", "skipped"), HOOK], True),
        ([node("a", "success")], False),
        ([], False),
    ],
)
def test_retry_of_dbt_takes_up_all_but_hooks(nodes, taken_up):
    assert result(*nodes).can_be_taken_up is taken_up


def test_result_of_a_retry_is_that_of_the_whole():
    first = result(node("a", "success"), node("b"), node("c", "skipped"), seconds=2, errors=["x"])
    retry = result(node("b", "success"), node("c", "success"), return_code=0, seconds=1)

    whole = first.merge_retry(retry)

    assert whole.succeeded
    assert [(n.name, n.status) for n in whole.nodes] == [
        *(("a", "success"), ("b", "success"), ("c", "success"))
    ]
    assert whole.seconds == 3


def test_bill_of_a_retry_adds_to_that_of_the_attempts_before():
    redone = replace(node("b"), bill=Bill(5))
    first = result(replace(node("a", "success"), bill=Bill(1)), redone, bill=Bill(10))
    retry = result(replace(redone, bill=Bill(2, is_whole=False)), bill=Bill(3, is_whole=False))

    whole = first.merge_retry(retry)

    assert whole.bill == Bill(13, is_whole=False)
    assert [node.bill for node in whole.nodes] == [Bill(1), Bill(7, is_whole=False)]


def test_retry_that_stopped_before_the_first_node_keeps_what_was_known():
    whole = result(node("a")).merge_retry(result(errors=["503 GET http://x: no"]))

    assert [n.status for n in whole.nodes] == ["error"]
    assert whole.hit_a_passing_fault


@pytest.mark.parametrize(
    ("unique_id", "name", "kind"),
    [
        ("model.p.orders", "orders", "modèle"),
        ("model.p.orders.v2", "orders.v2", "modèle"),
        ("test.p.not_null_orders_id.0123456789", "not_null_orders_id", "test"),
        ("unit_test.p.orders.adds_up", "orders.adds_up", "test unitaire"),
        ("source.p.raw.flights", "raw.flights", "source"),
        ("function.p.double", "double", "fonction"),
        ("exposure.p.x", "x", "nœud"),
    ],
)
def test_node_is_called_as_its_file_does(unique_id, name, kind):
    result = NodeResult(unique_id, "success")

    assert (result.name, result.kind) == (name, kind)
