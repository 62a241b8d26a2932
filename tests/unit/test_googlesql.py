"""Google's analyser: where what it compiles is kept."""

import wasmtime
from zetasql.core import wasm_client

from support.googlesql import keep_compiled_modules


def test_damaged_module_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setattr(wasm_client, "Config", wasmtime.Config)
    keep_compiled_modules(tmp_path)

    def compile_module():
        wasmtime.Module(wasmtime.Engine(wasm_client.Config()), "(module)")
        files = [path for path in tmp_path.rglob("wasmtime-*/*") if path.suffix != ".stats"]
        return {path: path.read_bytes() for path in files}

    kept = compile_module()
    for path in kept:
        path.write_bytes(b"damaged")

    assert kept
    assert compile_module() == kept
