"""The tool that saves the key as a block: what it checks, says, and never says."""

import json

import pytest
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.settings import (
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLOUD_API_URL,
    temporary_settings,
)

from bi_pipeline.bigquery.connection import load_credentials
from create_gcp_block import main
from project import in_environment, prefect_client
from stand_in_cloud import stand_in_cloud
from support.local_content import make_throwaway_key, use_prefect_server

KEY = make_throwaway_key()


@pytest.fixture
def key_file(tmp_path):
    """The file of a good key, for its owner only."""
    path = tmp_path / "sa_key.json"
    path.write_text(json.dumps(KEY))
    path.chmod(0o600)
    return path


@pytest.fixture
def prefect_api(local_environment):
    """The API of the local Prefect server, for this process."""
    with use_prefect_server(local_environment):
        yield local_environment["PREFECT_API_URL"]


def test_block_is_created_then_replaced_and_said_so(key_file, prefect_api, capsys):
    arguments = ["--key-file", str(key_file), "--block-name", "created"]

    assert main(arguments) == 0
    first = capsys.readouterr()
    key_file.write_text(json.dumps(KEY | {"private_key_id": "second"}))
    assert main(arguments) == 0
    second = capsys.readouterr()

    assert first.out == f"Block « created » créé dans le serveur Prefect {prefect_api}.\n"
    assert second.out == f"Block « created » remplacé dans le serveur Prefect {prefect_api}.\n"
    info = load_credentials("created").service_account_info.get_secret_value()
    assert info["private_key_id"] == "second"


OF_ANOTHER = KEY | {"client_email": "b@projet.iam.gserviceaccount.com"}
# The content of a block, and the words for it in the refusal.
HELD = {
    "key of another account": (
        {"service_account_info": OF_ANOTHER},
        f"la clé de {OF_ANOTHER['client_email']}",
    ),
    "no key": ({}, "aucune clé (--adc)"),
    "unreadable": ({"service_account_info": "x"}, "un contenu illisible"),
    "path": ({"service_account_file": "/x.json"}, "un contenu illisible"),
}


def hold(environment, name, data):
    """Have the block hold this, which Prefect's own class may refuse."""
    with prefect_client(environment) as client:
        block = client.read_block_document_by_name(name, "gcp-credentials")
        update = BlockDocumentUpdate(
            block_schema_id=block.block_schema_id, data=data, merge_existing_data=False
        )
        client.update_block_document(block.id, update)


def read_held(environment, name):
    """Return what the block holds."""
    with prefect_client(environment) as client:
        return client.read_block_document_by_name(name, "gcp-credentials").data


@pytest.fixture(scope="module")
def shared_block(tmp_path_factory, local_environment):
    """The name of a block."""
    path = tmp_path_factory.mktemp("key") / "sa_key.json"
    path.write_text(json.dumps(KEY))
    with use_prefect_server(local_environment):
        main(["--key-file", str(path), "--block-name", "shared"])
    return "shared"


@pytest.mark.parametrize(("data", "said"), HELD.values(), ids=HELD)
def test_block_of_another_account_is_left_as_it_is(
    key_file, shared_block, local_environment, prefect_api, capsys, data, said
):
    hold(local_environment, shared_block, data)

    assert main(["--key-file", str(key_file), "--block-name", shared_block]) == 2

    captured = capsys.readouterr()
    for word in (said, f"la clé de {KEY['client_email']}", "--replace", "--block-name"):
        assert word in captured.err
    assert "PRIVATE KEY" not in captured.out + captured.err
    assert read_held(local_environment, shared_block) == data


def test_explicit_word_replaces_the_block_of_another_account(
    key_file, shared_block, local_environment, prefect_api
):
    hold(local_environment, shared_block, {"service_account_info": "x"})

    assert main(["--key-file", str(key_file), "--block-name", shared_block, "--replace"]) == 0

    assert read_held(local_environment, shared_block)["service_account_info"] == KEY


