"""One run from one seed: phases, convergence, and the verdict.

    start -> a leader
    rounds of: faults -> a quorum is healed -> it must converge -> all are healed
    end: no clients, all healed, all converge -> invariants of the end -> linearizability

A profile (how many members, how fast ticks are, how small logs are kept, which faults)
is drawn from the seed, so a seed alone repeats a run. A run that did too little is a
failure as well: a test that does nothing is green.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from raftkv.sim.clients import Clients, Load
from raftkv.sim.cluster import Cluster, Timing
from raftkv.sim.faults import KINDS, Nemesis
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.leasing import Leasing, lease_command
from raftkv.sim.operations import Get, Logged, Operation, Outcome, Put
from raftkv.sim.registers import registers_of
from raftkv.sim.sessioning import Sessioning
from raftkv.sim.ttl_puts import TtlPuts
from raftkv.sim.watchers import CREATE_TIMEOUT_US, WatchClients, history_of
from raftkv.sim.watchload import WatchLoad
from raftkv.sim.wgl import Verdict, check_register
from raftkv.sim.witness import check_history, replay_log
from raftkv.sim.world import MILLISECOND, SECOND, World

PROBE_CLIENT: Final = 1_000_000  # clients above this number probe convergence
MIN_OPERATIONS_PER_SECOND: Final = 2
MIN_ACKNOWLEDGED: Final = 0.10  # of all operations
WATCHES: Final = "watches"  # what a run can do without
LEASES: Final = "leases"
SESSIONS: Final = "sessions"  # not without leases
WATCH_KINDS: Final = 8  # kinds of faults in one run of the load for watches
_CALM_US: Final = SECOND


@dataclass(frozen=True, slots=True)
class Profile:
    """What a run is like.

    fault_us: length of one fault phase. rounds: how many phases. watchers: clients that watch.
    holders: clients that hold leases. viewers: clients of the load that is made for watches; with
    them every fault has its turn. sessions: clients that repeat their writes.
    """

    nodes: int
    timing: Timing
    load: Load
    kinds: tuple[str, ...]
    rounds: int
    fault_us: int
    watchers: int = 0
    holders: int = 0
    viewers: int = 0
    sessions: int = 0


@dataclass(slots=True)
class Summary:
    """What a run did. failure: empty if all promises held."""

    seed: int
    nodes: int = 0
    kinds: tuple[str, ...] = ()
    failure: str = ""
    virtual_us: int = 0
    events: int = 0
    operations: int = 0
    acknowledged: int = 0
    elections: int = 0
    snapshots: int = 0
    restarts: int = 0
    changes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    frames: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)  # faults that did their harm
    watching: Counter[str] = field(default_factory=Counter)
    viewing: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)  # by validator
    leasing: Counter[str] = field(default_factory=Counter)
    sessions: Counter[str] = field(default_factory=Counter)
    trace_hash: str = ""
    trace: list[str] = field(default_factory=list)


def draw_profile(
    seed: int, nodes: int = 0, seconds: float = 20.0, without: Collection[str] = ()
) -> Profile:
    """The profile of a seed. nodes: 3 or 5, 0: drawn. seconds: virtual time of fault phases.

    without: kinds of faults that are as if they did not exist; likewise `WATCHES`, `LEASES` and
        `SESSIONS`: nobody watches, holds leases, or repeats writes in sessions.
    """
    random = Random(f"{seed}/profile")
    drawn_nodes = random.choice((3, 3, 5))
    timing = Timing(
        tick_us=random.choice((20, 50, 100)) * MILLISECOND,
        snapshot_count=random.choice((20, 60, 200, 1000)),
        catch_up_entries=random.choice((5, 20, 100)),
    )
    tight = Random(f"{seed}/limits")  # small windows and caches: other ways through the code
    timing = replace(
        timing,
        max_append_bytes=tight.choice((300, 5_000, 1_000_000)),
        max_inflight_messages=tight.choice((1, 4, 512)),
        max_log_cache_bytes=tight.choice((1_000, 20_000, 1_000_000)),
        max_uncommitted_bytes=tight.choice((20_000, 1_000_000)),
    )
    load = Load(
        clients=random.randint(4, 12),
        think_us=random.choice((30, 70, 120)) * MILLISECOND,
        timeout_us=random.choice((1, 3, 10)) * SECOND,
        value_bytes=random.choice((0, 0, 0, 2000)),
        compact=random.choice((0, 1, 4)),
    )
    kinds = draw_kinds(seed, without)
    rounds = max(1, round(seconds / random.uniform(4, 9)))
    watchers = 0 if WATCHES in without else Random(f"{seed}/watchers").randint(2, 8)
    holders = 0 if LEASES in without else Random(f"{seed}/holders").randint(1, 6)
    sessions = Random(f"{seed}/sessions").randint(0, 2)
    if SESSIONS in without or not holders:
        sessions = 0
    fault_us = int(seconds * SECOND / rounds)
    members = nodes or drawn_nodes
    return Profile(
        members, timing, load, kinds, rounds, fault_us, watchers, holders, sessions=sessions
    )


def watch_profile(
    seed: int, nodes: int = 0, seconds: float = 20.0, without: Collection[str] = ()
) -> Profile:
    """Like `draw_profile`, but with a load that is made for watches and more kinds of faults."""
    drawn = draw_profile(seed, nodes, seconds, without)
    random = Random(f"{seed}/watch profile")
    timing = replace(
        drawn.timing,
        snapshot_count=random.choice((100, 400, 2000)),
        max_uncommitted_bytes=1_000_000,
        slice_units=random.choice(((60, 500, 2500), (2500,), (300, 10_000))),
        published=(30, 200, 1500),
    )
    load = replace(drawn.load, clients=3, think_us=100 * MILLISECOND, value_bytes=0, compact=0)
    kinds = [kind for kind in KINDS if kind not in without]
    chosen = tuple(sorted(random.sample(kinds, min(WATCH_KINDS, len(kinds)))))
    return replace(
        drawn,
        timing=timing,
        load=load,
        kinds=chosen,
        watchers=min(drawn.watchers, 2),
        viewers=random.randint(10, 20),
        sessions=0,
    )


def draw_kinds(seed: int, without: Collection[str] = ()) -> tuple[str, ...]:
    """The faults of a seed, two at least, from those that are not in `without`.

    Each kind is drawn by itself: a new one in the table leaves the others of a pinned seed
    as they were.
    """
    kinds = [kind for kind in KINDS if kind not in without]
    chances = {kind: Random(f"{seed}/kind/{kind}").random() for kind in kinds}
    likely = sorted(kinds, key=lambda kind: chances[kind])
    return tuple(sorted(kind for kind in kinds if kind in likely[:2] or chances[kind] < 0.2))


class Run:
    """One simulated cluster with clients and a nemesis.

    echo: is given every recorded event as a line (verbose). world: None for one of this seed.
    """

    def __init__(
        self,
        seed: int,
        profile: Profile,
        *,
        echo: Callable[[str], None] | None = None,
        world: World | None = None,
    ) -> None:
        self.profile = profile
        self.world = world if world is not None else World(seed, echo=echo)
        self.cluster = Cluster(self.world, profile.nodes, profile.timing)
        self.clients = Clients(
            self.world, profile.load, lambda: self.cluster.members, self.cluster.nodes.__getitem__
        )
        self.cluster.attach(self.clients)
        wrong_clocks = "clock rate" in profile.kinds
        self.leasing = Leasing(self.cluster, profile.holders, clocks=wrong_clocks)
        self.ttl_puts = TtlPuts(self.leasing, self.clients) if profile.holders else None
        self.sessioning = Sessioning(self.leasing, self.clients, profile.sessions)
        self.watching = WatchClients(self.cluster, profile.watchers)
        self.load = WatchLoad(self.cluster, self.clients, profile.viewers)
        even = profile.viewers > 0
        self.nemesis = Nemesis(self.world, self.cluster, list(profile.kinds), even=even)
        self._random = self.world.stream("phases")
        self._probes = 0

    def execute(self) -> Summary:
        """All phases. Never raises for a broken promise: the summary says what broke."""
        summary = Summary(self.world.seed, self.profile.nodes, self.profile.kinds)
        try:
            self._phases()
        except Exception as error:  # noqa: BLE001 - whatever a member raises ends the run
            summary.failure = f"{type(error).__name__}: {error}"
            if not isinstance(error, InvariantBroken):
                summary.failure += "\n" + traceback.format_exc()
            summary.trace = self.world.newest_events()
        self._fill(summary)
        return summary

    def _fill(self, summary: Summary) -> None:
        world, cluster, counts = self.world, self.cluster, self.clients.counts
        summary.virtual_us = world.now_us
        summary.events = world.events
        summary.operations = len(self.clients.history)
        summary.acknowledged = counts["acknowledged"]
        summary.elections = cluster.invariants.elections
        summary.snapshots = cluster.counts["snapshots installed"]
        summary.restarts = cluster.counts["restarts"]
        summary.changes = cluster.invariants.configurations
        summary.faults = self.nemesis.counts
        summary.frames = cluster.network.counts
        summary.struck = self.nemesis.struck
        summary.watching = self.watching.counts
        summary.viewing = self.load.counts
        summary.checked = self.watching.checked + self.load.checked + self.leasing.checked
        summary.leasing = self.leasing.counts
        summary.sessions = self.sessioning.counts + self.sessioning.log.counts
        summary.trace_hash = world.trace_hash()

    # --- phases -----------------------------------------------------------------

    def _phases(self) -> None:
        self.begin()
        for _ in range(self.profile.rounds):
            self.nemesis.begin()
            self.run_for(self.profile.fault_us)
            self.nemesis.end()
            undo = self._heal_a_quorum()
            self.must_converge(self.cluster.healthy())
            undo()
            self.must_settle()
            self.run_for(_CALM_US)
        self.finish()
        self._check_effort()

    def begin(self) -> None:
        """The cluster starts and has a leader; clients begin."""
        self.cluster.start()
        self.must_converge(self.cluster.goal)
        self.clients.start()
        self.watching.start()
        self.load.start()
        self.leasing.start()
        self.sessioning.start()
        if self.ttl_puts is not None:
            self.ttl_puts.start()
        self.run_for(_CALM_US)

    def finish(self) -> None:
        """No more faults and clients; everything converges and is checked."""
        self.clients.stop()
        self.load.stop()
        self.leasing.stop()
        self.sessioning.stop()
        self.cluster.heal()
        self.must_settle()
        self.watching.calm()
        self.load.calm()
        waits_us = (self.profile.load.timeout_us, CREATE_TIMEOUT_US, self.leasing.linger_us)
        self.run_for(max(waits_us) + SECOND)
        self.must_converge(self.cluster.goal)
        self.run_for(SECOND)  # who watches hears of the probe
        self.check_end()

    def run_for(self, duration_us: int) -> None:
        """Let `duration_us` pass."""
        self.world.run_until(self.world.now_us + duration_us)

    def _heal_a_quorum(self) -> Callable[[], None]:
        """All faults end, but a minority stays down or cut off. Returns how to end that too."""
        cluster, random = self.cluster, self._random
        cluster.heal()
        if random.random() < 0.4 or not cluster.settled():
            return lambda: None
        voters = cluster.voters()
        random.shuffle(voters)
        out = voters[: random.randint(0, (len(voters) - 1) // 2)]
        undos = [self._put_out(member, random.random() < 0.5) for member in out]

        def undo() -> None:
            for one in undos:
                one()

        return undo

    def _put_out(self, member: int, crash: bool) -> Callable[[], None]:
        node = self.cluster.nodes[member]
        self.world.record("out", member, crash)
        if crash:
            node.crash()
            return node.start
        return self.cluster.isolate(member)

    # --- convergence --------------------------------------------------------------

    def limit_us(self) -> int:
        """How long a healed quorum may take: ten elections and five seconds."""
        return 10 * self.cluster.election_us + 5 * SECOND

    def must_converge(self, members: list[int]) -> None:
        """`members` must agree on a leader, commit a probe and all apply it."""
        limit_us = self.world.now_us + self.limit_us()
        while not self._probe_succeeds(members, limit_us):
            if self.world.now_us >= limit_us:
                raise InvariantBroken(
                    "convergence",
                    f"members {members} acknowledged no probe in {self.limit_us() / SECOND} s: "
                    f"{self.cluster.describe()}",
                )
            self.run_for(50 * MILLISECOND)
        target = self.cluster.invariants.last_committed
        if not self.world.run_while(lambda: self.cluster.behind(members, target) != [], limit_us):
            raise InvariantBroken(
                "convergence",
                f"members {self.cluster.behind(members, target)} did not apply {target}: "
                f"{self.cluster.describe()}",
            )
        self.world.record("converged", target)

    def must_settle(self) -> None:
        """The members that should vote must come to be the voters, and converge."""
        cluster = self.cluster
        limit_us = self.world.now_us + 2 * self.limit_us()
        if not self.world.run_while(lambda: not cluster.settled(), limit_us):
            raise InvariantBroken(
                "membership", f"{cluster.goal} are not the voters: {cluster.describe()}"
            )
        self.must_converge(cluster.goal)

    def _probe_succeeds(self, members: list[int], limit_us: int) -> bool:
        probe = self._probe(members)
        self.world.run_while(lambda: probe.identity in self.clients.waiting, limit_us)
        return probe.outcome is Outcome.OK

    def _probe(self, members: list[int]) -> Operation:
        self._probes += 1
        member = members[self._probes % len(members)]
        request = Put(b"probe", b"%d" % self._probes) if self._probes % 4 else Get(b"probe")
        return self.clients.ask(PROBE_CLIENT + self._probes, member, request)

    # --- the end ------------------------------------------------------------------

    def committed_log(self) -> list[Logged]:
        """All client commands of the committed log that must be carried out, in order."""
        log = []
        for index, committed in sorted(self.cluster.invariants.log.items()):
            identity = committed.identity
            if identity is None:
                command = lease_command(committed.term, committed.payload, committed.kind, index)
                if command is not None:
                    self.sessioning.log.lease(command)
                    log.append(Logged(index, -index, command))
                identity = self.sessioning.identity_of(committed.payload, committed.kind, index)
            if identity is None:
                continue
            sent = self.clients.sent.get(identity)
            if sent is None or not committed.payload.endswith(sent):
                raise InvariantBroken(
                    "nothing invented", f"index {index} holds {committed.payload!r}"
                )
            log.append(Logged(index, identity, self.clients.history[identity - 1].request))
        return log

    def check_end(self) -> None:
        """State equality, logs, linearizability."""
        self.cluster.check_equal_states()
        self.cluster.check_logs_match()
        log, history = self.committed_log(), self.clients.history
        violations = check_history(log, history)
        if violations:
            first = violations[0]
            raise InvariantBroken(first.rule, first.explanation)
        self.cluster.check_against_model(log)
        self.leasing.check_over()
        written = history_of(replay_log(log).model)
        self.watching.check(written)
        self.load.check(written)
        for key, intervals in registers_of(history).items():
            verdict = check_register(intervals)
            if verdict is not Verdict.LINEARIZABLE:
                raise InvariantBroken(
                    "linearizability", f"key {key!r}: {verdict.value}, {len(intervals)} operations"
                )

    def _check_effort(self) -> None:
        operations = len(self.clients.history)
        seconds = self.world.now_us / SECOND
        if operations < MIN_OPERATIONS_PER_SECOND * seconds:
            raise InvariantBroken("effort", f"{operations} operations in {seconds:.0f} s")
        acknowledged = self.clients.counts["acknowledged"]
        if acknowledged < MIN_ACKNOWLEDGED * operations:
            raise InvariantBroken("effort", f"{acknowledged} of {operations} acknowledged")
        watched = self.watching.counts["events"] + self.load.counts["events"]
        if (self.profile.watchers or self.profile.viewers) and not watched:
            raise InvariantBroken("effort", f"no event was watched: {self.watching.counts}")
        if sum(self.nemesis.counts.values()) < self.profile.rounds:
            raise InvariantBroken("effort", f"only {self.nemesis.counts} faults")


LOADS: Final = {"mixed": draw_profile, "watch": watch_profile}


def run_seed(
    seed: int,
    *,
    nodes: int = 0,
    seconds: float = 20.0,
    without: Collection[str] = (),
    load: str = "mixed",
    echo: Callable[[str], None] | None = None,
) -> Summary:
    """Run one seed with its drawn profile (parameters: `draw_profile`). load: of `LOADS`."""
    return Run(seed, LOADS[load](seed, nodes, seconds, without), echo=echo).execute()
