"""Makes the Prefect automations that tell a channel of a run that failed, warned, or did not come.

Running it again changes only what differs. The address of the channel is a secret: it comes from
the environment or from standard input, and stays in a block of Prefect.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from datetime import timedelta
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from command_line import french_parser, say_errors
from dbt_result import WITH_WARNINGS
from pipeline_errors import ConfigurationError
from prefect_login import found, where_prefect_is

if TYPE_CHECKING:
    from prefect.automations import Automation, EventTrigger
    from prefect.blocks.abstract import NotificationBlock
    from prefect.client.orchestration import SyncPrefectClient

ADDRESS_VARIABLE = "ALERT_ADDRESS"
BLOCK_NAME = "alertes-pipeline-dbt"


class Channel(NamedTuple):
    """Where a message arrives: the address that is asked for, and Prefect's own block for it."""

    address: str
    block: str


CHANNELS = {
    "slack": Channel("l'adresse du webhook Slack", "SlackWebhook"),
    "teams": Channel("l'adresse du workflow Teams", "MicrosoftTeamsWebhook"),
    "discord": Channel("l'adresse du webhook Discord", "DiscordWebhook"),
    "email": Channel("la clé d'API SendGrid", "SendgridEmail"),
    "webhook": Channel("l'adresse du webhook", "CustomWebhookNotificationBlock"),
}

# prefect-cloud's own deploy names the flow after its function.
FLOWS = ["pipeline-dbt-complet", "dbt_full_pipeline"]

# Events of a run, as Prefect names them.
ANY_EVENT = {"prefect.flow-run.*"}
FAILED = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
WARNED = {f"prefect.flow-run.{WITH_WARNINGS}"}
SUCCEEDED = {"prefect.flow-run.Completed"} | WARNED

