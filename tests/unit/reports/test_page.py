"""The Markdown of the artifact, from what a command did."""

from dataclasses import replace

import pytest

from bi_pipeline.reports.page import (
    PastRun,
    add_to_history,
    dump_history,
    escape,
    load_history,
    render_markdown,
    render_news,
)
from bi_pipeline.result import INTERRUPTED, Bill, DbtResult, FailingRows, NodeResult
from bi_pipeline.settings import PipelineSettings

SETTINGS = PipelineSettings.from_mapping(
    {"DBT_BIGQUERY_DATASET_DEV": "mon_dev", "DBT_BIGQUERY_DATASET_PROD": "mon_prod"}
)


def node(name, *, seconds=1.0, status="success", message="", **response):
    return NodeResult(
        f"model.projet.{name}",
        status,
        message,
        seconds,
        span=(1000.0, 1000.0 + seconds),
        relation=f"mon_dev.{name}",
        response=response,
    )


def result(*nodes, return_code=0):
    return DbtResult("run", return_code, nodes=list(nodes), seconds=12.34)


@pytest.mark.parametrize(
    ("bill", "cost"),
    [
        (
            Bill(2**40, location="EU"),
            "1,0 Tio, soit 6,2500 USD à la demande (6,25 USD par Tio, EU), toutes",
        ),
        (
            Bill(2**40, location="europe-west1"),
            "1,0 Tio, soit 7,5000 USD à la demande (7,5 USD par Tio, europe-",
        ),
        # Three quarters of a TiB.
        (
            Bill(3 * 2**38, is_whole=False, location="US"),
            "au moins 768,0 Gio, soit au moins 4,6875 USD à la demande (6,25 USD",
        ),
        (
            Bill(2**40, location="mars-1"),
            "1,0 Tio, le prix à la demande en mars-1 est sur [https://cloud.",
        ),
    ],
)
def test_cost_is_that_of_all_the_jobs_at_the_price_of_the_region(bill, cost):
    text = render_markdown(replace(result(node("a")), bill=bill), SETTINGS, [], [])

    assert f"Facturé : {cost}" in text


def test_row_of_a_node_has_all_its_columns():
    job = {"project_id": "p", "location": "EU", "job_id": "j", "bytes_billed": 5}
    done = node("a", seconds=2.5, rows_affected=7, slot_ms=3400, **job)

    text = render_markdown(result(replace(done, bill=Bill(2**20))), SETTINGS, [], [])

    link = "https://console.cloud.google.com/bigquery?project=p&j=bq:EU:j&page=queryresults"
    assert f"| réussi | [a]({link}) | 2,5 s | 7 | 1,0 Mio | 3,4 s |" in text


def test_line_of_a_node_says_at_least_when_a_query_may_be_missing():
    done = replace(node("a"), bill=Bill(2**20, is_whole=False))

    text = render_markdown(result(done), SETTINGS, [], [])

    assert "| réussi | a | 1,0 s |  | au moins 1,0 Mio |" in text


def test_lines_of_a_test_are_those_that_fail_it():
    test = NodeResult("test.p.not_null_a", "warn", "x", response={"rows_affected": 1})

    text = render_markdown(result(replace(test, failures=2512)), SETTINGS, [], [])

    assert "| avertissement | not_null_a | 0,0 s | 2\u202f512 |" in text


def test_what_failed_warned_or_was_skipped_comes_first_with_its_reason():
    failed = node("a", status="error", message="Database Error in model a\n  No such column")
    warned = node("t", status="warn", message="Got 2 results")
    warned = replace(warned, unique_id="test.p.t", owner="équipe ventes")
    skipped = replace(node("b", status="skipped"), blocked_by="model.p.a")
    nodes = [*(node(f"n{i}", seconds=9.0) for i in range(60)), skipped, warned, failed]

    text = render_markdown(result(*nodes, return_code=1), SETTINGS, [], [])

    _, _, after = text.partition("## À voir\n\n")
    assert after.splitlines()[:3] == [
        "- erreur : **a**, No such column",
        "- avertissement : **t**, Got 2 results ; à prévenir : équipe ventes",
        "- 1 sauté après l'échec de a : b",
    ]
    assert text.index("## À voir") < text.index("n0")
    table = text[text.index("## Nœuds") :].splitlines()
    assert table[4].startswith("| erreur | a |")
    assert table[5].startswith("| avertissement | t |")


def test_what_is_skipped_by_the_hundred_is_cut_and_counted():
    skipped = [replace(node(f"n{i}", status="skipped"), blocked_by="model.p.a") for i in range(250)]

    text = render_markdown(
        result(node("a", status="error", message="x"), *skipped, return_code=1), SETTINGS, [], []
    )

    assert "\n- 250 sautés après l'échec de a : n0, n1, n2, " in text
    assert ", n18, n19 et 230 de plus\n" in text
    assert "nœuds plus courts" not in text


