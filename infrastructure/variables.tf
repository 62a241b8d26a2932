variable "artifacts_bucket" {
  description = "Whether to make a bucket for dbt's results, <project>-dbt-artifacts: `retry`, `--only-new`, `--changed-since` without a commit and the documentation then work where the folder of a run does not last."
  type        = bool
  default     = true
}

variable "create_datasets" {
  description = "Whether both accounts may create datasets (roles/bigquery.user), for a project whose datasets are not known beforehand. Each account owns the datasets it creates, and Terraform knows nothing of them: prefer extra_datasets."
  type        = bool
  default     = false
}

variable "create_key" {
  description = "Whether to create a key of the dev account in .secrets/sa_key.json, for a laptop that cannot do without one. The key is also in the state: keep the state private."
  type        = bool
  default     = false
}

variable "create_prod_key" {
  description = "Whether to create a key of the prod account in .secrets/sa_key_prod.json, for a deployment that cannot do without one, such as Prefect Cloud's managed pool. Who holds it writes prod. The key is also in the state: keep the state private."
  type        = bool
  default     = false
}

variable "dev_reads_prod" {
  description = "Whether the dev account may read the prod datasets, for `--changed-since` and `clone`."
  type        = bool
  default     = false
}

variable "dev_table_expiration_days" {
  description = "Days after which a table of a dev dataset expires, so that dev costs nothing once forgotten."
  type        = number
  default     = 90

  validation {
    condition     = var.dev_table_expiration_days >= 1 && floor(var.dev_table_expiration_days) == var.dev_table_expiration_days
    error_message = "dev_table_expiration_days must be a whole number of days, 1 or more."
  }
}

variable "extra_datasets" {
  description = "Datasets that dbt needs beside the one of each environment (custom schemas, snapshots, store_failures): { dev = [\"marketing\"], prod = [\"marketing\"] } makes <project>_dev_marketing and <project>_prod_marketing, the names dbt gives to +schema: marketing. Those of prod are guarded against deletion."
  type        = map(set(string))
  default     = {}

  validation {
    condition     = alltrue([for environment in keys(var.extra_datasets) : contains(["dev", "prod"], environment)])
    error_message = "extra_datasets has no other keys than dev and prod."
  }

  validation {
    condition     = alltrue([for suffix in flatten(values(var.extra_datasets)[*]) : can(regex("^[A-Za-z0-9_]{1,900}$", suffix))])
    error_message = "extra_datasets takes what follows <project>_dev_ or <project>_prod_: letters without accents, digits and underscores."
  }
}

variable "github_repository" {
  description = "GitHub repository, as owner/name with its exact case, whose workflows on the main branch act as the prod account without any key (workload identity federation). None by default."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository must be owner/name, such as octocat/hello-world, without https:// nor .git."
  }
}

variable "impersonators" {
  description = "People or groups who may act as the dev account, without any key: user:prenom.nom@example.com, group:equipe@example.com."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for principal in var.impersonators : can(regex("^(user|group):[^@:\\s]+@[^@:\\s]+\\.[^@:\\s]+$", principal))])
    error_message = "impersonators takes user:<e-mail> and group:<e-mail> only."
  }
}

variable "load_sample_data" {
  description = "Whether the dev account may also write raw, which load_sample_data.py fills. Leave it false where raw holds sources of your own."
  type        = bool
  default     = false
}

variable "project_id" {
  description = "Id of an existing GCP project."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be the id of a project (6 to 30 lower-case letters, digits and dashes), not its name or its number."
  }
}

variable "region" {
  description = "Location of the datasets, a region such as europe-west9 or a multi-region, EU or US. It cannot be changed afterwards."
  type        = string
  default     = "EU"

  validation {
    condition     = can(regex("^(EU|US|[a-z]+-[a-z]+[0-9]+)$", var.region))
    error_message = "region must be EU, US or a region such as europe-west9."
  }
}

variable "service_account_id" {
  description = "Id of the dev account; the one of prod has -prod after it."
  type        = string
  default     = "pipeline-dbt"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,23}[a-z0-9]$", var.service_account_id))
    error_message = "service_account_id must have 6 to 25 lower-case letters, digits and dashes."
  }
}
