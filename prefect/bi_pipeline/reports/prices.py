"""The price of queries on demand."""

from __future__ import annotations

BYTES_PER_TIB = 2**40

# USD per TiB, by location of the data.
# Source: cloud.google.com/bigquery/pricing, on-demand compute, as it was on 2026-09-18. For a
# location that is not here, the page links to that address and names no cost.
ON_DEMAND_USD_PER_TIB = {
    "US": 6.25,
    "EU": 6.25,
    "africa-south1": 7.5,
    "asia-east1": 7.1875,
    "asia-northeast1": 7.5,
    "asia-southeast1": 8.4375,
    "australia-southeast1": 8.125,
    "europe-north2": 6.5625,
    "europe-west1": 7.5,
    "europe-west2": 7.8125,
    "europe-west10": 9.625,
    "europe-west12": 8.0625,
    "me-central1": 7.59375,
    "me-central2": 10.0,
    "me-west1": 7.5,
    "northamerica-south1": 6.8125,
    "southamerica-east1": 11.25,
    "southamerica-west1": 8.9375,
    "us-east1": 6.25,
    "us-south1": 7.5,
    "us-west2": 8.4375,
}
