"""The flow of prefect-dbt's documentation for DbtCoreOperation: one operation, two commands."""

import os
from typing import Any

from prefect import flow
from prefect_dbt.cli.commands import DbtCoreOperation


@flow
def trigger_dbt_flow() -> Any:
    """Run the models, then the tests, of the project that the environment names."""
    return DbtCoreOperation(
        commands=["dbt run", "dbt test"],
        project_dir=os.environ["DBT_PROJECT_DIR"],
        profiles_dir=os.environ["DBT_PROFILES_DIR"],
    ).run()


if __name__ == "__main__":
    trigger_dbt_flow()
