"""What the families are read from: one running member."""

from raftkv.config import ServerConfig
from raftkv.kv.machine import StateMachine
from raftkv.raft.types import NOBODY
from raftkv.replica.replica import Replica
from raftkv.server.clients import ClientListener
from raftkv.server.peers import Peers
from raftkv.server.services.context import Context


class Source:
    """A member, and what nobody else counts about it.

    leader_changes: how often this member has learned of another leader.
    """

    def __init__(
        self, config: ServerConfig, context: Context, peers: Peers, clients: ClientListener
    ) -> None:
        self.config = config
        self.context = context
        self.driver = context.driver
        self.peers = peers
        self.clients = clients
        self.leader_changes = 0
        self._leader = NOBODY
        self.driver.role_listeners.append(self.role_changed)
        self.role_changed()

    @property
    def replica(self) -> Replica:
        """Its replica."""
        return self.driver.replica

    @property
    def machine(self) -> StateMachine:
        """Its state; another one after a transfer of the whole state."""
        return self.driver.replica.machine

    def role_changed(self) -> None:
        """Leader, term or role changed."""
        leader = self.replica.leader
        if leader not in (NOBODY, self._leader):
            self._leader = leader
            self.leader_changes += 1
