# Where dbt's results outlive the machine of a run: DBT_ARTIFACTS_DIR.

resource "google_storage_bucket" "artifacts" {
  count = var.artifacts_bucket ? 1 : 0

  # All of Google Cloud shares the names of buckets, and a project id is in use only once.
  name     = "${var.project_id}-dbt-artifacts"
  location = var.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # With true, `artifacts_bucket = false` would delete the history of prod with the bucket.
  force_destroy = false

  versioning {
    enabled = true
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      days_since_noncurrent_time = 30
      with_state                 = "ARCHIVED"
    }
  }

  labels = {
    managed_by = "terraform"
    project    = "pipeline-dbt"
  }

  depends_on = [google_project_service.api]
}

# Each account writes under its target only: a run of dev cannot replace the manifest of prod.
# objectUser is the narrowest of Google's roles that replaces an object, which is to delete it too.
resource "google_storage_bucket_iam_member" "artifacts_user" {
  for_each = var.artifacts_bucket ? local.members : {}

  bucket = google_storage_bucket.artifacts[0].name
  role   = "roles/storage.objectUser"
  member = each.value

  condition {
    title      = "${each.key}/ only"
    expression = "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.artifacts[0].name}/objects/${each.key}/\")"
  }
}

# Without this right, a run of dev with `--changed-since` cannot read the manifest of prod.
resource "google_storage_bucket_iam_member" "artifacts_prod_viewer" {
  count = var.artifacts_bucket ? 1 : 0

  bucket = google_storage_bucket.artifacts[0].name
  role   = "roles/storage.objectViewer"
  member = local.members["dev"]

  condition {
    title      = "prod/ only"
    expression = "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.artifacts[0].name}/objects/prod/\")"
  }
}

# An account that may not list a bucket gets 403 instead of 404 for an object that is not there: a
# first run would fail for want of a file. Google checks storage.objects.list on the bucket, which
# the conditions above leave out; this role lets an account see the names, and open no object.
resource "google_storage_bucket_iam_member" "artifacts_lister" {
  for_each = var.artifacts_bucket ? local.members : {}

  bucket = google_storage_bucket.artifacts[0].name
  role   = "roles/storage.legacyBucketReader"
  member = each.value
}
