"""The settings: what wins, what is refused, and how it is said."""

import pytest

from pipeline_settings import ConfigurationError, PipelineSettings

DATASETS = {"DBT_BIGQUERY_DATASET_DEV": "p_dev", "DBT_BIGQUERY_DATASET_PROD": "p_prod"}


def test_settings_have_the_defaults_of_the_contract():
    settings = PipelineSettings.from_mapping(DATASETS)

    assert settings.credentials_block == "sa-key"
    assert settings.target == "dev"
    assert settings.profile_name == "projet_m2_bi"
    assert settings.threads == 4


@pytest.mark.parametrize(("target", "dataset"), [("dev", "p_dev"), ("prod", "p_prod")])
def test_target_chooses_the_dataset(target, dataset):
    settings = PipelineSettings.from_mapping(DATASETS | {"DBT_TARGET": target})

    assert settings.dataset == dataset


def test_empty_value_counts_as_not_set():
    settings = PipelineSettings.from_mapping(DATASETS | {"DBT_TARGET": "  ", "GCP_REGION": ""})

    assert settings.target == "dev"
    assert settings.region is None


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PREFECT_GCP_CREDENTIALS_BLOCK", "SA Key", "minuscules"),
        ("DBT_TARGET", "production", "dev et prod"),
        ("DBT_BIGQUERY_DATASET_DEV", "mon-dataset", "lettres"),
        ("DBT_BIGQUERY_DATASET_PROD", "p_dev", "DBT_BIGQUERY_DATASET_DEV"),
        ("DBT_PROFILE_NAME", "a b", "profil"),
        ("GCP_PROJECT_ID", "Mon Projet", "projet GCP"),
        ("GCP_REGION", "EU; drop", "région"),
        ("DBT_THREADS", "quatre", "nombre entier"),
        ("DBT_THREADS", "0", "supérieur à zéro"),
        ("DBT_BIGQUERY_MAXIMUM_BYTES_BILLED", "-1", "supérieur à zéro"),
        ("DBT_BIGQUERY_API_ENDPOINT", "localhost", "http"),
    ],
)
def test_refused_value_is_named_with_its_reason(variable, value, reason):
    with pytest.raises(ConfigurationError) as error:
        PipelineSettings.from_mapping(DATASETS | {variable: value})

    assert variable in str(error.value)
    assert value in str(error.value)
    assert reason in str(error.value)


def test_every_problem_is_said_at_once():
    values = {"DBT_BIGQUERY_DATASET_PROD": "p", "DBT_TARGET": "x", "DBT_THREADS": "y"}

    with pytest.raises(ConfigurationError) as error:
        PipelineSettings.from_mapping(values)

    for variable in ("DBT_BIGQUERY_DATASET_DEV", "DBT_TARGET", "DBT_THREADS"):
        assert f"- {variable}" in str(error.value)


def test_settings_cannot_be_changed():
    settings = PipelineSettings.from_mapping(DATASETS)

    with pytest.raises(ValueError, match="frozen"):
        settings.target = "prod"
