"""What a member knows of the others outside the log: addresses and incarnations.

Addresses come from the replicated member table; before a member has that table (it joins,
or a configuration entry is not applied yet) from the initial cluster, from an Identify
answer, or from the metadata of whoever connects.

An incarnation is the random number of a data directory. Members remember, on disk, which
incarnation they met under which member id. A directory that comes up empty under a known id
has lost votes and acknowledgements; it may take part only after a majority of all members,
not counting itself, has said that it knows no other incarnation (dissertation 3.8: a server
must not forget its vote).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final

from raftkv.storage.files import REAL, read_file, replace_file

PEERS_FILE: Final = "peers"
_MAGIC: Final = b"RKP1"


class KnownMembers:
    """Addresses and incarnations by member id. path: of the file that keeps incarnations."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._addresses: dict[int, tuple[str, ...]] = {}
        pairs = json.loads(read_file(REAL, path, _MAGIC)) if REAL.exists(path) else {}
        self._incarnations = {int(member, 16): int(number, 16) for member, number in pairs.items()}

    def addresses(self, member: int) -> tuple[str, ...]:
        """The peer URLs of a member, () if unknown."""
        return self._addresses.get(member, ())

    def learn_address(self, member: int, urls: Iterable[str]) -> bool:
        """Notes peer URLs; True if they are new."""
        value = tuple(urls)
        if not value or self._addresses.get(member) == value:
            return False
        self._addresses[member] = value
        return True

    def learn_addresses(self, addresses: Mapping[int, Iterable[str]]) -> None:
        """Notes the peer URLs of several members."""
        for member, urls in addresses.items():
            self.learn_address(member, urls)

    def incarnation(self, member: int) -> int:
        """The incarnation met under this id; 0: none."""
        return self._incarnations.get(member, 0)

    def learn_incarnation(self, member: int, incarnation: int) -> None:
        """Remembers, durably, the incarnation met under this id."""
        if self._incarnations.get(member) == incarnation:
            return
        self._incarnations[member] = incarnation
        pairs = {f"{key:016x}": f"{value:016x}" for key, value in self._incarnations.items()}
        replace_file(REAL, self._path, _MAGIC, json.dumps(pairs, sort_keys=True).encode())

    def forget(self, member: int) -> None:
        """Drops a removed member's address; its incarnation stays known for ever."""
        self._addresses.pop(member, None)
