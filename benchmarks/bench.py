"""Times whole runs of dbt on the local BigQuery: by hand, our pipeline, and its peers.

Makes dbt projects of several sizes, half of their models tested, and lets every runner
run them in turn, in one session on one machine; then one size again on a BigQuery that is
far. All that is made is in a temporary folder; the results go to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import yaml

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "utilities"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from bi_pipeline.errors import InfrastructureError
from bi_pipeline.settings import PROJECT_ROOT
from fault_proxy import fault_proxy
from project import copy_prefect_database, saved_key
from report import LABELS, Measure, Results, read_results, write_report
from support.local_content import PROJECT_ID, use_prefect_server
from support.local_stack import run_local_servers
from token_endpoint import token_endpoint

PEERS = PROJECT_ROOT / "benchmarks/peers"
RESULTS = PROJECT_ROOT / "benchmarks/results"
DAGSTER_VENV = PROJECT_ROOT / ".venv-dagster"

OURS = ("pipeline-server", "pipeline", "only-new")
PIPELINE = [sys.executable, "prefect/pipeline.py"]
ONLY_NEW = [*PIPELINE, "--only-new"]
COMMANDS = {
    "dbt": [["dbt", "run"], ["dbt", "test"]],
    "dbt-8": [["dbt", "run"], ["dbt", "test"]],
    "pipeline-server": [PIPELINE],
    "pipeline": [PIPELINE],
    "only-new": [ONLY_NEW],
    "core-operation": [[sys.executable, str(PEERS / "plain_core_operation.py")]],
    "dbt-runner": [[sys.executable, str(PEERS / "prefect_dbt_runner.py")]],
    "dagster": [[str(DAGSTER_VENV / "bin/python"), str(PEERS / "dagster_assets.py")]],
}

# Telemetry would add its requests to what is measured. On a slow machine, Prefect's default limit
# would end the boot of a temporary server, and with it the benchmark.
EVERY_PROCESS = {
    "DO_NOT_TRACK": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}

PROJECT_NAME = "bench"
BLOCK_NAME = "bench"
# About the time that Google takes to answer a query, and to give a token.
FAR_QUERY_SECONDS = 1
FAR_TOKEN_SECONDS = 0.15
FAR_SIZE = 100
# On the local BigQuery, which shares its cores with dbt, every runner has four threads: « dbt-8 »
# would repeat « dbt ». A run that asks nothing is compared where asking costs the most.
FAR_ONLY = ("dbt-8", "only-new")
LAYER = 10
SAMPLE_SECONDS = 0.2


class BenchError(Exception):
    """A measured process has failed; its text, the output included, is the whole message."""


@dataclass(frozen=True)
class Runner:
    """One way to run dbt, on a project of its own in `folder`/dbt."""

    name: str
    folder: Path
    environment: dict[str, str]

    def run(self) -> tuple[float, float, float]:
        """Run it once; return seconds and the peaks of memory, as `run_process` does."""
        runs = [run_process(command, self) for command in COMMANDS[self.name]]
        seconds, process_mb, tree_mb = zip(*runs, strict=True)
        return sum(seconds), max(process_mb), max(tree_mb)


def write_dbt_project(folder: Path, size: int) -> None:
    """Write a dbt project of `size` models in layers of ten, the first half of each tested.

    Each model reads one of the layer before. Views and tables alternate along a chain, so
    that no view stands on a view.
    """
    models = folder / "models"
    models.mkdir(parents=True)
    project = {"name": PROJECT_NAME, "profile": PROJECT_NAME, "version": "1.0.0"}
    (folder / "dbt_project.yml").write_text(yaml.safe_dump(project))
    tested = []
    for number in range(size):
        layer, place = divmod(number, LAYER)
        kind, test = ("table", "not_null") if place % 2 else ("view", "unique")
        parent = f"model_{(layer - 1) * LAYER + (place + 1) % LAYER}"
        source = f"{{{{ ref('{parent}') }}}}" if layer else "(select 1 as id)"
        model = f"{{{{ config(materialized='{kind}') }}}}\nselect id from {source}\n"
        (models / f"model_{number}.sql").write_text(model)
        if place < LAYER // 2:
            columns = [{"name": "id", "data_tests": [test]}]
            tested.append({"name": f"model_{number}", "columns": columns})
    (models / "models.yml").write_text(yaml.safe_dump({"models": tested}))


@dataclass(frozen=True)
class BigQuery:
    """Where the queries go, and with which key.

    Attributes:
        far: whether each answer takes the time that Google's takes.
        local: the environment of the local BigQuery, its Prefect server included.
        threads: those of every runner but « dbt ».
    """

    far: bool
    local: dict[str, str]
    endpoint: str
    key: dict[str, str]
    threads: int


@contextmanager
def far_bigquery(local: dict[str, str]) -> Iterator[BigQuery]:
    """Yield the local BigQuery behind a proxy and a token server that answer as late as Google."""
    with (
        fault_proxy(local["DBT_BIGQUERY_API_ENDPOINT"]) as proxy,
        token_endpoint(saved_key(local), delay=FAR_TOKEN_SECONDS) as (key, _),
    ):
        proxy.on_query = lambda _: time.sleep(FAR_QUERY_SECONDS)
        google = {
            name: value for name, value in local.items() if name != "GOOGLE_CLOUD_UNIVERSE_DOMAIN"
        }
        yield BigQuery(True, google, proxy.url, key, threads=8)


def write_profile(folder: Path, dataset: str, threads: int, bigquery: BigQuery) -> None:
    """Write a `profiles.yml` beside a key, as one does by hand."""
    key_file = folder / "sa_key.json"
    key_file.write_text(json.dumps(bigquery.key))
    output = {
        "type": "bigquery",
        "method": "service-account",
        "keyfile": str(key_file),
        "project": PROJECT_ID,
        "dataset": dataset,
        "api_endpoint": bigquery.endpoint,
        "threads": threads,
    }
    profile = {PROJECT_NAME: {"target": "dev", "outputs": {"dev": output}}}
    (folder / "profiles.yml").write_text(yaml.safe_dump(profile))


def prepare(name: str, size: int, work: Path, bigquery: BigQuery) -> Runner:
    """Return a runner on a new project of this size, once dbt has parsed it for this runner."""
    folder, dataset = work / f"{size}{'-far' * bigquery.far}" / name, f"bench_{size}"
    if name == "only-new":
        # In the dataset of the others, all of its tables would be new each time.
        dataset += "_only_new"
    write_dbt_project(folder / "dbt", size)
    # Four, as in the profile of dbt's documentation. If « dbt » had as many as the others, nobody
    # would see how much of their gain comes from threads alone.
    threads = 4 if name == "dbt" else bigquery.threads
    write_profile(folder, dataset, threads, bigquery)
    copy_prefect_database(Path(bigquery.local["PREFECT_HOME"]), folder / ".prefect")
    if name in OURS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT_ROOT / "prefect", folder / "prefect", ignore=ignored)
        shutil.copy(PROJECT_ROOT / "prefect.toml", folder)
    runner = Runner(name, folder, make_environment(name, folder, dataset, bigquery))
    if name == "dagster":
        (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    # Without this first parse, the first round would measure a parse of the whole project, the
    # later ones would not, and dagster-dbt would find no manifest.
    if name == "only-new":
        run_process(ONLY_NEW, runner)
    else:
        run_process([*PIPELINE, "--select=model_0"] if name in OURS else ["dbt", "parse"], runner)
    return runner


def make_environment(name: str, folder: Path, dataset: str, bigquery: BigQuery) -> dict[str, str]:
    """Return the environment of a runner: only ours knows the settings of the pipeline."""
    ignored = () if name in OURS else ("PREFECT_", "DBT_", "GCP_", "DAGSTER_")
    environment = {
        key: value for key, value in bigquery.local.items() if not key.startswith(ignored)
    }
    environment |= EVERY_PROCESS | {"HOME": str(folder)}
    if name not in ("pipeline-server", "only-new"):
        environment.pop("PREFECT_API_URL", None)
        environment["PREFECT_HOME"] = str(folder / ".prefect")
    if name in OURS:
        return environment | {
            "DBT_PROFILE_NAME": PROJECT_NAME,
            "DBT_BIGQUERY_DATASET_DEV": dataset,
            "DBT_BIGQUERY_API_ENDPOINT": bigquery.endpoint,
            "DBT_TARGET": "dev",
            "DBT_THREADS": str(bigquery.threads),
            "PREFECT_GCP_CREDENTIALS_BLOCK": BLOCK_NAME,
        }
    environment["DBT_PROJECT_DIR"] = str(folder / "dbt")
    environment["DBT_PROFILES_DIR"] = str(folder)
    if name == "dagster":
        path = [str(DAGSTER_VENV / "bin"), environment["PATH"]]
        environment |= {"DAGSTER_HOME": str(folder), "PATH": os.pathsep.join(path)}
    return environment


def run_process(command: list[str], runner: Runner) -> tuple[float, float, float]:
    """Run a command of the runner to its end; BenchError, with its output, if it fails.

    Returns the seconds from start to end, then two peaks of memory in 10^6 bytes, sampled:
    of the process itself, and of it with all its descendants.
    """
    log_file = runner.folder / "output.log"
    peaks = [(0.0, 0.0)]
    start = time.perf_counter()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=runner.folder,
            env=runner.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peaks.append(memory_mb(watched))
            with suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLE_SECONDS)
        seconds = time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()
    if process.returncode:
        output = log_file.read_text(errors="replace")
        raise BenchError(f"{output}\n{runner.name} : {command} a échoué ({process.returncode}).")
    process_mb, tree_mb = (max(values) for values in zip(*peaks, strict=True))
    return seconds, process_mb, tree_mb


def memory_mb(process: psutil.Process) -> tuple[float, float]:
    """Return the memory of the process, and of it with its descendants, in 10^6 bytes.

    A page that several processes share, after a fork, counts for its part in each.
    """
    own = total = process.memory_full_info().pss
    for descendant in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += descendant.memory_full_info().pss
    return own / 1e6, total / 1e6


def describe_machine() -> dict[str, str]:
    """Return what the results depend on, by its French label."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    packages = ("dbt-core", "dbt-bigquery", "prefect", "prefect-dbt", "bqemulator")
    versions = [f"{package} {version(package)}" for package in packages]
    dagster_path = [str(folder) for folder in DAGSTER_VENV.glob("lib/*/site-packages")]
    dagster = distributions(name="dagster-dbt", path=dagster_path)
    versions += [f"dagster-dbt {package.version}" for package in dagster]
    return {
        "Date": date.today().isoformat(),
        "Processeur": f"{model or platform.machine()}, {os.cpu_count()} cœurs",
        "Mémoire": f"{psutil.virtual_memory().total / 1e9:.0f} Go",
        "Système": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "Paquets": ", ".join(versions),
    }


