"""Makes the Prefect automations that tell a channel of a run that failed, warned, or did not come.

They watch one deployment. Running it again changes only what differs, and leaves alone what sends
elsewhere. The address of the channel is a secret: it comes from the environment or from standard
input, and stays in a block of Prefect.
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

from bi_pipeline.command_line import make_french_parser, say_errors
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.result import WITH_EARLIER_WARNINGS, WITH_WARNINGS
from support.prefect_login import (
    DEPLOYMENT,
    FLOWS,
    describe_prefect,
    find_on_prefect,
    parse_deployment_name,
)

if TYPE_CHECKING:
    from prefect.automations import Automation, EventTrigger
    from prefect.blocks.abstract import NotificationBlock
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation as SavedAutomation
    from prefect.events.schemas.automations import AutomationCore

ADDRESS_VARIABLE = "ALERT_ADDRESS"
# Prefect sends a heartbeat every three minutes by default. If one or two missing ones were enough,
# an outage of the network would set a run that still works to Crashed.
MINUTES_WITHOUT_HEARTBEAT = 10


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

ANY_EVENT = {"prefect.flow-run.*"}
HEARTBEAT = {"prefect.flow-run.heartbeat"}
FAILED = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
WARNED = {f"prefect.flow-run.{WITH_WARNINGS}"}
# Prefect names the event of a run after the state's name, not its type: « Completed » alone would
# miss a run that succeeded with warnings, and the alert of silence would be sent all the same.
SUCCEEDED = {"prefect.flow-run.Completed", f"prefect.flow-run.{WITH_EARLIER_WARNINGS}"} | WARNED
ENDED = FAILED | SUCCEEDED | {"prefect.flow-run.Cancelled"}

# Two templates in one: this tool fills in `$run_url` now, Prefect `{{ … }}` when it sends.
RUN_MESSAGE = """\
{{ flow_run.state.message }}

Exécution {{ flow_run.name }} : $run_url"""

SILENCE_MESSAGE = """\
Aucune exécution n'a réussi depuis $hours heures : toutes échouent, aucun worker ne tourne, ou \
l'horaire est arrêté.
{% if deployment %}
Déploiement {{ deployment.name }} : $deployment_url{% endif %}"""

# The automation « échec » sends this text: it is the message of the state Crashed, which « plus de
# signe de vie » sets. If that automation sent it as well, each dead run would be told twice.
DEAD_MESSAGE = (
    f"Plus de signe de vie depuis {MINUTES_WITHOUT_HEARTBEAT} minutes : la machine qui exécutait, "
    "ou son processus, s'est arrêtée sans le dire."
)


REFUSAL = "ces alertes partent déjà ailleurs, et peut-être pour une autre équipe."
REMEDY = "Donnez le nom de votre déploiement (--name NOM), ou prenez leur place (--yes --replace)."


class Deployment(NamedTuple):
    """The deployment that is watched, and the names of its automations and its block."""

    name: str
    ids: list[UUID]

    @property
    def title(self) -> str:
        """How the names of the automations begin."""
        return "Pipeline dbt" + ("" if self.name == DEPLOYMENT else f" {self.name}")

    @property
    def block_name(self) -> str:
        """The name of the block: Prefect takes no `_` in it."""
        own = "" if self.name == DEPLOYMENT else f"-{self.name.replace('_', '-')}"
        return f"alertes-pipeline-dbt{own}"

    @property
    def runs(self) -> dict[str, Any]:
        """The part of a trigger that keeps events of its runs; a laptop's have no deployment."""
        return {
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            # By name: a deployment that is deleted and made again has another id, and its runs
            # would no longer be watched.
            "match_related": [
                {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)},
                {"prefect.resource.role": "deployment", "prefect.resource.name": self.name},
            ],
        }

    @property
    def heartbeats(self) -> dict[str, Any]:
        """The part of a trigger that keeps heartbeats of its runs: they bear no name but its id."""
        ids = [f"prefect.deployment.{deployment_id}" for deployment_id in self.ids]
        return {
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "deployment", "prefect.resource.id": ids},
        }


