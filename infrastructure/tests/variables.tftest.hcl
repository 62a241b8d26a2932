# What is refused, each time before anything is planned.

mock_provider "google" {}
mock_provider "local" {}

variables {
  project_id = "mon-projet"
}

run "wrong_values_are_refused" {
  command = plan

  variables {
    dev_table_expiration_days = 0
    extra_datasets            = { production = ["marketing"] }
    github_repository         = "https://github.com/octocat/hello-world"
    impersonators             = ["ada@example.com"]
    project_id                = "Mon Projet"
    region                    = "Paris"
  }

  expect_failures = [
    var.dev_table_expiration_days,
    var.extra_datasets,
    var.github_repository,
    var.impersonators,
    var.project_id,
    var.region,
  ]
}

run "half_a_day_and_accents_are_refused" {
  command = plan

  variables {
    dev_table_expiration_days = 1.5
    extra_datasets            = { dev = ["ventes", "été"] }
    github_repository         = "hello-world"
    impersonators             = ["user:ada@example.com", "allUsers"]
    service_account_id        = "dbt"
  }

  expect_failures = [
    var.dev_table_expiration_days,
    var.extra_datasets,
    var.github_repository,
    var.impersonators,
    var.service_account_id,
  ]
}

run "nothing_gets_into_the_condition_of_the_federation" {
  command = plan

  variables {
    extra_datasets    = { prod = [""] }
    github_repository = "octocat/x' || true || '"
    impersonators     = ["principalSet://iam.googleapis.com/x"]
  }

  expect_failures = [
    var.extra_datasets,
    var.github_repository,
    var.impersonators,
  ]
}

run "account_id_leaves_room_for_the_one_of_prod" {
  command = plan

  variables {
    service_account_id = "abcdefghijklmnopqrstuvwxyz"
  }

  expect_failures = [var.service_account_id]
}
