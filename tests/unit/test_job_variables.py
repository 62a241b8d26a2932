"""The job variables of a deployment: which of those that give one decides."""

from types import SimpleNamespace

import pytest

from deploy import MANAGED_IMAGE, merge_job_variables

SETTINGS = {"DBT_TARGET": "prod", "GCP_REGION": "EU"}


@pytest.mark.parametrize(
    ("kind", "written", "pool_before", "set_before", "expected"),
    [
        ("process", None, None, {}, {}),
        ("prefect:managed", None, None, {}, {"image": MANAGED_IMAGE}),
        ("prefect:managed", None, "pool", {"image": "set"}, {"image": "set"}),
        ("prefect:managed", None, "other", {"image": "set"}, {"image": MANAGED_IMAGE}),
        ("prefect:managed", {"image": "file"}, "pool", {"image": "set"}, {"image": "file"}),
        ("process", {"cpu": 1}, "pool", {"cpu": 2, "memory": 3}, {"cpu": 1, "memory": 3}),
    ],
)
def test_what_is_nearer_to_this_shell_decides(kind, written, pool_before, set_before, expected):
    before = pool_before and SimpleNamespace(work_pool_name=pool_before, job_variables=set_before)
    pool = {"name": "pool"} | ({"job_variables": written} if written else {})

    merged = merge_job_variables(pool, kind, SETTINGS, before)

    assert merged == expected | {"env": SETTINGS}


@pytest.mark.parametrize("pool_before", ["pool", "other"])
def test_variables_of_the_user_stay_but_a_setting_that_has_gone(pool_before):
    pool = {"name": "pool", "job_variables": {"env": {"DBT_TARGET": "dev", "FILE": "file"}}}
    env = {"GCP_REGION": "US", "DBT_THREADS": "2", "MINE": "mine", "FILE": "set"}
    before = SimpleNamespace(work_pool_name=pool_before, job_variables={"env": env})

    merged = merge_job_variables(pool, "process", SETTINGS, before)

    assert merged == {"env": SETTINGS | {"MINE": "mine", "FILE": "file"}}
