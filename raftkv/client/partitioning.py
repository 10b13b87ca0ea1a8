"""Who of a party has which partitions: the division, and the keys it is written in. Pure.

    <name>/members/<identity>/<lease id in hex>    one per member (`raftkv.client.membership`)
    <name>/owners/<partition>                      who has it: put with the owner's lease

The division is worked out by every member for itself from one reading, so all come to the same as
soon as nothing changes any more. What keeps a partition from having two owners is not that they
agree but the owner's key: it is put only where there is none, and taken away only by its owner or
by the end of its owner's lease. Its create revision is the fencing token.

The division is even (no two members differ by more than one), and of all even ones it is one that
moves the fewest partitions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raftkv.client import membership
from raftkv.client.errors import BadRequest
from raftkv.client.keys import Key, encoded
from raftkv.client.results import KeyValue
from raftkv.client.txn import Delete, Get, Put, Txn, key


@dataclass(frozen=True, slots=True)
class Owner:
    """lease: the owner's. token: create revision of its key."""

    lease: int
    token: int


@dataclass(frozen=True, slots=True)
class Board:
    """Members (by their leases, the oldest first) and owners, as of one revision."""

    revision: int
    members: tuple[int, ...]
    owners: Mapping[bytes, Owner]


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one division. name: what they begin with."""

    name: bytes

    @property
    def everything(self) -> bytes:
        """What all keys begin with."""
        return self.name + b"/"

    @property
    def party(self) -> bytes:
        """The name of the party of members."""
        return self.name + b"/members"

    def member(self, identity: bytes, lease: int) -> bytes:
        """The key of a member."""
        return membership.place(self.party, identity, lease)

    def owner(self, partition: bytes) -> bytes:
        """The key of a partition's owner."""
        return self.name + b"/owners/" + partition

    def read(self, kvs: Iterable[KeyValue], revision: int) -> Board:
        """What a reading of all keys says."""
        prefix = self.owner(b"")
        of_members = membership.below(self.party)
        pairs = tuple(kvs)
        members = membership.participants(
            self.party, [kv for kv in pairs if kv.key.startswith(of_members)]
        )
        owners = {
            kv.key.removeprefix(prefix): Owner(kv.lease, kv.create_revision)
            for kv in pairs
            if kv.key.startswith(prefix)
        }
        return Board(revision, tuple(one.lease for one in members), owners)

    def taking(self, partition: bytes, identity: bytes, lease: int) -> Txn:
        """Makes this one the owner if there is none; may be sent twice."""
        own = self.owner(partition)
        put = Put(own, identity, lease=lease)
        return Txn().when(key(own).missing()).then(put).otherwise(Get(own))

    def giving(self, partition: bytes, token: int) -> Txn:
        """Ends one ownership, no later one; may be sent as often as necessary."""
        own = self.owner(partition)
        return Txn().when(key(own).create_revision == token).then(Delete(own))


def names(partitions: Iterable[Key]) -> tuple[bytes, ...]:
    """The partitions in their order. Errors: BadRequest: none, empty or twice the same."""
    found = tuple(sorted(encoded(each) for each in partitions))
    if not found or not all(found) or len(set(found)) < len(found):
        raise BadRequest("partitions must be some, each with a name of its own")
    return found


def divide(
    partitions: Sequence[bytes], members: Sequence[int], owners: Mapping[bytes, int]
) -> dict[bytes, int]:
    """The member that each partition is to have; empty without members.

    partitions: in order. members: the oldest first. owners: who has what now; whoever is no member
    counts as nobody.
    """
    if not members:
        return {}
    has: dict[int, list[bytes]] = {member: [] for member in members}
    for each in partitions:
        owner = owners.get(each)
        if owner in has:
            has[owner].append(each)
    least, extra = divmod(len(partitions), len(has))
    # Those who have most keep one more, where the numbers do not come out even.
    by_number = sorted(has, key=lambda member: -len(has[member]))
    quota = {member: least + (place < extra) for place, member in enumerate(by_number)}
    given = {each: member for member in has for each in has[member][: quota[member]]}
    left = {member: quota[member] - len(has[member]) for member in has}
    takers = [member for member in has for _ in range(left[member])]
    free = (each for each in partitions if each not in given)
    given.update(zip(free, takers, strict=True))
    return given
