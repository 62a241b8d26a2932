"""Tasks that bqemulator cannot do: done all the same, or said at once with the remedy."""

import pytest

from project import copy_project

FILES = {
    "models/one.sql": "select 1 as id",
    "models/learn.py": "def model(dbt, session):\n    return session.sql('select 1 as id')\n",
    "functions/double.sql": "nowhere(x) * 2",
    "functions/double.yml": (
        "functions: [{name: double, arguments: [{name: x, data_type: int64}], "
        "returns: {data_type: int64}}]"
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    return copy_project(tmp_path_factory.mktemp("traps"), local_environment, FILES)


def test_python_model_and_function_that_is_wrong_are_said_at_once(project):
    pipeline = project.run_pipeline("--commands", "build")

    assert pipeline.returncode == 1
    end = pipeline.stderr[pipeline.stderr.rindex("\ndbt build a échoué") :]
    assert (
        "double (functions/double.sql) : Le BigQuery local (bqemulator) échoue : Catalog Error: "
        "Scalar Function with name nowhere does not exist! Corrigez la requête ; si le vrai "
        "BigQuery l'accepte, laissez ce nœud de côté ici (--exclude)"
    ) in end
    assert "(models/learn.py) : les modèles Python s'exécutent sur Dataproc ou BigFrames" in end
    assert "essai" not in pipeline.stderr


def test_view_becomes_a_table(project, bigquery):
    """dbt deletes the view by the request that deletes a table."""
    dataset, model = project.environment["DBT_BIGQUERY_DATASET_DEV"], project.root / "dbt/models"
    command = ("--commands", "run", "--select", "one")
    first = project.run_pipeline(*command)
    assert (first.returncode, bigquery.get_table(f"{dataset}.one").table_type) == (0, "VIEW")
    (model / "one.sql").write_text("{{ config(materialized='table') }} select 2 as id")

    pipeline = project.run_pipeline(*command)

    assert pipeline.returncode == 0, pipeline.stderr
    assert bigquery.get_table(f"{dataset}.one").table_type == "TABLE"
    assert [tuple(row) for row in bigquery.query_and_wait(f"select * from {dataset}.one")] == [(2,)]
