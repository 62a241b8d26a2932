"""A command that bills far more than usual is told, and no other."""

import pytest

from bi_pipeline.reports.drift import describe_drift
from bi_pipeline.reports.page import PastRun
from bi_pipeline.result import Bill, DbtResult, NodeResult

GIB = 2**30


def before(*billed, failed=0, nodes=2):
    """Return past runs that billed so many bytes, the last first."""
    return [
        PastRun(1000.0 - number, "", failed, each, 1.0, nodes) for number, each in enumerate(billed)
    ]


def result(bill, *of_nodes, **arguments):
    nodes = [
        NodeResult(f"model.p.m{number}", "success", bill=each)
        for number, each in enumerate(of_nodes)
    ]
    return DbtResult("run", 0, nodes=nodes, bill=bill, arguments=arguments)


def test_bill_far_above_the_usual_is_told_with_the_model_that_makes_most_of_it():
    said = describe_drift(
        result(Bill(10 * GIB), Bill(2 * GIB), Bill(6 * GIB)), before(GIB, 3 * GIB, 2 * GIB)
    )

    assert said == (
        "dbt run : BigQuery a facturé 10,0 Gio, et d'habitude 2,0 Gio (médiane de ses 3 dernières "
        "réussites) ; m1 à lui seul : 6,0 Gio."
    )


def test_bill_that_no_model_makes_alone_names_none():
    said = describe_drift(
        result(Bill(10 * GIB, is_whole=False), Bill(5 * GIB), Bill(5 * GIB)), before(0, 0, 0)
    )

    assert said == (
        "dbt run : BigQuery a facturé au moins 10,0 Gio, et d'habitude 0 o (médiane de ses 3 "
        "dernières réussites)."
    )


def test_run_of_a_part_does_not_say_what_a_whole_one_bills():
    whole = result(Bill(10 * GIB), *[Bill(GIB)] * 10)

    assert describe_drift(whole, before(0, 0, 0, nodes=4)) == ""
    assert describe_drift(whole, before(0, 0, 0, nodes=5)) != ""


def test_full_rebuild_is_told_as_what_it_is():
    said = describe_drift(result(Bill(10 * GIB), full_refresh=True), before(GIB, GIB, GIB))

    assert said.endswith(" C'est attendu avec --full-refresh.")


@pytest.mark.parametrize(
    ("billed", "history"),
    [
        (3 * GIB, before(GIB, GIB, GIB)),
        (GIB, before(0, 0, 0)),
        (10 * GIB, before(GIB, GIB)),
        (10 * GIB, [*before(GIB, GIB), *before(GIB, GIB, failed=1)]),
        # A bill that has grown for good is usual after four runs.
        (10 * GIB, before(*[10 * GIB] * 4, *[GIB] * 16)),
    ],
    ids=["three times", "one GiB", "too few runs", "too few successes", "four runs"],
)
def test_usual_bill_is_not_told(billed, history):
    assert describe_drift(result(Bill(billed)), history) == ""
