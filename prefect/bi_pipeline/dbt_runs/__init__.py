"""One dbt command after another: what to say to dbt, how it is run, what it leaves."""