def find_deployment(client: SyncPrefectClient, name: str) -> Deployment:
    """Return the deployment of this name, by deploy.py or prefect-cloud, or both.

    Raises ConfigurationError without one: its automations would never fire.
    """
    there = [find_on_prefect(client.read_deployment_by_name, f"{flow}/{name}") for flow in FLOWS]
    ids = [deployment.id for deployment in there if deployment]
    if not ids:
        raise ConfigurationError(
            f"Le déploiement {name} n'existe pas : lancez d'abord "
            "`.venv/bin/python utilities/deploy.py --yes`, ou donnez le nom du vôtre (--name NOM)."
        )
    return Deployment(name, ids)


def import_block_class(channel: str) -> Any:
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
            "name": "alertes-pipeline-dbt",
            # Prefect hides the block's secrets, not its url: the address would be shown to all who
            # can read blocks.
            "url": "{{ address }}",
            "secrets": {"address": address},
            "json_data": {"text": "{{subject}}\n{{body}}"},
        }
    else:
        fields = {"url": address}
    try:
        block: Any = import_block_class(channel)(**fields)
    except (ValueError, TypeError, RuntimeError):
        raise refused from None
    # Apprise, which the blocks use, drops an address that it cannot parse without an error: the
    # block would be saved, and no alert would ever arrive.
    if channel != "webhook" and not block._apprise_client:
        raise refused
    return block


def read_address_of_shell() -> str:
    """Return the address that the environment gives, empty if it gives none."""
    return os.environ.get(ADDRESS_VARIABLE, "").strip()


def read_address(channel: str) -> str:
    """Return the address from the environment or standard input, empty if none was given."""
    if address := read_address_of_shell():
        return address
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


def make_automations(deployment: Deployment, block_id: UUID, hours: float) -> list[Automation]:
    """Return the automations that watch the deployment and send to this block."""
    from prefect.automations import Automation, ChangeFlowRunState, EventTrigger, SendNotification
    from prefect.client.schemas.objects import StateType

    wanted = [
        ("échec", RUN_MESSAGE, EventTrigger(expect=FAILED, **deployment.runs)),
        ("avertissements", RUN_MESSAGE, EventTrigger(expect=WARNED, **deployment.runs)),
        ("aucune réussite", SILENCE_MESSAGE, make_silence_trigger(deployment, hours)),
    ]
    # This shell makes the links. A server often does not know the address of its own interface: its
    # filter `ui_url` would give none, or a wrong one.
    values = {
        "run_url": make_url_template("flow-run", "{{ flow_run.id }}"),
        "deployment_url": make_url_template("deployment", "{{ deployment.id }}"),
        "hours": f"{hours:g}",
    }
    automations = []
    for name, text, trigger in wanted:
        subject, body = f"{deployment.title} : {name}", Template(text).substitute(values)
        send = SendNotification(block_document_id=block_id, subject=subject, body=body)
        automations.append(Automation(name=subject, trigger=trigger, actions=[send]))
    # If the last heartbeat of a run arrives after its end, the trigger waits for another end and
    # fires: with `force`, a run that has succeeded would become Crashed.
    crash = ChangeFlowRunState(
        name="Crashed", state=StateType.CRASHED, message=DEAD_MESSAGE, force=False
    )
    name = f"{deployment.title} : plus de signe de vie"
    return [
        *automations,
        Automation(name=name, trigger=make_death_trigger(deployment), actions=[crash]),
    ]


def make_url_template(kind: str, object_id: str) -> str:
    """Return the page of a kind of object in the interface, with a template for its id.

    `url_for` of prefect 3.9 percent-encodes braces, and Prefect would send them as they are.
    """
    from prefect.utilities.urls import url_for

    return (url_for(kind, obj_id="OBJECT_ID") or "").replace("OBJECT_ID", object_id)


