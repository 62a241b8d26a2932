# Who may do what, on the plan. No Google is asked.

mock_provider "google" {}
mock_provider "local" {}

variables {
  project_id = "mon-projet"
}

run "each_account_writes_its_environment_and_reads_raw" {
  command = plan

  assert {
    condition = { for name, right in google_bigquery_dataset_iam_member.data_editor : right.dataset_id => right.member } == {
      mon_projet_dev  = "serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com"
      mon_projet_prod = "serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com"
    }
    error_message = "dev has to be written by the dev account only, prod by the prod account only, raw by neither."
  }

  assert {
    condition     = alltrue([for right in google_bigquery_dataset_iam_member.data_editor : right.role == "roles/bigquery.dataEditor"])
    error_message = "Writing is roles/bigquery.dataEditor, on a dataset."
  }

  assert {
    condition = toset([for right in google_bigquery_dataset_iam_member.raw_viewer : "${right.role} ${right.dataset_id} ${right.member}"]) == toset([
      "roles/bigquery.dataViewer mon_projet_raw serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com",
      "roles/bigquery.dataViewer mon_projet_raw serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com",
    ])
    error_message = "Both accounts read raw, and nothing else."
  }

  assert {
    condition = toset([for right in google_project_iam_member.job_user : "${right.role} ${right.member}"]) == toset([
      "roles/bigquery.jobUser serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com",
      "roles/bigquery.jobUser serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com",
    ])
    error_message = "Both accounts run queries."
  }
}

run "nothing_more_is_given_unless_asked" {
  command = plan

  assert {
    condition     = length(google_service_account_key.pipeline) + length(google_service_account_key.prod) == 0
    error_message = "There is no key by default."
  }

  assert {
    condition     = length(local_sensitive_file.key) + length(local_sensitive_file.prod_key) == 0
    error_message = "There is no key file by default."
  }

  assert {
    condition     = length(google_bigquery_dataset_iam_member.prod_viewer) == 0
    error_message = "Dev does not read prod by default."
  }

  assert {
    condition     = length(google_project_iam_member.dataset_creator) == 0
    error_message = "Nobody creates datasets by default."
  }

  assert {
    condition     = length(google_service_account_iam_member.impersonator) == 0
    error_message = "Nobody acts as an account by default."
  }

  assert {
    condition     = length(google_service_account_iam_member.github) + length(google_iam_workload_identity_pool.github) + length(google_iam_workload_identity_pool_provider.github) == 0
    error_message = "No repository is federated by default."
  }
}

run "raw_is_written_by_dev_with_load_sample_data_only" {
  command = plan

  variables {
    load_sample_data = true
  }

  assert {
    condition = { for name, right in google_bigquery_dataset_iam_member.data_editor : right.dataset_id => right.member } == {
      mon_projet_dev  = "serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com"
      mon_projet_prod = "serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com"
      mon_projet_raw  = "serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com"
    }
    error_message = "load_sample_data adds raw to what the dev account writes, and nothing else."
  }
}

run "datasets_are_created_by_both_accounts_with_create_datasets_only" {
  command = plan

  variables {
    create_datasets = true
  }

  assert {
    condition = toset([for right in google_project_iam_member.dataset_creator : "${right.role} ${right.member}"]) == toset([
      "roles/bigquery.user serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com",
      "roles/bigquery.user serviceAccount:pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com",
    ])
    error_message = "create_datasets gives roles/bigquery.user to both accounts."
  }
}

run "people_act_as_dev_and_never_as_prod" {
  command = plan

  variables {
    impersonators = ["user:ada@example.com", "group:equipe@example.com"]
  }

  assert {
    condition = toset([for right in google_service_account_iam_member.impersonator : "${right.role} ${right.service_account_id} ${right.member}"]) == toset([
      "roles/iam.serviceAccountTokenCreator projects/mon-projet/serviceAccounts/pipeline-dbt@mon-projet.iam.gserviceaccount.com user:ada@example.com",
      "roles/iam.serviceAccountTokenCreator projects/mon-projet/serviceAccounts/pipeline-dbt@mon-projet.iam.gserviceaccount.com group:equipe@example.com",
    ])
    error_message = "impersonators act as the dev account only."
  }

  assert {
    condition     = length(google_service_account_iam_member.github) == 0
    error_message = "impersonators have nothing to do with the prod account."
  }

  assert {
    condition     = output.impersonated_service_account == "pipeline-dbt@mon-projet.iam.gserviceaccount.com"
    error_message = "generate_env.py writes the dev account in .env."
  }
}

