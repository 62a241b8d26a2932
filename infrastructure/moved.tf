# A state may be from when one account wrote raw, dev and prod. Without these blocks, Terraform
# would destroy its datasets and its account, and make others. The account becomes that of dev.

moved {
  from = google_project_service.bigquery
  to   = google_project_service.api
}

moved {
  from = google_bigquery_dataset.dataset["dev"]
  to   = google_bigquery_dataset.dev["dev"]
}

moved {
  from = google_bigquery_dataset.dataset["prod"]
  to   = google_bigquery_dataset.guarded["prod"]
}

moved {
  from = google_bigquery_dataset.dataset["raw"]
  to   = google_bigquery_dataset.guarded["raw"]
}

moved {
  from = google_service_account.pipeline
  to   = google_service_account.pipeline["dev"]
}

moved {
  from = google_project_iam_member.job_user
  to   = google_project_iam_member.job_user["dev"]
}
