# infrastructure/ as it was when one account wrote raw, dev and prod, its variables set:
# states made with it have to be taken over.

variable "project_id" {
  type = string
}

resource "google_project_service" "bigquery" {
  for_each = toset(["bigquery.googleapis.com", "bigquerystorage.googleapis.com", "iam.googleapis.com"])

  service            = each.key
  disable_on_destroy = false
}

resource "google_bigquery_dataset" "dataset" {
  for_each = toset(["raw", "dev", "prod"])

  dataset_id  = "${replace(var.project_id, "-", "_")}_${each.key}"
  description = "dbt pipeline, ${each.key}"
  location    = "EU"

  default_table_expiration_ms = each.key == "dev" ? 90 * 24 * 60 * 60 * 1000 : null
  delete_contents_on_destroy  = each.key == "dev"

  labels = {
    environment = each.key
    managed_by  = "terraform"
    project     = "pipeline-dbt"
  }

  depends_on = [google_project_service.bigquery]
}

resource "google_service_account" "pipeline" {
  account_id   = "pipeline-dbt"
  display_name = "dbt pipeline"

  depends_on = [google_project_service.bigquery]
}

resource "google_project_iam_member" "job_user" {
  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = google_service_account.pipeline.member
}

resource "google_bigquery_dataset_iam_member" "data_editor" {
  for_each = google_bigquery_dataset.dataset

  dataset_id = each.value.dataset_id
  role       = "roles/bigquery.dataEditor"
  member     = google_service_account.pipeline.member
}

resource "google_service_account_key" "pipeline" {
  count = 1

  service_account_id = google_service_account.pipeline.name

  lifecycle {
    create_before_destroy = true
  }
}

resource "local_sensitive_file" "key" {
  count = 1

  filename             = "${path.module}/../.secrets/sa_key.json"
  content              = base64decode(google_service_account_key.pipeline[0].private_key)
  file_permission      = "0600"
  directory_permission = "0700"
}
