# The datasets, the services and the outputs, on the plan. No Google is asked.

mock_provider "google" {}
mock_provider "local" {}

variables {
  project_id = "mon-projet"
}

run "dev_expires_and_prod_and_raw_do_not" {
  command = plan

  variables {
    dev_table_expiration_days = 2
  }

  assert {
    condition     = google_bigquery_dataset.dev["dev"].default_table_expiration_ms == 2 * 24 * 3600 * 1000 && google_bigquery_dataset.dev["dev"].delete_contents_on_destroy
    error_message = "The tables of dev expire, and go with their dataset."
  }

  assert {
    condition     = keys(google_bigquery_dataset.dev) == ["dev"] && keys(google_bigquery_dataset.guarded) == ["prod", "raw"]
    error_message = "prod and raw are guarded, dev is not."
  }

  assert {
    condition     = alltrue([for dataset in google_bigquery_dataset.guarded : dataset.default_table_expiration_ms == null && !dataset.delete_contents_on_destroy])
    error_message = "Nothing of prod and raw expires, nor goes with its dataset."
  }
}

run "extra_datasets_are_as_those_of_their_environment" {
  command = plan

  variables {
    extra_datasets = {
      dev  = ["marketing", "dbt_test__audit"]
      prod = ["marketing"]
    }
  }

  assert {
    condition     = { for dataset in google_bigquery_dataset.dev : dataset.dataset_id => dataset.labels["environment"] } == { mon_projet_dev = "dev", mon_projet_dev_marketing = "dev", mon_projet_dev_dbt_test__audit = "dev" }
    error_message = "The extra datasets of dev are beside dev."
  }

  assert {
    condition     = { for dataset in google_bigquery_dataset.guarded : dataset.dataset_id => dataset.labels["environment"] } == { mon_projet_prod = "prod", mon_projet_prod_marketing = "prod", mon_projet_raw = "raw" }
    error_message = "The extra datasets of prod are guarded as prod is."
  }

  assert {
    condition     = length(toset([for dataset in google_bigquery_dataset.dev : dataset.default_table_expiration_ms])) == 1
    error_message = "The extra datasets of dev expire as dev does."
  }

  assert {
    condition = { for name, right in google_bigquery_dataset_iam_member.data_editor : right.dataset_id => right.member } == {
      mon_projet_dev                 = "serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com"
      mon_projet_dev_dbt_test__audit = "serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com"
      mon_projet_dev_marketing       = "serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com"
      mon_projet_prod                = "serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com"
      mon_projet_prod_marketing      = "serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com"
    }
    error_message = "Each account writes the extra datasets of its environment only."
  }
}

run "services_that_the_pipeline_needs_are_enabled" {
  command = plan

  assert {
    condition     = length(setsubtract(["bigquery", "bigquerystorage", "cloudresourcemanager", "iam", "iamcredentials", "storage", "sts"], [for service in keys(google_project_service.api) : trimsuffix(service, ".googleapis.com")])) == 0
    error_message = "A service is missing."
  }
}

run "outputs_are_those_that_generate_env_reads" {
  command = plan

  assert {
    condition = {
      bq_dev_dataset_id          = output.bq_dev_dataset_id
      bq_prod_dataset_id         = output.bq_prod_dataset_id
      bq_raw_dataset_id          = output.bq_raw_dataset_id
      dbt_artifacts_dir          = output.dbt_artifacts_dir
      dev_service_account_email  = output.dev_service_account_email
      prod_service_account_email = output.prod_service_account_email
      project_id                 = output.project_id
      region                     = output.region
      service_account_email      = output.service_account_email
      } == {
      bq_dev_dataset_id          = "mon_projet_dev"
      bq_prod_dataset_id         = "mon_projet_prod"
      bq_raw_dataset_id          = "mon_projet_raw"
      dbt_artifacts_dir          = "gs://mon-projet-dbt-artifacts"
      dev_service_account_email  = "pipeline-dbt@mon-projet.iam.gserviceaccount.com"
      prod_service_account_email = "pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com"
      project_id                 = "mon-projet"
      region                     = "EU"
      service_account_email      = "pipeline-dbt@mon-projet.iam.gserviceaccount.com"
    }
    error_message = "An output has another name or another value."
  }

  assert {
    condition     = output.dev_key_file == null && output.prod_key_file == null && output.impersonated_service_account == null && output.github_workload_identity_provider == null
    error_message = "What was not asked for is absent from the outputs."
  }
}
