"""The command language of golden transcripts.

A transcript is commands, one per line, each followed by what it made happen. Lines that
begin with "> " are the result; everything else is command, comment (#) or empty.

    cluster VOTERS [SPARE]          start members 1..VOTERS(+SPARE), timeout 10 ticks
    tick MEMBER|all [COUNT]         logical ticks
    campaign M                      start an election
    propose M TEXT...               one entry per word
    read M                          a linearizable read
    change M voters=1,2 [learners=3]
    transfer M TARGET
    lost M                          the connection to the leader is refused
    connection M open|closed
    run M                           take turns: messages leave, batches wait for the disk
    sync M                          the disk answers all batches on their way
    deliver [FROM TO]               deliver what waits on the network (once, in order)
    drop [FROM TO]                  lose what waits on the network
    flow                            run, sync and deliver until nothing moves
    cut A B / heal                  lose messages between A and B from now on
    crash M / restart M             only the disk survives
    checkpoint M / compact M KEEP   the state becomes durable; drop the log behind it
    status [M...]                   one line per member
    progress M                      a leader's view of the others
"""

from collections.abc import Callable
from dataclasses import fields

from raftkv.errors import RaftkvError
from raftkv.raft.describe import line
from raftkv.raft.membership import plain
from raftkv.raft.messages import AppendEntries, InstallSnapshot, Message
from raftkv.raft.types import CONFIG, NOOP, Entry
from tests.raft.cluster import Cluster


def show_entry(entry: Entry) -> str:
    """index/term and what it is."""
    what = {NOOP: "noop", CONFIG: "config"}.get(entry.kind) or entry.payload.decode()
    return f"{entry.index}/{entry.term} {what}"


def show(message: Message) -> str:
    """A message in one line; fields that say nothing are left out."""
    text = f"{message.sender}->{message.to} {type(message).__name__} term={message.term}"
    for part in fields(message):
        value = getattr(message, part.name)
        if part.name in ("to", "sender", "term") or value in (0, False, []):
            continue
        if part.name == "number":
            value = "#"  # drawn at random
        elif isinstance(message, AppendEntries) and part.name == "entries":
            value = "[" + ", ".join(map(show_entry, value)) + "]"
        elif isinstance(message, InstallSnapshot) and part.name == "snapshot":
            value = f"{value.index}/{value.term}"
        text += f" {part.name}={value}"
    return text


