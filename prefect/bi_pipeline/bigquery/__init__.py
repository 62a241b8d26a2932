"""BigQuery, as the pipeline reaches it: who we are for Google, and what was billed."""
