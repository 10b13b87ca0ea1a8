"""--force-new-cluster: a cluster of one out of a member's own directory, when the others are lost.

A cluster that has lost its quorum for good cannot go on: nobody can tell what the lost members had
acknowledged. An operator may decide that what one of the others has is what counts. Then that
member's whole log is applied, also what may never have been committed (some of it may have been
acknowledged), and the resulting state becomes that of a new cluster with this member alone, as a
restored snapshot does (`restoring`): another cluster id, another incarnation, a revision that
nobody has seen. So the old members, should any of them come back, are strangers to it, and clients
notice that they look at another history.

The new directory is made within the old one and takes its place in one step (`storage.founding`).
It remembers how it came to be: the flag does nothing there, so a start script that keeps it forces
nobody a second time.
"""

import asyncio
import logging
import ssl
from typing import Final

import raftkv
from raftkv import limits
from raftkv.config import ServerConfig
from raftkv.errors import ConfigError
from raftkv.kv.machine import MachineSettings, StateMachine
from raftkv.kv.members import Member
from raftkv.kv.restoring import Applied
from raftkv.pb import peer_pb2
from raftkv.raft.membership import decode_change
from raftkv.server import identify
from raftkv.server.restoring import NewState, Rewriting, new_incarnation, restored_cluster_id
from raftkv.storage.backend import StateBackend
from raftkv.storage.files import FileSystem
from raftkv.storage.founding import founding_of, replace
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.recovery import STATE_BUFFER_BYTES, DataDirectory, Identity
from raftkv.storage.tables import link_tables

log = logging.getLogger("raftkv.server")

BY_FORCE: Final = "force-new-cluster"


async def force_new_cluster(
    config: ServerConfig, files: FileSystem, dial: ssl.SSLContext | None
) -> None:
    """Replaces what is in the data directory by a cluster of this member alone.

    Returns when the next opening of the directory will find it so. Raises ConfigError if it must
    not be (no member's directory, the others have a quorum), StorageError; then it is as it was.
    """
    path = str(config.data_dir)
    identity = DataDirectory.peek(path, fs=files)
    if identity is None:
        raise ConfigError(f"--force-new-cluster: {path} is not the data directory of a member")
    if founding_of(path, files).get("by") == BY_FORCE:
        log.warning(
            "--force-new-cluster has been carried out in %s before and does nothing now: take the "
            "flag away",
            path,
        )
        return
    directory = DataDirectory.open(path, identity.cluster, identity.member, fs=files)
    try:
        await _check_others(directory, config, dial)
        _replace(directory, config)
    finally:
        directory.close()


def _machine(directory: DataDirectory, state: StateBackend, config: ServerConfig) -> StateMachine:
    settings = MachineSettings(max_txn_ops=config.max_txn_ops)
    return StateMachine(state, directory.identity.cluster, settings)


async def _check_others(
    directory: DataDirectory, config: ServerConfig, dial: ssl.SSLContext | None
) -> None:
    """Raises ConfigError if the other voters that answer are a majority, with or without this one:
    then nothing is lost, and forcing would make a second cluster beside theirs. StorageError.
    """
    identity, recovered = directory.identity, directory.recovered
    if not recovered.last_index:
        raise ConfigError(
            f"--force-new-cluster: member {identity.member:x} has never been part of a cluster"
        )
    machine = _machine(directory, directory.state, config)
    directory.check_applied(machine.applied_index)
    configuration = machine.configuration
    if recovered.configurations:
        configuration = decode_change(recovered.configurations[-1][1])[0]
    request = peer_pb2.IdentifyRequest(cluster_id=identity.cluster, member_id=identity.member)

    async def answers(member: Member) -> bool:
        for url in member.peer_urls:
            reply = await identify.ask(url, request, dial)
            if not isinstance(reply, str) and (reply.cluster_id, reply.member_id) == (
                identity.cluster,
                member.id,
            ):
                return True
        return False

    voters = [one for one in configuration.voters if one != identity.member]
    members = [machine.members[one] for one in voters if one in machine.members]
    found = await asyncio.gather(*map(answers, members))
    alive = [member for member, there in zip(members, found, strict=True) if there]
    here = 1 if configuration.is_voter(identity.member) else 0
    if alive and len(alive) + here > len(configuration.voters) // 2:
        names = ", ".join(f"{member.id:x}" for member in alive)
        raise ConfigError(
            f"--force-new-cluster: the cluster has a quorum, for {names} answer: start this member "
            "without the flag, and use raftctl member remove for those that are lost. If you mean "
            "to leave them behind, stop them first"
        )


def _replace(directory: DataDirectory, config: ServerConfig) -> None:
    old = directory.identity
    rewriting = Rewriting(config.force_new_cluster_bump, config.force_new_cluster_bump > 0)
    incarnation = new_incarnation()
    cluster = restored_cluster_id(old.cluster, incarnation.to_bytes(8, "big"), rewriting)
    identity = Identity(cluster, old.member, incarnation)
    story = {"by": BY_FORCE, "cluster": f"{old.cluster:016x}", "version": raftkv.__version__}

    def fill(path: str) -> None:
        members = _replay(directory, path, config)
        state = NewState(identity, [members.pop(old.member)], rewriting)
        state.rewrite(path)
        _say(identity, old, list(members), state.before, state.after)

    replace(directory.path, identity, fill, story, state_number=directory.next_state_number())


def _replay(directory: DataDirectory, path: str, config: ServerConfig) -> dict[int, Member]:
    """Makes `path` hold the state after the last entry of the log; its members.

    A copy, because the entries need not be committed: if this comes to nothing, the directory's
    own state must not have them. Raises ConfigError, StorageError.
    """
    last, member = directory.recovered.last_index, directory.identity.member
    directory.state.sync()
    link_tables(directory.state.directory, path)
    state = LEVELDB.open_state(path, buffer_bytes=STATE_BUFFER_BYTES)
    try:
        machine = _machine(directory, state, config)
        while machine.applied_index < last:
            first = machine.applied_index + 1
            found = directory.log.entries(first, last, limits.MAX_APPEND_BYTES)
            assert found, "an entry of the log is missing"
            for entry in found:
                machine.apply(entry)
            machine.flush()
        state.sync()
    finally:
        state.close()
    if member not in machine.members:
        raise ConfigError(
            f"--force-new-cluster: member {member:x} has been removed from its cluster"
        )
    return dict(machine.members)


def _say(
    identity: Identity, old: Identity, lost: list[int], before: Applied, after: Applied
) -> None:
    log.warning(
        "forced a new cluster of this member alone",
        extra={
            "cluster-id": f"{identity.cluster:x}",
            "old-cluster-id": f"{old.cluster:x}",
            "left-behind": ",".join(f"{member:x}" for member in lost),
            "old-revision": before.revision,
            "revision": after.revision,
        },
    )
