variable "create_key" {
  description = "Whether to create a key of the service account in .secrets/sa_key.json, from which the Prefect block is made. The key is also in the state: keep the state private."
  type        = bool
  default     = true
}

variable "dev_table_expiration_days" {
  description = "Days after which a table of the dev dataset expires, so that dev costs nothing once forgotten."
  type        = number
  default     = 90

  validation {
    condition     = var.dev_table_expiration_days >= 1 && floor(var.dev_table_expiration_days) == var.dev_table_expiration_days
    error_message = "dev_table_expiration_days must be a whole number of days, 1 or more."
  }
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
  description = "Id of the service account that runs the pipeline."
  type        = string
  default     = "pipeline-dbt"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.service_account_id))
    error_message = "service_account_id must have 6 to 30 lower-case letters, digits and dashes."
  }
}
