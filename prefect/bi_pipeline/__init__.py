"""The modules on which the flow of `pipeline.py` stands.

Each module imports, of ours, only those below it: `tests/unit/test_layout.py` reads this drawing.

    pipeline.py and utilities/

    arguments       the command line of the pipeline
    lifetime/       how a run ends, and the servers beside it
    dbt_runs/       one dbt command after another: options, runner, what is kept
    bigquery/       who we are for Google, what was billed, what would be
    reports/        what is said of a run: message, page
    command_line    what the tools share: errors said in one line, argparse in French
    explanations    what libraries raise, as errors of ours
    result          what a dbt command did, as plain values
    settings        environment, `.env`, Prefect Variables
    errors          what a user can mend, and its exit code
    proxies         those of the environment

    warm_dbt/       a library of its own: dbt, imported once and forked for each command
"""
