"""The settings: what wins, what is refused, and how it is said."""

import pytest

from bi_pipeline import settings as pipeline_settings
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import (
    PROJECT_ROOT,
    PipelineSettings,
    find_misspelt_variables,
    load_environment,
)

DATASETS = {"DBT_BIGQUERY_DATASET_DEV": "p_dev", "DBT_BIGQUERY_DATASET_PROD": "p_prod"}


def test_settings_have_the_defaults_of_the_contract():
    settings = PipelineSettings.from_mapping(DATASETS)

    assert settings.credentials_block == "sa-key"
    assert settings.target == "dev"
    assert settings.profile_name == "projet_m2_bi"
    assert settings.threads == 8
    assert settings.retries == 2


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
        ("DBT_BIGQUERY_DATASET_RAW", "p_dev", "DBT_BIGQUERY_DATASET_DEV"),
        ("DBT_BIGQUERY_DATASET_RAW", "p_prod", "DBT_BIGQUERY_DATASET_PROD"),
        ("DBT_PROFILE_NAME", "a b", "profil"),
        ("GCP_PROJECT_ID", "Mon Projet", "projet GCP"),
        ("GCP_REGION", "EU; drop", "région"),
        ("DBT_ARTIFACTS_DIR", "s3://bucket/x", "gs://bucket/préfixe"),
        ("DBT_ARTIFACTS_DIR", "gs://", "gs://bucket/préfixe"),
        ("DBT_THREADS", "quatre", "nombre entier"),
        ("DBT_THREADS", "0", "1 ou plus"),
        ("DBT_THREADS", "100000", "256 au plus"),
        ("DBT_RUN_TIMEOUT_SECONDS", "99999999999", "2592000 au plus"),
        ("DBT_ARTIFACTS_DIR", "~personne-de-ce-nom/x", "utilisateur"),
        ("DBT_BIGQUERY_MAXIMUM_BYTES_BILLED", "-1", "supérieur à 0"),
        ("DBT_RUN_MAXIMUM_BYTES_BILLED", "0", "supérieur à 0"),
        ("DBT_RUN_MAXIMUM_BYTES_BILLED", "10 Gio", "nombre entier"),
        ("DBT_BIGQUERY_API_ENDPOINT", "localhost", "http"),
        ("DBT_BIGQUERY_API_ENDPOINT", "http://bigquery.example.org", "https://"),
        ("DBT_BIGQUERY_API_ENDPOINT", "http://localhost:9050", "https://"),
        ("DBT_BIGQUERY_API_ENDPOINT", "http://[::1]:9050", "https://"),
        ("DBT_BIGQUERY_API_ENDPOINT", "http://127.0.0.1.example.org", "https://"),
    ],
)
def test_refused_value_is_named_with_its_reason(variable, value, reason):
    with pytest.raises(ConfigurationError) as error:
        PipelineSettings.from_mapping(DATASETS | {variable: value})

    assert variable in str(error.value)
    assert value in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1@example.org", "https://alice:secret@bigquery.example.org"]
)
def test_address_with_a_user_is_refused_and_not_shown(address):
    with pytest.raises(ConfigurationError) as error:
        PipelineSettings.from_mapping(DATASETS | {"DBT_BIGQUERY_API_ENDPOINT": address})

    assert "ni utilisateur ni mot de passe" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "is_local"),
    [("https://bigquery-x.p.googleapis.com", False), ("http://127.0.0.1:9050", True)],
)
def test_address_of_bigquery_is_private_or_of_this_machine(address, is_local):
    settings = PipelineSettings.from_mapping(DATASETS | {"DBT_BIGQUERY_API_ENDPOINT": address})

    assert (settings.endpoint, settings.is_local) == (address, is_local)


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ("resultats", str(PROJECT_ROOT / "resultats")),
        ("/mnt/resultats", "/mnt/resultats"),
        ("gs://bucket/dbt", "gs://bucket/dbt"),
    ],
)
def test_folder_of_the_results_is_from_the_root_wherever_the_pipeline_is_run(given, folder):
    settings = PipelineSettings.from_mapping(DATASETS | {"DBT_ARTIFACTS_DIR": given})

    assert settings.dbt_artifacts_dir == folder


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


def test_dev_named_like_the_default_of_raw_is_refused():
    with pytest.raises(ConfigurationError, match="DBT_BIGQUERY_DATASET_RAW : « raw »"):
        PipelineSettings.from_mapping(DATASETS | {"DBT_BIGQUERY_DATASET_DEV": "raw"})


def test_blank_variable_does_not_hide_what_is_set_elsewhere(monkeypatch):
    monkeypatch.setenv("DBT_TARGET", " ")

    assert "DBT_TARGET" not in load_environment()


@pytest.fixture
def env_file(tmp_path, monkeypatch):
    path = tmp_path / ".env"
    monkeypatch.setattr(pipeline_settings, "ENV_FILE", path)
    return path


def test_misspelt_variables_of_the_env_file_are_told_from_others(env_file):
    env_file.write_text("DBT_TARGTE=prod\nGCP_PROJET_ID=x\nDBT_TARGET=dev\nDBT_MY_COUNTRY=fr\n")

    assert find_misspelt_variables() == [
        "DBT_TARGTE, dans .env, n'est pas un réglage : écrivez DBT_TARGET ?",
        "GCP_PROJET_ID, dans .env, n'est pas un réglage : écrivez GCP_PROJECT_ID ?",
    ]


@pytest.mark.parametrize(
    "content",
    [b"A=\xe9\n", "A=é".encode("utf-16"), "A=e".encode("utf-16-le")],
    ids=["latin-1", "utf-16", "utf-16 without its mark"],
)
def test_env_file_that_is_not_utf8_is_named(content, env_file):
    env_file.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"\.env illisible .*UTF-8"):
        load_environment()

    assert env_file.read_bytes() == content
