output "bq_dev_dataset_id" {
  description = "Dataset of the dev target."
  value       = google_bigquery_dataset.dev["dev"].dataset_id
}

output "bq_prod_dataset_id" {
  description = "Dataset of the prod target."
  value       = google_bigquery_dataset.guarded["prod"].dataset_id
}

output "bq_raw_dataset_id" {
  description = "Dataset of the sources."
  value       = google_bigquery_dataset.guarded["raw"].dataset_id
}

output "dbt_artifacts_dir" {
  description = "Address of the bucket that keeps dbt's results. Absent without artifacts_bucket."
  value       = var.artifacts_bucket ? "gs://${google_storage_bucket.artifacts[0].name}" : null
}

output "dev_key_file" {
  description = "Key of the dev account, from the root of the project. Absent without create_key."
  value       = var.create_key ? ".secrets/sa_key.json" : null
}

output "dev_service_account_email" {
  description = "Account that reads raw and writes dev: the one of a laptop."
  value       = local.emails["dev"]
}

output "github_workload_identity_provider" {
  description = "Provider to name in the GitHub workflow that acts as the prod account. Absent without github_repository."
  value       = one(google_iam_workload_identity_pool_provider.github[*].name)
}

output "impersonated_service_account" {
  description = "Account to act as, without any key: the one of dev. Absent without impersonators."
  value       = length(var.impersonators) > 0 ? local.emails["dev"] : null
}

output "prod_key_file" {
  description = "Key of the prod account, from the root of the project. Absent without create_prod_key."
  value       = var.create_prod_key ? ".secrets/sa_key_prod.json" : null
}

output "prod_service_account_email" {
  description = "Account that reads raw and writes prod: the one of a deployment."
  value       = local.emails["prod"]
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
  description = "Same as dev_service_account_email, under the name it had when there was one account."
  value       = local.emails["dev"]
}
