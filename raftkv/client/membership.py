"""The keys of a party: who takes part. Pure.

    <name>/<identity>/<lease id in hex>    one per membership, kept by its lease

The lease is in the key, so that a process that died and has come back under its old identity is not
mixed up with what is left of itself: for the rest of the old lease there are two memberships of one
identity, and the younger one (`joined`) is the process that lives. Members are ordered by the
revision at which they joined, which all see alike. An identity may have slashes, so names must not
nest: the keys of a party `a/b` would be read as members of a party `a`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from raftkv.client.results import KeyValue
from raftkv.client.txn import Get, Put, Txn, key

HEX = frozenset(b"0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Participant:
    """One membership as others see it.

    joined: revision at which it began: its fencing token. lease: that keeps it.
    """

    identity: bytes
    value: bytes
    joined: int
    lease: int
    key: bytes

    @property
    def identity_text(self) -> str:
        """The identity as UTF-8 text. Errors: UnicodeDecodeError."""
        return self.identity.decode()

    @property
    def text(self) -> str:
        """The value as UTF-8 text. Errors: UnicodeDecodeError."""
        return self.value.decode()


def below(name: bytes) -> bytes:
    """What the keys of a party begin with."""
    return name + b"/"


def place(name: bytes, identity: bytes, lease: int) -> bytes:
    """The key of a membership."""
    return below(name) + identity + b"/%x" % lease


def participants(name: bytes, kvs: Iterable[KeyValue]) -> tuple[Participant, ...]:
    """Who takes part, the oldest first; keys that are no memberships are left out."""
    prefix = below(name)
    found = []
    for kv in kvs:
        identity, slash, lease = kv.key.removeprefix(prefix).rpartition(b"/")
        if slash and lease and HEX.issuperset(lease) and int(lease, 16) == kv.lease:
            found.append(Participant(identity, kv.value, kv.create_revision, kv.lease, kv.key))
    found.sort(key=lambda one: (one.joined, one.key))
    return tuple(found)


def joining(own: bytes, value: bytes, lease: int) -> Txn:
    """Puts the own key, or reads it if it is there: may be sent as often as necessary."""
    return Txn().when(key(own).missing()).then(Put(own, value, lease=lease)).otherwise(Get(own))


def updating(own: bytes, joined: int, written: int, value: bytes, lease: int) -> Txn:
    """Replaces the own value while this very membership is there, or reads it.

    written: revision of the last write of the key that is known. To compare it, too, keeps an
    attempt that arrives late from undoing a later one.
    """
    own_key = key(own)
    return (
        Txn()
        .when(own_key.create_revision == joined, own_key.mod_revision == written)
        .then(Put(own, value, lease=lease))
        .otherwise(Get(own))
    )