def test_every_row_of_a_table_has_as_many_cells_as_its_header():
    history = run_of(run_of([], commit="abc"), status="error")
    page = render_markdown(result(node("a"), node("a | b", job_id="j")), SETTINGS, [], history)

    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("| ")]

    assert [len(rows) for rows in blocks] == [4, 4]
    for rows in blocks:
        assert {row.count("|") for row in rows} == {rows[0].count("|")}


def test_slowest_node_comes_first_with_the_longest_bar():
    text = render_markdown(
        result(node("short", seconds=1), node("long", seconds=4)), SETTINGS, [], []
    )

    bars = [line for line in text.splitlines() if " s  " in line]
    assert [line.split()[-1] for line in bars] == ["long", "short"]
    assert [line.count("█") for line in bars] == [16, 4]


def test_long_name_is_cut_in_its_middle_and_leaves_its_bar_in_sight():
    name = "relationships_stg_flights_destination_code__airport_code__ref_stg_airports_"

    text = render_markdown(result(node(name)), SETTINGS, [], [])

    assert name not in text
    assert "█" * 16 + "    1,0 s  relationships_stg_…ref_stg_airports_" in text
    assert r"| réussi | relationships_stg\_…ref_stg_airports\_ |" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b\nc", "a &#124; b c"),
        ("_a_b_", r"\_a_b\_"),
        ("<b>*x* [y](z) `t`", r"\<b\>\*x\* \[y\](z) \`t\`"),
    ],
)
def test_text_is_shown_as_it_is(text, shown):
    assert escape(text) == shown


def test_thousands_of_nodes_stay_readable():
    nodes = [node(f"n{i}", seconds=1 + i / 1000) for i in range(3000)]

    text = render_markdown(result(*nodes), SETTINGS, [], [])

    assert "3000 nœuds : réussi 3000." in text
    assert len(text.splitlines()) < 150
    assert "| réussi | n2999 |" in text
    assert "… et 2950 nœuds plus courts" in text


def test_failed_node_shows_the_whole_message():
    message = "Database Error in model a (models/a.sql)\n  Syntax error at [1:8]\n  compiled at x"

    text = render_markdown(
        result(node("a", status="error", message=message), return_code=1), SETTINGS, [], []
    )

    assert text.startswith("# dbt run : échoué")
    assert message in text


def test_failed_node_shows_what_its_message_means_above_it():
    failed = replace(node("a", status="error", message="Not found"), missing_seed="colours")

    text = render_markdown(result(failed, return_code=1), SETTINGS, [], [])

    assert "\n\nÀ savoir : colours est un seed de ce projet, pas encore chargé" in text
    assert text.index("pas encore chargé") < text.index("Not found")


def test_failed_node_shows_its_sql_in_a_block_that_it_cannot_close():
    sql = "\n\n\nselect 1\n\n\n~~~~\n# not a title"
    failed = replace(node("a", status="error", message="x"), compiled_code=sql)

    text = render_markdown(result(failed, return_code=1), SETTINGS, [], [])

    assert "~~~~~sql\nselect 1\n\n~~~~\n# not a title\n~~~~~" in text


def test_long_sql_is_cut():
    failed = replace(node("a", status="error", message="x"), compiled_code="select 1\n" * 9000)

    text = render_markdown(result(failed, return_code=1), SETTINGS, [], [])

    assert "Son SQL compilé (le début, 4\u202f000 caractères sur 80\u202f999) :" in text
    assert len(text) < 6000


ROWS = FailingRows(["id", "no|te"], [["1", "a | b\nc"], ["NULL", "x" * 200]], bill=Bill(2**20))


@pytest.mark.parametrize("status", ["fail", "warn"])
def test_first_rows_that_fail_a_test_are_a_table(status):
    test = NodeResult("test.p.t", status, "x", failures=2512, failing_rows=ROWS)

    text = render_markdown(result(test, return_code=int(status == "fail")), SETTINGS, [], [])

    _, found, table = text.partition("2 lignes fautives sur 2\u202f512, lues pour 1,0 Mio :\n\n")
    assert found
    assert table.splitlines()[:4] == [
        "| id | no&#124;te |",
        "| --- | --- |",
        "| 1 | a &#124; b c |",
        f"| NULL | {'x' * 59}… |",
    ]


