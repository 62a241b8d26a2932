# The pipeline and all that it needs, for a work pool on Cloud Run, Kubernetes or Docker, whose
# workers run `prefect flow-run execute` in it. No secret: the environment and Prefect give them.
#   docker build --tag pipeline-dbt .

FROM python:3.11-slim AS dependencies

WORKDIR /app

# Without pyproject.toml, uv would want dbt-core-experimental-parser, of which the lock has no hash,
# and fail.
COPY pyproject.toml requirements.txt ./

# uv is installed first, from its own lines of the lock: pip knows no way to leave a dependency out.
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.txt > uv.txt \
    && pip install --no-cache-dir --require-hashes --no-deps --requirement uv.txt \
    && python -m venv --without-pip /venv \
    && uv pip install --python /venv/bin/python --no-cache --no-build --compile-bytecode \
        --require-hashes --requirement requirements.txt


FROM python:3.11-slim

RUN useradd --uid 1000 --create-home pipeline

COPY --from=dependencies /venv /venv

ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

WORKDIR /app

COPY prefect.toml ./
COPY prefect prefect
# dbt writes target/, logs/ and dbt_packages/ beside its models: in a folder of root, it would fail.
COPY --chown=1000:1000 dbt dbt

RUN python -m compileall -q prefect

# A number: of a name, Kubernetes (runAsNonRoot) cannot tell that it is not root, and refuses it.
USER 1000

# No ENTRYPOINT: a Kubernetes pool gives its command as `args`, which would become arguments of it.
CMD ["python", "prefect/pipeline.py"]
