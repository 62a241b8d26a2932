"""Says in French what BigQuery billed, and what that costs."""

from __future__ import annotations

from bi_pipeline.reports.prices import BYTES_PER_TIB, ON_DEMAND_USD_PER_TIB
from bi_pipeline.result import Bill

CENT = 0.01


def compute_cost(bill: Bill) -> float | None:
    """Return what the bytes cost on demand, in USD; None for a location without a known price."""
    price = ON_DEMAND_USD_PER_TIB.get(bill.location)
    return None if price is None else bill.billed / BYTES_PER_TIB * price


def describe_bill(bill: Bill, *, is_local: bool) -> str:
    """Return the line of the summary on the terminal; empty when no byte is known.

    `is_local` says whether it is the BigQuery on this machine that billed: « rien » of it would
    say nothing.
    """
    if not bill.billed:
        return "" if is_local or not bill.is_whole else "Facturé : rien"
    cost, price = compute_cost(bill), ""
    if cost is not None and cost >= CENT:
        price = f", {say_at_least(bill)}{format_decimal(cost, 2)} USD"
    elif cost is not None and bill.is_whole:
        price = ", moins d'un centime"
    return f"Facturé : {format_bill(bill)}{price}"


def describe_overspending(bill: Bill, maximum: int | None) -> str:
    """Return that a run has billed more bytes than it may; empty while it may go on."""
    if maximum is None or bill.billed <= maximum:
        return ""
    return (
        f"BigQuery a facturé {format_bill(bill)} à cette exécution, et son budget est de "
        f"{format_size(maximum)}. Relevez DBT_RUN_MAXIMUM_BYTES_BILLED ({maximum}), ou voyez dans "
        "l'artefact ce qui a coûté."
    )


def format_bill(bill: Bill) -> str:
    """Return the bytes of a bill, as a lower bound when it is not whole."""
    return f"{say_at_least(bill)}{format_size(bill.billed)}"


def say_at_least(bill: Bill) -> str:
    """Return the words before a number that the bill may exceed; empty when it is whole."""
    return "" if bill.is_whole else "au moins "


def format_size(number: int) -> str:
    """Return a number of bytes in French binary units."""
    value = float(number)
    for unit in ("o", "Kio", "Mio", "Gio"):
        if value < 1024:
            return f"{format_decimal(value)} {unit}" if unit != "o" else f"{number} o"
        value /= 1024
    return f"{format_decimal(value)} Tio"


def format_count(number: int) -> str:
    """Return a whole number with a space, that no line ends on, between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def format_decimal(value: float, digits: int = 1) -> str:
    """Return a number with a decimal comma."""
    return f"{value:.{digits}f}".replace(".", ",")