def test_key_is_not_dropped_for_the_default_credentials_without_the_word(
    key_file, local_environment, prefect_api, capsys
):
    main(["--key-file", str(key_file), "--block-name", "with-a-key"])

    assert main(["--adc", "--block-name", "with-a-key"]) == 2

    assert "aucune clé (--adc)" in capsys.readouterr().err
    assert read_held(local_environment, "with-a-key")["service_account_info"]


def test_key_that_others_can_read_is_warned_about(key_file, prefect_api, capsys):
    key_file.chmod(0o644)

    assert main(["--key-file", str(key_file), "--block-name", "readable"]) == 0
    assert f"chmod 600 {key_file}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda key: None, ["introuvable", "--adc", "create_key"]),
        (lambda key: "", ["JSON"]),
        (lambda key: json.dumps(key)[:-20], ["JSON"]),
        (lambda key: "[]", ["compte de service"]),
        (lambda key: json.dumps(key | {"type": "authorized_user"}), ["compte de service"]),
        (lambda key: json.dumps({"type": "service_account"}), ["private_key", "client_email"]),
        (lambda key: json.dumps(key | {"private_key": 3}), ["private_key"]),
        (
            lambda key: json.dumps(key | {"private_key": key["private_key"][:300]}),
            ["private_key", "clé privée"],
        ),
    ],
    ids=["missing", "empty", "cut", "list", "other type", "fields", "number", "broken key"],
)
def test_bad_key_is_refused_without_being_quoted(key_file, capsys, change, words):
    key = json.loads(key_file.read_text())
    content = change(key)
    key_file.unlink()
    if content is not None:
        key_file.write_text(content)

    assert main(["--key-file", str(key_file)]) == 2

    captured = capsys.readouterr()
    assert str(key_file) in captured.err
    assert all(word in captured.err for word in words)
    assert not any(line in captured.err for line in key["private_key"].splitlines()[:4])


def test_block_name_that_prefect_refuses_is_refused(key_file, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--key-file", str(key_file), "--block-name", "Ma Clé"])

    assert "--block-name : « Ma Clé » est refusé" in capsys.readouterr().err


def test_unreachable_api_is_named(key_file, local_environment, capsys):
    elsewhere = {"PREFECT_API_URL": "http://127.0.0.1:1/api"}

    with in_environment(local_environment | elsewhere):
        assert main(["--key-file", str(key_file)]) == 3

    assert elsewhere["PREFECT_API_URL"] in capsys.readouterr().err


def test_key_that_prefect_cloud_refuses_is_said(key_file, capsys):
    with stand_in_cloud() as cloud:
        settings = {
            PREFECT_CLOUD_API_URL: cloud.url,
            PREFECT_API_URL: cloud.workspace_url,
            PREFECT_API_KEY: "pnu_revoked",
        }
        with temporary_settings(settings):
            exit_code = main(["--key-file", str(key_file)])

    assert exit_code == 3
    assert "prefect-cloud login" in capsys.readouterr().err


def test_check_finds_the_datasets_of_the_settings(local_environment, capsys):
    with in_environment(local_environment):
        assert main(["--check"]) == 0
    found = capsys.readouterr().out
    with in_environment(local_environment | {"DBT_BIGQUERY_DATASET_DEV": "pas_la"}):
        assert main(["--check"]) == 1
    lacking = capsys.readouterr().err

    # raw and the dataset of the target only: the account of dev may not see that of prod, and the
    # check would fail.
    assert found.count("✓ Dataset") == 2
    assert "pas_la" in lacking
    assert "make infra" in lacking


def test_check_says_that_bigquery_does_not_answer(local_environment, capsys):
    nowhere = {"DBT_BIGQUERY_API_ENDPOINT": "http://127.0.0.1:1"}

    with in_environment(local_environment | nowhere):
        assert main(["--check"]) == 1

    out = capsys.readouterr().err
    assert "✗ Dataset" in out
    assert "127.0.0.1" in out


def test_check_of_a_missing_block_names_it(local_environment, capsys):
    with in_environment(local_environment):
        assert main(["--check", "--block-name", "pas-la"]) == 2

    assert "pas-la" in capsys.readouterr().err
