# The bucket of dbt's results, and who may do what in it, on the plan. No Google is asked.

mock_provider "google" {}
mock_provider "local" {}

variables {
  project_id = "mon-projet"
}

run "bucket_is_private_and_keeps_its_history" {
  command = plan

  variables {
    region = "europe-west9"
  }

  assert {
    condition     = google_storage_bucket.artifacts[0].name == "mon-projet-dbt-artifacts" && lower(google_storage_bucket.artifacts[0].location) == "europe-west9"
    error_message = "The bucket has the name of the project, and is where the datasets are."
  }

  assert {
    condition     = google_storage_bucket.artifacts[0].uniform_bucket_level_access && google_storage_bucket.artifacts[0].public_access_prevention == "enforced"
    error_message = "No object has rights of its own, and nobody can open the bucket to the public."
  }

  assert {
    condition     = !google_storage_bucket.artifacts[0].force_destroy
    error_message = "A bucket that holds something is not deleted."
  }

  assert {
    condition     = one(google_storage_bucket.artifacts[0].versioning).enabled
    error_message = "What a run replaces is kept."
  }

  assert {
    condition = [
      for rule in google_storage_bucket.artifacts[0].lifecycle_rule :
      "${one(rule.action).type} ${one(rule.condition).with_state} ${one(rule.condition).days_since_noncurrent_time}"
    ] == ["Delete ARCHIVED 30"]
    error_message = "Only old versions expire, after 30 days."
  }
}

run "each_account_writes_its_target_and_dev_reads_prod" {
  command = plan

  assert {
    condition = toset([
      for right in concat(values(google_storage_bucket_iam_member.artifacts_user), google_storage_bucket_iam_member.artifacts_prod_viewer) :
      "${right.bucket} ${right.role} ${right.member} ${one(right.condition).expression}"
      ]) == toset([
      "mon-projet-dbt-artifacts roles/storage.objectUser serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com resource.name.startsWith(\"projects/_/buckets/mon-projet-dbt-artifacts/objects/dev/\")",
      "mon-projet-dbt-artifacts roles/storage.objectUser serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com resource.name.startsWith(\"projects/_/buckets/mon-projet-dbt-artifacts/objects/prod/\")",
      "mon-projet-dbt-artifacts roles/storage.objectViewer serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com resource.name.startsWith(\"projects/_/buckets/mon-projet-dbt-artifacts/objects/prod/\")",
    ])
    error_message = "prod writes prod/, dev writes dev/ and reads prod/, and nothing else."
  }
}

run "missing_object_is_told_from_a_missing_right" {
  command = plan

  assert {
    condition = toset([
      for right in google_storage_bucket_iam_member.artifacts_lister :
      "${right.bucket} ${right.role} ${right.member} ${length(right.condition)}"
      ]) == toset([
      "mon-projet-dbt-artifacts roles/storage.legacyBucketReader serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com 0",
      "mon-projet-dbt-artifacts roles/storage.legacyBucketReader serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com 0",
    ])
    error_message = "Both accounts list the bucket, or Google answers 403 for an object that is not there."
  }
}

run "no_bucket_is_made_when_it_is_not_wanted" {
  command = plan

  variables {
    artifacts_bucket = false
  }

  assert {
    condition     = length(google_storage_bucket.artifacts) + length(google_storage_bucket_iam_member.artifacts_user) + length(google_storage_bucket_iam_member.artifacts_prod_viewer) + length(google_storage_bucket_iam_member.artifacts_lister) == 0
    error_message = "Nothing is left of the bucket."
  }

  assert {
    condition     = output.dbt_artifacts_dir == null
    error_message = "generate_env.py writes no DBT_ARTIFACTS_DIR."
  }
}