def measure(
    names: list[str], size: int, repeat: int, bigquery: BigQuery, work: Path
) -> list[Measure]:
    """Return the measures of one size, `repeat` rounds of every runner in turn."""
    from prefect.types import SecretDict
    from prefect_gcp import GcpCredentials

    with use_prefect_server(bigquery.local):
        block = GcpCredentials(service_account_info=SecretDict(bigquery.key))
        block.save(BLOCK_NAME, overwrite=True)
    what = f"{size} modèles{', BigQuery lointain' * bigquery.far}"
    runners = []
    for name in names:
        show(f"{what}, préparation : {LABELS[name]}")
        runners.append(prepare(name, size, work, bigquery))
    # This run is not measured. If it did not create the tables, the first measured run would, while
    # all others replace them.
    runners[0].run()
    measures = []
    for turn in range(1, repeat + 1):
        for runner in runners:
            measures.append(Measure(bigquery.far, size, runner.name, *runner.run()))
            show(
                f"{what}, tour {turn} sur {repeat} : {LABELS[runner.name]}, "
                f"{measures[-1].seconds:.1f} s, {measures[-1].process_mb:.0f} Mo"
            )
    return measures


def show(text: str) -> None:
    """Show how far the benchmark is: it takes long."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description="Mesure dbt seul, notre pipeline et les autres, sur le BigQuery local.",
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[10, 100, 500],
        metavar="N",
        help="nombres de modèles (par défaut : 10 100 500)",
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="tours mesurés (par défaut : 3)"
    )
    parser.add_argument(
        "--runners", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="par défaut, tous"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="dossier (par défaut : benchmarks/results)"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="refaire la page et le graphique, sans rien mesurer"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, then write the results, after each size; return the exit code."""
    arguments = parse_arguments(argv)
    if arguments.redraw:
        write_report(read_results(arguments.results / "results.json"), arguments.results)
        return 0
    names = arguments.runners
    if "dagster" in names and not (DAGSTER_VENV / "bin/dagster").exists():
        names.remove("dagster")
        show("dagster-dbt n'est pas mesuré : `make bench-peers` l'installe.")
    if not names:
        return 2
    # By default SIGTERM ends Python without unwinding: the servers would go on, and the temporary
    # folder would stay.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    measures: list[Measure] = []
    with TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        # Importing Prefect creates PREFECT_HOME: if it were set later, the user would get a
        # ~/.prefect.
        os.environ["PREFECT_HOME"] = str(work / "prefect")
        try:
            with run_local_servers(work / "local") as (local, _), far_bigquery(local) as far:
                near = BigQuery(
                    False, local, local["DBT_BIGQUERY_API_ENDPOINT"], saved_key(local), threads=4
                )
                tables = [(near, size) for size in arguments.sizes] + [(far, FAR_SIZE)]
                for bigquery, size in tables:
                    here = [name for name in names if bigquery.far or name not in FAR_ONLY]
                    measures += measure(here, size, arguments.repeat, bigquery, work)
                    write_report(Results(describe_machine(), measures), arguments.results)
        except (BenchError, InfrastructureError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
