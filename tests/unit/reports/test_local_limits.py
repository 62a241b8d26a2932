"""A limit of the local BigQuery is recognised by its message, and told with the way round."""

import re

import pytest

from bi_pipeline.reports.local_limits import LIMITS, find_limit
from bi_pipeline.reports.message import describe_node
from bi_pipeline.result import NodeResult
from bi_pipeline.settings import PROJECT_ROOT

# In the order of LIMITS, as bqemulator 1.4.0, dbt 1.12.6 and google-auth say it.
MESSAGES = (
    "The configured universe domain (googleapis.com) does not match the universe domain found in "
    "the credentials (bigquery.local). If you haven't configured the universe domain explicitly, "
    "`googleapis.com` is the default.",
    """Database Error in model m (models/m.sql)
  Query execution failed: Catalog Error: Scalar Function with name "st_point" is not in the \
catalog, but it exists in the spatial extension.
  Please try installing and loading the spatial extension:""",
    """Database Error in model m (models/m.sql)
  501 POST http://127.0.0.1:45815/bigquery/v2/projects/p/jobs?prettyPrint=false: ML.PREDICT is not \
supported by bqemulator. See docs/reference/out-of-scope.md for details.""",
    "JavaScript UDFs require the `mini-racer` extra. Install with: pip install bqemulator[udf-js]",
    """Database Error in model m (models/m.sql)
  Not found: table:projet-local.dev.m__dbt_tmp110038030079$20240101""",
    """Database Error in model m (models/m.sql)
  _PARTITIONTIME: no partitions by ingestion time.""",
    """Database Error in model m (models/m.sql)
  Invalid dataset ID "region-us". Dataset IDs must be alphanumeric (plus underscores and dashes) \
and must be at most 1024 characters long.""",
    """Database Error in model m (models/m.sql)
  Not found: Table projet-local.dev.__TABLES__ was not found in location US""",
    "Cannot resolve gs:// URIs without BQEMU_GCS_LOCAL_ROOT configured",
    """Database Error in model m (models/m.sql)
  Function not found: projet_h_local__net__host at [1:8]""",
    """Compilation Error in model m (models/m.sql)
  This model has an enforced contract that failed.
  | month_start | DATETIME        | DATE          | data type mismatch |""",
    r"""Runtime Error in unit_test t (models/m.yml)
  An error occurred during execution of unit test 't'. There may be an error in the unit test \
definition: check the data types.
   Database Error
    Query execution failed: Unexpected character '\\' at offset 567""",
)


@pytest.mark.parametrize(("message", "limit"), list(zip(MESSAGES, LIMITS, strict=True)))
def test_each_limit_is_told_from_what_is_said_of_it(message, limit):
    node = NodeResult("model.p.m", "error", message, is_local=True)

    assert [other for other in LIMITS if re.search(other.pattern, message)] == [limit]
    assert f"le BigQuery local ne sait pas {limit.what}" in describe_node(node)


@pytest.mark.parametrize("message", MESSAGES)
def test_on_the_real_bigquery_its_own_words_are_kept(message):
    node = NodeResult("model.p.m", "error", message)

    assert find_limit(node) is None
    assert "local ne sait pas" not in describe_node(node)


@pytest.mark.parametrize(
    "message",
    [
        "Database Error in model m (models/m.sql)\n  Unrecognized name: nowhere",
        "Not found: Table projet-local.dev.colours was not found in location US",
        "Not found: table:projet-local.dev.colours",
        "Query execution failed: Unexpected character ':' at offset 12",
        'Query execution failed: Parser Error: syntax error at or near "AS"',
    ],
)
def test_what_may_be_a_mistake_is_no_limit(message):
    assert find_limit(NodeResult("model.p.m", "error", message, is_local=True)) is None


def test_node_that_met_a_limit_is_named_in_the_way_round():
    node = NodeResult("model.p.learn", "error", MESSAGES[0], file="models/learn.py", is_local=True)

    assert describe_node(node) == (
        "learn : le BigQuery local ne sait pas exécuter un modèle Python "
        "(Dataproc, BigFrames), le vrai si : laissez-le de côté (`--exclude learn`) "
        "(models/learn.py)"
    )


def test_message_that_may_be_a_mistake_keeps_its_words():
    node = NodeResult("model.p.m", "error", MESSAGES[9], is_local=True)

    assert describe_node(node).startswith(
        "m : Function not found: projet_h_local__net__host at [1:8] ; le BigQuery local ne "
        "sait pas appeler toutes les fonctions"
    )


def test_readme_lists_the_limits_and_no_other():
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| le BigQuery local ne sait pas | ici |\n| --- | --- |\n")[2]

    rows = [f"| {limit.what} | {limit.instead.format(name='NOM')} |" for limit in LIMITS]

    assert table.partition("\n\n")[0].splitlines() == rows