def make_silence_trigger(deployment: Deployment, hours: float) -> EventTrigger:
    """Return the trigger that fires when no run has succeeded for so many hours.

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
        **deployment.runs,
    )


def make_death_trigger(deployment: Deployment) -> EventTrigger:
    """Return the trigger that fires when the heartbeats of a run stop before it has ended."""
    from prefect.automations import EventTrigger, Posture

    return EventTrigger(
        posture=Posture.Proactive,
        for_each={"prefect.resource.id"},
        after=HEARTBEAT,
        expect=HEARTBEAT | ENDED,
        within=timedelta(minutes=MINUTES_WITHOUT_HEARTBEAT),
        **deployment.heartbeats,
    )


def find_block(client: SyncPrefectClient, channel: str, name: str) -> UUID | None:
    """Return the id of the channel's block on Prefect, None if there is none."""
    slug = import_block_class(channel).get_block_type_slug()
    block = find_on_prefect(client.read_block_document_by_name, name, slug, include_secrets=False)
    return block.id if block else None


def holds_the_same(client: SyncPrefectClient, block: NotificationBlock, name: str) -> bool:
    """Whether the block of this name on Prefect sends where this one does."""
    kind: Any = type(block)
    document = find_on_prefect(client.read_block_document_by_name, name, kind.get_block_type_slug())
    try:
        # Not Block.load, which emits an event: a short tool whose events are not yet sent exits
        # late and with a warning.
        stored = kind(**document.data) if document else None
    except (ValueError, TypeError, RuntimeError):
        return False
    fields = set(kind.model_fields)
    return bool(stored and stored.model_dump(include=fields) == block.model_dump(include=fields))


def find_other_block(client: SyncPrefectClient, before: SavedAutomation, wanted: Automation) -> str:
    """Return, in French, the block to which the automation sends `before` and not as `wanted`.

    Empty if there is no such block, or no longer.
    """
    for block_id in list_block_ids(before) - list_block_ids(wanted):
        block = find_on_prefect(client.read_block_document, block_id, include_secrets=False)
        if block:
            kind = f" ({block.block_type.name})" if block.block_type else ""
            return f"« {block.name} »{kind}"
    return ""


def list_block_ids(automation: AutomationCore) -> set[UUID]:
    """Return the ids of the blocks to which an automation sends."""
    ids = {getattr(action, "block_document_id", None) for action in automation.actions}
    return {block_id for block_id in ids if block_id}


def describe_update(before: SavedAutomation, wanted: Automation) -> str:
    """Return, in French, what would change of an automation; nothing if it is the same."""
    whole = {"trigger", "actions"}
    if before.model_dump(include=whole) == wanted.model_dump(include=whole):
        return ""
    changes = []
    old, new = (getattr(one.trigger, "within", None) for one in (before, wanted))
    if old and new and old != new:
        changes.append(f"délai : {old / timedelta(hours=1):g} h → {new / timedelta(hours=1):g} h")
    if before.trigger.model_dump(exclude={"within"}) != wanted.trigger.model_dump(
        exclude={"within"}
    ):
        changes.append("ce qui est surveillé")
    if list_block_ids(before) != list_block_ids(wanted):
        changes.append("destination")
    return ", ".join(changes) or "texte"


class Plan(NamedTuple):
    """The changes to make: the block, if an address was given, and the automations.

    `changes_the_block` tells whether the block is new, or differs from the one on Prefect.
    """

    deployment: Deployment
    channel: str
    block: NotificationBlock | None
    block_id: UUID | None
    changes_the_block: bool
    hours: float

    def read_automations(
        self, client: SyncPrefectClient
    ) -> list[tuple[Automation, SavedAutomation | None]]:
        """Return each automation as it would be, and as it is."""
        wanted = make_automations(self.deployment, self.block_id or UUID(int=0), self.hours)
        return [
            (one, next(iter(client.read_automations_by_name(one.name)), None)) for one in wanted
        ]

    def find_differences_of_owner(self, client: SyncPrefectClient) -> list[str]:
        """Return a line, in French, for each thing that already sends to somewhere else."""
        lines = []
        if self.block_id and self.changes_the_block:
            lines.append(f"le block « {self.deployment.block_name} » a une autre adresse")
        for wanted, before in self.read_automations(client):
            if before and (other := find_other_block(client, before, wanted)):
                lines.append(f"l'automation « {wanted.name} » envoie au block {other}")
        return lines

    def describe(self, client: SyncPrefectClient) -> list[str]:
        """Return, in French, what would be done."""
        if self.block_id is None:
            block = "à créer"
        elif self.block is None:
            block = f"déjà là ; son adresse se compare si {ADDRESS_VARIABLE} la donne"
        else:
            block = "à mettre à jour" if self.changes_the_block else "inchangé"
        lines = [f"Block « {self.deployment.block_name} » ({self.channel}) : {block}."]
        for wanted, before in self.read_automations(client):
            change = before and describe_update(before, wanted)
            done = f"à mettre à jour ({change})" if change else "inchangée" if before else "à créer"
            lines.append(f"Automation « {wanted.name} » : {done}.")
        return lines


