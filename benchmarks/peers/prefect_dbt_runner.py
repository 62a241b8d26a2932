"""The flow of prefect-dbt's documentation for PrefectDbtRunner: dbt inside the process."""

import os
from pathlib import Path

from prefect import flow
from prefect_dbt import PrefectDbtRunner, PrefectDbtSettings


@flow
def run_dbt() -> None:
    """Run the models, then the tests, of the project that the environment names."""
    settings = PrefectDbtSettings(
        project_dir=Path(os.environ["DBT_PROJECT_DIR"]),
        profiles_dir=Path(os.environ["DBT_PROFILES_DIR"]),
    )
    runner = PrefectDbtRunner(settings=settings)
    runner.invoke(["run"])
    runner.invoke(["test"])


if __name__ == "__main__":
    run_dbt()
