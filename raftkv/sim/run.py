"""One run from one seed: phases, convergence, and the verdict.

    start -> a leader
    rounds of: faults -> a quorum is healed -> it must converge -> all are healed
    rounds of a long run: faults -> a liveness phase (`sim.liveness`)
    end: no clients, all healed, all converge -> invariants of the end -> linearizability

A profile (`sim.profiles`, `sim.swarm`) is drawn from the seed, so a seed alone repeats a run. A
run that did too little is a failure as well: a test that does nothing is green.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Final

from raftkv.sim.clients import Clients
from raftkv.sim.cluster import Cluster
from raftkv.sim.episodes import Episode, EpisodicNemesis
from raftkv.sim.faults import Nemesis
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.leasing import Leasing, lease_command
from raftkv.sim.liveness import Liveness, recovery_us
from raftkv.sim.operations import Get, Logged, Operation, Outcome, Put
from raftkv.sim.profiles import Profile, draw_profile, watch_profile
from raftkv.sim.registers import registers_of
from raftkv.sim.sessioning import Sessioning
from raftkv.sim.swarm import calm_profile, swarm_profile
from raftkv.sim.ttl_puts import TtlPuts
from raftkv.sim.watchers import CREATE_TIMEOUT_US, WatchClients, history_of
from raftkv.sim.watchload import WatchLoad
from raftkv.sim.wgl import Verdict, check_register
from raftkv.sim.witness import check_history, replay_log
from raftkv.sim.world import MILLISECOND, SECOND, World

PROBE_CLIENT: Final = 1_000_000  # clients above this number probe convergence
MIN_ACKNOWLEDGED: Final = 0.10  # of all operations
_CALM_US: Final = SECOND


@dataclass(slots=True)
class Summary:
    """What a run did.

    failure: empty if all promises held. rule: which did not, or the exception's name. settings:
    what was drawn, as text. fault_us: virtual time of fault phases so far, those that were left
    out included. cpu_us: real time, by whoever measured it. episodes: what struck, of a long run.
    minorities: liveness phases with a broken minority; longest_pause: in them, in election
    timeouts. slowest_recovery_us: of a majority.
    """

    seed: int
    nodes: int = 0
    kinds: tuple[str, ...] = ()
    failure: str = ""
    rule: str = ""
    settings: str = ""
    virtual_us: int = 0
    fault_us: int = 0
    cpu_us: int = 0
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
    episodes: list[Episode] = field(default_factory=list)
    minorities: int = 0
    longest_pause: float = 0.0
    slowest_recovery_us: int = 0
    trace_hash: str = ""
    trace: list[str] = field(default_factory=list)


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
        puts = profile.holders > 0 and profile.asked_ttls
        self.ttl_puts = TtlPuts(self.leasing, self.clients) if puts else None
        self.sessioning = Sessioning(self.leasing, self.clients, profile.sessions)
        self.watching = WatchClients(self.cluster, profile.watchers)
        self.load = WatchLoad(self.cluster, self.clients, profile.viewers)
        self.liveness: Liveness | None = None
        kinds = list(profile.kinds)
        if profile.swarm is None:
            even = profile.viewers > 0
            self.nemesis = Nemesis(self.world, self.cluster, kinds, even=even)
        else:
            nemesis = EpisodicNemesis(self.world, self.cluster, kinds, profile.swarm)
            self.nemesis = nemesis
            self.liveness = Liveness(self, self.cluster, nemesis, profile.swarm)
        self._fault_us = 0
        self._random = self.world.stream("phases")
        self._probes = 0

    def execute(self) -> Summary:
        """All phases. Never raises for a broken promise: the summary says what broke."""
        summary = Summary(self.world.seed, self.profile.nodes, self.profile.kinds)
        summary.settings = self.profile.describe()
        try:
            self._phases()
        except Exception as error:  # noqa: BLE001 - whatever a member raises ends the run
            summary.failure = f"{type(error).__name__}: {error}"
            summary.rule = type(error).__name__
            if isinstance(error, InvariantBroken):
                summary.rule = error.rule
            else:
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
        summary.fault_us = self._fault_us
        if isinstance(self.nemesis, EpisodicNemesis) and self.liveness is not None:
            summary.episodes = self.nemesis.episodes
            summary.minorities = self.liveness.phases
            summary.longest_pause = self.liveness.longest_pause
            summary.slowest_recovery_us = self.liveness.slowest_recovery_us
        summary.trace_hash = world.trace_hash()

    # --- phases -----------------------------------------------------------------

    def _phases(self) -> None:
        self.begin()
        for number, fault_us in self.profile.phases():
            self._fault_us = (number - 1) * self.profile.fault_us + fault_us
            self.nemesis.begin(number)
            self.run_for(fault_us)
            self.nemesis.end()
            if self.liveness is not None:
                self.liveness.phase(number)
            else:
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
        return recovery_us(self.cluster.election_us)

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
        probe = self.probe(members)
        self.world.run_while(lambda: probe.identity in self.clients.waiting, limit_us)
        return probe.outcome is Outcome.OK

    def probe(self, members: list[int]) -> Operation:
        """Ask one of `members`, in turn, for something now."""
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
        if operations < self.profile.least_operations * seconds:
            raise InvariantBroken("effort", f"{operations} operations in {seconds:.0f} s")
        acknowledged = self.clients.counts["acknowledged"]
        if acknowledged < MIN_ACKNOWLEDGED * operations:
            raise InvariantBroken("effort", f"{acknowledged} of {operations} acknowledged")
        watched = self.watching.counts["events"] + self.load.counts["events"]
        if (self.profile.watchers or self.profile.viewers) and not watched:
            raise InvariantBroken("effort", f"no event was watched: {self.watching.counts}")
        if self.profile.swarm is None and sum(self.nemesis.counts.values()) < self.profile.rounds:
            raise InvariantBroken("effort", f"only {self.nemesis.counts} faults")


LOADS: Final = {
    "swarm": swarm_profile,
    "calm": calm_profile,
    "mixed": draw_profile,
    "watch": watch_profile,
}


def run_seed(
    seed: int,
    *,
    nodes: int = 0,
    seconds: float = 20.0,
    without: Collection[str] = (),
    load: str = "mixed",
    only: Collection[str] | None = None,
    echo: Callable[[str], None] | None = None,
) -> Summary:
    """Run one seed with its drawn profile (parameters: `draw_profile`). load: of `LOADS`.

    only: the episodes that happen, of a load that has them (`sim.episodes`); None: all.
    """
    profile = LOADS[load](seed, nodes, seconds, without)
    if only is not None:
        assert profile.swarm is not None, f"the load {load} has no episodes"
        profile = replace(profile, swarm=replace(profile.swarm, only=frozenset(only)))
    return Run(seed, profile, echo=echo).execute()
