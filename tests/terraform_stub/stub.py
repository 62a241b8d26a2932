"""A stand-in for Terraform's google and local providers: their schemas, and no Google behind them.

Speaks Terraform's plugin protocol through the package `tf`; `with-stub` has the real Terraform
start it in their place. It proves that names and types are right as transcribed, what a plan
contains, and what `terraform test` asserts. It does not prove what Google answers.
"""

import base64
import hashlib
import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from schemas import BLOCKS, GOOGLE, LOCAL
from tf.runner import run_provider
from tf.schema import Attribute, Block, NestedBlock, NestMode, Schema
from tf.types import Bool, Number, String, TfType, Unknown

PROVIDER = os.environ["STUB_WHICH"]
PROJECT = "mon-projet"
SETTINGS = [
    *("project", "region", "zone", "credentials", "access_token", "impersonate_service_account"),
    *("billing_project", "deletion_policy"),
]


class Map(TfType):
    """A map of texts, which `tf` has no type for."""

    def encode(self, value):
        return value

    def decode(self, value):
        return value

    def tf_type(self):
        return b'["map","string"]'


class RawBlock(NestedBlock):
    """A nested block, left as Terraform gives it."""

    def encode(self, value):
        return value

    def decode(self, value):
        return value

    def semantically_equal(self, one, other):
        return one == other


TYPES = {"S": String, "N": Number, "B": Bool, "M": Map}


def attribute(name, kind, flags):
    """Return an attribute of a schema."""
    return Attribute(
        name,
        TYPES[kind](),
        required="r" in flags,
        optional="o" in flags,
        computed="c" in flags,
        sensitive="s" in flags,
        requires_replace="F" in flags,
    )


def make_blocks(blocks):
    """Return the nested blocks of a resource; `tf` has no lists of blocks, so each is a set."""
    return [
        RawBlock(
            name,
            NestMode.Set,
            Block([attribute(key, *kind) for key, kind in attributes.items()], make_blocks(inner)),
        )
        for name, (attributes, inner) in blocks.items()
    ]


def fill_in(resource, attributes, planned):
    """Return what Google would answer: what was asked, and made-up values for the rest."""
    state = dict(planned)
    if "project" in state and state["project"] in (None, Unknown):
        state["project"] = PROJECT
    if resource == "google_service_account":
        email = f"{state['account_id']}@{PROJECT}.iam.gserviceaccount.com"
        name = f"projects/{PROJECT}/serviceAccounts/{email}"
        state |= {"email": email, "member": f"serviceAccount:{email}", "name": name, "id": name}
        state["unique_id"] = "1" * 21
    if resource == "google_service_account_key":
        key = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": os.urandom(4).hex(),
            "private_key": "-----BEGIN PRIVATE KEY-----\nFAKE\n-----END PRIVATE KEY-----\n",
        }
        state["private_key"] = base64.b64encode(json.dumps(key).encode()).decode()
        state["name"] = f"{state['service_account_id']}/keys/abc"
    made_up = {"N": 1_700_000_000_000, "B": False, "M": state.get("labels") or {}}
    for name, value in state.items():
        if value is Unknown and name in attributes:
            state[name] = made_up.get(attributes[name][0], f"{resource}.{name}")
    return state


def refusals(resource, values):
    """Yield the attributes that Google's provider would refuse, and why."""

    def wrong(name, pattern):
        return isinstance(values.get(name), str) and not re.search(pattern, values[name])

    expiration = values.get("default_table_expiration_ms")
    if resource == "google_bigquery_dataset" and wrong("dataset_id", r"^[0-9A-Za-z_]{1,1024}$"):
        yield "dataset_id", "must contain only letters, numbers, _"
    if isinstance(expiration, int | float) and expiration < 3_600_000:
        yield "default_table_expiration_ms", "shorter than 3600000"
    if resource == "google_service_account" and wrong(
        "account_id", r"^[a-z](?:[-a-z0-9]{4,28}[a-z0-9])$"
    ):
        yield "account_id", "RFC1035 6-30"
    if wrong("role", r"^(roles/|projects/|organizations/)"):
        yield "role", "not a role"


def write_file(state):
    """Write the file of a `local_sensitive_file`, as its provider does."""
    path = Path(state["filename"])
    directory_mode = int(state.get("directory_permission") or "0700", 8)
    path.parent.mkdir(directory_mode, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    descriptor = os.open(path, flags, int(state.get("file_permission") or "0700", 8))
    with os.fdopen(descriptor, "w") as file:
        file.write(state["content"])
    state["id"] = sha1(state["content"].encode())


def sha1(content):
    return hashlib.sha1(content).hexdigest()


def make_resource(resource, attributes):
    """Return the class of a resource, as `tf` wants it."""

    class Resource:
        def __init__(self, _provider):
            pass

        @classmethod
        def get_name(cls):
            return resource.removeprefix(f"{PROVIDER}_")

        @classmethod
        def get_schema(cls):
            return Schema(
                attributes=[attribute(name, *kind) for name, kind in attributes.items()],
                block_types=make_blocks(BLOCKS.get(resource, {})),
                version=0,
            )

        def validate(self, diagnostics, _type, values):
            for name, reason in refusals(resource, values):
                diagnostics.add_error(reason, path=[name])

        def plan(self, _context, _current, planned):
            return planned

        def create(self, _context, planned):
            state = fill_in(resource, attributes, planned)
            if resource == "local_sensitive_file":
                write_file(state)
            return state

        def read(self, _context, current):
            if resource != "local_sensitive_file":
                return current
            # Like the real provider, None for a file that is gone or was changed by hand: Terraform
            # then makes it again.
            path = Path(current["filename"])
            return current if path.exists() and sha1(path.read_bytes()) == current["id"] else None

        def update(self, _context, _current, planned):
            return fill_in(resource, attributes, planned)

        def delete(self, _context, current):
            if resource == "local_sensitive_file":
                Path(current["filename"]).unlink(missing_ok=True)

        def import_(self, _context, _id):
            return None

        def upgrade(self, _context, _version, old):
            return old

    Resource.__name__ = resource
    return Resource


class Provider:
    """One of the two providers, as `tf` wants it."""

    def get_model_prefix(self):
        return f"{PROVIDER}_"

    def full_name(self):
        return f"registry.terraform.io/hashicorp/{PROVIDER}"

    def get_provider_schema(self, _diagnostics):
        attributes = []
        if PROVIDER == "google":
            attributes = [Attribute(name, String(), optional=True) for name in SETTINGS]
            attributes.append(Attribute("user_project_override", Bool(), optional=True))
        return Schema(attributes=attributes, version=0)

    def get_resources(self):
        resources = GOOGLE if PROVIDER == "google" else LOCAL
        return [make_resource(name, attributes) for name, attributes in resources.items()]

    def validate_config(self, _diagnostics, _config):
        pass

    def configure_provider(self, _diagnostics, _config):
        pass

    def get_data_sources(self):
        return []

    def get_functions(self):
        return []

    def new_resource(self, kind):
        return kind(self)

    def new_data_source(self, kind):
        return kind(self)

    def new_function(self, kind):
        return kind(self)


if __name__ == "__main__":
    run_provider(Provider())
