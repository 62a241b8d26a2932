"""Runs `prefect deploy` without the loss of some fields of an existing deployment.

`prefect deploy` sends the tags, parameters and job variables of its file, whatever the deployment
has. They are replaced here by those to keep, in the one request that changes the deployment.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from uuid import UUID

from prefect.cli import app
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate


def keep(fields: dict[str, Any]) -> None:
    """Have each update of a deployment by this process send these fields as they are."""
    send = PrefectClient.update_deployment

    async def update_deployment(
        client: PrefectClient, deployment_id: UUID, deployment: DeploymentUpdate
    ) -> None:
        await send(client, deployment_id, deployment.model_copy(update=fields))

    PrefectClient.update_deployment = update_deployment  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    # Not among the arguments, which every user of the machine can list: a variable of the
    # deployment may hold a secret.
    keep(json.load(sys.stdin))
    app()
