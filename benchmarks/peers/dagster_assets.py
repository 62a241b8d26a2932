"""The assets of dagster-dbt's documentation, one a model, materialized in this process.

Runs in `.venv-dagster`, which `make bench-peers` makes. A file called `dagster_dbt.py`
would hide the library of that name.
"""

import os
from collections.abc import Iterator
from typing import Any

from dagster import AssetExecutionContext, DagsterInstance, materialize
from dagster_dbt import DbtCliResource, DbtProject, dbt_assets

dbt_project = DbtProject(
    project_dir=os.environ["DBT_PROJECT_DIR"],
    profiles_dir=os.environ["DBT_PROFILES_DIR"],
)


@dbt_assets(manifest=dbt_project.manifest_path)  # type: ignore[untyped-decorator]
def dbt_models(context: AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    """Build the models and run their tests, in one dbt command."""
    yield from dbt.cli(["build"], context=context).stream()


if __name__ == "__main__":
    materialize(
        [dbt_models],
        resources={"dbt": DbtCliResource(project_dir=dbt_project)},
        instance=DagsterInstance.get(),
    )
