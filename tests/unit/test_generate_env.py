"""From the outputs of Terraform to `.env`: what it takes, refuses, and keeps."""

import codecs
import json
import os
import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import PROJECT_ROOT, PipelineSettings
from generate_env import OPTIONAL_OUTPUTS, main, make_own_variables, render_env

OUTPUTS = {
    "bq_dev_dataset_id": "projet_dev",
    "bq_prod_dataset_id": "projet_prod",
    "bq_raw_dataset_id": "projet_raw",
    "project_id": "mon-projet",
    "region": "EU",
    "dbt_artifacts_dir": "gs://mon-projet-dbt-artifacts",
    "service_account_email": "x@y",
}
EXPECTED = {
    "PREFECT_GCP_CREDENTIALS_BLOCK": "sa-key",
    "DBT_TARGET": "dev",
    "DBT_BIGQUERY_DATASET_DEV": "projet_dev",
    "DBT_BIGQUERY_DATASET_PROD": "projet_prod",
    "DBT_PROFILE_NAME": "projet_m2_bi",
    "DBT_BIGQUERY_DATASET_RAW": "projet_raw",
    "GCP_PROJECT_ID": "mon-projet",
    "GCP_REGION": "EU",
    "DBT_ARTIFACTS_DIR": "gs://mon-projet-dbt-artifacts",
}


def document(outputs):
    """Return the JSON that Terraform prints for these outputs."""
    values = {
        name: {"sensitive": False, "type": "string", "value": value}
        for name, value in outputs.items()
    }
    return json.dumps(values)


@pytest.fixture
def generate(tmp_path):
    """Return a function that runs the tool on an input, in a folder of its own."""

    def run(content, *options):
        if isinstance(content, str):
            content = content.encode()
        if content is not None:
            (tmp_path / "outputs.json").write_bytes(content)
        paths = [
            "--outputs-json",
            str(tmp_path / "outputs.json"),
            "--output",
            str(tmp_path / ".env"),
        ]
        return main([*paths, *options])

    return run


def test_env_has_the_variables_in_order_each_under_a_comment(generate, tmp_path):
    assert generate(document(OUTPUTS)) == 0

    lines = (tmp_path / ".env").read_text().splitlines()
    assert dotenv_values(tmp_path / ".env") == EXPECTED
    assert [line.split("=")[0] for line in lines if "=" in line] == list(EXPECTED)
    assert all(lines[i - 1].startswith("# ") for i, line in enumerate(lines) if "=" in line)


def test_env_is_for_its_owner_only(generate, tmp_path):
    (tmp_path / ".env").write_text("A=1\n")
    (tmp_path / ".env").chmod(0o644)

    generate(document(OUTPUTS))

    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_running_twice_gives_the_same_file(generate, tmp_path, capsys):
    generate(document(OUTPUTS))
    first = (tmp_path / ".env").read_bytes()
    capsys.readouterr()

    generate(document(OUTPUTS))

    assert (tmp_path / ".env").read_bytes() == first
    assert "aucune" in capsys.readouterr().out


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.replace("{", "{\r\n").encode(),
    ],
    ids=["utf-8", "utf-8 with BOM", "utf-16 LE", "utf-16 BE", "CRLF"],
)
def test_encodings_of_terraform_and_powershell_are_taken(generate, tmp_path, encode):
    assert generate(encode(document(OUTPUTS))) == 0
    assert dotenv_values(tmp_path / ".env") == EXPECTED


def test_outputs_of_an_older_state_are_enough(generate, tmp_path, capsys):
    names = ("bq_dev_dataset_id", "bq_prod_dataset_id")

    assert generate(document({name: OUTPUTS[name] for name in names})) == 0

    out = capsys.readouterr().out
    assert list(dotenv_values(tmp_path / ".env")) == list(EXPECTED)[:5]
    for name, variable in OPTIONAL_OUTPUTS.items():
        assert f"{variable} laissé de côté : pas d'output {name}" in out


def test_account_to_act_as_is_written_when_terraform_gives_one(generate, tmp_path):
    account = "pipeline-dbt@mon-projet.iam.gserviceaccount.com"

    assert generate(with_value("impersonated_service_account", account)) == 0

    expected = EXPECTED | {"DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT": account}
    assert dotenv_values(tmp_path / ".env") == expected


