output "bq_dev_dataset_id" {
  description = "Dataset of the dev target."
  value       = google_bigquery_dataset.dataset["dev"].dataset_id
}

output "bq_prod_dataset_id" {
  description = "Dataset of the prod target."
  value       = google_bigquery_dataset.dataset["prod"].dataset_id
}

output "bq_raw_dataset_id" {
  description = "Dataset of the sources."
  value       = google_bigquery_dataset.dataset["raw"].dataset_id
}

output "project_id" {
  description = "Project of the datasets."
  value       = var.project_id
}

output "region" {
  description = "Location of the datasets."
  value       = var.region
}

output "service_account_email" {
  description = "Service account that runs the pipeline."
  value       = google_service_account.pipeline.email
}
