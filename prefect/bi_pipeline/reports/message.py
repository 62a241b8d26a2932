"""Says in French what a dbt command did: why it failed, what was built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from itertools import dropwhile, islice, takewhile

from bi_pipeline.explanations import explain_message
from bi_pipeline.reports.local_limits import find_limit
from bi_pipeline.result import KINDS, DbtResult, NodeResult, find_name

BUILT_OBJECTS = {"CREATE VIEW": "vue", "CREATE TABLE": "table", "MERGE": "incrémental"}

# dbt puts these titles on lines of their own before BigQuery's message. If a title were taken for
# the reason, users would read « Database Error in model a » and not why.
TITLE = re.compile(
    r"(Exception on worker thread\. )?\w+ Error( in .*)?|\S+ failed, error:"
    r"|An error occurred during execution of unit test .*"
)

# dbt 1.12 of a test: « Got 2512 results, configured to warn if != 0 ».
TEST_RESULT = re.compile(r"Got (\d+) results?, configured to (warn|fail) if (.+)")
THRESHOLDS = {"warn": "avertit", "fail": "échoue"}
DEFAULT_THRESHOLD = "!= 0"

# dbt's error of a node that it could not even start, such as a hook: the reason is on the next
# line, and the first line of our message, which many readers show alone, would not give it.
NODE_ERROR = re.compile(r"\w+ Error in (\w+) (\S+) \((?:\./)?([^)\n]+)\)\n\s*(.+)")

# dbt exits 0 when it has nothing to do, and that would pass for work done: the message says « dbt
# run : aucun modèle. », or « rien à faire » of a command that is not here.
IDLE = {
    "run": "aucun modèle",
    "test": "aucun test",
    "seed": "aucun seed",
    "snapshot": "aucun snapshot",
    "source freshness": "aucune source",
}

PERIODS = {"minute": "min", "hour": "h", "day": "j"}

# Upper bounds, the rest is counted: a message with hundreds of failures would be unreadable.
SHOWN_FAILURES = 20
SHOWN_RELATIONS = 50
SHOWN_LINES = 12
SHOWN_BATCHES = 5


def describe_failure(result: DbtResult) -> str:
    """Return what failed, the reason in the first line, then models and tests apart."""
    if not result.failed_nodes:
        return f"dbt {result.command} a échoué : {_find_reason_without_a_node(result)}"
    first, others = result.failed_nodes[0], len(result.failed_nodes) - 1
    count = f" (et {others} de plus)" if others else ""
    reason = f"dbt {result.command} a échoué{count} : {first.kind} {describe_node(first)}"
    return "\n".join(
        [reason, *(_list_failures(result.failed_nodes) if others else _list_details(first))]
    )


def describe_idle_run(results: list[DbtResult]) -> str:
    """Return that none of the commands had anything to do, and why; empty if one had."""
    # `deps` runs no node: if it counted, an empty selection after it would not be said.
    of_nodes = [result for result in results if result.nodes or result.idle_events]
    if not all(result.did_nothing for result in of_nodes):
        return ""
    if not any(result.selection_is_empty for result in of_nodes):
        return ""
    commands = ", ".join(f"dbt {result.command}" for result in of_nodes)
    return (
        f"{commands} : rien à faire, la sélection ne correspond à aucun nœud. Vérifiez --select et "
        "--exclude, le sélecteur par défaut de selectors.yml, ou que le projet dbt a des modèles."
    )


def describe_news(reasons: Mapping[str, str], done: Collection[str], since: str) -> str:
    """Return how much is new for a run with --only-new, then which models and why.

    Args:
        reasons: `unique_id` of what the run has to do -> why, in French.
        done: the `unique_id` of what it would do without the option.
        since: when the success that it is compared with started, ISO 8601; empty without one.
    """
    moment = ""
    if since:
        at = datetime.fromisoformat(since)
        moment = f" depuis le {at:%d/%m} à {at.hour} h {at:%M}"
    counts = _count_kinds(reasons, done)
    if not reasons:
        return f"Rien de neuf{moment} : {counts}, aucune requête."
    if len(set(reasons.values())) == 1 and reasons.keys() == set(done):
        return f"Tout est à faire ({counts}) : {next(iter(reasons.values()))}."
    models = [name for name in reasons if name.startswith("model.")]
    shown = models or list(reasons)
    lines = _list_first([f"{find_name(name)} : {reasons[name]}" for name in shown])
    return "\n".join([f"De neuf{moment} : {counts}.", *lines])


def _count_kinds(names: Collection[str], of: Collection[str]) -> str:
    """Return how many of the nodes are among these: « 1 modèle sur 13, 4 tests sur 68 »."""
    counts, totals = (
        Counter(name.partition(".")[0].removeprefix("unit_") for name in group)
        for group in (names, of)
    )
    return ", ".join(
        f"{counts[kind]} {KINDS[kind]}{'s' if counts[kind] > 1 else ''} sur {total}"
        for kind, total in sorted(totals.items())
    )


def describe_success(results: list[DbtResult]) -> str:
    """Return which commands succeeded, and which had nothing to do."""
    done = ", ".join(
        f"dbt {result.command}" for result in results if not (result.did_nothing or result.estimate)
    )
    idle = [
        f"dbt {result.command} : {IDLE.get(result.command, 'rien à faire')}."
        for result in results
        if result.did_nothing
    ]
    return " ".join([*([f"{done} : réussi."] if done else []), *idle])


def describe_retry(failure: str, attempt: int, attempts: int) -> str:
    """Return the message of a command that met a passing fault, and what comes next."""
    message = f"{failure}\nPanne passagère de BigQuery ou du réseau, essai {attempt} sur {attempts}"
    if attempt < attempts:
        return f"{message} : ce qui a échoué sera refait."
    return f"{message} : relancez plus tard. Si cela dure, vérifiez le réseau."


def describe_warnings(results: Collection[DbtResult], earlier: Mapping[str, str]) -> str:
    """Return what dbt warned of, one line a node, after bills far above the usual; empty if none.

    `earlier` has the lines of what warned in an earlier run, by `unique_id`: they hold for what
    this one did not do again.
    """
    nodes = [node for result in results for node in result.nodes]
    done = {node.unique_id for node in nodes}
    warned = [result.drift for result in results if result.drift]
    warned += [describe_node(node) for node in nodes if node.status == "warn"]
    warned += [line for name, line in earlier.items() if name not in done]
    return "\n".join(["Avertissements :", *_list_first(warned)]) if warned else ""


def _list_first(texts: list[str]) -> list[str]:
    """Return a line each for the first texts, and how many more there are."""
    lines = [f"  - {text}" for text in texts[:SHOWN_FAILURES]]
    more = len(texts) - SHOWN_FAILURES
    return [*lines, f"  … et {more} de plus"] if more > 0 else lines


def explain_node(node: NodeResult) -> str:
    """Return what a known message means, and the remedy; empty for any other."""
    if node.missing_seed:
        return (
            f"{node.missing_seed} est un seed de ce projet, pas encore chargé : "
            "--commands seed run test"
        )
    limit = find_limit(node)
    return limit.describe(node.name) if limit else explain_message(node.message)


def describe_node(node: NodeResult) -> str:
    """Return the name of a node that failed or warned, why, its file, and who is to be told."""
    # Prefect's interface cuts messages at 60 characters: the reason comes before the path.
    file = "" if node.file == "?" else f" ({node.file.removeprefix('./')})"
    return f"{node.name} : {find_reason(node).removesuffix('.')}{file}{say_owner(node)}"


def say_owner(node: NodeResult) -> str:
    """Return who is to be told of a node, after its reason; empty if the project does not say."""
    return f" ; à prévenir : {node.owner}" if node.owner else ""


def render_summary(results: Iterable[DbtResult], target: str) -> str:
    """Return what the commands built, each relation once, with the rows; empty if nothing was."""
    built = {
        node.relation: node
        for result in results
        if result.command not in ("compile", "docs generate")
        for node in result.nodes
        if node.relation and node.status == "success"
    }
    if not built:
        return ""
    shown = list(built.items())[:SHOWN_RELATIONS]
    width = max(len(relation) for relation, _ in shown)
    lines = [
        f"  {relation:<{width}}  {_describe_object_type(node):<11}  {_describe_rows(node)}".rstrip()
        for relation, node in shown
    ]
    if len(built) > len(shown):
        lines.append(f"  … et {len(built) - len(shown)} de plus")
    return "\n".join([f"Construit (cible {target}) :", *lines])


def find_reason(node: NodeResult) -> str:
    """Return the line that says most of why a node failed, warned or was skipped."""
    if node.blocked_by:
        return f"après l'échec de {find_name(node.blocked_by)}"
    if node.status == "skipped" and not node.message:
        return "sans que dbt dise pourquoi"
    if node.freshness and not node.message:
        count, period = node.freshness.limit
        return (
            f"dernière donnée du {_format_moment(node.freshness.loaded_at)}, il y a "
            f"{_format_age(node.freshness.age_seconds)} ; limite : {count} {PERIODS[period]}"
        )
    if node.failed_batches:
        reason = f" ; {_find_message(node)}" if node.message else ""
        return f"lots en échec : {_list_batches(node)}{reason}"
    return _find_message(node)


def _list_batches(node: NodeResult) -> str:
    """Return when each batch that failed starts and ends."""
    batches = [
        f"{_format_moment(start)} → {_format_moment(end)}" for start, end in node.failed_batches
    ]
    more = f" et {len(batches) - SHOWN_BATCHES} de plus" if len(batches) > SHOWN_BATCHES else ""
    return ", ".join(batches[:SHOWN_BATCHES]) + more


def _find_message(node: NodeResult) -> str:
    """Return what a known message means; the line of any other that says most."""
    explanation, limit = explain_node(node), find_limit(node)
    if explanation and (limit is None or limit.certain):
        return explanation
    if found := TEST_RESULT.fullmatch(node.message.strip()):
        return _describe_test_result(*found.groups())
    lines = [line for line in _split_lines(node.message) if line]
    reasons = (line for line in lines if not TITLE.fullmatch(line))
    reason = next(reasons, lines[0] if lines else node.status)
    return f"{reason.removesuffix('.')} ; {explanation}" if explanation else reason


def _describe_test_result(rows: str, verb: str, threshold: str) -> str:
    """Return how many rows fail a test, with its threshold if it is not dbt's default."""
    words = "lignes en défaut" if int(rows) > 1 else "ligne en défaut"
    limit = "" if threshold == DEFAULT_THRESHOLD else f" ({THRESHOLDS[verb]} si {threshold})"
    return f"{_format_count(rows)} {words}{limit}"


