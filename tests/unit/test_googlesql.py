"""Google's analyser: where what it compiles is kept, and what its types are called."""

import wasmtime
from zetasql import types
from zetasql.core import wasm_client

from support.googlesql import is_compiled, keep_compiled_modules, list_types, name_type


def test_damaged_module_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setattr(wasm_client, "Config", wasmtime.Config)
    keep_compiled_modules(tmp_path)

    def compile_module():
        wasmtime.Module(wasmtime.Engine(wasm_client.Config()), "(module)")
        files = [path for path in tmp_path.rglob("wasmtime-*/*") if not path.suffix]
        return {path: path.read_bytes() for path in files}

    assert not is_compiled(tmp_path)
    kept = compile_module()
    assert is_compiled(tmp_path)
    for path in kept:
        path.write_bytes(b"damaged")

    assert kept
    assert compile_module() == kept


def make_type(kind, **parts):
    return types.Type(type_kind=types.TypeKind[f"TYPE_{kind}"], **parts)


def make_struct(**fields):
    made = [types.StructField(field_name=name, field_type=kind) for name, kind in fields.items()]
    return make_type("STRUCT", struct_type=types.StructType(field=made))


def make_array(element):
    return make_type("ARRAY", array_type=types.ArrayType(element_type=element))


PLACE = make_struct(city=make_type("STRING"), point=make_struct(x=make_type("DOUBLE")))


def test_types_have_the_names_of_bigquery():
    named = name_type(make_array(PLACE))

    assert named == "ARRAY<STRUCT<city STRING, point STRUCT<x FLOAT64>>>"


def test_fields_of_a_column_have_types_of_their_own():
    listed = list_types({"place": PLACE, "tags": make_array(make_type("BOOL"))})

    assert listed == {
        "place": "STRUCT",
        "place.city": "STRING",
        "place.point": "STRUCT",
        "place.point.x": "FLOAT64",
        "tags": "ARRAY<BOOL>",
    }
