"""The blocks of the channels: which address makes which, and what is refused."""

import pytest

from alerts import CHANNELS, main, make_block
from bi_pipeline.errors import ConfigurationError

ADDRESSES = {
    "slack": "https://hooks.slack.com/services/T0AAAAAAA/B0BBBBBBB/cccccccccccccccccccccccc",
    "teams": "https://prod-1.westeurope.logic.azure.com:443/workflows/643e69f83c8944438d68119179a10a64"
    "/triggers/manual/paths/invoke?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0"
    "&sig=KODuebWbDGYFr0z0eu-6Rj8aUKz7108W3wrNJZxFE5A",
    "discord": "https://discord.com/api/webhooks/1234567890/AbCd-Ef_0123456789",
    "email": "SG.0123456789abcdef",
    "webhook": "https://example.com/secret",
}


@pytest.mark.parametrize("channel", CHANNELS)
def test_address_as_the_service_gives_it_makes_a_block_that_can_send(channel):
    block = make_block(channel, ADDRESSES[channel], "pipeline@example.com", ["equipe@example.com"])

    assert ADDRESSES[channel] not in repr(block)


@pytest.mark.parametrize(
    ("channel", "address"),
    [
        ("slack", "s3cret"),
        ("slack", "https://example.com/s3cret"),
        ("teams", "https://example.com/s3cret"),
        ("discord", "https://discord.com/channels/1/s3cret"),
        ("webhook", "ftp://example.com/s3cret"),
        ("webhook", "s3cret"),
    ],
)
def test_other_address_is_refused_and_not_quoted(channel, address):
    with pytest.raises(ConfigurationError, match="Adresse refusée") as caught:
        make_block(channel, address, "", [])

    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "arguments",
    [["email"], ["slack", "--to", "a@b.c"], ["slack", "--hours", "0"], ["slack", "--hours", "x"]],
)
def test_options_that_do_not_go_together_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)

    assert "alerts.py" in capsys.readouterr().err