def _list_details(node: NodeResult) -> list[str]:
    """Return the table in a message: differences of a unit test, columns that break a contract."""
    lines = dropwhile(lambda x: not x.startswith(("|", "@@")), _split_lines(node.message))
    return [f"  {line}" for line in islice(takewhile(bool, lines), SHOWN_LINES)]


def _split_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def _format_moment(text: str) -> str:
    """Return the day and hour of an ISO 8601 moment."""
    return text[:16].replace("T", " ")


def _format_age(seconds: float) -> str:
    """Return a duration in days, hours or minutes, whichever says it best."""
    for unit, length in (("j", 86_400), ("h", 3_600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 60:.0f} min"


def _find_reason_without_a_node(result: DbtResult) -> str:
    if result.return_code in (-9, 137):
        return "le processus dbt a été tué (signal 9), peut-être faute de mémoire."
    if not result.errors:
        return f"code de sortie {result.return_code}, voir dbt/logs/dbt.log."
    error = re.sub(r"^(\[ERROR\]: )?(Encountered an error:\n)?", "", result.errors[-1])
    if error.startswith("[Errno"):
        return f"{error}\nVérifiez la place libre et les droits du dossier dbt/."
    if meaning := explain_message(error):
        return f"{meaning}."
    error = NODE_ERROR.sub(_put_reason_first, error, count=1)
    return re.sub(r"^(\w+ Error)\n\s*", r"\1 : ", error)


def _put_reason_first(found: re.Match[str]) -> str:
    """Return « modèle a : the reason (the file) » from a match of NODE_ERROR."""
    kind, name, file, reason = found.groups()
    return f"{KINDS.get(kind, kind)} {name} : {reason.removesuffix('.')} ({file})"


def _list_failures(failed: list[NodeResult]) -> list[str]:
    """Return one line a failed node under the title of its group."""
    lines = []
    for title, of_tests in (("Modèles en échec", False), ("Tests en échec", True)):
        group = [node for node in failed if node.is_test is of_tests]
        lines += [f"{title} :"] if group else []
        for node in group[:SHOWN_FAILURES]:
            lines += [f"  - {describe_node(node)}", *(f"  {line}" for line in _list_details(node))]
        if len(group) > SHOWN_FAILURES:
            lines.append(f"  … et {len(group) - SHOWN_FAILURES} de plus")
    return lines


def _describe_object_type(node: NodeResult) -> str:
    if node.kind in ("seed", "snapshot"):
        return node.kind
    # dbt reports no code for a microbatch or a materialized view: lower() would raise on None, and
    # the run end in a traceback.
    code = node.response.get("code") or ""
    return BUILT_OBJECTS.get(code, code.lower())


def _describe_rows(node: NodeResult) -> str:
    rows = node.response.get("rows_affected")
    if rows is None:
        return ""
    words = "lignes écrites" if int(rows) > 1 else "ligne écrite"
    return f"{_format_count(rows):>9} {words}"


def _format_count(number: int | str) -> str:
    """Return a number with a space at each thousand."""
    return f"{int(number):,}".replace(",", " ")
