"""The Prefect that this shell is logged in to: what is said of it, also if it does not answer."""

import pytest
from prefect.settings import (
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLOUD_API_URL,
    temporary_settings,
)

from bi_pipeline.errors import InfrastructureError
from stand_in_cloud import KEY, WORKSPACE, stand_in_cloud
from support import prefect_login
from support.prefect_login import describe_prefect


@pytest.fixture
def cloud():
    """A Prefect Cloud of this machine, to which this process is logged in."""
    with stand_in_cloud() as cloud, temporary_settings(login(cloud.url, cloud.workspace_url)):
        yield cloud


def login(cloud_url, workspace_url):
    """Return the settings of a shell logged in to this workspace."""
    return {
        PREFECT_CLOUD_API_URL: cloud_url,
        PREFECT_API_URL: workspace_url,
        PREFECT_API_KEY: KEY,
    }


def test_workspace_of_prefect_cloud_is_named(cloud):
    assert describe_prefect() == f"Prefect Cloud, workspace {WORKSPACE}"


def test_workspace_that_the_key_does_not_see_is_said_by_its_address(cloud):
    with temporary_settings({PREFECT_API_URL: f"{cloud.url}/accounts/a/workspaces/b"}):
        assert describe_prefect() == f"Prefect Cloud, workspace {cloud.url}/accounts/a/workspaces/b"


def test_refused_key_is_said_with_the_remedy(cloud):
    with (
        temporary_settings({PREFECT_API_KEY: "pnu_revoked"}),
        pytest.raises(InfrastructureError, match=r"refuse la clé.*prefect-cloud login") as caught,
    ):
        describe_prefect()

    assert "pnu_revoked" not in str(caught.value)


@pytest.mark.parametrize("status", [404, 500, 503])
def test_prefect_cloud_that_fails_is_named_in_seconds(cloud, monkeypatch, status):
    monkeypatch.setattr(prefect_login, "ANSWER_TIMEOUT_SECONDS", 1)
    cloud.status = status

    with pytest.raises(InfrastructureError, match=cloud.url):
        describe_prefect()


def test_prefect_cloud_that_is_not_there_is_named():
    with (
        temporary_settings(login("http://127.0.0.1:1/api", "http://127.0.0.1:1/api/accounts/a")),
        pytest.raises(InfrastructureError, match=r"http://127.0.0.1:1/api.*ConnectError"),
    ):
        describe_prefect()
