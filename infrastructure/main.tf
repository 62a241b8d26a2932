provider "google" {
  project = var.project_id
  region  = var.region
}

locals {
  prefix = replace(var.project_id, "-", "_")

  # Name of each dataset after the prefix -> what it belongs to: raw, dev or prod.
  datasets = merge(
    { raw = "raw", dev = "dev", prod = "prod" },
    [for environment, suffixes in var.extra_datasets : { for suffix in suffixes : "${environment}_${suffix}" => environment }]...
  )

  account_ids = {
    # The id from when there was one account. With another id, Terraform would replace that
    # account, and its keys would be refused.
    dev  = var.service_account_id
    prod = "${var.service_account_id}-prod"
  }
  # Not `account.email`, which is unknown until apply: a plan would not say who gets which right.
  emails   = { for environment, account in google_service_account.pipeline : environment => "${account.account_id}@${account.project}.iam.gserviceaccount.com" }
  accounts = { for environment, email in local.emails : environment => "projects/${var.project_id}/serviceAccounts/${email}" }
  members  = { for environment, email in local.emails : environment => "serviceAccount:${email}" }
}

resource "google_project_service" "api" {
  for_each = toset([
    "bigquery.googleapis.com",
    "bigquerystorage.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",
  ])

  service            = each.key
  disable_on_destroy = false
}

resource "google_bigquery_dataset" "dev" {
  for_each = { for name, environment in local.datasets : name => environment if environment == "dev" }

  dataset_id  = "${local.prefix}_${each.key}"
  description = "dbt pipeline, ${each.key}"
  location    = var.region

  default_table_expiration_ms = var.dev_table_expiration_days * 24 * 60 * 60 * 1000
  delete_contents_on_destroy  = true

  labels = {
    environment = each.value
    managed_by  = "terraform"
    project     = "pipeline-dbt"
  }

  depends_on = [google_project_service.api]
}

resource "google_bigquery_dataset" "guarded" {
  for_each = { for name, environment in local.datasets : name => environment if environment != "dev" }

  dataset_id  = "${local.prefix}_${each.key}"
  description = "dbt pipeline, ${each.key}"
  location    = var.region

  delete_contents_on_destroy = false

  labels = {
    environment = each.value
    managed_by  = "terraform"
    project     = "pipeline-dbt"
  }

  # prevent_destroy: a plan that would delete a dataset, or replace it (another region, another
  # project), fails. Terraform takes no expression there, and dev may go: hence two resources.
  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.api]
}
