"""Leadership that is handed over, to whoever is named, well or not (R35)."""

from random import Random

from jepsen_lite.generator import Generator, cycle, once, sleep
from jepsen_lite.history import Op
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.episodes import known_leader, nothing
from jepsen_lite.nemesis.process import NO_LEADER
from raftkv.client.aio import Client
from raftkv.client.errors import ClientError

TRANSFER_SECONDS = 3.0
STARTS = 16


class Transfer(Nemesis):
    """Asks the leader to hand over to another member, who may be down, paused or cut off."""

    name = "transfer"
    summary = "leadership transfers to any other member"
    fs = frozenset({"transfer"})
    needs = frozenset({"transfer"})

    def generator(self, random: Random) -> Generator:
        steps = []
        for _ in range(STARTS):
            steps += [
                sleep(random.uniform(1.0, 6.0)),
                once({"f": "transfer", "value": {"seed": random.getrandbits(32)}}),
            ]
        return cycle(steps)

    async def invoke(self, op: Op) -> Op:
        leader = await known_leader(self.target)
        if leader is None:
            return op.done("info", nothing(NO_LEADER))
        others = [one for one in self.target.present if one != leader]
        if not others:
            return op.done("info", nothing("there is nobody to hand over to"))
        to = Random(op.value["seed"]).choice(others)
        try:
            async with Client(
                self.target.endpoints[leader],
                timeout=TRANSFER_SECONDS,
                dial_timeout=TRANSFER_SECONDS,
            ) as client:
                members = (await client.members(linearizable=False)).members
                target = self._member_id(members, to)
                if target == 0:
                    return op.done("info", nothing(f"member {to} is not in the member table"))
                await client.move_leader(target)
        except ClientError as error:
            return op.done("info", {"from": leader, "to": to, "refused": str(error)})
        return op.done("info", {"from": leader, "to": to})

    def _member_id(self, members: object, place: int) -> int:
        endpoint = self.target.endpoints[place]
        for member in members:  # type: ignore[attr-defined]
            if any(url.endswith(f"//{endpoint}") for url in member.client_urls):
                return int(member.id)
        return 0

    async def heal(self) -> None:
        """There is nothing to undo."""
