"""The types of columns that the YAML of a dbt project declares."""

from types import SimpleNamespace

import pytest
from dbt.artifacts.resources.v1.source_definition import ExternalTable

from support.declared_types import find_nearest_type, list_declared_types, lists_all_columns

DAY = {"name": "day", "data_type": "date"}


@pytest.mark.parametrize(
    ("declared", "types"),
    [
        ({"a": "int64", "b": None}, {"a": "int64", "b": ""}),
        ({"a.b": "FLOAT", "a.c.d": "date"}, {"a": "STRUCT<`b` FLOAT64, `c` STRUCT<`d` date>>"}),
        ({"a": "struct", "a.b": "date"}, {"a": "STRUCT<`b` date>"}),
        ({"a.b": "date", "a": "ARRAY<STRUCT>"}, {"a": "ARRAY<STRUCT<`b` date>>"}),
        (
            {"a": "array", "a.b": "array", "a.b.c": "date"},
            {"a": "ARRAY<STRUCT<`b` ARRAY<STRUCT<`c` date>>>>"},
        ),
        # The fields are documented, some of them, beside the type that says them all.
        ({"a": "struct<b date, c date>", "a.b": "date"}, {"a": "struct<b date, c date>"}),
        # A struct, or an array of structs.
        ({"a": "RECORD", "a.b": "date"}, {"a": ""}),
        ({"a": None, "a.b": "date"}, {"a": ""}),
        ({"a": "STRUCT"}, {"a": ""}),
        ({"a": "array", "a.b": "date", "a.c": None}, {"a": ""}),
        ({"a.b": "record", "a.b.c": "date"}, {"a": ""}),
        ({"`order`": "date", "a.`b`": "date"}, {"order": "date", "a": "STRUCT<`b` date>"}),
    ],
)
def test_fields_make_the_type_of_their_column(declared, types):
    columns = {name: SimpleNamespace(name=name, data_type=kind) for name, kind in declared.items()}

    assert list_declared_types(SimpleNamespace(columns=columns)) == types


@pytest.mark.parametrize(
    ("external", "are_all"),
    [
        (None, True),
        ({"location": "gs://lake/*"}, True),
        ({"options": {"hive_partition_uri_prefix": "gs://lake"}}, False),
        ({"options": {"hive_partition_uri_prefix": "gs://lake"}, "partitions": [DAY]}, True),
    ],
)
def test_partitions_of_an_external_table_are_columns(external, are_all):
    columns = {"id": SimpleNamespace(name="id", data_type="int64")}
    made = None if external is None else ExternalTable.from_dict(external)
    source = SimpleNamespace(columns=columns, external=made)

    assert lists_all_columns(source) == are_all
    assert ("day" in list_declared_types(source)) == ("partitions" in (external or {}))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        *[("strng", "STRING"), ("varchar", "STRING"), ("double", "FLOAT64"), ("int46", "INT64")],
        *[("timestamptz", "TIMESTAMP"), ("record", "STRUCT"), ("bolean", "BOOL")],
    ],
)
def test_nearest_type_is_the_one_that_is_meant(name, nearest):
    assert find_nearest_type(name) == nearest
