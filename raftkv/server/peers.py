"""All connections of one member with the others: links out, connections in, identity.

Links are dialled by this member and carry its messages; accepted connections carry the
others'. Who is at the other end is checked when a stream begins, on both sides.
"""

import contextlib
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Final

from raftkv.config import parse_url
from raftkv.errors import NO_LEADER, ApiError, Code, CorruptionError, ProtocolError
from raftkv.kv.machine import MachineSettings
from raftkv.pb import peer_pb2
from raftkv.raft.messages import AppendEntries, InstallSnapshot, Message
from raftkv.server import rejoining
from raftkv.server.accept import PeerProtocol
from raftkv.server.driver import Driver
from raftkv.server.failover import Failover
from raftkv.server.intake import Intakes
from raftkv.server.links import Link
from raftkv.server.logs import Repeats
from raftkv.server.membership import KnownMembers
from raftkv.server.traffic import PeerTraffic
from raftkv.server.transfer import Transfers
from raftkv.storage.recovery import Identity

log = logging.getLogger("raftkv.peers")

REFUSAL_QUIET_SECONDS: Final = 60.0
MAX_TERM_JUMP: Final = 2**32  # a term beyond is forged: elections for ever could not get there
OLD_COPY_TEXT: Final = "the member came back with an old copy of its data directory"
REMOVED_TEXT: Final = "the member has been permanently removed from the cluster"


def _dialable(urls: bytes) -> list[str]:
    """The peer URLs in a stream's metadata that can be dialled at all."""
    found = []
    for text in urls.decode("ascii", "replace").split(","):
        with contextlib.suppress(ValueError):
            found.append(str(parse_url(text)))
    return found


def _check_order(message: AppendEntries) -> None:
    """Entries must follow the one they name. Within a turn it would be too late to refuse them."""
    first, last = message.entries[0].index, message.entries[-1].index
    before = message.previous_index
    if first != before + 1 or last != before + len(message.entries):
        raise ProtocolError(f"entries {first} to {last} do not follow entry {before}")


