"""The simulator's faults as nemeses, and a whole run in virtual time."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from random import Random
from typing import Any, Final

from jepsen_lite.generator import Generator, cycle, once, sleep
from jepsen_lite.history import Op
from jepsen_lite.mutants import tooth_of
from jepsen_lite.nemesis import nemesis_class
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.planning import BadPlan, workload_for
from jepsen_lite.run import Run
from jepsen_lite.store import Store
from jepsen_lite.target.base import Target
from jepsen_lite.target.sim import SimTarget
from jepsen_lite.target.simtime import virtual_client
from jepsen_lite.target.virtual import VirtualLoop
from jepsen_lite.workload.options import Options
from raftkv.sim.faults import KINDS, Undo
from raftkv.sim.hunting import applied
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.world import World

# A nemesis's name -> the simulator's kinds that it stands for.
KINDS_BY_NAME: Final[Mapping[str, tuple[str, ...]]] = {
    "partition": (
        "partition",
        "isolate leader",
        "isolate one",
        "deaf leader",
        "mute leader",
        "one way",
        "bridge",
        "usurp",
    ),
    "flap": ("flap",),
    "kill": ("crash one", "crash leader", "crash some"),
    "kill-all": ("crash all",),
    "pause": ("pause",),
    "slow": ("bad weather",),
    "loss": ("bad weather",),
    "clock": ("clock rate",),
    "disk": ("slow disk", "stalled disk", "broken disk"),
    "transfer": ("transfer",),
    "member": ("replace member", "wipe member"),
}
STARTS: Final = 24


class SimNemesis(Nemesis):
    """One nemesis's kinds of faults, as the simulator makes them. name: of that nemesis."""

    def __init__(self, name: str) -> None:
        self._kind = name
        self.fs = frozenset({f"start-{name}", f"stop-{name}"})  # type: ignore[misc]
        self.name = name  # type: ignore[misc]
        self._undo: Undo | None = None

    def generator(self, random: Random) -> Generator:
        """Faults of 0.2 to 4 seconds, with rests of 0.3 to 3 in between."""
        steps: list[Any] = []
        for _ in range(STARTS):
            kind = random.choice(KINDS_BY_NAME[self._kind])
            value = {"what": kind, "seed": random.getrandbits(32)}
            steps += [
                sleep(random.uniform(0.3, 3.0)),
                once({"f": f"start-{self._kind}", "value": value}),
                sleep(random.uniform(0.2, 4.0)),
                once({"f": f"stop-{self._kind}"}),
            ]
        return cycle(steps)

    async def setup(self, target: Target) -> None:
        """See Nemesis."""
        await super().setup(target)
        assert isinstance(target, SimTarget)
        self._cluster = target.cluster

    async def invoke(self, op: Op) -> Op:
        """See Nemesis."""
        await self.heal()
        if op.f.startswith("stop-"):
            return op.done("info", {"ended": self._kind})
        kind = op.value["what"]
        self._undo = KINDS[kind](self._cluster, Random(op.value["seed"]))
        if self._undo is None:
            return op.done("info", {"nothing": f"{kind}: there was nobody to harm"})
        return op.done("info", {"what": kind})

    async def heal(self) -> None:
        """See Nemesis."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def sim_nemeses(names: Sequence[str]) -> list[Nemesis]:
    """One of each name. Errors: UnknownName; BadPlan, if the simulator has no such fault."""
    for name in names:
        nemesis_class(name)
        if name not in KINDS_BY_NAME:
            possible = ", ".join(sorted(KINDS_BY_NAME))
            raise BadPlan(f"the nemesis {name!r} is not simulated; possible here: {possible}")
    return [SimNemesis(name) for name in names]


def run_simulated(
    options: Options, store: Store, mutants: Sequence[str] = (), command: Sequence[str] = ()
) -> Run:
    """A whole run in virtual time; equal options give equal histories.

    mutants: variants of the server that are in force meanwhile.
    Errors: UnknownName, BadPlan, TargetError.
    """
    workload = workload_for(options)
    nemeses = sim_nemeses(options.nemeses)
    world = World(options.seed)
    with ExitStack() as stack:
        for name in mutants:
            stack.enter_context(applied(tooth_of(name).mutant))
        stack.enter_context(virtual_client(world))
        target = SimTarget(world, options.members)
        run = Run(
            workload,
            nemeses,
            target,
            store,
            clock=lambda: world.now_us * 1000,
            command=command,
        )
        loop = VirtualLoop(world)
        try:
            loop.run_until_complete(run.execute())
        except InvariantBroken as error:
            run.abandon(f"a rule of consensus was broken: {error}")
        finally:
            _end_tasks(loop)
            loop.close()
    return run


def _end_tasks(loop: VirtualLoop) -> None:
    """Ends what still runs above a world that is over, or broken."""
    loop.freeze()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
