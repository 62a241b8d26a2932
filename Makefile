.DEFAULT_GOAL := help
.PHONY: help demo run test test-all check types lint format lock clean infra outputs doctor ui docs bench bench-peers

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
TERRAFORM := $(firstword $(foreach tool,tofu terraform,$(if $(shell command -v $(tool)),$(tool))))
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	--no-emit-find-links --python-version 3.11 --custom-compile-command "make lock"

# The style of the SQL is the dbt project's own: none without its .sqlfluff.
SQL := $(if $(wildcard dbt/.sqlfluff),$(wildcard dbt/models dbt/data-tests))

# Without these names dbt cannot parse, although `docs` asks BigQuery nothing. Without a target path
# of its own, http.server would show the files of the runs as well.
DOCS_ENVIRONMENT := GCP_PROJECT_ID=projet DBT_BIGQUERY_DATASET_DEV=dev \
	DBT_BIGQUERY_DATASET_PROD=prod DBT_PROFILES_DIR=. DBT_PROFILE=projet_m2_bi DBT_TARGET_PATH=target/docs

help: ## Cette aide
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Without an address of the interface, Prefect logs no link to a server that ends with the command.
demo: .venv/installed ## La pipeline sur un BigQuery de cette machine, avec des données réelles
	@$(BIN)/python utilities/local_bigquery.py env PREFECT_UI_URL= $(BIN)/python prefect/pipeline.py
	@printf '%s\n' "" $(EXAMPLE_WARNINGS) "Et maintenant :" $(EXAMPLE_NEXT) \
	  "  make ui       l'interface de Prefect, avec cette exécution" \
	  "  make docs     la documentation du projet dbt"

run: .venv/installed ## La pipeline sur le BigQuery de .env
	@$(BIN)/python prefect/pipeline.py

# When a team puts its project in dbt/, report.mk goes with the example: without the dash, every
# target would then fail.
-include dbt/dashboard/report.mk

doctor: .venv/installed ## Ce qui est prêt, ce qui manque, et le remède
	@$(BIN)/python utilities/doctor.py

# Terraform writes its state, which holds the keys, with mode 644: every user of the machine could
# read them.
infra: .need-terraform ## Crée les datasets, le bucket et les comptes de service sur GCP
	@find infrastructure -name '*.tfstate*' -type f -exec chmod go= {} +
	umask 077; $(TERRAFORM) -chdir=infrastructure init
	umask 077; $(TERRAFORM) -chdir=infrastructure apply

outputs: .need-terraform ## Écrit infrastructure/terraform-outputs.json
	@$(TERRAFORM) -chdir=infrastructure output -json > infrastructure/terraform-outputs.json.new
	@mv infrastructure/terraform-outputs.json.new infrastructure/terraform-outputs.json
	@echo "infrastructure/terraform-outputs.json est à jour."

ui: .venv/installed ## L'interface de Prefect, avec les exécutions de make demo
	@$(BIN)/python utilities/local_bigquery.py sh -c \
	  'echo "Interface de Prefect : $${PREFECT_API_URL%/api} (Ctrl-C pour arrêter)"; \
	  echo "Mot de passe : $$PREFECT_API_AUTH_STRING"; exec tail -f /dev/null'

docs: .venv/installed ## La documentation du projet dbt, sur http://127.0.0.1:8080
	@cd dbt && export $(DOCS_ENVIRONMENT) && \
	  ../$(BIN)/dbt --quiet parse && ../$(BIN)/dbt --quiet docs generate --no-compile --empty-catalog
	@echo "Documentation : http://127.0.0.1:8080 (Ctrl-C pour arrêter)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory dbt/target/docs 8080 2> /dev/null \
	  || { echo "Arrêtée. Si le port 8080 était pris, arrêtez ce qui s'en sert, puis relancez." >&2; exit 1; }

test: .venv/installed ## Les tests, sur un BigQuery et un Prefect locaux
	@$(BIN)/python -m pytest -m "not slow"

test-all: .venv/installed ## Les tests, les plus longs aussi
	@$(BIN)/python -m pytest

bench: .venv/installed ## Temps et mémoire de la pipeline, à côté de dbt seul et des autres (long)
	@$(BIN)/python benchmarks/bench.py

bench-peers: .venv/uv ## Installe dagster-dbt, à part, pour que make bench le mesure
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-dagster
	@$(UV) pip install --quiet --compile-bytecode --python .venv-dagster -r benchmarks/peers/requirements-dagster.txt

check: .venv/installed ## Le SQL du projet dbt, lu par l'analyseur de BigQuery, hors ligne
	@$(BIN)/python utilities/check_sql.py

types: .venv/installed ## Les colonnes des sources, demandées à BigQuery, pour make check
	@$(BIN)/python utilities/record_sources.py

lint: .venv/installed ## ruff, mypy, sqlfluff, hadolint, make check, forme des fichiers Terraform
	@$(if $(TERRAFORM),$(TERRAFORM) -chdir=infrastructure fmt -check -diff -recursive)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(if $(SQL),$(BIN)/sqlfluff lint $(SQL))
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/python utilities/check_sql.py

format: .venv/installed ## Remet le code et le SQL en forme
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only .
	@$(if $(SQL),$(BIN)/sqlfluff fix $(SQL))

lock: .venv/uv ## Recompile requirements.txt et requirements-dev.txt
	@$(COMPILE) requirements.in --output-file requirements.txt
	@$(COMPILE) requirements-dev.in --constraint requirements.txt --output-file requirements-dev.txt

clean: ## Efface ce que les commandes ont produit, sauf .env et .secrets/
	rm -rf .venv .venv-dagster .local .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf dbt/target dbt/logs dbt/dbt_packages

.PHONY: .need-terraform
.need-terraform:
	@test -n "$(TERRAFORM)" || { echo "Il faut OpenTofu (tofu) ou Terraform, 1.8 ou plus récent." >&2; exit 1; }

# If an install is interrupted, uv takes a half-linked package for installed. So the install deletes
# .venv/uv first: the next one then starts from an empty .venv.
.venv/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Il faut Python 3.11 ou plus récent : make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements.in)
	@touch $@

.venv/installed: requirements-dev.txt .venv/uv
	@echo "Installation des dépendances…"
	@rm .venv/uv
	@$(UV) pip sync --python $(BIN)/python --quiet --compile-bytecode --require-hashes requirements-dev.txt
	@touch .venv/uv $@