@pytest.mark.parametrize("name", ["region", "impersonated_service_account", "dbt_artifacts_dir"])
def test_optional_output_that_is_null_is_left_out(generate, tmp_path, capsys, name):
    assert generate(with_value(name, None)) == 0

    variable = OPTIONAL_OUTPUTS[name]
    assert variable not in dotenv_values(tmp_path / ".env")
    assert f"{variable} laissé de côté : pas d'output {name}" in capsys.readouterr().out


def test_what_the_user_wrote_stays_in_place(generate, tmp_path, capsys):
    current = (
        "# à moi\r\n\r\nMON_JETON='a b#c'\r\n"
        "export DBT_TARGET=prod  # ma note\r\n"
        'CLE="ligne 1\nligne 2"\r\n'
        "DBT_BIGQUERY_DATASET_DEV = 'vieux'\r\n"
        "pas une affectation !\r\n"
        "A_LA_FIN=1"
    )
    (tmp_path / ".env").write_bytes(current.encode())

    assert generate(document(OUTPUTS)) == 0

    text = (tmp_path / ".env").read_bytes().decode()
    expected = current.replace("DBT_TARGET=prod", "DBT_TARGET=dev").replace(
        "DBT_BIGQUERY_DATASET_DEV = 'vieux'", "DBT_BIGQUERY_DATASET_DEV=projet_dev"
    )
    assert text.startswith(expected + "\r\n\r\n# ")
    assert "\n" not in text.replace("\r\n", "").replace("ligne 1\nligne 2", "")
    out = capsys.readouterr().out
    assert "-DBT_BIGQUERY_DATASET_DEV = 'vieux'" in out
    assert "+DBT_BIGQUERY_DATASET_DEV=projet_dev" in out
    assert "a b#c" not in out


@pytest.mark.parametrize("mine", ["gs://a-moi/dbt", "/srv/archive"])
def test_place_that_the_user_gave_to_the_results_of_dbt_stays(generate, tmp_path, capsys, mine):
    (tmp_path / ".env").write_text(f"DBT_ARTIFACTS_DIR='{mine}'  # ma note\n")

    assert generate(document(OUTPUTS)) == 0

    env, out = tmp_path / ".env", capsys.readouterr().out
    assert env.read_text().startswith(f"DBT_ARTIFACTS_DIR='{mine}'  # ma note\n")
    assert dotenv_values(env) == EXPECTED | {"DBT_ARTIFACTS_DIR": mine}
    assert f"DBT_ARTIFACTS_DIR reste {mine}" in out
    assert OUTPUTS["dbt_artifacts_dir"] in out


def test_place_of_the_results_of_dbt_that_is_left_empty_is_filled_in(generate, tmp_path):
    (tmp_path / ".env").write_text("DBT_ARTIFACTS_DIR=\n")

    assert generate(document(OUTPUTS)) == 0

    assert dotenv_values(tmp_path / ".env") == EXPECTED


def test_link_stays_a_link(generate, tmp_path):
    (tmp_path / "ailleurs").write_text("A=1\n")
    (tmp_path / ".env").symlink_to(tmp_path / "ailleurs")

    generate(document(OUTPUTS))

    assert (tmp_path / ".env").is_symlink()
    assert dotenv_values(tmp_path / "ailleurs")["DBT_TARGET"] == "dev"


SECRETS = "A=secret\nDBT_TARGET=prod\n# B=secret\n# secret\nC D=secret\nE=---\nsecret\n"


@pytest.mark.parametrize("current", [None, SECRETS])
def test_dry_run_shows_and_writes_nothing(generate, tmp_path, capsys, current):
    if current:
        (tmp_path / ".env").write_text(current)

    assert generate(document(OUTPUTS), "--dry-run") == 0

    out = capsys.readouterr().out
    assert "\nDBT_TARGET=dev\n" in out
    assert "+DBT_BIGQUERY_DATASET_DEV=projet_dev" in out
    assert "secret" not in out
    assert "# Nom du block GcpCredentials" in out
    assert not current or "A=***\nDBT_TARGET=dev\n# …\n# …\n***\nE=***\n***\n" in out
    assert ((tmp_path / ".env").read_text() if current else None) == current
    assert (tmp_path / ".env").exists() == bool(current)


