"""The schemas of the resources in the Terraform files, as google 7.46 and local 2.5 have them.

A resource is its attributes, each a type and flags: S text, N number, B boolean, M map of texts;
r required, o optional, c computed, s sensitive, F a change makes the resource anew. To add one,
copy its attributes from the provider's documentation.
"""


def attributes(text):
    """Return the attributes that this text has, each `name=` its type and its flags."""
    pairs = [word.split("=") for word in text.split()]
    return {name: (kind[0], kind[1:]) for name, kind in pairs}


MEMBER = "id=Soc role=SrF member=SrF etag=Sc "
GOOGLE = {
    "google_project_service": attributes(
        "id=Soc service=SrF project=SocF disable_dependent_services=Bo disable_on_destroy=Bo "
        "deletion_policy=Soc"
    ),
    "google_bigquery_dataset": attributes(
        "id=Soc dataset_id=SrF default_collation=So default_partition_expiration_ms=No "
        "default_table_expiration_ms=No description=So friendly_name=So is_case_insensitive=Boc "
        "labels=Mo location=SoF max_time_travel_hours=Soc resource_tags=Mo "
        "storage_billing_model=Soc creation_time=Nc effective_labels=Mc etag=Sc "
        "last_modified_time=Nc terraform_labels=Mc delete_contents_on_destroy=Bo project=SocF "
        "self_link=Sc deletion_policy=Soc"
    ),
    "google_service_account": attributes(
        "id=Soc email=Sc unique_id=Sc name=Sc account_id=SrF display_name=So disabled=Bo "
        "description=So project=SocF member=Sc create_ignore_already_exists=Bo deletion_policy=Soc"
    ),
    "google_project_iam_member": attributes(MEMBER + "project=SrF"),
    "google_bigquery_dataset_iam_member": attributes(MEMBER + "dataset_id=SrF project=SocF"),
    "google_storage_bucket": attributes(
        "id=Soc name=SrF location=SrF force_destroy=Bo default_event_based_hold=Bo "
        "enable_object_retention=BoF labels=Mo project=SocF public_access_prevention=Soc "
        "requester_pays=Bo rpo=Soc storage_class=So uniform_bucket_level_access=Boc "
        "effective_labels=Mc project_number=Nc self_link=Sc terraform_labels=Mc time_created=Sc "
        "updated=Sc url=Sc"
    ),
    "google_storage_bucket_iam_member": attributes(MEMBER + "bucket=SrF"),
    "google_service_account_iam_member": attributes(MEMBER + "service_account_id=SrF"),
    "google_service_account_key": attributes(
        "id=Soc service_account_id=SrF key_algorithm=SoF private_key_type=SoF public_key_type=SoF "
        "public_key_data=SoF keepers=MoF name=Sc public_key=Sc private_key=Scs valid_after=Sc "
        "valid_before=Sc deletion_policy=Soc"
    ),
    "google_iam_workload_identity_pool": attributes(
        "id=Soc workload_identity_pool_id=SrF display_name=So description=So disabled=Bo mode=SocF "
        "name=Sc state=Sc project=SocF deletion_policy=Soc"
    ),
    "google_iam_workload_identity_pool_provider": attributes(
        "id=Soc workload_identity_pool_id=SrF workload_identity_pool_provider_id=SrF "
        "attribute_condition=So attribute_mapping=Mo description=So disabled=Bo display_name=So "
        "name=Sc state=Sc project=SocF deletion_policy=Soc"
    ),
}
# The nested blocks of a resource: their attributes and blocks. A resource not named here has none.
BLOCKS = {
    "google_iam_workload_identity_pool_provider": {
        "oidc": (attributes("issuer_uri=Sr jwks_json=So"), {}),
    },
    "google_storage_bucket": {
        "versioning": (attributes("enabled=Br"), {}),
        "lifecycle_rule": (
            {},
            {
                "action": (attributes("type=Sr storage_class=So"), {}),
                "condition": (
                    attributes(
                        "age=No num_newer_versions=No days_since_noncurrent_time=No with_state=Soc"
                    ),
                    {},
                ),
            },
        ),
    },
    "google_storage_bucket_iam_member": {
        "condition": (attributes("title=Sr expression=Sr description=So"), {}),
    },
}
LOCAL = {
    "local_sensitive_file": attributes(
        "filename=SrF content=SosF content_base64=SosF source=SoF file_permission=SoF "
        "directory_permission=SoF id=Sc content_md5=Sc content_sha1=Sc content_sha256=Sc "
        "content_sha512=Sc content_base64sha256=Sc content_base64sha512=Sc"
    ),
}
