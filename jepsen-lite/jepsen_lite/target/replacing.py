"""A member that lost its data comes back as a new one: removed, added, started with nothing.

This is what `raftctl member remove` and `raftctl member add` do, and what the last words of a
member that refuses its directory say. Every step may be made again, so a replacement that was cut
short goes on where it stood.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from jepsen_lite.target.base import TargetError
from raftkv.client.aio import Client
from raftkv.client.errors import ClientError, MemberExists, MemberNotFound

CHANGE_SECONDS: Final = 10.0


async def readmit(endpoints: Sequence[str], peer_url: str) -> int:
    """Removes the member with this peer URL, if it ever started, and adds it anew.

    endpoints: of the other members. Returns its new id.
    Errors: TargetError, as long as there is no majority.
    """
    try:
        async with Client(
            list(endpoints), timeout=CHANGE_SECONDS, dial_timeout=CHANGE_SECONDS
        ) as client:
            for member in await client.members():
                if peer_url in member.peer_urls and member.name:
                    await _remove(client, member.id)
            with suppress(MemberExists):  # an attempt before this one had come so far
                await client.member_add([peer_url])
            members = list(await client.members())
    except ClientError as error:
        raise TargetError(f"the member at {peer_url} cannot be replaced: {error}") from None
    for member in members:
        if peer_url in member.peer_urls:
            return member.id
    raise TargetError(f"the member at {peer_url} is not in the member table although it was added")


async def _remove(client: Client, member_id: int) -> None:
    try:
        await client.member_remove(member_id)
    except MemberNotFound:
        return  # an attempt whose answer was lost


def emptied(directory: Path) -> None:
    """Throws a data directory away."""
    shutil.rmtree(directory, ignore_errors=True)


def as_joining(argv: Sequence[str]) -> list[str]:
    """The command of a member that joins a cluster that is there."""
    joining = "--initial-cluster-state=existing"
    return [word for word in argv if not word.startswith("--initial-cluster-state=")] + [joining]
