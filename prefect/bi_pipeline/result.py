"""Results of dbt commands, as plain values: nothing here reads a file or runs a process."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

ERROR_STATUSES = {"error", "runtime error", "partial success"}
FAILED_STATUSES = ERROR_STATUSES | {"fail"}
# dbt's RETRYABLE_STATUSES (1.12). If one were missing, « rien à reprendre » would be said of a run
# that `dbt retry` would redo.
RETRIED = FAILED_STATUSES | {"skipped"}

# Ours, of a node that was under way when the run was stopped: dbt writes no result of it.
INTERRUPTED = "interrupted"

# dbt exits 0 with these events when a selection names no node, or when there is nothing to do:
# without them, a mistyped --select would pass for a success.
NO_NODES = "NoNodesForSelectionCriteria"
NOTHING_TO_DO = {NO_NODES, "NothingToDo"}

# The name of a run's state when dbt warned of something, or when BigQuery billed far more than
# usual. Automations on Prefect match it (utilities/alerts.py): under another name, the alerts of a
# team would no longer come.
WITH_WARNINGS = "Réussie avec avertissements"
# The name after a run with --only-new in which no test warned, but some that it did not run again
# had. Under the name above, a schedule of every fifteen minutes would alert of the same warning
# each time.
WITH_EARLIER_WARNINGS = "Réussie, avertissements déjà signalés"

KINDS = {
    "model": "modèle",
    "test": "test",
    "unit_test": "test unitaire",
    "seed": "seed",
    "snapshot": "snapshot",
    "function": "fonction",
    "source": "source",
    "operation": "opération",
}

# Faults that go away by themselves, in the words of the BigQuery client and of dbt. If the time
# limit of a job (« reason: timeout ») matched, each retry would run into it again.
PASSING_FAULT = re.compile(
    r"""
    ^\s*(?:429|500|502|503|504)\ (?:(?:GET|POST|PUT|PATCH|DELETE)\ http|.*;\ reason:\ (?!timeout))
    | Exceeded\ rate\ limits
    | Connection\ (?:aborted|refused|reset) | ConnectionResetError | RemoteDisconnected
    | Max\ retries\ exceeded | NewConnectionError | Failed\ to\ resolve
    | Read\ timed\ out | Timeout\ of\ .*\ exceeded,\ last\ exception
    """,
    re.VERBOSE | re.MULTILINE,
)


@dataclass(frozen=True)
class Freshness:
    """How old the newest row of a source is, and how old it may be.

    Attributes:
        loaded_at: moment of the newest row, ISO 8601.
        age_seconds: how old it was when dbt looked.
        limit: the age that is refused, a count and `minute`, `hour` or `day`.
    """

    loaded_at: str
    age_seconds: float
    limit: tuple[int, str]


@dataclass(frozen=True)
class Bill:
    """The bytes that BigQuery billed.

    Attributes:
        billed: bytes, at least.
        is_whole: whether it cannot have billed more.
        location: where the data is, which makes the price; empty when no query says so.
    """

    billed: int = 0
    is_whole: bool = True
    location: str = ""

    def __add__(self, other: Bill) -> Bill:
        """Return the bill of both."""
        return Bill(
            self.billed + other.billed,
            self.is_whole and other.is_whole,
            self.location or other.location,
        )


@dataclass(frozen=True)
class FailingRows:
    """The first rows that fail a test.

    Attributes:
        columns: their names.
        rows: the values of each row, as texts.
        refusal: why BigQuery gave none; empty if it did.
        bill: of the query that read them.
    """

    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    refusal: str = ""
    bill: Bill = Bill()


def find_name(unique_id: str) -> str:
    """Return the name of a node, as its file or its YAML gives it."""
    parts = unique_id.split(".")[2:]
    # The unique_id of a generic test ends in a hash: users would read it as part of the name.
    return parts[0] if unique_id.startswith("test.") else ".".join(parts)


def translate_kind(unique_id: str) -> str:
    """Return the kind of a node, in French."""
    return KINDS.get(unique_id.split(".")[0], "nœud")


@dataclass(frozen=True)
class NodeResult:
    """The result of one node: a model, a test, a seed, a source…

    Attributes:
        unique_id: dbt's name of the node, `model.project.name`.
        status: dbt's word for how it ended.
        message: what dbt or BigQuery said of it.
        seconds: how long it took.
        span: when it started and ended, in seconds since 1970; None if it did not run.
        relation: `dataset.table` that it built; empty for a test or a source.
        response: what BigQuery answered: rows_affected, bytes_billed, job_id…
        failures: how many rows fail a test; None for what is no test, or did not run.
        blocked_by: the node whose failure had dbt skip this one; empty if dbt does not tell.
        owner: who is to be told; empty if the project does not say.
        file: where it is, from `dbt/`.
        compiled_code: its compiled SQL, if it failed or warned and dbt has any.
        stored_failures: `project.dataset.table` where a test keeps the rows that fail it; empty
            for none.
        failing_rows: the first of these rows, if somebody has read them.
        failed_batches: start and end, ISO 8601, of each batch of a microbatch that failed.
        freshness: of a source that is too old.
        missing_seed: the seed of this project, not loaded yet, whose table it reads.
        is_local: whether its BigQuery is the one on this machine.
        bill: of all its queries; `response` has what the main one billed.
    """

    unique_id: str
    status: str
    message: str = ""
    seconds: float = 0.0
    span: tuple[float, float] | None = None
    relation: str = ""
    response: dict[str, Any] = field(default_factory=dict)
    failures: int | None = None
    blocked_by: str = ""
    owner: str = ""
    file: str = "?"
    compiled_code: str = ""
    stored_failures: str = ""
    failing_rows: FailingRows | None = None
    failed_batches: list[tuple[str, str]] = field(default_factory=list)
    freshness: Freshness | None = None
    missing_seed: str = ""
    is_local: bool = False
    bill: Bill = Bill()

    @property
    def name(self) -> str:
        """The name of the node, as its file or its YAML gives it."""
        return find_name(self.unique_id)

    @property
    def kind(self) -> str:
        """The kind of node, in French."""
        return translate_kind(self.unique_id)

    @property
    def is_test(self) -> bool:
        """Whether the node checks data or SQL, rather than builds something."""
        return self.unique_id.startswith(("test.", "unit_test.", "source."))

    @property
    def was_taken_up(self) -> bool:
        """Whether dbt did anything with the node."""
        return self.status not in ("skipped", "no-op")

    @property
    def hit_a_passing_fault(self) -> bool:
        """Whether the node failed because of BigQuery or the network, and may work later."""
        return self.status in ERROR_STATUSES and bool(PASSING_FAULT.search(self.message))


@dataclass(frozen=True)
class NodeEstimate:
    """The bill that one node of a run would have.

    Attributes:
        unique_id: dbt's name of the node.
        billed: bytes; None if nobody can tell.
        bound: how `billed` bounds the bill; empty if it is the bill.
        reason: why nobody can tell, in French.
    """

    unique_id: str
    billed: int | None = None
    bound: Literal["", "au moins", "au plus", "environ"] = ""
    reason: str = ""


@dataclass(frozen=True)
class Estimate:
    """The bill that a run would have.

    Attributes:
        nodes: of each node that the run would do.
        location: where the data is, in BigQuery's words; empty if nothing would be read.
        spent: what the estimate itself was billed, for queries of macros.
        limit: the bytes above which BigQuery refuses a query of the run; None without a limit.
    """

    nodes: list[NodeEstimate]
    location: str
    spent: Bill
    limit: int | None


@dataclass(frozen=True)
class DbtResult:
    """The result of one dbt command, all its attempts together.

    Attributes:
        command: words after `dbt`, for example `run`.
        return_code: dbt's exit code; negative if a signal ended it.
        errors: the errors it logged.
        idle_events: those of NOTHING_TO_DO that dbt logged.
        nodes: one a node that dbt took up, in the order they ended; empty when dbt stopped
            before the first.
        seconds: how long dbt worked on the nodes.
        bill: of all its queries, those that belong to no node too.
        listed: the `unique_id` of what `dbt list` found.
        arguments: those that dbt says the command had; `which` is that which a retry took up.
        estimate: what a run of these nodes would be billed, if the run asks for it.
        drift: French line that says how much more it billed than usual; empty if it did not.
        was_interrupted: whether the run was stopped before its end: nodes are missing, and the one
            that was under way has the status `interrupted`.
        docs: where DBT_ARTIFACTS_DIR keeps the documentation, an address or a path, be it there or
            not; empty without that setting.
    """

    command: str
    return_code: int
    errors: list[str] = field(default_factory=list)
    idle_events: set[str] = field(default_factory=set)
    nodes: list[NodeResult] = field(default_factory=list)
    seconds: float = 0.0
    bill: Bill = Bill()
    listed: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    estimate: Estimate | None = None
    drift: str = ""
    was_interrupted: bool = False
    docs: str = ""

    @property
    def did_nothing(self) -> bool:
        """Whether there was no node to take up: dbt itself takes that for a success."""
        return self.return_code == 0 and bool(self.idle_events) and not self.nodes

    @property
    def selection_is_empty(self) -> bool:
        """Whether the selection, a default one perhaps, names no node at all.

        A selected model that has no test leaves `dbt test` with nothing to do: that is no error.
        """
        return self.did_nothing and (NO_NODES in self.idle_events or self.command != "test")

    @property
    def succeeded(self) -> bool:
        """Whether dbt ended with exit code 0, and no node failed in any of the attempts' results.

        The exit code of a retry says nothing of the hooks, which it leaves out.
        """
        return self.return_code == 0 and not self.failed_nodes

    @property
    def has_warned(self) -> bool:
        """Whether dbt warned of a node, or BigQuery billed far more than usual."""
        return bool(self.drift) or any(node.status == "warn" for node in self.nodes)

    @property
    def can_be_taken_up(self) -> bool:
        """Whether `dbt retry` would redo something: it leaves hooks out (dbt 1.12.6)."""
        return any(
            node.status in RETRIED and not node.unique_id.startswith("operation.")
            for node in self.nodes
        )

    @cached_property
    def failed_nodes(self) -> list[NodeResult]:
        """The nodes that failed; one that was skipped after another did not."""
        return [node for node in self.nodes if node.status in FAILED_STATUSES]

    @property
    def hit_a_passing_fault(self) -> bool:
        """Whether all that failed is BigQuery's or the network's, and may work later."""
        if self.succeeded:
            return False
        if self.failed_nodes:
            return all(node.hit_a_passing_fault for node in self.failed_nodes)
        return any(PASSING_FAULT.search(error) for error in self.errors)

    def merge_retry(self, retry: DbtResult) -> DbtResult:
        """Return the result of this attempt and of the next, which redid its nodes, or some."""
        nodes = {node.unique_id: node for node in self.nodes}
        redone = {
            node.unique_id: replace(node, bill=nodes[node.unique_id].bill + node.bill)
            if node.unique_id in nodes
            else node
            for node in retry.nodes
        }
        return replace(
            retry,
            command=self.command,
            nodes=list((nodes | redone).values()),
            seconds=self.seconds + retry.seconds,
            bill=self.bill + retry.bill,
        )