def with_value(name, value):
    return document(OUTPUTS | {name: value})


REFUSED = {
    "missing file": (None, ["introuvable", "make outputs"]),
    "empty file": ("", ["JSON", "value", "make outputs"]),
    "only blanks": (" \n", ["JSON", "value", "make outputs"]),
    "not JSON": ("{", ["JSON", "value", "make outputs"]),
    "not text": (b"\x80\x81\x82", ["JSON", "value", "make outputs"]),
    "not an object": ("[]", ["JSON", "value", "make outputs"]),
    "no outputs": ("{}", ["bq_dev_dataset_id", "bq_prod_dataset_id", "aucun", "make infra"]),
    "one required output missing": (
        document({"bq_dev_dataset_id": "d", "region": "EU"}),
        ["bq_prod_dataset_id", "présents : bq_dev_dataset_id, region", "make infra"],
    ),
    "output without value": (
        '{"bq_dev_dataset_id": "d"}',
        ["l'output bq_dev_dataset_id", "value", "make outputs"],
    ),
    "null": (with_value("bq_dev_dataset_id", None), ["bq_dev_dataset_id", "null"]),
    "empty value": (with_value("bq_dev_dataset_id", ""), ["bq_dev_dataset_id", "vide"]),
    "number": (with_value("bq_prod_dataset_id", 3), ["bq_prod_dataset_id", "chaîne"]),
    "list": (with_value("bq_prod_dataset_id", ["a"]), ["bq_prod_dataset_id", "chaîne"]),
    "dashes": (with_value("bq_dev_dataset_id", "a-b"), ["bq_dev_dataset_id", "a-b"]),
    "accents": (with_value("bq_dev_dataset_id", "été"), ["bq_dev_dataset_id", "été"]),
    "too long": (with_value("bq_dev_dataset_id", "a" * 1025), ["bq_dev_dataset_id"]),
    "newline": (with_value("bq_dev_dataset_id", "a\nB=1"), ["bq_dev_dataset_id"]),
    "newline at the end": (with_value("bq_dev_dataset_id", "a\n"), ["bq_dev_dataset_id"]),
    "control character": (with_value("bq_dev_dataset_id", "a\x00"), ["bq_dev_dataset_id"]),
    "optional one wrong": (with_value("region", "E U"), ["region", "E U"]),
    "project id wrong": (with_value("project_id", "Mon Projet"), ["project_id"]),
    "bucket wrong": (with_value("dbt_artifacts_dir", "s3://x"), ["dbt_artifacts_dir", "s3://x"]),
    "raw wrong": (with_value("bq_raw_dataset_id", 3), ["bq_raw_dataset_id", "chaîne"]),
    "account wrong": (
        with_value("impersonated_service_account", "ada@example.com"),
        ["impersonated_service_account", "ada@example.com", "compte de service"],
    ),
    "dev and prod equal": (
        with_value("bq_prod_dataset_id", "projet_dev"),
        ["bq_dev_dataset_id", "bq_prod_dataset_id", "projet_dev"],
    ),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_and_env_is_untouched(generate, tmp_path, capsys, content, words):
    (tmp_path / ".env").write_bytes(b"A=1\r\n\xc3\xa9")

    assert generate(content) == 2

    message = capsys.readouterr().err
    assert "outputs.json" in message
    assert all(word in message for word in words), message
    assert (tmp_path / ".env").read_bytes() == b"A=1\r\n\xc3\xa9"
    assert {path.name for path in tmp_path.iterdir()} <= {".env", "outputs.json"}


@pytest.mark.parametrize("name", ["", "SA-KEY", "sa key", "sa_key", "clé", "a\n"])
def test_block_name_that_prefect_refuses_is_refused(generate, tmp_path, capsys, name):
    (tmp_path / ".env").write_text("A=1\n")

    with pytest.raises(SystemExit, match=r"^2$"):
        generate(document(OUTPUTS), "--block-name", name)

    assert f"--block-name : « {name} » est refusé" in capsys.readouterr().err
    assert (tmp_path / ".env").read_text() == "A=1\n"


def test_input_that_is_a_folder_is_refused(generate, tmp_path, capsys):
    (tmp_path / "outputs.json").mkdir()

    assert generate(None) == 2
    assert "outputs.json" in capsys.readouterr().err


def test_target_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "outputs.json").write_text(document(OUTPUTS))
    target = tmp_path / "no" / "such" / "folder" / ".env"

    result = main(["--outputs-json", str(tmp_path / "outputs.json"), "--output", str(target)])

    assert result == 2
    assert str(target) in capsys.readouterr().err


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_target_that_is_no_file_is_refused_and_left(generate, tmp_path, capsys, make):
    make(tmp_path / ".env")
    before = (tmp_path / ".env").stat()

    assert generate(document(OUTPUTS)) == 2
    assert ".env" in capsys.readouterr().err
    assert (tmp_path / ".env").stat() == before


