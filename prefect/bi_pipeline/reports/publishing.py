"""Puts the page of a dbt command in Prefect."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

from prefect import get_client, runtime
from prefect.artifacts import Artifact
from prefect.client.schemas.actions import ArtifactCreate
from prefect.logging import get_run_logger

from bi_pipeline.explanations import explain
from bi_pipeline.reports.drift import describe_drift
from bi_pipeline.reports.page import add_to_history, dump_history, load_history, render_markdown
from bi_pipeline.result import DbtResult
from bi_pipeline.settings import PipelineSettings


def publish(
    result: DbtResult, settings: PipelineSettings, project: str, warnings: list[str], commit: str
) -> DbtResult:
    """Put the page in Prefect, as an artifact of the current run; an error is only logged.

    Returns the result, with its drift from the runs in the history.

    The key has the GCP project and the dataset: without them, another team on the same Prefect
    would get this page among its own. The metadata has the history, in numbers.
    """
    key = f"dbt-{result.command}-{project}-{settings.dataset}".lower()
    key = re.sub("[^a-z0-9]+", "-", key)
    try:
        previous: Any = Artifact.get(key)
        history = load_history(previous.metadata_ if previous else None)
        result = replace(result, drift=describe_drift(result, history))
        history = add_to_history(history, result, commit=commit, ended_at=time.time())
        page = ArtifactCreate(
            key=key,
            type="markdown",
            data=render_markdown(result, settings, warnings, history),
            metadata_=dump_history(history),
            flow_run_id=runtime.flow_run.id,
            task_run_id=runtime.task_run.id,
        )
        with get_client(sync_client=True) as client:
            client.create_artifact(page)
    except Exception as error:
        # A page that cannot be written must not fail a run whose dbt succeeded.
        get_run_logger().warning(
            "L'artefact %s n'a pas pu être écrit : %s", key, explain(error) or error
        )
    return result
