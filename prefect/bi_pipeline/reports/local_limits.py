"""The limits of the BigQuery of this machine, each known by the message of a node that meets it.

The table of README.md, « Sur le BigQuery local », has these rows and no other; what could be mended
is in `utilities/support/bqemulator_sql.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bi_pipeline.result import NodeResult

LEAVE_OUT = "laissez-le de côté (`--exclude {name}`)"


@dataclass(frozen=True)
class Limit:
    """Something that the local BigQuery cannot do, in the words of users.

    Attributes:
        pattern: a regular expression that finds it in the message of a failed node.
        what: in French, after « ne sait pas ».
        instead: in French, what to do about it here; `{name}` is that of the node.
        certain: whether such a message tells of nothing else: others may tell of a mistake, and
            keep their words.
    """

    pattern: str
    what: str
    instead: str = LEAVE_OUT
    certain: bool = True

    def describe(self, name: str) -> str:
        """Return what a node of this name met, and the way round, in French."""
        instead = self.instead.format(name=name)
        real = ", le vrai si" if self.certain else ""
        return f"le BigQuery local ne sait pas {self.what}{real} : {instead}"


# Patterns for the messages of bqemulator 1.4.0, of google-auth and of dbt 1.12.
LIMITS = (
    Limit(
        "does not match the universe domain found in the credentials",
        "exécuter un modèle Python (Dataproc, BigFrames)",
    ),
    Limit(
        'exists in the spatial extension|extension "spatial"',
        "calculer en géographie (`st_…`, `geography`)",
    ),
    Limit(r"ML\.\w+ is not supported by bqemulator", "se servir de BigQuery ML (`ml.…`)"),
    Limit("JavaScript UDFs require", "exécuter une UDF en JavaScript"),
    Limit(
        r"Not found: table:\S+\$\d+",
        "copier une partition (`copy_partitions`)",
        "retirez cette option, le merge écrit les mêmes lignes",
    ),
    Limit(
        "_PARTITIONTIME: no partitions by ingestion time",
        "écrire dans des partitions par date d'arrivée (`time_ingestion_partitioning`)",
    ),
    Limit(
        'Invalid dataset ID "region-',
        "lire l'`INFORMATION_SCHEMA` d'une région (`JOBS`…)",
    ),
    Limit(
        r"Table \S+\.__TABLES__ was not found",
        "lire `__TABLES__`",
        "lisez `INFORMATION_SCHEMA.TABLES`",
    ),
    Limit("Cannot resolve gs:// URIs", "lire ni écrire dans un bucket (`gs://`, `load data`)"),
    Limit(
        "Function not found: ",
        "appeler toutes les fonctions (`net.host`, `hll_count.init`…)",
        "`make check` dit si le vrai a celle-ci ; si oui, " + LEAVE_OUT,
        certain=False,
    ),
    Limit(
        "This model has an enforced contract that failed",
        "typer tout le SQL comme le vrai (`numeric` divisé, entier arrondi), que lit un contrat",
        "`make check` dit si le contrat tient sur le vrai ; si oui, un `cast` les met d'accord",
        certain=False,
    ),
    Limit(
        r"(?s)unit test .*Unexpected character '(?::|\\\\)'",
        "lire un struct de test unitaire en dictionnaire, ou avec des apostrophes (ni le vrai)",
        "écrivez `'struct(1 as id, \"a\" as name)'`",
        certain=False,
    ),
)


def find_limit(node: NodeResult) -> Limit | None:
    """Return the limit of the local BigQuery that a node met; None if it met none, or elsewhere."""
    if not node.is_local:
        return None
    return next((limit for limit in LIMITS if re.search(limit.pattern, node.message)), None)
