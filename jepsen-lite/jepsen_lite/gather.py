"""What members say when all is over: status, and hashes of their keys at one revision."""

import asyncio
from typing import Any, Final

from jepsen_lite.target.base import Target
from raftkv.client.errors import ClientError, PermissionDenied
from raftkv.pb import rpc_pb2

HASH_KV: Final = "/etcdserverpb.Maintenance/HashKV"
CALL_SECONDS: Final = 10.0
AGREE_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 0.5


async def members_say(target: Target, revision: int) -> dict[str, Any]:
    """Of each member, by its endpoint: revision, hashes {revision: {hash, compact_revision}}.

    Where this run's user may not ask for hashes, "not_permitted" says so.

    revision: of the store; every member has reached it before it is asked. Hashes cover what is
    not compacted, so they are asked for again while members have compacted differently.
    """
    deadline = asyncio.get_running_loop().time() + AGREE_SECONDS
    while True:
        asked = [_member_says(target, member, revision) for member in target.present]
        found = dict(await asyncio.gather(*asked))
        compacted = {
            value["compact_revision"] for one in found.values() for value in one["hashes"].values()
        }
        answered = all(one["hashes"] or "not_permitted" in one for one in found.values())
        if (answered and len(compacted) <= 1) or asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(_PAUSE_SECONDS)


async def _member_says(target: Target, member: int, revision: int) -> tuple[str, dict[str, Any]]:
    name = target.endpoints[member]
    said: dict[str, Any] = {"hashes": {}}
    session = await target.member_session(member, CALL_SECONDS)
    try:
        said["revision"] = (
            await session.get(target.any_key)
        ).revision  # linearizable: it has caught up
        status = await session.status()
        said["status"] = {
            "member": f"{status.header.member_id:x}",
            "term": status.header.raft_term,
            "leader": f"{status.leader:x}",
        }
        answer = await session.call(
            HASH_KV,
            rpc_pb2.HashKVRequest(revision=revision),
            rpc_pb2.HashKVResponse,
            write=False,
        )
        said["hashes"][str(revision)] = {
            "hash": answer.hash,
            "compact_revision": answer.compact_revision,
        }
    except PermissionDenied as error:
        said["not_permitted"] = str(error)
    except ClientError as error:
        said["error"] = str(error)
    finally:
        await session.close()
    return name, said
