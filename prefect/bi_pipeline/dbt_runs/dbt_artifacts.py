"""Where dbt's results outlive the machine of a run: a folder, or a bucket of Google Cloud."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bi_pipeline.dbt_runs.run_results import MANIFEST, RUN_RESULTS
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.result import DbtResult

if TYPE_CHECKING:
    from google.auth.credentials import Credentials


# The manifest of prod without the nodes that this run builds: with them, dbt would read prod's
# version of a model that the run has just built.
DEFERRED = f"deferred/{MANIFEST}"
DOCS_PAGE = "docs.html"
# The commands whose results are kept for `retry`. If the results of compile or docs generate were
# kept too, they would replace those of a failed build, which could then not be taken up.
RETRIABLE = ("run", "test", "build", "seed", "snapshot", "clone", "retry")


def list_files_to_keep(
    result: DbtResult, read_models: Callable[[], set[str]], *, deferred: bool
) -> dict[str, str]:
    """Return the files of `target/` that are worth keeping after a command, and as what.

    Args:
        read_models: returns the `unique_id` of all models of the project, from a big file: it is
            called only for a command whose manifest may be kept.
        deferred: whether the run reads in prod what it does not build.
    """
    kept = {}
    if result.command in RETRIABLE:
        kept[RUN_RESULTS] = RUN_RESULTS
        if deferred:
            kept[DEFERRED] = DEFERRED
    # If the manifest were kept after a run of some models only (--select, a default selector),
    # --changed-since would take the others for built as they stand. In the results of a retry,
    # `which` is the command that was retried.
    built = result.arguments.get("which") in ("run", "build") and not result.arguments.get("empty")
    done = {node.unique_id for node in result.nodes}
    if result.succeeded and built and done >= read_models():
        kept[MANIFEST] = MANIFEST
    if result.succeeded and result.command == "docs generate":
        kept["static_index.html"] = DOCS_PAGE
    return kept


class DbtArtifactsDir:
    """The files that DBT_ARTIFACTS_DIR keeps, by their name: `prod/manifest.json`.

    Args:
        address: a folder, or `gs://bucket/prefix`.
        credentials, project: who asks Google for the bucket.
    """

    def __init__(self, address: str, credentials: Credentials, project: str) -> None:
        self.address = address
        self._credentials, self._project = credentials, project

    def keep(self, file: Path, name: str) -> None:
        """Keep a copy of the file under this name; ConfigurationError when it cannot be."""
        try:
            if self.address.startswith("gs://"):
                self._make_blob(name).upload_from_filename(str(file))
            else:
                kept = Path(self.address) / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                half = kept.with_name(kept.name + ".new")
                try:
                    shutil.copyfile(file, half)
                    half.replace(kept)
                finally:
                    half.unlink(missing_ok=True)
        except Exception as error:
            raise self._make_error("écriture", error) from None

    def fetch(self, name: str, file: Path) -> bool:
        """Copy what is kept under this name to the file; return whether there is any."""
        from google.api_core.exceptions import NotFound

        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self.address.startswith("gs://"):
                file.write_bytes(self._make_blob(name).download_as_bytes())
            else:
                shutil.copyfile(Path(self.address) / name, file)
        except (FileNotFoundError, NotFound):
            return False
        except Exception as error:
            raise self._make_error("lecture", error) from None
        return True

    def remove(self, name: str) -> None:
        """Remove what is kept under this name, if anything is; ConfigurationError if it stays."""
        from google.api_core.exceptions import NotFound

        try:
            if self.address.startswith("gs://"):
                self._make_blob(name).delete()
            else:
                (Path(self.address) / name).unlink()
        except (FileNotFoundError, NotFound):
            return
        except Exception as error:
            raise self._make_error("écriture", error) from None

    def locate(self, name: str) -> str:
        """Return where a file is for a reader: the address of a page of Google's, or the path.

        The address asks for a login.
        """
        if not self.address.startswith("gs://"):
            return str(Path(self.address) / name)
        bucket, _, prefix = self.address.removeprefix("gs://").partition("/")
        return (
            f"https://storage.cloud.google.com/{bucket}/{quote(str(PurePosixPath(prefix, name)))}"
        )

    def _make_blob(self, name: str) -> Any:
        from google.cloud import storage

        bucket, _, prefix = self.address.removeprefix("gs://").partition("/")
        universe = {"universe_domain": self._credentials.universe_domain}
        client = storage.Client(self._project, self._credentials, client_options=universe)
        return client.bucket(bucket).blob(str(PurePosixPath(prefix, name)))

    def _make_error(self, what: str, error: Exception) -> ConfigurationError:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        return ConfigurationError(
            f"DBT_ARTIFACTS_DIR ({self.address}) : {what} impossible ({reason}). Vérifiez que ce "
            "dossier ou ce bucket existe, et que le compte de la pipeline y lit et y écrit "
            "(roles/storage.objectUser)."
        )