class Transcript:
    """Runs commands; `lines` collects what happened since the last command."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.net: list[Message] = []
        self.cut: list[tuple[int, int]] = []
        self.cluster = Cluster(1)

    def play(self, text: str) -> str:
        """The transcript with results as they are now."""
        out: list[str] = []
        for row in text.splitlines():
            if row.startswith("> "):
                continue
            out.append(row)
            words = row.split()
            if words and not row.startswith("#"):
                self.lines = []
                command: Callable[..., None] = getattr(self, "do_" + words[0])
                try:
                    command(*words[1:])
                except RaftkvError as error:
                    self.lines.append(f"{type(error).__name__} {error}".rstrip())
                out += ["> " + found for found in self.lines]
        return "\n".join(out) + "\n"

    def do_cluster(self, voters: str, spare: str = "0") -> None:
        self.cluster = Cluster(int(voters), spare=int(spare))
        self.net = []

    def _members(self, which: str) -> list[int]:
        return list(self.cluster.stages) if which == "all" else [int(which)]

    def do_tick(self, which: str, count: str = "1") -> None:
        for _ in range(int(count)):
            for member in self._members(which):
                if member not in self.cluster.down:
                    self.cluster[member].tick()

    def do_campaign(self, member: str) -> None:
        self.cluster[int(member)].campaign()

    def do_propose(self, member: str, *payloads: str) -> None:
        index = self.cluster[int(member)].propose([p.encode() for p in payloads])
        self.lines.append(f"index {index}")

    def do_read(self, member: str) -> None:
        self.lines.append(f"read {self.cluster[int(member)].read()}")

    def do_change(self, member: str, *groups: str) -> None:
        named = dict(group.split("=") for group in groups)
        ids = {name: tuple(map(int, value.split(","))) for name, value in named.items()}
        wanted = plain(ids["voters"], ids.get("learners", ()))
        self.lines.append(f"index {self.cluster[int(member)].change(wanted, b'')}")

    def do_transfer(self, member: str, target: str) -> None:
        self.cluster[int(member)].transfer(int(target))

    def do_lost(self, member: str) -> None:
        self.cluster[int(member)].leader_lost()

    def do_connection(self, member: str, state: str) -> None:
        self.cluster[int(member)].leader_connection(state == "open")

    def _send(self, message: Message) -> None:
        lost = (message.sender, message.to) in self.cut
        self.lines.append(show(message) + (" LOST" if lost else ""))
        if not lost:
            self.net.append(message)

    def _turn(self, member: int) -> None:
        stage = self.cluster.stages[member]
        ready = stage.turn(self._send)
        if ready.batch is not None:
            parts = [f"{member} batch {ready.batch.number}"]
            if ready.batch.hard_state:
                term, vote = ready.batch.hard_state
                parts.append(f"term={term} vote={vote}")
            if ready.batch.reset:
                parts.append(f"reset={ready.batch.reset.index}/{ready.batch.reset.term}")
            if ready.batch.truncate_from:
                parts.append(f"truncate={ready.batch.truncate_from}")
            parts += [show_entry(entry) for entry in ready.batch.entries]
            self.lines.append(", ".join(parts))
        if ready.role_changed:
            self.lines.append(line(stage.core))
        if ready.committed:
            self.lines.append(f"{member} applies " + ", ".join(map(show_entry, ready.committed)))
        if ready.lost_reads:
            self.lines.append(f"{member} lost reads {ready.lost_reads}")
        for state in ready.reads:
            self.lines.append(f"{member} reads up to {state.number} at index {state.index}")

    def do_run(self, which: str) -> None:
        for member in self._members(which):
            while member not in self.cluster.down and self.cluster[member].has_ready():
                self._turn(member)

    def do_sync(self, which: str) -> None:
        for member in self._members(which):
            stage = self.cluster.stages[member]
            while member not in self.cluster.down and stage.writing:
                stage.sync(self._send)

    def _pick(self, pair: tuple[str, ...]) -> list[Message]:
        wanted = tuple(map(int, pair))
        chosen = [m for m in self.net if not wanted or (m.sender, m.to) == wanted]
        self.net = [m for m in self.net if not any(m is c for c in chosen)]
        return chosen

    def do_deliver(self, *pair: str) -> None:
        for message in self._pick(pair):
            self.cluster._deliver(message)

    def do_drop(self, *pair: str) -> None:
        self._pick(pair)

    def do_flow(self) -> None:
        while True:
            before = len(self.lines)
            self.do_run("all")
            self.do_sync("all")
            if self.net:
                self.do_deliver()
            elif len(self.lines) == before:
                return

    def do_cut(self, a: str, b: str) -> None:
        self.cut += [(int(a), int(b)), (int(b), int(a))]

    def do_heal(self) -> None:
        self.cut = []

    def do_crash(self, member: str) -> None:
        self.cluster.crash(int(member))

    def do_restart(self, member: str) -> None:
        self.cluster.restart(int(member))

    def do_checkpoint(self, member: str) -> None:
        self.cluster.stages[int(member)].checkpoint()

    def do_compact(self, member: str, keep: str) -> None:
        self.cluster.stages[int(member)].compact(int(keep))

    def do_status(self, *members: str) -> None:
        for member in map(int, members or self.cluster.stages):
            self.lines.append(line(self.cluster[member]))

    def do_progress(self, member: str) -> None:
        for other, view in self.cluster[int(member)].progress().items():
            self.lines.append(
                f"{other} {view.state} match={view.match} next={view.next} "
                f"inflight={view.inflight_messages}"
            )
