"""Puts the page of a dbt command in Prefect."""

from __future__ import annotations

import contextvars
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefect import get_client, runtime
from prefect.artifacts import Artifact
from prefect.client.schemas.actions import ArtifactCreate
from prefect.logging import get_run_logger

from bi_pipeline.explanations import explain
from bi_pipeline.reports.drift import describe_drift
from bi_pipeline.reports.estimate import render_estimate_page
from bi_pipeline.reports.page import (
    add_to_history,
    dump_history,
    load_history,
    render_markdown,
    render_news,
)
from bi_pipeline.result import DbtResult
from bi_pipeline.settings import PipelineSettings

DOCS_GENERATE = "docs generate"
# In the metadata of a page: where the documentation is kept.
DOCS = "docs"
# A part of the seconds that a run has left once dbt was interrupted (ENDING_SECONDS): Prefect takes
# the rest for the state of the run.
PAGE_SECONDS = 2


def publish(
    result: DbtResult, settings: PipelineSettings, project: str, warnings: list[str], commit: str
) -> DbtResult:
    """Put the page in Prefect, as an artifact of the current run; an error is only logged.

    Returns the result, with its drift from the runs in the history.

    The key has the GCP project and the dataset: without them, another team on the same Prefect
    would get this page among its own. The metadata has the history, in numbers.
    """
    key = _make_key("estimate" if result.estimate else result.command, project, settings)
    try:
        history = load_history(_read_metadata(key))
        docs = _find_docs(result, project, settings)
        result = replace(result, drift=describe_drift(result, history))
        history = add_to_history(history, result, commit=commit, ended_at=time.time())
        if result.estimate:
            text = render_estimate_page(result.estimate, settings)
        else:
            text = render_markdown(result, settings, warnings, history, docs)
        _create(key, text, dump_history(history) | ({DOCS: docs} if docs else {}))
    except Exception as error:
        _warn(key, error)
    return result


def publish_in_time(*arguments: Any) -> None:
    """Publish as `publish` does, and give up after PAGE_SECONDS: for a run that has to end."""
    # Without a copy of the context, the thread would not know of which run the page is.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(publish, *arguments), daemon=True)
    thread.start()
    thread.join(PAGE_SECONDS)


def publish_news(
    found: str, reasons: Mapping[str, str], settings: PipelineSettings, project: str
) -> None:
    """Put in Prefect what is new for a run and why; an error is only logged.

    Args:
        found: how many nodes of each kind are new, since when: the first line.
        reasons: `unique_id` of each node that is new -> why, in French.
    """
    key = _make_key("only-new", project, settings)
    try:
        _create(key, render_news(found, reasons), {})
    except Exception as error:
        _warn(key, error)


def _make_key(what: str, project: str, settings: PipelineSettings) -> str:
    return re.sub("[^a-z0-9]+", "-", f"dbt-{what}-{project}-{settings.dataset}".lower())


def _read_metadata(key: str) -> dict[str, str]:
    """Return the metadata of the last page with this key; none without a page."""
    page: Any = Artifact.get(key)
    return dict(page.metadata_ or {}) if page else {}


def _find_docs(result: DbtResult, project: str, settings: PipelineSettings) -> str:
    """Return where the documentation is, if this command or an earlier run has kept it there.

    The page of the run that has kept it says so in Prefect: to ask the bucket would take a second,
    and a right.
    """
    if not result.docs or (result.succeeded and result.command == DOCS_GENERATE):
        return result.docs
    kept = _read_metadata(_make_key(DOCS_GENERATE, project, settings)).get(DOCS)
    return result.docs if kept == result.docs else ""


def _create(key: str, markdown: str, metadata: dict[str, str]) -> None:
    """Add a page to the current run."""
    page = ArtifactCreate(
        key=key,
        type="markdown",
        data=markdown,
        metadata_=metadata,
        flow_run_id=runtime.flow_run.id,
        task_run_id=runtime.task_run.id,
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(page)


def _warn(key: str, error: Exception) -> None:
    """Log why a page is missing: that must not fail a run whose dbt succeeded."""
    get_run_logger().warning(
        "L'artefact %s n'a pas pu être écrit : %s", key, explain(error) or error
    )
