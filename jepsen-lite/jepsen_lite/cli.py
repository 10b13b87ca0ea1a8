"""The command line: `run`, `check`, `list`, `teeth`."""

import asyncio
import logging
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final, NamedTuple

import click
from click.core import ParameterSource

from jepsen_lite.checker.base import Verdict
from jepsen_lite.nemesis import NEMESES, nemesis_class
from jepsen_lite.planning import BadPlan, nemeses_for, workload_for
from jepsen_lite.store import DEFAULT_ROOT, Store
from jepsen_lite.target.access import Access, without_password
from jepsen_lite.target.base import Target
from jepsen_lite.workload import WORKLOADS, workload_class
from jepsen_lite.workload.options import Options
from raftkv.errors import RaftkvError

EXIT_INVALID: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
SPARE: Final = 2  # places for members to come, for the nemesis that has them come


class _Words(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Words joined by commas."""

    name = "words"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(word.strip() for word in str(value).split(",") if word.strip())


def _pairs(
    context: click.Context, parameter: click.Parameter, words: Sequence[str]
) -> Mapping[str, str]:
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.BadParameter(f"{name!r} is not name=value")
    return {name: value for name, _, value in pairs}


def _env(name: str) -> list[str]:
    """The variables that raftctl takes such a setting from, too."""
    return [f"RAFTCTL_{name}", f"ETCDCTL_{name}"]


@click.group()
@click.option("--quiet", is_flag=True, help="Only the verdict.")
def main(quiet: bool) -> None:
    """Drives a store of etcd's v3 API, breaks it, heals it and checks every answer."""
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("jepsen_lite").setLevel(level)
    logging.getLogger("raftkv").setLevel(logging.ERROR)  # clients tell of every fault they meet


@main.command()
@click.option("--workload", "-w", default="register", show_default=True, help="See `list`.")
@click.option("--nemesis", "-n", type=_Words(), default=(), help="Names joined by commas.")
@click.option("--time", "seconds", default=60.0, show_default=True, help="Seconds of work.")
@click.option("--nodes", default=3, show_default=True, help="Members to start.")
@click.option("--concurrency", default=10, show_default=True, help="Processes at once.")
@click.option("--keys", default=5, show_default=True, help="Keys in use at a time.")
@click.option("--rate", default=0.0, help="Operations a second over all; 0: as they go.")
@click.option("--seed", type=int, help="Of every random choice. Default: drawn.")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds for one operation.")
@click.option("--system", default="raftkv", show_default=True, help="What to start: raftkv, etcd.")
@click.option("--endpoints", type=_Words(), help="Attach to this cluster instead of starting one.")
@click.option("--cacert", default="", envvar=_env("CACERT"), help="CA file of --endpoints.")
@click.option("--cert", default="", envvar=_env("CERT"), help="The clients' certificate file.")
@click.option("--key", default="", envvar=_env("KEY"), help="The clients' key file.")
@click.option("--user", default="", envvar=_env("USER"), help="name[:password]; better: name.")
@click.option(
    "--password",
    default="",
    envvar=_env("PASSWORD"),
    help="Of --user; better: RAFTCTL_PASSWORD, or say nothing and be asked.",
)
@click.option(
    "--network",
    type=click.Choice(["proxies", "namespaces"]),
    default="proxies",
    show_default=True,
    help="Between members: proxies, or the kernel's namespaces (root).",
)
@click.option(
    "--compose",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start and break the cluster of this compose file.",
)
@click.option("--project", default="", help="Of --compose: one that runs, instead of a new one.")
@click.option("--sim", is_flag=True, help="Simulate the cluster: virtual time, one process.")
@click.option("--prefix", default="jepsen/", show_default=True, help="Of all keys.")
@click.option("--store", "root", type=Path, default=DEFAULT_ROOT, help="Where runs are kept.")
@click.option("--mutant", multiple=True, help="Start known-wrong members (see `teeth --list`).")
@click.option("--member-flag", multiple=True, callback=_pairs, help="name=value, of the server.")
@click.option("--set", "extra", multiple=True, callback=_pairs, help="name=value, of the workload.")
@click.option("--clean-up", is_flag=True, help="Delete the run's keys of an attached cluster.")
@click.option("--keep-data", is_flag=True, help="Keep the members' data of a valid run too.")
@click.pass_context
def run(
    context: click.Context,
    /,
    workload: str,
    nemesis: tuple[str, ...],
    seed: int | None,
    system: str,
    endpoints: tuple[str, ...] | None,
    sim: bool,
    root: Path,
    nodes: int,
    mutant: tuple[str, ...],
    member_flag: Mapping[str, str],
    keep_data: bool,
    clean_up: bool,
    network: str,
    cacert: str,
    cert: str,
    key: str,
    user: str,
    password: str,
    compose: Path | None,
    project: str,
    **rest: Any,
) -> None:
    """Runs a workload, breaks the cluster meanwhile, and checks everything that was answered."""
    if sum(map(bool, (sim, endpoints, compose))) > 1:
        raise click.UsageError("--sim, --endpoints and --compose exclude each other")
    world = "sim" if sim else "attach" if endpoints else "compose" if compose else "processes"
    extra = rest.pop("extra")
    options = Options(
        workload=workload,
        nemeses=nemesis,
        seed=SystemRandom().getrandbits(31) if seed is None else seed,
        world=world,
        system="unknown" if endpoints and system == "raftkv" else system,
        network=network,
        members=len(endpoints) if endpoints else nodes,
        timeout_seconds=rest.pop("timeout"),
        extra=extra,
        **rest,
    )
    try:
        _check_ranges(options)
        _check_world(context, options)
        access = _access(cacert, cert, key, user, password) if endpoints else Access()
        place = _Place(endpoints or (), access, mutant, member_flag, compose, project)
        status = _run(options, place, root, keep_data)
        if clean_up and endpoints:
            asyncio.run(_clean_up(place, options))
    except (RaftkvError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        status = EXIT_USAGE
    sys.exit(status)


class _Place(NamedTuple):
    """Where a run takes place: at endpoints of somebody's, or with members of its own.

    mutants, flags: of its own members. compose: their compose file; project: "" = a new one.
    """

    endpoints: Sequence[str]
    access: Access
    mutants: Sequence[str]
    flags: Mapping[str, str]
    compose: Path | None
    project: str


def _access(cacert: str, cert: str, key: str, user: str, password: str) -> Access:
    """What raftctl would make of these settings. Asks for a password that is missing."""
    name, _, inline = user.partition(":")
    secret = password or inline
    if name and not secret:
        secret = click.prompt("Password", hide_input=True, err=True)
    return Access(cacert, cert, key, name, secret)


async def _clean_up(place: _Place, options: Options) -> None:
    """Deletes the run's keys. Errors: ClientError."""
    async with place.access.session(place.endpoints, options.timeout_seconds) as client:
        await client.delete_prefix(options.prefix)


def _check_world(context: click.Context, options: Options) -> None:
    """Errors: BadPlan, for words that mean nothing where the run takes place."""
    own = {"network"} if options.world != "processes" else set()
    others = {"cacert", "cert", "key", "user", "password"} if options.world != "attach" else set()
    places = dict.fromkeys(own, "members that the run starts itself")
    places |= dict.fromkeys(others, "--endpoints")
    if options.world == "compose":
        places |= dict.fromkeys(("system", "mutant", "member_flag", "nodes"), "other worlds")
    else:
        places["project"] = "--compose"
    for name, what in sorted(places.items()):
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise BadPlan(f"--{name.replace('_', '-')} is for {what}")


def _check_ranges(options: Options) -> None:
    if options.concurrency < 1 or options.keys < 1 or options.members < 1:
        raise BadPlan("--concurrency, --keys and --nodes are at least 1")
    if options.seconds <= 0 or options.timeout_seconds <= 0 or options.rate < 0:
        raise BadPlan("--time and --timeout are above 0, --rate is not below it")


def _run(options: Options, place: _Place, root: Path, keep_data: bool) -> int:
    from jepsen_lite.judging import judge
    from jepsen_lite.run import Run

    workload = workload_for(options)
    for name in options.nemeses:
        nemesis_class(name)  # the name, before anything is started
    store = Store.create(root, options.workload)
    begun = False
    try:
        if options.world == "sim":
            from jepsen_lite.target.simfaults import run_simulated

            begun = True
            run_simulated(options, store, place.mutants, _command(options))
            interrupted = False
        else:
            target = _target(options, place, store)
            nemeses = nemeses_for(options.nemeses, target, Random(options.seed))
            one = Run(workload, nemeses, target, store, command=_command(options))
            begun = True
            try:
                asyncio.run(_interruptible(one))
            except asyncio.CancelledError:
                if not one.started:
                    click.echo("Interrupted before there was anything to check.", err=True)
                    return EXIT_INTERRUPTED
            interrupted = one.interrupted
    finally:
        if not begun:
            shutil.rmtree(store.path, ignore_errors=True)
    verdicts = judge(store)
    _tell(verdicts, store)
    valid = all(verdict.passed for verdict in verdicts.values())
    if valid and not keep_data:
        store.drop_data()
    if interrupted:
        return EXIT_INTERRUPTED
    return 0 if valid else EXIT_INVALID


def _target(options: Options, place: _Place, store: Store) -> Target:
    if place.endpoints:
        from jepsen_lite.target.attach import Attached

        return Attached(place.endpoints, options.system, place.access, options.prefix)
    if place.compose is not None:
        from jepsen_lite.target.compose import Compose

        return Compose(place.compose, store.members, place.project, options.prefix)
    from jepsen_lite.target.namespaces import Namespaced
    from jepsen_lite.target.processes import Processes
    from jepsen_lite.target.systems import system_of

    system = system_of(options.system, place.mutants)
    wiring = Namespaced() if options.network == "namespaces" else None
    return Processes(
        system,
        options.members,
        store.members,
        flags=place.flags,
        seed=options.seed,
        wiring=wiring,
        spare=SPARE if "member" in options.nemeses else 0,
    )


async def _interruptible(one: Any) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, one.interrupt)
    try:
        await one.execute()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _command(options: Options) -> list[str]:
    """What repeats this run: the same words but for a password, and the seed."""
    given = without_password(sys.argv[1:])
    words = [word for word in given if not word.startswith("--seed=")]
    while "--seed" in words:
        place = words.index("--seed")
        del words[place : place + 2]
    return ["python", "-m", "jepsen_lite", *words, "--seed", str(options.seed)]


def _tell(verdicts: Mapping[str, Verdict], store: Store) -> None:
    for name, verdict in verdicts.items():
        word = "undecided" if verdict.undecided else "valid" if verdict.valid else "NOT VALID"
        facts = ", ".join(f"{fact} {value}" for fact, value in list(verdict.facts.items())[:8])
        click.echo(f"{name:<12} {word:<10} {facts}")
        for anomaly in verdict.anomalies[:5]:
            click.echo(f"  {anomaly.name}: {anomaly.text}")
    valid = all(verdict.passed for verdict in verdicts.values())
    wrong = any(not verdict.valid and not verdict.undecided for verdict in verdicts.values())
    word = "Everything is valid" if valid else "NOT valid" if wrong else "Not decided"
    click.echo(f"{word}: {store.report}")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--partial", is_flag=True, help="Check a history that was cut as far as it goes.")
def check(directory: Path, partial: bool) -> None:
    """Checks a run that was stored, and writes its report anew."""
    from jepsen_lite.judging import judge

    try:
        store = Store(directory)
        verdicts = judge(store, partial=partial)
    except (RaftkvError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_USAGE)
    _tell(verdicts, store)
    sys.exit(0 if all(verdict.passed for verdict in verdicts.values()) else EXIT_INVALID)


@main.command("list")
def list_names() -> None:
    """Lists workloads and nemeses."""
    click.echo("Workloads")
    for name in sorted(WORKLOADS):
        click.echo(f"  {name:<14} {workload_class(name).summary}")
    click.echo("Nemeses")
    for name in sorted(NEMESES):
        found = nemesis_class(name)
        click.echo(f"  {name:<14} {found.summary} (needs {', '.join(sorted(found.needs))})")


def _add_commands() -> None:
    from jepsen_lite.crash_points import crash_points
    from jepsen_lite.matrix_report import matrix_command
    from jepsen_lite.series import series_command
    from jepsen_lite.teeth import teeth_command

    main.add_command(crash_points, "crash-points")
    main.add_command(matrix_command, "matrix")
    main.add_command(series_command, "series")
    main.add_command(teeth_command, "teeth")


_add_commands()
