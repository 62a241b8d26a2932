"""The terminal has one line for a bill."""

import pytest

from bi_pipeline.reports.bills import describe_bill, describe_overspending
from bi_pipeline.result import Bill

MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("bill", "line"),
    [
        (Bill(), "Facturé : rien"),
        (Bill(2_831_155, location="EU"), "Facturé : 2,7 Mio, moins d'un centime"),
        (Bill(7 * GIB, location="EU"), "Facturé : 7,0 Gio, 0,04 USD"),
        (Bill(7 * GIB, location="mars-1"), "Facturé : 7,0 Gio"),
        (
            Bill(7 * GIB, is_whole=False, location="EU"),
            "Facturé : au moins 7,0 Gio, au moins 0,04 USD",
        ),
        # The rest may cost more than a cent.
        (Bill(MIB, is_whole=False, location="EU"), "Facturé : au moins 1,0 Mio"),
        (Bill(is_whole=False), ""),
    ],
)
def test_summary_says_the_bytes_and_what_they_cost(bill, line):
    assert describe_bill(bill, is_local=False) == line


def test_bigquery_on_this_machine_bills_nothing_and_nothing_is_said():
    assert describe_bill(Bill(), is_local=True) == ""


@pytest.mark.parametrize("maximum", [None, GIB])
def test_run_that_billed_no_more_than_its_budget_may_go_on(maximum):
    assert describe_overspending(Bill(GIB, is_whole=False), maximum) == ""


def test_run_that_billed_more_than_its_budget_is_told_both_and_the_setting():
    said = describe_overspending(Bill(3 * GIB, is_whole=False), GIB)

    assert "a facturé au moins 3,0 Gio" in said
    assert "son budget est de 1,0 Gio" in said
    assert "Relevez DBT_RUN_MAXIMUM_BYTES_BILLED (1073741824)" in said