def save_block(plan: Plan) -> str:
    """Save the block of the plan unless it is there as it is; return what that did, in French."""
    if plan.block is None or not plan.changes_the_block:
        return "inchangé"
    plan.block.save(plan.deployment.block_name, overwrite=True)
    return "mis à jour" if plan.block_id else "créé"


def save_automation(wanted: Automation, before: SavedAutomation | None) -> str:
    """Create or update the automation; return what that did, in French.

    One that was disabled in Prefect stays so.
    """
    if before is None:
        wanted.create()
        return "créée"
    change = describe_update(before, wanted)
    if not change:
        return "inchangée"
    wanted.id, wanted.enabled = before.id, before.enabled
    wanted.update()
    return f"mise à jour ({change})"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_french_parser(
        "alerts.py",
        "Fait prévenir par Prefect quand une exécution déployée échoue ou disparaît, quand dbt "
        "signale des avertissements, et quand plus rien ne réussit. Sans --yes, montre ce qui "
        "serait fait. "
        f"L'adresse, secrète, se donne sur l'entrée standard ou dans {ADDRESS_VARIABLE}.",
    )
    parser.add_argument("channel", choices=CHANNELS, help="où le message arrive")
    parser.add_argument(
        "--name",
        type=parse_deployment_name,
        default=DEPLOYMENT,
        help=f"nom du déploiement surveillé (par défaut : {DEPLOYMENT})",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="avec --yes : changer d'adresse ou de canal, même si celui qui est là est d'un autre",
    )
    parser.add_argument(
        "--hours",
        type=parse_hours,
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


def parse_hours(text: str) -> float:
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
    where, channel = describe_prefect(must_last=True), arguments.channel
    with get_client(sync_client=True) as client:
        deployment = find_deployment(client, arguments.name)
        print(f"Alertes du déploiement {deployment.name} dans {where}.")
        address = read_address(channel) if arguments.yes else read_address_of_shell()
        block = make_block(channel, address, arguments.sender, arguments.to) if address else None
        block_id = find_block(client, channel, deployment.block_name)
        changes = block is not None and not holds_the_same(client, block, deployment.block_name)
        plan = Plan(deployment, channel, block, block_id, changes, arguments.hours)
        if arguments.yes and block is None and block_id is None:
            raise ConfigurationError(
                f"Il manque {CHANNELS[channel].address} : donnez-la sur l'entrée standard, ou dans "
                f"la variable d'environnement {ADDRESS_VARIABLE}."
            )
        taken = [] if arguments.replace else plan.find_differences_of_owner(client)
        refusal = "\n".join([REFUSAL, *(f"  - {line}" for line in taken), REMEDY])
        if not arguments.yes:
            print("\n".join(plan.describe(client)))
            print(f"Rien n'a été fait : {refusal if taken else 'ajoutez --yes.'}")
            return 0
        if taken:
            raise ConfigurationError(f"Rien n'a été fait : {refusal}")
        print(f"Block « {deployment.block_name} » ({channel}) : {save_block(plan)}.")
        saved = plan._replace(block_id=find_block(client, channel, deployment.block_name))
        for automation, before in saved.read_automations(client):
            print(f"Automation « {automation.name} » : {save_automation(automation, before)}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
