"""The modules that several commands share, and programs that users do not call.

The parts, by what they are for:

    diagnosis           one line for what is ready or missing, with its remedy
    bigquery_access     the BigQuery client of the commands, with dbt's credentials and settings
    prefect_login       which Prefect this shell is logged in to
    deployment_plan     what deploy.py would change, and whether it is another team's
    prefect_deploy      `prefect deploy`, but for what was set on the deployment since

    local_stack         a BigQuery and a Prefect server on this machine: for make demo, the tests
    local_content       what these hold: a throwaway key, datasets, a block
    start_bqemulator    the process of this BigQuery: bqemulator, and what it does wrong
    bqemulator_sql      the SQL of dbt that bqemulator would refuse
    sample_data         the tables of the example
    child_command       the command that runs beside them: signals, exit code

    dbt_offline         a dbt project, parsed and rendered without BigQuery
    declared_types      the types that its YAML gives to columns
    googlesql           Google's analyser of SQL
    column_guesses      the columns of tables that nobody describes, guessed from what it refuses
    source_columns      the file of a dbt project that keeps the columns of its sources
"""