# The runs of a laptop have no deployment: their author is looking at them.
DEPLOYED_RUNS: dict[str, Any] = {
    "match": {"prefect.resource.id": "prefect.flow-run.*"},
    "match_related": [
        {"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
        {"prefect.resource.role": "deployment", "prefect.resource.id": "prefect.deployment.*"},
    ],
}

# Prefect fills in what stands in braces when it sends, this tool what follows a dollar.
RUN_MESSAGE = """\
{{ flow_run.state.message }}

Exécution {{ flow_run.name }} : $run_url"""

SILENCE_MESSAGE = """\
Aucune exécution n'a réussi depuis $hours heures : toutes échouent, aucun worker ne tourne, ou \
l'horaire est arrêté.
{% if deployment %}
Déploiement {{ deployment.name }} : $deployment_url{% endif %}"""


def block_class(channel: str) -> Any:
    """Return the class of Prefect's own notification block for this channel."""
    from prefect.blocks import notifications

    return getattr(notifications, CHANNELS[channel].block)


def make_block(channel: str, address: str, sender: str, to: list[str]) -> NotificationBlock:
    """Return the block, not saved; ConfigurationError, which never quotes it, for a bad address."""
    refused = ConfigurationError(
        f"Adresse refusée : il faut {CHANNELS[channel].address}, telle que le service la donne."
    )
    if channel == "discord":
        match = re.search(r"/api/webhooks/(\d+)/([\w-]+)/?$", address)
        if not match:
            raise refused
        fields: dict[str, Any] = {"webhook_id": match[1], "webhook_token": match[2]}
    elif channel == "email":
        fields = {"api_key": address, "sender_email": sender, "to_emails": to}
    elif channel == "webhook":
        if not re.match(r"https?://\S+$", address):
            raise refused
        fields = {
            "name": BLOCK_NAME,
            # The field itself is not a secret for Prefect.
            "url": "{{ address }}",
            "secrets": {"address": address},
            "json_data": {"text": "{{subject}}\n{{body}}"},
        }
    else:
        fields = {"url": address}
    try:
        block: Any = block_class(channel)(**fields)
    except (ValueError, TypeError, RuntimeError):
        raise refused from None
    # Apprise, below the blocks, leaves out without a word what it does not understand.
    if channel != "webhook" and not block._apprise_client:
        raise refused
    return block


def read_address(channel: str) -> str:
    """Return the address from the environment or standard input, empty if none was given."""
    if address := os.environ.get(ADDRESS_VARIABLE, ""):
        return address.strip()
    if not sys.stdin:
        return ""
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    try:
        return getpass.getpass(
            f"Collez {CHANNELS[channel].address} (rien ne s'affiche ; vide pour garder celle de "
            "Prefect) : "
        ).strip()
    except EOFError:
        return ""


def wanted_automations(block_id: UUID, hours: float) -> list[Automation]:
    """Return the three automations that send to this block."""
    from prefect.automations import Automation, EventTrigger, SendNotification
    from prefect.utilities.urls import url_for

    wanted = [
        ("échec", RUN_MESSAGE, EventTrigger(expect=FAILED, **DEPLOYED_RUNS)),
        ("avertissements", RUN_MESSAGE, EventTrigger(expect=WARNED, **DEPLOYED_RUNS)),
        ("aucune réussite", SILENCE_MESSAGE, silence(hours)),
    ]
    # A server often does not know the address of its own interface: this shell does.
    values = {
        "run_url": url_for("flow-run", obj_id="{{ flow_run.id }}") or "",
        "deployment_url": url_for("deployment", obj_id="{{ deployment.id }}") or "",
        "hours": f"{hours:g}",
    }
    automations = []
    for name, text, trigger in wanted:
        subject, body = f"Pipeline dbt : {name}", Template(text).substitute(values)
        send = SendNotification(block_document_id=block_id, subject=subject, body=body)
        automations.append(Automation(name=subject, trigger=trigger, actions=[send]))
    return automations


def silence(hours: float) -> EventTrigger:
    """Return what fires when no run has succeeded for so long.

    Waits for a success after any event of a run; a success is such an event too, and starts the
    wait again. Without `after`, the periods would follow each other, and a success at the start
    of one and at the end of the next would leave a silence of twice the time.
    """
    from prefect.automations import EventTrigger, Posture

    return EventTrigger(
        posture=Posture.Proactive,
        after=ANY_EVENT,
        expect=SUCCEEDED,
        within=timedelta(hours=hours),
        **DEPLOYED_RUNS,
    )


def save_block(client: SyncPrefectClient, channel: str, block: NotificationBlock | None) -> str:
    """Save the block unless it is there as it is; return what that did, in French.

    Without a block, keeps the one that is there; ConfigurationError if there is none.
    """
    saved = find_block(client, channel)
    if block is None:
        if saved is None:
            raise ConfigurationError(
                f"Il manque {CHANNELS[channel].address} : donnez-la sur l'entrée standard, ou dans "
                f"la variable d'environnement {ADDRESS_VARIABLE}."
            )
        return "inchangé"
    if saved:
        fields = set(type(block).model_fields)
        stored: Any = type(block).load(BLOCK_NAME)
        if stored.model_dump(include=fields) == block.model_dump(include=fields):
            return "inchangé"
    block.save(BLOCK_NAME, overwrite=True)
    return "mis à jour" if saved else "créé"


def find_block(client: SyncPrefectClient, channel: str) -> UUID | None:
    """Return the id of the channel's block on Prefect, None if there is none."""
    slug = block_class(channel).get_block_type_slug()
    block = found(client.read_block_document_by_name, BLOCK_NAME, slug, include_secrets=False)
    return block.id if block else None


def apply_automation(client: SyncPrefectClient, wanted: Automation, *, really: bool) -> str:
    """Create or update the automation of this name; return what that does, in French.

    One that was disabled in Prefect stays so.
    """
    before = next(iter(client.read_automations_by_name(wanted.name)), None)
    same = {"trigger", "actions"}
    if before and before.model_dump(include=same) == wanted.model_dump(include=same):
        return "inchangée"
    if not really:
        return "à mettre à jour" if before else "à créer"
    if before is None:
        wanted.create()
        return "créée"
    wanted.id, wanted.enabled = before.id, before.enabled
    wanted.update()
    return "mise à jour"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = french_parser(
        "alerts.py",
        "Fait prévenir par Prefect quand une exécution déployée échoue, quand dbt signale des "
        "avertissements, et quand plus rien ne réussit. Sans --yes, montre ce qui serait fait. "
        f"L'adresse, secrète, se donne sur l'entrée standard ou dans {ADDRESS_VARIABLE}.",
    )
    parser.add_argument("channel", choices=CHANNELS, help="où le message arrive")
    parser.add_argument(
        "--hours",
        type=hours,
        default=26,
        help="heures sans réussite avant l'alerte (par défaut : 26, pour un horaire quotidien)",
    )
    parser.add_argument("--sender", default="", help="email : l'expéditeur, connu de SendGrid")
    parser.add_argument("--to", nargs="+", default=[], help="email : les destinataires")
    parser.add_argument("--yes", action="store_true", help="le faire")
    arguments = parser.parse_args(argv)
    by_email = arguments.channel == "email"
    if bool(arguments.sender) != by_email or bool(arguments.to) != by_email:
        parser.error("--sender et --to vont avec email, l'un et l'autre, et avec lui seul")
    return arguments


def hours(text: str) -> float:
    """Return a number of hours; argparse's error when it is not one."""
    value = float(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError("il faut au moins une heure, 10 000 au plus")
    return value


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Show or make the alerts; return the exit code."""
    from prefect import get_client

    arguments = parse_arguments(argv)
    print(f"Alertes dans {where_prefect_is(must_last=True)}.")
    channel, really = arguments.channel, arguments.yes
    with get_client(sync_client=True) as client:
        if really:
            address = read_address(channel)
            block = (
                make_block(channel, address, arguments.sender, arguments.to) if address else None
            )
            done = save_block(client, channel, block)
        else:
            done = "déjà là" if find_block(client, channel) else "à créer"
        print(f"Block « {BLOCK_NAME} » ({channel}) : {done}.")
        block_id = find_block(client, channel) or UUID(int=0)
        for automation in wanted_automations(block_id, arguments.hours):
            done = apply_automation(client, automation, really=really)
            print(f"Automation « {automation.name} » : {done}.")
    if not really:
        print("Rien n'a été fait : ajoutez --yes.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