def test_rows_that_bigquery_refuses_are_a_line():
    refused = FailingRows(refusal="Query exceeded limit for bytes billed")
    test = NodeResult("test.p.t", "warn", "x", failing_rows=refused)

    text = render_markdown(result(test), SETTINGS, [], [])

    assert "n'ont pas pu être lues : Query exceeded limit for bytes billed" in text


def test_page_of_a_stopped_run_says_what_was_under_way():
    stopped = node("b", status=INTERRUPTED, message="en cours depuis 40 s")
    stopped_run = replace(result(node("a"), stopped, return_code=130), was_interrupted=True)

    text = render_markdown(stopped_run, SETTINGS, [], [])

    assert text.startswith("# dbt run : interrompu")
    assert "- interrompu : **b**, en cours depuis 40 s" in text
    assert "## En échec" not in text


@pytest.mark.parametrize(
    ("docs", "line"),
    [
        ("https://storage.cloud.google.com/b/dev/docs.html", "[docs.html](https://storage."),
        ("/srv/dbt/dev/docs.html", "`/srv/dbt/dev/docs.html`"),
    ],
)
def test_documentation_is_a_click_away(docs, line):
    text = render_markdown(result(node("a")), SETTINGS, [], [], docs)

    assert f"Documentation du projet : {line}" in text


def run_of(history, *, seconds=12.3, commit="", ended_at=0.0, status="success"):
    """Return what a next run reads of the history that this one has kept."""
    done = replace(result(node("a", status=status)), seconds=seconds, bill=Bill(2**20))
    history = add_to_history(history, done, commit=commit, ended_at=ended_at)
    return load_history(dump_history(history))


def test_last_runs_follow_one_another_the_longest_with_the_longest_bar():
    day = 86_400
    history = run_of([], seconds=30.0, commit="abc0")
    history = run_of(history, seconds=15.0, commit="abc1", ended_at=day, status="warn")
    history = run_of(history, status="error", ended_at=2 * day)

    page = render_markdown(result(node("a")), SETTINGS, [], history)

    rows = [line for line in page.splitlines() if line.startswith("| 1970")]
    assert rows == [
        f"| 1970-01-03 00:00 | 1 |  | 1,0 Mio | 12,3 | {'█' * 3} |  |",
        f"| 1970-01-02 00:00 |  | 1 | 1,0 Mio | 15,0 | {'█' * 4} | abc1 |",
        f"| 1970-01-01 00:00 |  |  | 1,0 Mio | 30,0 | {'█' * 8} | abc0 |",
    ]


def test_history_of_before_it_had_warnings_is_read():
    old = '{"ended_at": 5.0, "commit": "abc", "failed": 1, "billed": 2, "seconds": 3.0}'

    assert load_history({"0": old}) == [PastRun(5.0, "abc", 1, 2, 3.0)]


def test_history_keeps_twenty_runs():
    history = []
    for number in range(25):
        history = run_of(history, ended_at=float(number))

    assert [run.ended_at for run in history] == [float(number) for number in range(24, 4, -1)]


# datetime raises for this moment: an old history could then stop every later page.
FAR = '{"ended_at": 1e300, "commit": "", "failed": 0, "billed": 0, "seconds": 1.0}'


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"0": "edited by hand"},
        {"0": '{"seconds": "12,3"}'},
        {"0": '{"seconds": NaN}'},
        {"0": FAR},
    ],
)
def test_history_that_is_none_is_forgotten(metadata):
    assert load_history(metadata) == []


def test_bill_far_above_the_usual_comes_first_too():
    drifted = replace(result(node("a")), drift="dbt run : BigQuery a facturé 10,0 Gio")

    assert render_markdown(drifted, SETTINGS, [], []).startswith("> ⚠️ dbt run : BigQuery a facturé")


def test_warnings_come_first():
    text = render_markdown(result(node("a")), SETTINGS, ["Attention"], [])

    assert text.startswith("> ⚠️ Attention")


def test_page_of_what_is_new_has_each_node_with_its_reason():
    reasons = {"model.p.a": "source raw.x|y modifiée", "test.p.unique_a.0123456789": "après a"}

    assert render_news("De neuf : 1 modèle sur 2.", reasons).splitlines() == [
        "# Ce qui a du neuf",
        "",
        "De neuf : 1 modèle sur 2.",
        "",
        "| nœud | | pourquoi |",
        "| --- | --- | --- |",
        "| a | modèle | source raw.x&#124;y modifiée |",
        "| unique_a | test | après a |",
    ]


def test_page_of_thousands_of_news_is_cut_and_the_rest_counted():
    page = render_news("", {f"model.p.m{i}": "SQL modifié" for i in range(2000)})

    assert len(page.splitlines()) < 520
    assert "… et 1500 de plus" in page
