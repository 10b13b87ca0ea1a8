"""How a starting member learns who it is, and whether its directory may take part.

directory exists   it names cluster and member; --force-new-cluster makes it another one before
--rejoin           the cluster replaces the member with this one's peer URLs by a new learner
existing           the cluster knows the member by its peer URLs (`raftctl member add`)
new                cluster and member follow from the initial cluster
"""

import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from raftkv.config import ServerConfig, check_bootstrap
from raftkv.errors import ConfigError
from raftkv.pb import peer_pb2
from raftkv.server import identify
from raftkv.server.forcing import force_new_cluster
from raftkv.storage.files import FileSystem
from raftkv.storage.founding import founding_of
from raftkv.storage.recovery import DataDirectory, Identity

log = logging.getLogger("raftkv.server")


class Place(NamedTuple):
    """Who this member is.

    addresses: peer URLs by member id, as far as they are known before the member table is.
    """

    cluster: int
    member: int
    addresses: dict[int, tuple[str, ...]]


class Arrival:
    """Asks the others during one start. dial: TLS context for peers, None without TLS."""

    def __init__(self, config: ServerConfig, files: FileSystem, dial: ssl.SSLContext | None):
        self._config = config
        self._files = files
        self._dial = dial
        self._own_urls = [str(url) for url in config.initial_advertise_peer_urls]
        self._urls = [url for urls in config.initial_cluster.values() for url in urls]

    async def place(self) -> Place:
        """Cluster and member; waits for the others if they have to be asked.

        Errors: ConfigError, CorruptionError or MemberRemoved, with what to do.
        """
        config = self._config
        if config.force_new_cluster:
            await force_new_cluster(config, self._files, self._dial)
        identity = DataDirectory.peek(str(config.data_dir), fs=self._files)
        if identity is not None:
            self._compare(identity)
            return Place(identity.cluster, identity.member, {})
        request = peer_pb2.IdentifyRequest(peer_urls=self._own_urls)
        if config.rejoin:
            return self._accept(await identify.rejoin(self._urls, request, self._dial))
        if config.initial_cluster_state == "existing":
            return self._accept(await identify.join(self._urls, request, self._dial))
        check_bootstrap(config)
        return Place(config.cluster_id, config.member_id, {})

    def _compare(self, identity: Identity) -> None:
        """Says so if the flags, which are for a first start only, describe somebody else."""
        config = self._config
        if (
            config.initial_cluster_state == "new"
            and not config.rejoin
            and config.name in config.initial_cluster
            and not founding_of(str(config.data_dir), self._files)  # ids of its own
            and (identity.cluster, identity.member) != (config.cluster_id, config.member_id)
        ):
            log.warning(
                "%s belongs to member %016x of cluster %016x and goes on as that; the "
                "--initial-cluster flags, which describe member %016x of cluster %016x, "
                "are for a first start only",
                config.data_dir,
                identity.member,
                identity.cluster,
                config.member_id,
                config.cluster_id,
            )

    def _accept(self, reply: peer_pb2.IdentifyReply) -> Place:
        """The place that the cluster has for this member."""
        for peer in reply.members:
            if peer.name == self._config.name and peer.id != reply.your_id:
                raise ConfigError(
                    f"--name: {peer.name!r} is the name of member {peer.id:016x} of this cluster "
                    f"({','.join(peer.peer_urls)}); choose another"
                )
        addresses = {peer.id: tuple(peer.peer_urls) for peer in reply.members}
        return Place(reply.cluster_id, reply.your_id, addresses)

    def _request(self, identity: Identity) -> peer_pb2.IdentifyRequest:
        return peer_pb2.IdentifyRequest(
            cluster_id=identity.cluster,
            member_id=identity.member,
            incarnation=identity.incarnation,
            peer_urls=self._own_urls,
        )

    async def ask_again(self, identity: Identity) -> dict[int, tuple[str, ...]]:
        """The members' peer URLs, for a member that ended before it had received a state."""
        reply = await identify.join(self._urls, self._request(identity), self._dial)
        return {peer.id: tuple(peer.peer_urls) for peer in reply.members}

    async def confirm(self, identity: Identity, members: Mapping[int, Sequence[str]]) -> None:
        """May this directory, which never took part, take part? Waits until the others say so."""
        others = {number: urls for number, urls in members.items() if number != identity.member}
        await identify.confirm_fresh(self._request(identity), others, self._dial)
