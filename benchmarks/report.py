"""Draws the table and the plot of a benchmark from its raw numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from matplotlib import colormaps
from matplotlib.figure import Figure

LABELS = {
    "dbt": "dbt run puis dbt test, à la main",
    "dbt-8": "les mêmes, 8 threads au lieu de 4",
    "pipeline-server": "notre pipeline, serveur Prefect déjà démarré",
    "pipeline": "notre pipeline, serveur temporaire",
    "only-new": "notre pipeline, `--only-new`, rien de neuf",
    "core-operation": "flow DbtCoreOperation simple",
    "dbt-runner": "flow PrefectDbtRunner",
    "dagster": "dagster-dbt",
}

HOW_TO_READ = """\
La moitié des modèles ont un test. Chaque durée est celle de processus entiers, du lancement à la
fin : Python, imports, serveur temporaire, dbt. C'est la médiane de {rounds}, suivie du minimum et
du maximum ; × est le rapport à la première ligne. À chaque tour, tous passent l'un après l'autre,
sur la même machine. Avant le premier, dbt a lu le projet une fois pour chacun et créé les tables :
partial parse et base de Prefect sont en place.

Les flows démarrent un serveur Prefect temporaire, sauf là où un serveur est déjà démarré.
dagster-dbt lance un seul `dbt build`, tous les autres `dbt run` puis `dbt test`. Le BigQuery est
local (bqemulator) et prend sa part des mêmes cœurs.
"""

HOW_TO_READ_FAR = """\
Sur le BigQuery local, le travail du serveur prend sa part des deux cœurs ; sur le vrai, on attend.
Ici chaque requête attend 1 s de plus, et chaque jeton 0,15 s. La première ligne a les 4 threads par
défaut de dbt, toutes les autres 8, la valeur par défaut de DBT_THREADS : ce qui sépare les deux
premières n'est dû qu'aux threads. `--only-new` est une exécution où rien n'est neuf depuis la
précédente, serveur Prefect déjà démarré : elle ne fait aucune requête, et lit les métadonnées des
tables, seize à la fois, ici sans délai.
"""

WHERE_IT_COMES_FROM = """\
Notre pipeline fait tout ce que font les deux commandes, et va plus vite qu'elles, pour quatre
raisons, dont les trois premières sont dans le processus de dbt :

- dbt est importé une fois, avant tout le reste, et le processus se dédouble (fork) pour chaque
  commande ; ce que dbt ne fabrique qu'au premier usage l'est déjà quand il se dédouble ;
