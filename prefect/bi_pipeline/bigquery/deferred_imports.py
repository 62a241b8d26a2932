"""Imports a library without the heavy modules it needs only for annotations and rare classes.

prefect_gcp and prefect_dbt import half of Google Cloud and the whole of dbt: three seconds,
for classes that a run does not touch. Here these get stand-ins, each of which imports its
class when that is first used: everything works, later.

    with defer_imports(["prefect_gcp"], ["google.cloud.bigquery"]):
        from prefect_gcp.credentials import GcpCredentials  # does not import BigQuery's client
    GcpCredentials(...).get_bigquery_client()  # does: `bigquery.Client` is a _DeferredClass
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import Any


@contextmanager
def defer_imports(packages: Iterable[str], modules: Iterable[str]) -> Iterator[None]:
    """Defer, for what is imported meanwhile, these packages and modules, unless they are there.

    Args:
        packages: those whose modules are wanted, and whose own `__init__` can wait; a package
            before those that are in it.
        modules: those of which only classes are wanted, and can wait.
    """
    stand_ins = [name for name in modules if name not in sys.modules]
    for name in packages:
        if name not in sys.modules:
            sys.modules[name] = _make_deferred_package(name)
    sys.modules.update({name: _make_module_of_deferred_classes(name) for name in stand_ins})
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _make_deferred_package(name: str) -> ModuleType:
    """Return a package whose `__init__` runs when something of it is first asked for."""
    spec = importlib.util.find_spec(name)
    assert spec and spec.loader
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def load(attribute: str) -> Any:
        _refuse_inspection(attribute)
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__getattr__ = load  # type: ignore[method-assign]
    return package


def _make_module_of_deferred_classes(name: str) -> ModuleType:
    """Return a module all of whose classes are deferred."""
    module = ModuleType(name)

    def defer(attribute: str) -> Any:
        _refuse_inspection(attribute)
        return _DeferredClass(name, attribute)

    module.__getattr__ = defer  # type: ignore[method-assign]
    return module


class _DeferredClass:
    """A class of a module that is imported when the class is first used."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    @cached_property
    def _class(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._class(*args, **kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._class)

    def __getattr__(self, attribute: str) -> Any:
        _refuse_inspection(attribute)
        return getattr(self._class, attribute)


def _refuse_inspection(attribute: str) -> None:
    """Raise AttributeError for what the import system (`__path__`) or annotations ask for.

    An answer would import the module, which is to be deferred.
    """
    if attribute.startswith("__"):
        raise AttributeError(attribute)
