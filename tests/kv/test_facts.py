"""The facts about etcd's KV service, told in `tests.conformance`, on the bare state machine.

The same test functions that run against a real etcd and a raftkv server run here without any
server: what fails there but not here is not the machine's fault.
"""

import inspect
from types import ModuleType
from typing import Any, Final

import pytest

from tests.conformance import test_kv_facts, test_txn_facts
from tests.conformance.store import Store
from tests.kv.adapter import Driver

# Facts about the size of messages are the server's.
NOT_THE_MACHINE: Final = ("TOO_LARGE", "RESOURCE_EXHAUSTED")


def _facts(module: ModuleType) -> list[Any]:
    """Every test of a module, with its parameters spelled out."""
    found = []
    for name, function in inspect.getmembers(module, inspect.isfunction):
        source = inspect.getsource(function)
        if name.startswith("test_") and not any(word in source for word in NOT_THE_MACHINE):
            cases: list[dict[str, Any]] = [{}]
            for mark in getattr(function, "pytestmark", []):
                if mark.name == "parametrize":
                    cases = [{**case, **more} for case in cases for more in _spelled(*mark.args)]
            for number, case in enumerate(cases):
                found.append(pytest.param(function, case, id=f"{name}-{number}"))
    return found


def _spelled(names: Any, values: Any) -> list[dict[str, Any]]:
    words = [word.strip() for word in names.split(",")] if isinstance(names, str) else list(names)
    if len(words) == 1:
        return [{words[0]: value} for value in values]
    return [dict(zip(words, value, strict=True)) for value in values]


FACTS: Final = _facts(test_kv_facts) + _facts(test_txn_facts)


@pytest.mark.parametrize(("fact", "case"), FACTS)
def test_fact(fact: Any, case: dict[str, Any]) -> None:
    driver = Driver()
    driver.machine.collect_changes(True)
    wanted = inspect.signature(fact).parameters
    stores = {
        name: Store(driver, b"000001/")  # type: ignore[arg-type]
        for name in ("store", "fresh_store")
        if name in wanted
    }
    fact(**stores, **case)


def test_no_fact_was_lost_on_the_way() -> None:
    assert len(FACTS) >= 55