def test_env_that_is_not_utf8_is_refused_and_untouched(generate, tmp_path, capsys):
    (tmp_path / ".env").write_bytes(b"A=\xff\n")

    assert generate(document(OUTPUTS)) == 2
    assert ".env" in capsys.readouterr().err
    assert (tmp_path / ".env").read_bytes() == b"A=\xff\n"


@given(outputs=st.fixed_dictionaries({}, optional={name: st.text() for name in OUTPUTS}))
def test_whatever_is_accepted_is_read_back_exactly(tmp_path_factory, outputs):
    path = tmp_path_factory.mktemp("env") / ".env"
    try:
        values = make_own_variables(outputs, Path("x"), "sa-key")
    except ConfigurationError:
        return

    path.write_text(render_env("", values), encoding="utf-8", newline="")

    assert dotenv_values(path) == values


@pytest.mark.parametrize("quote", ["'", '"'])
def test_hash_in_a_quoted_value_is_no_comment_and_the_one_after_it_is_kept(quote):
    text = render_env(f"DBT_TARGET={quote}dev #1{quote}  # note\nA=1\n", {"DBT_TARGET": "prod"})

    assert text == "DBT_TARGET=prod  # note\nA=1\n"


def test_comment_that_touches_a_value_of_two_lines_goes_with_it():
    text = render_env("DBT_TARGET='a\nb'#c\nA=1\n", {"DBT_TARGET": "prod"})

    assert text == "DBT_TARGET=prod\nA=1\n"


LINES = st.lists(
    st.sampled_from(
        ["# note", "", "A=1", "B='x y' # z", "DBT_TARGET='x #y'", "export C=\"a\\\"b\"",
         "DBT_TARGET=prod", "???", "DBT_TARGET='dev'", "export DBT_TARGET = x # y",
         "'GCP_REGION'=US", "GCP_REGION"]
    )
)  # fmt: skip


@given(
    lines=LINES,
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    names=st.lists(st.from_regex(r"[A-Za-z0-9_]{1,30}", fullmatch=True), min_size=2, unique=True),
)
def test_existing_lines_survive_and_own_values_win(tmp_path_factory, lines, end, last, names):
    path = tmp_path_factory.mktemp("env") / ".env"
    current = end.join(lines) + (end if last else "")
    outputs = OUTPUTS | {"bq_dev_dataset_id": names[0], "bq_prod_dataset_id": names[1]}
    values = make_own_variables(outputs, Path("x"), "sa-key")
    path.write_text(current, newline="")
    before = dotenv_values(path)

    text = render_env(current, values)
    path.write_text(text, newline="")

    assert dotenv_values(path) == before | values
    for line, after in zip(current.splitlines(), text.splitlines(), strict=False):
        assert after == line or any(name in line for name in values)
    assert render_env(text, values) == text


def test_env_example_lists_exactly_the_settings_each_under_its_comment():
    lines = (PROJECT_ROOT / ".env.example").read_text().splitlines()

    names = [line.split("=")[0].lstrip("# ") for line in lines if "=" in line]

    assert names == list(PipelineSettings.list_variables())
    for field in PipelineSettings.model_fields.values():
        position = next(
            i for i, x in enumerate(lines) if x.lstrip("# ").startswith(f"{field.alias}=")
        )
        assert lines[position - 1] == f"# {field.description}"