run "github_acts_as_prod_from_main_of_one_repository" {
  command = plan

  variables {
    github_repository = "octocat/hello-world"
  }

  assert {
    condition     = google_iam_workload_identity_pool_provider.github[0].attribute_condition == "assertion.repository == 'octocat/hello-world' && assertion.ref == 'refs/heads/main'"
    error_message = "Only main of this repository may enter."
  }

  assert {
    condition     = google_iam_workload_identity_pool_provider.github[0].attribute_mapping["attribute.repository"] == "assertion.repository"
    error_message = "The right of the prod account is given by repository."
  }

  assert {
    condition     = one(google_iam_workload_identity_pool_provider.github[0].oidc).issuer_uri == "https://token.actions.githubusercontent.com"
    error_message = "Tokens come from GitHub."
  }

  assert {
    condition     = google_service_account_iam_member.github[0].role == "roles/iam.workloadIdentityUser" && google_service_account_iam_member.github[0].service_account_id == "projects/mon-projet/serviceAccounts/pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com"
    error_message = "The repository acts as the prod account only."
  }

  assert {
    condition     = length(google_service_account_iam_member.impersonator) == 0
    error_message = "The repository has nothing to do with the dev account."
  }
}

run "key_of_dev_is_for_its_owner_only" {
  command = plan

  variables {
    create_key = true
  }

  assert {
    condition     = google_service_account_key.pipeline[0].service_account_id == "projects/mon-projet/serviceAccounts/pipeline-dbt@mon-projet.iam.gserviceaccount.com"
    error_message = ".secrets/sa_key.json is for the dev account."
  }

  assert {
    condition     = endswith(local_sensitive_file.key[0].filename, "/../.secrets/sa_key.json") && local_sensitive_file.key[0].file_permission == "0600" && local_sensitive_file.key[0].directory_permission == "0700"
    error_message = "The key is in .secrets/sa_key.json, which its owner alone reads."
  }

  assert {
    condition     = length(google_service_account_key.prod) == 0 && length(local_sensitive_file.prod_key) == 0
    error_message = "create_key makes no key of the prod account."
  }

  assert {
    condition     = output.dev_key_file == ".secrets/sa_key.json" && output.prod_key_file == null
    error_message = "The outputs say which key is where."
  }
}

run "key_of_prod_is_for_its_owner_only" {
  command = plan

  variables {
    create_prod_key = true
  }

  assert {
    condition     = google_service_account_key.prod[0].service_account_id == "projects/mon-projet/serviceAccounts/pipeline-dbt-prod@mon-projet.iam.gserviceaccount.com"
    error_message = ".secrets/sa_key_prod.json is for the prod account."
  }

  assert {
    condition     = endswith(local_sensitive_file.prod_key[0].filename, "/../.secrets/sa_key_prod.json") && local_sensitive_file.prod_key[0].file_permission == "0600" && local_sensitive_file.prod_key[0].directory_permission == "0700"
    error_message = "The key is in .secrets/sa_key_prod.json, which its owner alone reads."
  }

  assert {
    condition     = length(google_service_account_key.pipeline) == 0 && length(local_sensitive_file.key) == 0
    error_message = "create_prod_key makes no key of the dev account."
  }

  assert {
    condition     = output.prod_key_file == ".secrets/sa_key_prod.json" && output.dev_key_file == null
    error_message = "The outputs say which key is where."
  }
}

run "dev_reads_prod_when_asked_and_writes_it_no_more_than_before" {
  command = plan

  variables {
    dev_reads_prod = true
    extra_datasets = { dev = ["marketing"], prod = ["marketing"] }
  }

  assert {
    condition = toset([for right in google_bigquery_dataset_iam_member.prod_viewer : "${right.role} ${right.dataset_id} ${right.member}"]) == toset([
      "roles/bigquery.dataViewer mon_projet_prod serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com",
      "roles/bigquery.dataViewer mon_projet_prod_marketing serviceAccount:pipeline-dbt@mon-projet.iam.gserviceaccount.com",
    ])
    error_message = "The dev account reads every prod dataset."
  }

  assert {
    condition = alltrue([
      for right in google_bigquery_dataset_iam_member.data_editor :
      !strcontains(right.dataset_id, "prod") || strcontains(right.member, "pipeline-dbt-prod@")
    ])
    error_message = "Prod is written by the prod account only."
  }
}
