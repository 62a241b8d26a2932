"""An estimate is said as a table and a sentence."""

import pytest

from bi_pipeline.reports.estimate import describe_estimate, render_estimate
from bi_pipeline.result import Bill, Estimate, NodeEstimate

GIB = 2**30
PYTHON = NodeEstimate("model.p.python", reason="modèle Python, que BigQuery n'estime pas")


NOTHING = Bill()


def estimate(*nodes, location="EU", spent=NOTHING, limit=None):
    return Estimate(list(nodes), location, spent, limit)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            estimate(NodeEstimate("model.p.a", 2 * GIB), NodeEstimate("model.p.b", 0)),
            "Estimation : au moins 2,0 Gio, 0,0122 USD à la demande, pour 2 nœuds ; "
            "rien n'a été facturé.",
        ),
        (
            estimate(NodeEstimate("model.p.a", GIB, "au plus"), PYTHON, spent=Bill(10 * 2**20)),
            "Estimation : environ 1,0 Gio, 0,0061 USD à la demande, pour 1 nœud ; 1 nœud inconnu ; "
            "les macros ont interrogé BigQuery à la compilation, 10,0 Mio facturés.",
        ),
        (
            estimate(
                NodeEstimate("model.p.a", GIB), location="europe-west9", spent=Bill(is_whole=False)
            ),
            "Estimation : au moins 1,0 Gio (le prix à la demande en europe-west9 est sur "
            "https://cloud.google.com/bigquery/pricing), pour 1 nœud ; seules les requêtes que des "
            "macros font à la compilation ont pu être facturées.",
        ),
        (
            estimate(NodeEstimate("model.p.a", 0), location=""),
            "Estimation : au moins 0 o, pour 1 nœud ; rien n'a été facturé.",
        ),
    ],
)
def test_sentence_has_the_sum_its_price_and_what_the_estimate_itself_was_billed(given, sentence):
    assert describe_estimate(given) == sentence


def test_nodes_are_listed_the_largest_first_and_the_unknown_last():
    given = estimate(
        PYTHON,
        NodeEstimate("model.p.small", 10 * 2**20),
        NodeEstimate("model.p.large", 3 * GIB, "au moins"),
        NodeEstimate("model.p.seen", 0),
        NodeEstimate("snapshot.p.empty", 0, "au moins"),
        limit=GIB,
    )

    assert render_estimate(given, "prod").splitlines() == [
        "Estimation (cible prod) :",
        "  large   au moins    3,0 Gio  0,0183 USD",
        "  small              10,0 Mio  0,0001 USD",
        "  seen    rien",
        "  empty   au moins        0 o  0,0000 USD",
        "  python  inconnu : modèle Python, que BigQuery n'estime pas",
        "Au-delà de DBT_BIGQUERY_MAXIMUM_BYTES_BILLED (1,0 Gio), BigQuery les refuserait : large",
    ]


def test_long_list_is_cut_and_the_rest_counted():
    given = estimate(*(NodeEstimate(f"model.p.m{number}", GIB) for number in range(60)))

    lines = render_estimate(given, "dev").splitlines()

    assert len(lines) == 52
    assert lines[-1] == "  … et 10 de plus, 10,0 Gio en tout"
