# The last lines of make demo: the example's tests warn of what the real data lacks.
EXAMPLE_WARNINGS := "Ces trois avertissements sont ceux des données réelles : rien à corriger."
EXAMPLE_NEXT := "  make report   le tableau de bord de ces données"

.PHONY: report
report: .venv/installed ## Le tableau de bord des données de make demo, une page HTML
	@$(BIN)/python utilities/local_bigquery.py $(BIN)/python dbt/dashboard/build_report.py

.PHONY: lint-report
lint: lint-report
lint-report: .venv/installed
	@$(BIN)/mypy dbt/dashboard
