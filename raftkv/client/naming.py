"""The keys of a service registry: which instances a service has, and where. Pure.

    <registry>/<service>/<instance>    {"Op":0,"Addr":"10.0.0.7:80","Metadata":{...}}

This is how etcd's Go package `naming/endpoints` writes the endpoints of the target
`<registry>/<service>`, so its gRPC resolver finds instances that are registered here, and the other
way round. `Op` is always 0 in what is stored. Whoever registers an instance under a name that is
taken takes its place: an instance that has come back does not wait for the end of its old lease.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from raftkv.client.errors import BadRequest, RecipeError
from raftkv.client.results import KeyValue
from raftkv.client.txn import Get, Put, Txn, key

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

ADD: Final = 0

_log = logging.getLogger(__name__)


class Replaced(RecipeError):
    """Another process has registered the instance and is meant by its name now."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a service.

    address: as it was registered. metadata: whatever JSON can say. registered: revision of the
    registration. lease: that keeps it, 0 = it stays until somebody takes it away.
    """

    name: str
    address: str
    metadata: Json = field(default=None, hash=False)
    registered: int = 0
    lease: int = 0


def below(registry: bytes, service: bytes) -> bytes:
    """What the keys of a service's instances begin with."""
    return b"%s/%s/" % (registry, service)


def place(registry: bytes, service: bytes, instance: bytes) -> bytes:
    """The key of an instance. Errors: BadRequest."""
    if not instance or not service:
        raise BadRequest("a service and its instance must have names")
    return below(registry, service) + instance


def written(address: str, metadata: Json) -> bytes:
    """What is stored of an instance. Errors: BadRequest when JSON cannot say it."""
    try:
        text = json.dumps(
            {"Op": ADD, "Addr": address, "Metadata": metadata},
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return text.encode()
    except (TypeError, ValueError) as error:
        raise BadRequest(f"no JSON can be made of the metadata: {error}") from error


def instances(prefix: bytes, kvs: Iterable[KeyValue]) -> tuple[Instance, ...]:
    """The instances by name. What is no instance is left out, and logged."""
    found = []
    for kv in kvs:
        one = read(kv.key.removeprefix(prefix), kv)
        if one is None:
            _log.warning("%r is no instance of a service: %r", kv.key, kv.value[:80])
        else:
            found.append(one)
    found.sort(key=lambda one: one.name)
    return tuple(found)


def read(name: bytes, kv: KeyValue) -> Instance | None:
    """An instance, None if the key holds something else."""
    try:
        content: Json = json.loads(kv.value)
        text = name.decode()
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    address = content.get("Addr")
    if not isinstance(address, str) or content.get("Op", ADD) != ADD:
        return None
    return Instance(text, address, content.get("Metadata"), kv.mod_revision, kv.lease)


def placing(own: bytes, seen: int, value: bytes, lease: int) -> Txn:
    """Registers, unless the key was written since it was read; reads it then.

    seen: its mod_revision, 0 = it was not there.
    """
    put = Put(own, value, lease=lease)
    return Txn().when(key(own).mod_revision == seen).then(put).otherwise(Get(own))
