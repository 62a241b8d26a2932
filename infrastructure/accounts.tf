resource "google_service_account" "pipeline" {
  for_each = local.account_ids

  project      = var.project_id
  account_id   = each.value
  display_name = "dbt pipeline, ${each.key}"

  depends_on = [google_project_service.api]
}

resource "google_project_iam_member" "job_user" {
  for_each = local.members

  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = each.value
}

resource "google_project_iam_member" "dataset_creator" {
  for_each = var.create_datasets ? local.members : {}

  project = var.project_id
  role    = "roles/bigquery.user"
  member  = each.value
}

resource "google_bigquery_dataset_iam_member" "raw_viewer" {
  for_each = local.members

  dataset_id = google_bigquery_dataset.guarded["raw"].dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = each.value
}

# Each account writes its own environment only: a run of dev cannot break prod. load_sample_data.py
# runs as the account of dev, and could not fill raw without `raw = "dev"`.
resource "google_bigquery_dataset_iam_member" "data_editor" {
  for_each = merge(
    { for name, environment in local.datasets : name => environment if environment != "raw" },
    var.load_sample_data ? { raw = "dev" } : {},
  )

  dataset_id = merge(google_bigquery_dataset.dev, google_bigquery_dataset.guarded)[each.key].dataset_id
  role       = "roles/bigquery.dataEditor"
  member     = local.members[each.value]
}

# Without this right, a run of dev with `--changed-since` or `clone` cannot read the tables of prod.
resource "google_bigquery_dataset_iam_member" "prod_viewer" {
  for_each = { for name, environment in local.datasets : name => environment if environment == "prod" && var.dev_reads_prod }

  dataset_id = google_bigquery_dataset.guarded[each.key].dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = local.members["dev"]
}

resource "google_service_account_iam_member" "impersonator" {
  for_each = var.impersonators

  service_account_id = local.accounts["dev"]
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value
}

# The key of dev. Without create_before_destroy, a rotation that fails half-way would leave no key.
resource "google_service_account_key" "pipeline" {
  count = var.create_key ? 1 : 0

  service_account_id = local.accounts["dev"]

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

resource "google_service_account_key" "prod" {
  count = var.create_prod_key ? 1 : 0

  service_account_id = local.accounts["prod"]

  lifecycle {
    create_before_destroy = true
  }
}

resource "local_sensitive_file" "prod_key" {
  count = var.create_prod_key ? 1 : 0

  filename             = "${path.module}/../.secrets/sa_key_prod.json"
  content              = base64decode(google_service_account_key.prod[0].private_key)
  file_permission      = "0600"
  directory_permission = "0700"
}
