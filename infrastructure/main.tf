provider "google" {
  project = var.project_id
  region  = var.region
}

locals {
  environments = toset(["raw", "dev", "prod"])
  prefix       = replace(var.project_id, "-", "_")

  milliseconds_per_day = 24 * 60 * 60 * 1000
}

resource "google_project_service" "bigquery" {
  for_each = toset([
    "bigquery.googleapis.com",
    "bigquerystorage.googleapis.com",
    "iam.googleapis.com",
  ])

  service            = each.key
  disable_on_destroy = false
}

resource "google_bigquery_dataset" "dataset" {
  for_each = local.environments

  dataset_id  = "${local.prefix}_${each.key}"
  description = "dbt pipeline, ${each.key}"
  location    = var.region

  default_table_expiration_ms = each.key == "dev" ? var.dev_table_expiration_days * local.milliseconds_per_day : null
  delete_contents_on_destroy  = each.key == "dev"

  labels = {
    environment = each.key
    managed_by  = "terraform"
    project     = "pipeline-dbt"
  }

  depends_on = [google_project_service.bigquery]
}

resource "google_service_account" "pipeline" {
  account_id   = var.service_account_id
  display_name = "dbt pipeline"

  depends_on = [google_project_service.bigquery]
}

resource "google_project_iam_member" "job_user" {
  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = google_service_account.pipeline.member
}

# On raw too: load_sample_data.py fills it with the same account.
resource "google_bigquery_dataset_iam_member" "data_editor" {
  for_each = google_bigquery_dataset.dataset

  dataset_id = each.value.dataset_id
  role       = "roles/bigquery.dataEditor"
  member     = google_service_account.pipeline.member
}

resource "google_service_account_key" "pipeline" {
  count = var.create_key ? 1 : 0

  service_account_id = google_service_account.pipeline.name

  # A rotation that fails half-way leaves the old key alive.
  lifecycle {
    create_before_destroy = true
  }
}

resource "local_sensitive_file" "key" {
  count = var.create_key ? 1 : 0

  filename             = "${path.module}/../.secrets/sa_key.json"
  content              = base64decode(google_service_account_key.pipeline[0].private_key)
  file_permission      = "0600"
  directory_permission = "0700"
}
