"""`raftctl member replace`: a member that is gone makes room for a new node.

`raftkv.cli.replacing` makes the plan from a survey; here it is printed, confirmed and carried out.
Every step is a call of etcd's API, so it works with etcd as well.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import click

from raftkv.cli import gotext
from raftkv.cli.commands.member import check_urls
from raftkv.cli.connection import CallFailed, Connection
from raftkv.cli.ctl import CtlCommand, GoDuration, Session
from raftkv.cli.exits import BAD_ARGUMENTS, INTERRUPTED, CtlError
from raftkv.cli.replacing import Plan, Step, Unsettled, make_plan
from raftkv.cli.surveying import MemberView, Survey, Surveyor
from raftkv.pb import rpc_pb2

PAUSE_SECONDS: Final = 0.5
SETTLING_SECONDS: Final = 10.0
NOT_IN_SYNC_TEXT: Final = "can only promote a learner member which is in sync with leader"
IS_VOTER_TEXT: Final = "etcdserver: can only promote a learner member"
PASSING_TEXTS: Final = (NOT_IN_SYNC_TEXT, "unhealthy cluster", "request timed out", "no leader")


@click.command("replace", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="MEMBER_ID|NAME")
@click.option("--peer-urls", default="", help="Of the new node. Default: the old one's.")
@click.option("--name", default="", help="Of the new node. Default: the old one's.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Print the plan and end.")
@click.option("--wait", type=GoDuration(), default=600.0, help="For the new node. [10m]")
@click.pass_obj
def replace(
    session: Session,
    args: tuple[str, ...],
    peer_urls: str,
    name: str,
    yes: bool,
    dry_run: bool,
    wait: float,
) -> int:
    """Replace a member that is gone for good by a new node.

    Prints the plan first and asks. Interrupted at any step it leaves a working cluster; the same
    command goes on where it ended.
    """
    if len(args) != 1:
        raise CtlError("member ID or name is not provided", BAD_ARGUMENTS)
    urls = tuple(peer_urls.split(",")) if peer_urls else ()
    check_urls(list(urls))

    def run(connection: Connection) -> int:
        surveyor = Surveyor(connection, session.target.command_timeout_seconds)
        survey, plan = _look(surveyor, lambda survey: make_plan(survey, args[0], urls, name))
        _print_plan(survey, plan)
        if dry_run:
            return 0
        if not yes and not click.confirm("Go on?", default=False):
            return INTERRUPTED
        work = _Replacement(connection, plan, survey, time.monotonic() + wait)
        try:
            work.carry_out()
        except (CtlError, KeyboardInterrupt):
            named = "" if plan.name == "NAME" else f" --name={plan.name}"
            again = f"raftctl member replace {args[0]} --peer-urls={','.join(plan.urls)}{named}"
            click.echo(f"The cluster works as it is. To go on: {again}", err=True)
            raise
        return 0

    code: int = session.call(run)
    return code


def _look(surveyor: Surveyor, plan: Callable[[Survey], Plan]) -> tuple[Survey, Plan]:
    """A survey and its plan. Errors: CtlError.

    A member that has just ended may look connected for a moment, or have been the leader.
    """
    deadline = time.monotonic() + SETTLING_SECONDS
    while True:
        survey = surveyor.take()
        try:
            return survey, plan(survey)
        except Unsettled:
            if time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_SECONDS)


def _print_plan(survey: Survey, plan: Plan) -> None:
    cluster = ",".join(f"{number:x}" for number in sorted(survey.clusters))
    lines = [f"Cluster {cluster}: {_counted(plan)}"]
    if plan.target is not None:
        problem = plan.target.problem or "no answer"
        lines.append(f"To be replaced: {_named(plan.target)}; {problem}")
    if plan.heir is not None:
        lines.append(f"Already there: {_named(plan.heir)}")
    lines.append(f"New node: {plan.name}, peer URLs {','.join(plan.urls)}")
    lines.append("Steps:")
    lines += [f"  {at}. {_told(step, plan)}" for at, step in enumerate(plan.steps, 1)]
    lines.append(f"In this order because {plan.reason}.")
    click.echo("\n".join(lines))


def _counted(plan: Plan) -> str:
    healthy = ", ".join(_role(member) for member in plan.healthy)
    return (
        f"{len(plan.healthy)} of {len(plan.voters)} voters healthy, quorum {plan.quorum}: {healthy}"
    )


def _role(member: MemberView) -> str:
    leads = member.answer is not None and member.answer.reply.leader == member.id
    return f"{member.label} (leader)" if leads else member.label


def _named(member: MemberView) -> str:
    kind = "learner" if member.is_learner else "member"
    return f"{kind} {member.id:x} {member.name} {','.join(member.peer_urls)}".replace("  ", " ")


def _told(step: Step, plan: Plan) -> str:
    if step is Step.REMOVE:
        assert plan.target is not None
        return f"remove {plan.target.label}; its id {plan.target.id:x} is never used again"
    if step is Step.ADD:
        return (
            "add the new node as a learner: it gets the data and has no vote, so no quorum changes"
        )
    if step is Step.START:
        return "you start the new node with an empty data directory; how is printed then"
    return "wait until it has caught up, then promote it to a voter"


class _Replacement:
    """A plan that is being carried out. deadline: of waiting, on the monotonic clock."""

    def __init__(self, connection: Connection, plan: Plan, survey: Survey, deadline: float) -> None:
        self._connection = connection
        self._plan = plan
        self._deadline = deadline
        self._heir_id = plan.heir.id if plan.heir is not None else 0
        self._speaks_raftkv = any(one.complete for one in survey.answers)

    def carry_out(self) -> None:
        """All steps. Errors: CtlError."""
        todo: dict[Step, Callable[[], None]] = {
            Step.REMOVE: self._remove,
            Step.ADD: self._add,
            Step.START: self._start,
            Step.PROMOTE: self._promote,
        }
        for step in self._plan.steps:
            todo[step]()
        click.echo("Done.")

    def _remove(self) -> None:
        target = self._plan.target
        assert target is not None
        request = rpc_pb2.MemberRemoveRequest(ID=target.id)
        self._connection.write("Cluster/MemberRemove", request, rpc_pb2.MemberRemoveResponse)
        click.echo(f"Removed {target.label} ({target.id:x}).")

    def _add(self) -> None:
        request = rpc_pb2.MemberAddRequest(peerURLs=self._plan.urls, isLearner=True)
        reply = self._connection.write("Cluster/MemberAdd", request, rpc_pb2.MemberAddResponse)
        self._heir_id = reply.member.ID
        click.echo(f"Added learner {self._heir_id:x}.")

    def _members(self) -> list[rpc_pb2.Member]:
        request = rpc_pb2.MemberListRequest(linearizable=True)
        reply = self._connection.read("Cluster/MemberList", request, rpc_pb2.MemberListResponse)
        return list(reply.members)

    def _start(self) -> None:
        click.echo("Start the new node now, with an empty data directory and these settings:")
        click.echo("\n".join(self._settings(self._members())))
        self._wait("waiting for the new node", self._has_started)
        click.echo("The new node has started.")

    def _settings(self, members: list[rpc_pb2.Member]) -> list[str]:
        """The environment of the new node, as `member add` prints it."""
        plan = self._plan
        prefix = "RAFTKV_" if self._speaks_raftkv else "ETCD_"
        gone = plan.target.id if plan.target is not None else 0
        cluster = ",".join(
            f"{plan.name if self._heir_id == one.ID else one.name or f'{one.ID:x}'}={url}"
            for one in members
            for url in one.peerURLs
            if gone != one.ID
        )
        values = {
            "NAME": plan.name,
            "INITIAL_CLUSTER": cluster,
            "INITIAL_ADVERTISE_PEER_URLS": ",".join(plan.urls),
            "INITIAL_CLUSTER_STATE": "existing",
        }
        lines = [f"{prefix}{name}={gotext.quote_text(text)}" for name, text in values.items()]
        program = "raftkv serve" if self._speaks_raftkv else "etcd"
        lines.append(
            f"{program} --data-dir=DIRECTORY --listen-peer-urls=URL "
            "--listen-client-urls=URL --advertise-client-urls=URL"
        )
        return lines

    def _has_started(self) -> bool:
        for member in self._members():
            if self._heir_id == member.ID:
                return bool(member.name)
        raise CtlError(f"learner {self._heir_id:x} has been removed by somebody else")

    def _promote(self) -> None:
        self._wait("waiting until it has caught up", self._has_been_promoted)
        click.echo(f"Promoted {self._plan.name} ({self._heir_id:x}).")

    def _has_been_promoted(self) -> bool:
        request = rpc_pb2.MemberPromoteRequest(ID=self._heir_id)
        try:
            self._connection.write("Cluster/MemberPromote", request, rpc_pb2.MemberPromoteResponse)
        except CallFailed as error:
            if error.text == IS_VOTER_TEXT:
                return True  # it asked for itself, or an answer got lost
            if not any(text in error.text for text in PASSING_TEXTS):
                raise
            return False
        return True

    def _wait(self, what: str, done: Callable[[], Any]) -> None:
        click.echo(f"{what[0].upper()}{what[1:]} ...")
        while True:
            try:
                if done():
                    return
            except CallFailed as error:
                if time.monotonic() > self._deadline:
                    raise
                click.echo(f"... {error.text}")
            if time.monotonic() > self._deadline:
                raise CtlError(f"gave up {what}")
            time.sleep(PAUSE_SECONDS)