class Peers:
    """See the module's docstring. Implements driver.PeerSender and links.LinkOwner.

    removed: called once when another member says that this one was removed.
    """

    def __init__(
        self,
        driver: Driver,
        identity: Identity,
        known: KnownMembers,
        own_urls: tuple[str, ...],
        context: ssl.SSLContext | None,
        election_timeout_seconds: float,
        machine_settings: MachineSettings,
    ) -> None:
        self.driver = driver
        self.cluster = identity.cluster
        self.member = identity.member
        self.machine_settings = machine_settings
        self.accepted: dict[PeerProtocol, None] = {}
        self.links: dict[int, Link] = {}
        self.failover = Failover(driver.loop, driver.replica, election_timeout_seconds)
        self.failover.wake = driver.wake
        self.removed: Callable[[], None] = lambda: None
        self.open = False  # False until this member may take part: streams are refused
        self.stopped = False  # who still gets in is cut
        self._identity = identity
        self._known = known
        self._own_urls = own_urls
        self._context = context
        self._was_ready: dict[int, bool] = {}
        self.traffic: dict[int, PeerTraffic] = {}  # 0: whoever did not say who it is
        self._repeats = Repeats(REFUSAL_QUIET_SECONDS)
        self.transfers = Transfers(self)
        self.intakes = Intakes(self)

    # --- links --------------------------------------------------------------

    def members_changed(self) -> None:
        """Links follow the configuration and the member table (driver.PeerSender)."""
        self.transfers.review()
        replica = self.driver.replica
        for record in replica.machine.members.values():
            self._known.learn_address(record.id, record.peer_urls)
        if replica.writes.joining is not None:
            self._known.learn_address(replica.writes.joining.id, replica.writes.joining.peer_urls)
        wanted = [
            member for member in replica.core.configuration.members() if member != self.member
        ]
        for member in wanted:
            urls = self._known.addresses(member)
            link = self.links.get(member)
            if link is None and urls:
                self.links[member] = self._link(member, urls)
            elif link is not None and urls and link.urls != list(urls):
                link.move(urls)
        for member in [member for member in self.links if member not in wanted]:
            if member in replica.machine.removed:
                self.links.pop(member).close()
        for accepted in list(self.accepted):
            if accepted.sender in replica.machine.removed:
                accepted.dismiss(Code.FAILED_PRECONDITION, REMOVED_TEXT)

    def _link(self, member: int, urls: tuple[str, ...]) -> Link:
        link = Link(self.driver.loop, self, member, urls, self._context)
        link.traffic = self.traffic_with(member)
        link.start()
        return link

    def traffic_with(self, member: int) -> PeerTraffic:
        """What is counted about the traffic with a member; goes on over its connections."""
        return self.traffic.setdefault(member, PeerTraffic())

    def send(self, messages: list[Message]) -> None:
        """Sends each message to the member it names (driver.PeerSender)."""
        if len(messages) == 1:
            link = self.links.get(messages[0].to)
            if link is not None:
                link.send(messages)
            else:
                self.update_address(messages[0].to)
            return
        by_member: dict[int, list[Message]] = {}
        for message in messages:
            by_member.setdefault(message.to, []).append(message)
        for member, group in by_member.items():
            self._send_to(member, group)

    def _send_to(self, member: int, messages: list[Message]) -> None:
        link = self.links.get(member)
        if link is None:
            self.update_address(member)
            return
        link.send(messages)

    def update_address(self, member: int) -> None:
        """A message for a member without a link: dial it if its address is known."""
        urls = self._known.addresses(member)
        if urls and member != self.member and member not in self.driver.replica.machine.removed:
            self.links[member] = self._link(member, urls)

    def send_state(self, message: InstallSnapshot) -> None:
        """Starts a state transfer, or goes on with one (driver.PeerSender)."""
        self.transfers.send(self.links.get(message.to), message)

    def role_changed(self) -> None:
        """Leader, term or role changed (driver.PeerSender)."""
        self.transfers.review()
        leader = self.links.get(self.driver.replica.leader)
        self.failover.role_changed(link_ready=leader is not None and leader.ready)

    def reach(self, member: int) -> tuple[bool, float]:
        """Whether the link to a member is up, and its round trip (driver.PeerSender)."""
        link = self.links.get(member)
        return (link.ready, link.round_trip_seconds) if link is not None else (False, 0.0)

    # --- links.LinkOwner ------------------------------------------------------

    def identity(self, to: int) -> list[tuple[bytes, bytes]]:
        """Metadata of every call of this member to another."""
        return [
            (b"raftkv-cluster", b"%016x" % self.cluster),
            (b"raftkv-member", b"%016x" % self.member),
            (b"raftkv-to", b"%016x" % to),
            (b"raftkv-incarnation", b"%016x" % self._identity.incarnation),
            (b"raftkv-life", b"%016x" % self._known.life),
            (b"raftkv-urls", ",".join(self._own_urls).encode()),
        ]

    def up(self, link: Link, greeting: peer_pb2.Greeting) -> None:
        """A link is open."""
        self._was_ready[link.member] = True
        log.info("connected to member %016x", link.member)
        # A deposed leader may remember entries that were lawfully replaced since.
        if greeting.acknowledged_index and greeting.term >= self.driver.replica.core.term:
            self._check_acknowledged(greeting)
        voters = self.driver.replica.core.configuration.voters
        reached = [one for one in voters if one in self.links and self.links[one].ready]
        self.failover.link_up(
            link.member,
            greeting.leader,
            greeting.term,
            majority=2 * (len(reached) + 1) > len(voters),
        )
        self.driver.wake()

    def _check_acknowledged(self, greeting: peer_pb2.Greeting) -> None:
        """A leader knows what this member acknowledged; a log that ends earlier lost it (R34)."""
        log_ = self.driver.directory.log
        try:
            log_.check_at_least(greeting.acknowledged_term, greeting.acknowledged_index)
        except CorruptionError as error:
            self.driver.fail(self.driver.directory.distrust(str(error)))

    def down(self, link: Link, *, refused: bool) -> None:
        """A link's connection ended, or could not be made."""
        was_ready = self._was_ready.pop(link.member, False)
        if was_ready:
            link.traffic.losses += 1
            log.warning("lost the connection to member %016x", link.member)
        self.failover.link_down(link.member, refused=refused, was_ready=was_ready)
        self.driver.wake()

    def rejected(self, link: Link, code: int, text: str) -> None:
        """Another member refused this one by an answer."""
        if code != Code.FAILED_PRECONDITION:
            return
        if text == REMOVED_TEXT:
            self.removed()
        elif text == OLD_COPY_TEXT:
            problem = f"member {link.member:016x} has met a later start of it: it is an old copy"
            self.driver.fail(self.driver.directory.distrust(problem))

    # --- accepted connections ---------------------------------------------------

    def protocol(self) -> PeerProtocol:
        """Factory for `loop.create_server`."""
        return PeerProtocol(self)

    def greeting(self, sender: int) -> peer_pb2.Greeting:
        """What this member says first to `sender`."""
        core = self.driver.replica.core
        greeting = peer_pb2.Greeting(term=core.term, leader=core.leader)
        index = core.match_index(sender)
        if index and index >= core.log.anchor_index:
            greeting.acknowledged_index = index
            greeting.acknowledged_term = core.term_at(index)
        return greeting

    def check_sender(self, metadata: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        """The refusal (code, text) for whoever sent this metadata; None: welcome."""
        try:
            cluster = int(metadata[b"raftkv-cluster"], 16)
            sender = int(metadata[b"raftkv-member"], 16)
            to = int(metadata[b"raftkv-to"], 16)
            incarnation = int(metadata[b"raftkv-incarnation"], 16)
            life = int(metadata.get(b"raftkv-life", b"0"), 16)
        except (KeyError, ValueError):
            return Code.INVALID_ARGUMENT, "the metadata names no raftkv member"
        if cluster != self.cluster:
            return (
                Code.FAILED_PRECONDITION,
                f"cluster ID mismatch: this is cluster {self.cluster:016x}, "
                f"the sender belongs to {cluster:016x}",
            )
        if to != self.member:
            return (
                Code.FAILED_PRECONDITION,
                f"member ID mismatch: this is member {self.member:016x}, not {to:016x}",
            )
        if not self.open:
            return Code.UNAVAILABLE, "the member is starting"
        if sender in self.driver.replica.machine.removed:
            return Code.FAILED_PRECONDITION, REMOVED_TEXT
        if self._incarnation(sender) not in (0, incarnation):
            return (
                Code.FAILED_PRECONDITION,
                f"member {sender:016x} came back with another data directory; "
                "remove it and add it again as a new member",
            )
        if self._known.is_older_life(sender, life):
            return Code.FAILED_PRECONDITION, OLD_COPY_TEXT
        self._known.meet(sender, incarnation, life)
        self._learn(sender, metadata.get(b"raftkv-urls", b""))
        return None

    def _learn(self, sender: int, urls: bytes) -> None:
        recorded = sender in self.driver.replica.machine.members  # and its peer URLs with it
        if not recorded and self._known.learn_address(sender, _dialable(urls)):
            link = self.links.get(sender)
            if link is None:
                self.update_address(sender)
        else:
            link = self.links.get(sender)
            if link is not None and not link.ready:
                link.redial()

    def log_refusal(self, metadata: Mapping[bytes, bytes], text: str) -> None:
        """One clear line for a refused sender; it comes again, the line does not."""
        sender = metadata.get(b"raftkv-member", b"?")[:16].decode("ascii", "replace")
        times = self._repeats.times((sender, text), self.driver.loop.time())
        if times:
            fields = {"times": str(times)} if times > 1 else {}
            log.warning("refused member %s: %s", sender, text, extra=fields)

    def log_rejected(self, address: object, reason: str) -> None:
        """One line for a connection that is no member's."""
        host = address[0] if isinstance(address, tuple) else address
        times = self._repeats.times((host, reason), self.driver.loop.time())
        if times:
            fields = {"remote-addr": str(address), "error": reason}
            if times > 1:
                fields["times"] = str(times)
            log.warning("rejected connection on peer endpoint", extra=fields)

    def received(self, sender: int, messages: list[Message]) -> None:
        """Raft messages of a greeted member; a forged sender is dropped (O13)."""
        on_message = self.driver.replica.on_message
        highest = self.driver.replica.core.term + MAX_TERM_JUMP
        try:
            for message in messages:
                if message.sender == sender and message.to == self.member:
                    if message.term > highest:
                        raise ProtocolError(f"term {message.term} is no term of this cluster")
                    if type(message) is AppendEntries and message.entries:
                        _check_order(message)
                    on_message(message)
        except ProtocolError:
            raise  # the sender's mistake
        except Exception as error:  # noqa: BLE001
            self.driver.fail(error)
        self.driver.heard()

    def _incarnation(self, member: int) -> int:
        """The directory that is known under this id, from meeting it or from the member table."""
        met = self._known.incarnation(member)
        record = self.driver.replica.machine.members.get(member)
        return met if met or record is None else record.incarnation

    def identify(self, request: peer_pb2.IdentifyRequest) -> peer_pb2.IdentifyReply:
        """Answers who the caller is, as far as this member knows.

        A caller that asks for a directory that nobody had under its id gets the answer only when
        that directory is noted here for good (R33). Raises StorageError.
        """
        machine = self.driver.replica.machine
        members = dict(machine.members)
        joining, replica = self.driver.replica.writes.joining, self.driver.replica
        if joining is not None and joining.id in replica.core.configuration.members():
            # Its own vote may be needed before the entry that adds it can be applied anywhere.
            members.setdefault(joining.id, joining)
        your_id = request.member_id if request.member_id in members else 0
        for member, record in members.items():
            if sorted(record.peer_urls) == sorted(request.peer_urls):
                your_id = member
        asks_for_itself = (
            request.cluster_id == self.cluster
            and request.member_id == your_id
            and your_id not in (0, self.member)
        )
        incarnation = self._incarnation(your_id)
        if asks_for_itself and request.incarnation and not incarnation:
            incarnation = request.incarnation
            self._known.meet(your_id, incarnation, life=0)
        return peer_pb2.IdentifyReply(
            cluster_id=self.cluster,
            member_id=self.member,
            your_id=your_id,
            your_incarnation=incarnation,
            you_were_removed=request.member_id in machine.removed,
            members=[
                peer_pb2.Peer(id=member, name=record.name, peer_urls=record.peer_urls)
                for member, record in sorted(machine.members.items())
            ],
        )

    def rejoin(
        self,
        request: peer_pb2.IdentifyRequest,
        answer: Callable[[peer_pb2.IdentifyReply | ApiError], None],
    ) -> None:
        """Replaces the member with the caller's peer URLs, which has lost its data, by a learner.

        answer: gets what `identify` says of the new member, or why it cannot be.
        """
        if not self.open:
            answer(NO_LEADER)
            return

        def replaced(result: int | ApiError) -> None:
            if isinstance(result, ApiError):
                answer(result)
            else:
                answer(self.identify(peer_pb2.IdentifyRequest(peer_urls=request.peer_urls)))

        rejoining.rejoin(self.driver.replica, request, self._incarnation, replaced)
        self.driver.wake()

    # --- the clock and the end ----------------------------------------------------

    def tick(self, now: float) -> None:
        """Keepalive on both kinds of connections; broken transfers that nobody needs."""
        self.transfers.review()
        for link in list(self.links.values()):
            link.tick(now)
        for accepted in list(self.accepted):
            accepted.tick(now)

    def stop(self) -> None:
        """Closes everything."""
        self.stopped = True
        self.transfers.close()
        self.intakes.close()
        for link in self.links.values():
            link.close()
        for accepted in list(self.accepted):
            accepted.abort()
