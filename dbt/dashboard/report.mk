.PHONY: report
report: .venv/installed ## Le tableau de bord des données de make demo, une page HTML
	@$(BIN)/python utilities/local_bigquery.py $(BIN)/python dbt/dashboard/build_report.py

.PHONY: lint-report
lint: lint-report
lint-report: .venv/installed
	@$(BIN)/mypy dbt/dashboard