- les identifiants Google sont faits une fois par exécution : dbt-bigquery lit la clé et demande un
  jeton pour chaque nœud ([ce qu'on pourrait lui proposer](../dbt-bigquery-credentials.md)) ;
- le ramasse-miettes de Python est arrêté dans un processus qui ne vit que le temps d'une commande ;
- prefect_gcp et prefect_dbt sont importés sans les clients de Google Cloud et sans dbt, qui
  viendraient quand même si l'on s'en servait.
"""

HOW_TO_READ_MEMORY = """\
Mémoire la plus haute, relevée toutes les 0,2 s, médiane des tours : le processus lancé, puis ce
processus et tous ses descendants (dbt, serveur temporaire) ; une page que plusieurs partagent
compte dans chacun pour sa part (PSS). Ni le serveur Prefect déjà démarré ni le BigQuery local ne
sont comptés.
"""


@dataclass(frozen=True)
class Measure:
    """One run of one runner, on a BigQuery here or far: seconds, peaks of memory in 10^6 bytes."""

    far: bool
    size: int
    runner: str
    seconds: float
    process_mb: float
    tree_mb: float


@dataclass(frozen=True)
class Results:
    """All that one session has measured, and what it ran on (French label -> value)."""

    machine: dict[str, str]
    measures: Sequence[Measure]

    def where(self, *, far: bool) -> Results:
        """Return the results on the BigQuery that is here, or on the far one."""
        return Results(self.machine, [m for m in self.measures if m.far is far])

    @property
    def sizes(self) -> list[int]:
        """The numbers of models, in ascending order."""
        return sorted({measure.size for measure in self.measures})

    @property
    def runners(self) -> list[str]:
        """The runners that have been measured, in the order of the table."""
        return [name for name in LABELS if any(m.runner == name for m in self.measures)]

    def of(self, size: int, runner: str) -> list[Measure]:
        """Return the measures of one runner at one size."""
        return [m for m in self.measures if (m.size, m.runner) == (size, runner)]

    def seconds(self, size: int, runner: str) -> float:
        """Return the median duration of one runner at one size."""
        return median(measure.seconds for measure in self.of(size, runner))

    def ratio(self, size: int, runner: str) -> float:
        """Return how many times longer than the first runner this one takes."""
        return self.seconds(size, runner) / self.seconds(size, self.runners[0])


def read_results(path: Path) -> Results:
    """Return the results that `write_report` has saved."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    return Results(saved["machine"], [Measure(**measure) for measure in saved["measures"]])


def write_report(results: Results, folder: Path) -> None:
    """Write `results.json`, `results.md` and `results.png` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = json.dumps(asdict(results), ensure_ascii=False, indent=1)
    (folder / "results.json").write_text(saved + "\n", encoding="utf-8")
    (folder / "results.md").write_text(render_markdown(results), encoding="utf-8")
    draw_plot(results.where(far=False), folder / "results.png")


def render_markdown(results: Results) -> str:
    """Return the page of results: durations, memory, machine."""
    near, far = results.where(far=False), results.where(far=True)
    repeat = len(near.of(near.sizes[0], near.runners[0]))
    rounds = f"{repeat} tours" if repeat > 1 else "1 tour"
    machine = "\n".join(f"- {name} : {value}" for name, value in results.machine.items())
    return f"""\
# Temps et mémoire

## Durée

{_render_table(near, _duration)}

![Durée rapportée à celle de dbt seul](results.png)

{HOW_TO_READ.format(rounds=rounds)}
## Durée, sur un BigQuery lointain

{_render_table(far, _duration)}

{HOW_TO_READ_FAR}
## D'où vient l'écart

{WHERE_IT_COMES_FROM}
## Mémoire

{_render_table(near, _memory)}

{HOW_TO_READ_MEMORY}
## Machine

{machine}

Pour mesurer la vôtre : `make bench-peers bench`. `results.json` a toutes les mesures.
"""


def _render_table(results: Results, render_cell: Callable[[Results, int, str], str]) -> str:
    """Return a Markdown table: a line a runner, a column a size."""
    lines = [["", *(f"{size} modèles" for size in results.sizes)]]
    lines.append(["---"] * len(lines[0]))
    for runner in results.runners:
        cells = [render_cell(results, size, runner) for size in results.sizes]
        lines.append([LABELS[runner], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _duration(results: Results, size: int, runner: str) -> str:
    durations = [measure.seconds for measure in results.of(size, runner)]
    return (
        f"**{_french(median(durations))} s** × {_french(results.ratio(size, runner), 2)} "
        f"({_french(min(durations))}–{_french(max(durations))})"
    )


def _memory(results: Results, size: int, runner: str) -> str:
    measures = results.of(size, runner)
    process = median(measure.process_mb for measure in measures)
    tree = median(measure.tree_mb for measure in measures)
    return f"**{process:.0f} Mo**, {tree:.0f} Mo en tout"


def _french(value: float, decimals: int = 1) -> str:
    return f"{value:.{decimals}f}".replace(".", ",")


def draw_plot(results: Results, path: Path) -> None:
    """Draw the ratios to the first runner: a group a runner, a bar a size.

    One hue from light to dark as the projects grow: told apart without seeing colours.
    """
    height = 0.8 / len(results.sizes)
    figure = Figure(figsize=(9, 1.5 + len(results.runners) * 0.8), layout="constrained")
    axes = figure.subplots()
    for index, size in enumerate(results.sizes):
        ratios = [results.ratio(size, runner) for runner in results.runners]
        bars = axes.barh(
            [row + index * height for row in range(len(ratios))],
            ratios,
            height * 0.9,
            color=colormaps["Blues"](0.4 + 0.6 * index / max(1, len(results.sizes) - 1)),
            label=f"{size} modèles",
        )
        texts = [
            f"× {_french(ratio, 2)} ({results.seconds(size, runner):.0f} s)"
            for ratio, runner in zip(ratios, results.runners, strict=True)
        ]
        # Without a white box, a label that crosses the dashed line cannot be read.
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.bar_label(bars, texts, padding=4, fontsize=9, bbox=behind)
    middle = 0.4 - height / 2
    axes.set_yticks(
        [row + middle for row in range(len(results.runners))],
        [LABELS[runner] for runner in results.runners],
    )
    axes.invert_yaxis()
    axes.axvline(1, color="0.5", linewidth=1, linestyle="--", zorder=0)
    axes.set_xlabel(f"Durée rapportée à la première ligne : {LABELS[results.runners[0]]}")
    axes.xaxis.set_major_formatter(lambda value, _position: _french(value))
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
