"""What a member knows of the others outside the log: addresses and incarnations.

Addresses come from the replicated member table; before a member has that table (it joins,
or a configuration entry is not applied yet) from the initial cluster, from an Identify
answer, or from the metadata of whoever connects.

An incarnation is the random number of a data directory. Members remember, on disk, which
incarnation they met under which member id. A directory that comes up empty under a known id
has lost votes and acknowledgements; it may take part only after a majority of the other members
has said that it knows no other incarnation, and has noted this one (dissertation 3.8: a server
must not forget its vote). What was only noted, not met yet, has life 0.

A life is one start of a directory: how many there were (upper 32 bits), and a random number.
Whoever was restored from a copy counts from where the copy was made, so it comes with a life
that is not newer than the one its peers have met, and is refused (R34).

File: {"member id": "incarnation:life", ...}, all in hex; one entry is this member's own.
"""

import json
import random
from collections.abc import Iterable, Mapping
from typing import Final

from raftkv.storage.files import REAL, FileSystem, read_file, replace_file

PEERS_FILE: Final = "peers"
_MAGIC: Final = b"RKP1"
_NUMBER_SHIFT: Final = 32


class KnownMembers:
    """Addresses and incarnations by member id. path: of the file that keeps incarnations."""

    def __init__(self, path: str, fs: FileSystem = REAL) -> None:
        self._path = path
        self._fs = fs
        self._addresses: dict[int, tuple[str, ...]] = {}
        self.life = 0  # of this member; `begin_life` sets it
        self._met: dict[int, tuple[int, int]] = {}  # incarnation and life by member id
        pairs = json.loads(read_file(fs, path, _MAGIC)) if fs.exists(path) else {}
        for member, text in pairs.items():
            incarnation, _, life = text.partition(":")
            self._met[int(member, 16)] = (int(incarnation, 16), int(life or "0", 16))

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
        return self._met.get(member, (0, 0))[0]

    def begin_life(self, member: int, incarnation: int) -> None:
        """This member starts: counts that, durably, before anyone hears of it."""
        number = (self._met.get(member, (0, 0))[1] >> _NUMBER_SHIFT) + 1
        self.life = number << _NUMBER_SHIFT | random.SystemRandom().getrandbits(_NUMBER_SHIFT)
        self.meet(member, incarnation, self.life)

    def is_older_life(self, member: int, life: int) -> bool:
        """True if `life` is neither the newest that was met under this id nor a later one."""
        met = self._met.get(member, (0, 0))[1]
        return life != met and life >> _NUMBER_SHIFT <= met >> _NUMBER_SHIFT

    def meet(self, member: int, incarnation: int, life: int) -> None:
        """Remembers, durably, the incarnation and the life met under this id."""
        if self._met.get(member) == (incarnation, life):
            return
        self._met[member] = (incarnation, life)
        pairs = {f"{key:016x}": f"{one:016x}:{two:016x}" for key, (one, two) in self._met.items()}
        replace_file(self._fs, self._path, _MAGIC, json.dumps(pairs, sort_keys=True).encode())

    def forget(self, member: int) -> None:
        """Drops a removed member's address; its incarnation stays known for ever."""
        self._addresses.pop(member, None)
