"""The generic tests that the example brings."""

from bi_pipeline.settings import PROJECT_ROOT


def test_generic_tests_name_what_breaks_them(make_project):
    """A key that comes twice, a rate above one; a key and a rate that are right pass."""
    folder = PROJECT_ROOT / "dbt" / "data-tests" / "generic"
    generic = {f"data-tests/generic/{path.name}": path.read_text() for path in folder.glob("*")}
    schema = """
models:
  - name: wrong
    data_tests: [{unique_together: {arguments: {columns: [a, b]}}}]
    columns: &columns
      - name: rate
        data_tests: [{between: {arguments: {minimum: 0, maximum: 1}}}]
  - name: right
    data_tests: [{unique_together: {arguments: {columns: [a, b]}}}]
    columns: *columns
"""
    project = make_project(
        {
            **generic,
            "models/schema.yml": schema,
            "models/wrong.sql": "select 1 as a, 1 as b, 1.5 as rate union all select 1, 1, 0.5",
            "models/right.sql": "select 1 as a, 1 as b, 1 as rate union all select 1, 2, null",
        }
    )

    run = project.run_pipeline()

    assert run.returncode == 1
    for test, failures in [("unique_together_wrong_a__b", 1), ("between_wrong_rate__1__0", 1)]:
        assert f"FAIL {failures} {test}" in run.stderr
    assert "FAIL 1 unique_together_right" not in run.stderr
    assert "FAIL 1 between_right" not in run.stderr
